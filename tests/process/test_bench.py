"""Sides run in separate processes: deadlines, sides that cannot run, the numbers of a tiny model."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import fields

import numpy as np
import pytest

import minilm
from minilm.bench import encode, model, sides
from minilm.bench.process import SideFailed, SideProcess
from minilm.bench.sides import RunningSides, Side, our_sides, peer_sides
from minilm.errors import UsageError
from minilm.kernels.encoder import library_reason
from minilm.model.config import EncoderConfig

TEXTS = ["word1 word2 word3", "word4", "word5 word6 word7 word8 word9 word10"] * 14


def stub(code: str, **options: object) -> SideProcess:
    """A side that runs `code` after its first answer."""
    start = "import sys, time\nsys.stdin.readline()\nprint('{\"memory\": 1.0}', flush=True)\n"
    return SideProcess({}, threads=1, command=(sys.executable, "-c", start + code), **options)


def test_a_side_that_does_not_answer_is_stopped_at_its_deadline():
    started = time.monotonic()
    with stub("time.sleep(600)") as side, pytest.raises(SideFailed, match="it has not answered within 0 seconds"):
        side.ask({"run": "x"}, seconds=0.3)
    assert time.monotonic() - started < 60
    assert side._process.poll() is not None


def test_a_side_that_never_starts_is_stopped():
    with pytest.raises(SideFailed, match="it has not answered within 1 seconds"):
        SideProcess({}, threads=1, command=(sys.executable, "-c", "import time; time.sleep(600)"), start_seconds=0.6)


def test_a_side_that_ends_says_why():
    reason = "^its process has ended with code 1: out of paper$"
    with stub("sys.stdin.readline(); sys.exit('out of paper')") as side, pytest.raises(SideFailed, match=reason):
        side.ask({"run": "x"}, seconds=60)


def test_what_a_library_prints_is_no_answer(tmp_path):
    """The answers have a separate stream."""
    folder = tmp_path / "printing"
    folder.mkdir()
    (folder / "sentence_transformers.py").write_text("print('hello')\nraise ImportError('half installed')\n")
    request = {"kind": "sentence-transformers", "model": "x", "max_tokens": 8, "batch_sizes": [None], "first": ["a"]}
    with pytest.raises(SideFailed, match=r"^half installed$"):
        SideProcess(request, threads=1, environment={"PYTHONPATH": str(folder)})


def test_reasons_call_the_model_by_its_name(tiny_model):
    """Stored results go to other machines, where its path says nothing."""
    side = our_sides(tiny_model, max_tokens=32, name="mine")[-1]
    with pytest.raises(SideFailed, match=r"\bmine\b|kernels") as caught:
        SideProcess(side.request, threads=1)
    assert str(tiny_model.resolve()) not in str(caught.value)


def test_our_sides_measure_a_tiny_model_and_others_are_left_out(tiny_model, monkeypatch):
    """The stored numbers are complete, add up, and say what they were measured on."""
    monkeypatch.setattr(encode, "find_spec", lambda name: None)
    found = encode.bench_encode(tiny_model, texts=TEXTS, threads=1, rounds=1)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(found, allow_nan=False))
    assert list(found) == [
        *("model", "machine", "instruction set", "threads", "peaks", "workloads", "sides", "rows", "left_out")
    ]
    assert {"cpu", "features", "cores", "system", "versions"} == set(found["machine"])
    assert {"minilm", "python", "torch", "numpy"} <= set(found["machine"]["versions"])
    names = ["42 in one call", "32 a call", "1 a call", "64 tokens", "10 tokens, p50"]
    assert [one["name"] for one in found["workloads"]] == names
    assert [one["texts"] for one in found["workloads"]] == [42, 42, 32, 8, 40]
    assert all(one["rounds"] == 1 and one["operations"] > 0 for one in found["workloads"])
    measured = [side["name"] for side in found["sides"]]
    assert measured[:1] == ["torch fp32"]
    assert ("native fp32" in measured) == (not library_reason())
    assert [(row["workload"], row["side"]) for row in found["rows"]] == [(n, s) for n in names for s in measured]
    tokens = {one["name"]: one["tokens"] for one in found["workloads"]}
    for row in found["rows"]:
        assert set(row) == {field.name for field in fields(encode.Row)}
        assert row["tokens_per_second"] == pytest.approx(tokens[row["workload"]] / row["seconds"])
        assert (row["p50_ms"] is None) == (row["workload"] != "10 tokens, p50")
        assert (row["share"] is None) == (row["side"] == "torch fp32" and not found["peaks"])
        assert row["ratio"] is None
    for side in found["sides"]:
        assert side["least_cosine"] == pytest.approx(
            1, abs=1e-2 if "16" in side["name"] or "8" in side["name"] else 1e-5
        )
        assert side["start_seconds"] > 0
    assert found["left_out"][0].startswith("sentence-transformers is not installed; to compare with it: pip install")


def test_a_side_that_cannot_run_is_left_out_with_the_reason(tiny_model):
    good, *_ = our_sides(tiny_model, max_tokens=32)
    bad = Side(name="gone", request={**good.request, "model": str(tiny_model / "gone")})
    with RunningSides([bad, good], threads=1) as running:
        assert list(running.processes) == ["torch fp32"]
        assert running.left_out == [f"gone is left out: {tiny_model / 'gone'}: no such model folder"]
    with pytest.raises(UsageError, match=r"nothing can be measured: gone is left out: .* no such model folder"):
        RunningSides([bad], threads=1)


def test_a_side_that_fails_in_the_middle_is_left_out_and_the_others_go_on(tiny_model, monkeypatch):
    good, *_ = our_sides(tiny_model, max_tokens=32)
    fragile = Side(name="fragile", request=good.request)
    with RunningSides([good, fragile], threads=1) as running:
        running.take({"w": [["word1"]] * 8})
        original = SideProcess.run

        def run(self, name, **options):
            if self is running.processes.get("fragile") and options.get("most_calls") is None:
                self._process.kill()
            return original(self, name, **options)

        monkeypatch.setattr(SideProcess, "run", run)
        measured = running.measure("w", operations=1, rounds=1)
        assert [list(one) for one in measured.rounds] == [["torch fp32"]]
        assert running.left_out[0].startswith("fragile is left out: its process has ended with code -9")


@pytest.mark.slow
def test_sentence_transformers_gives_our_vectors_in_its_own_process(real_model_dir):
    pytest.importorskip("sentence_transformers", reason="the peer is not installed: pip install 'minilm[bench]'")
    texts = ["The night train never stops here.", "A small dog waits near the bridge."]
    with RunningSides(peer_sides(real_model_dir, max_tokens=32)[1:], threads=1) as running:
        running.take({"w": [texts] * 2})
        found = running.vectors("w", operations=1)["sentence-transformers, tuned"]
    assert np.abs(found[:2] - minilm.load(real_model_dir).encode(texts)).max() < 1e-5


def test_the_fastest_variant_is_chosen_for_calls_of_many_texts():
    from minilm.bench import worker

    def variant(seconds: float):
        return lambda call: time.sleep(seconds if call else 0)

    slow, fast = variant(0.05), variant(0.0)
    side = worker.Side([slow, fast])
    assert side._fastest([["a"], ["a"] * 9]) is fast
    assert side._fastest([["a"]]) is slow


def test_shapes_are_measured_with_both_engines():
    shape = {"vocab_size": 40, "num_heads": 2, "max_positions": 16}
    shapes = {
        model.BASE: EncoderConfig(hidden_size=32, num_layers=2, intermediate_size=64, **shape),
        "L6-H384": EncoderConfig(hidden_size=16, num_layers=1, intermediate_size=32, **shape),
    }
    found = model.bench_model(threads=1, rounds=1, shapes=shapes, batches=[(8, 1), (16, 2)])
    engines = ["torch", *([] if library_reason() else ["native"])]
    expected = [(*batch, e, shape) for batch in ((8, 1), (16, 2)) for e in engines for shape in shapes]
    assert [(row["tokens"], row["sequences"], row["engine"], row["shape"]) for row in found["rows"]] == expected
    for row in found["rows"]:
        assert row["seconds"] > 0
        assert row["shape"] != model.BASE or row["ratio"] == 1.0
    assert [(one["name"], one["rounds"]) for one in found["workloads"]] == [("8 x 1", 1), ("16 x 2", 1)]
    assert len(found["left_out"]) == 2 - len(engines)
    assert json.dumps(found, allow_nan=False)


@pytest.fixture
def tiny_model(tmp_path):
    from tests.conftest import TinyDistillation

    tiny = TinyDistillation(tmp_path)
    tiny.write_teacher()
    return tiny.teacher


def test_deadlines_grow_with_the_work():
    assert sides._deadline(0) == 60
    assert sides._deadline(5e11) == 1060
