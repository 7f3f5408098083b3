"""A probe logs what a copy of a student reaches on a small task, and changes no bit of the run."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minilm.distill.chain import run_distillation
from minilm.distill.dry_run import dry_run
from minilm.distill.run import distill
from minilm.errors import DataError, UsageError
from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.probe import GlueProbe
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.recipe import Distillation, DistillRecipe, ProbeSection, load_recipe
from minilm.text.tokenizer import Tokenizer
from minilm.train.metrics import read_metrics

TIMES = {"tokens_per_second", "seconds", "memory_gib"}


def write_rows(file: Path, count: int, *, seed: int) -> Path:
    """SST-2 in small: the first word decides the label."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [draw.randrange(4), *(draw.randrange(4, 95) for _ in range(draw.randint(1, 6)))]
        rows.append({"sentence": " ".join(f"word{word}" for word in words), "label": words[0] % 2})
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.fixture
def section(tmp_path) -> dict[str, object]:
    files = {
        part: str(write_rows(tmp_path / f"{part}.jsonl", 60, seed=seed)) for part, seed in (("train", 1), ("dev", 2))
    }
    return {"task": "sst-2", **files, "every": 4, "steps": 3, "max_rows": 40}


def with_probe(recipe: Path, section: dict[str, object]) -> Path:
    recipe.write_text(json.dumps({**json.loads(recipe.read_text()), "probe": section}))
    return recipe


@pytest.mark.slow
def test_the_run_is_the_same_bit_for_bit(tiny, section):
    """Weights, optimizer and metrics; scores are there after steps 4 and 8 and after the last one."""
    plain = tiny.recipe("plain", steps=10, log_every=2, eval_every=5)
    distill(load_recipe(plain))
    probed = with_probe(tiny.recipe("run", name="probed.yaml", steps=10, log_every=2, eval_every=5), section)
    result = distill(load_recipe(probed), make_probe=GlueProbe)
    folders = [tiny.folder / name / "checkpoints" / "step-00000010" for name in ("plain", "run")]
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert folders[0].joinpath(file).read_bytes() == folders[1].joinpath(file).read_bytes()
    rows = [read_metrics(tiny.folder / name) for name in ("plain", "run")]
    scored = {row["step"]: row.pop("student.sst-2.accuracy") for row in rows[1] if "student.sst-2.accuracy" in row}
    assert list(scored) == [4, 8, 10]
    assert [{key: row[key] for key in row.keys() - TIMES} for row in rows[0]] == [
        {key: row[key] for key in row.keys() - TIMES} for row in rows[1]
    ]
    assert result.metrics["student.sst-2.accuracy"] == scored[10]
    page = re.sub(r"\s*<[^>]+>\s*", "\n", (tiny.folder / "run" / "report.html").read_text())
    assert "sst-2 accuracy" in page
    assert "Probe: sst-2" in page or "No curves" in page


@pytest.mark.slow
def test_a_run_may_be_resumed_with_another_probe(tiny, section):
    """It changes nothing in the run, so it is not part of its identity."""
    recipe = with_probe(tiny.recipe(steps=3), section)
    distill(load_recipe(recipe), make_probe=GlueProbe)
    distill(load_recipe(recipe, ["train.steps=4", "probe.every=1"]), make_probe=GlueProbe)
    distill(load_recipe(tiny.recipe(steps=5)))


@pytest.mark.slow
def test_each_stage_of_a_chain_is_probed(tiny, section):
    recipe = with_probe(tiny.chain(steps=2, warmup_steps=0), {**section, "every": 100})
    result = run_distillation(load_recipe(recipe, kind=Distillation), make_probe=GlueProbe)
    page = (tiny.folder / "run" / "report.html").read_text()
    for number, student in enumerate(("assistant", "small"), start=1):
        assert f"{student}.sst-2.accuracy" in result.metrics
        chart = page.partition(f"<figcaption>Probe: sst-2, stage {number}</figcaption>")[2].partition("</figure>")[0]
        assert f"{student}.sst-2.accuracy" in chart


def tokenizer(tiny) -> Tokenizer:
    return Tokenizer.load(tiny.teacher)


def probe(tiny, section: dict[str, object], **options: object) -> GlueProbe:
    return GlueProbe(ProbeSection(**{**section, **options}), tokenizer(tiny), seed=3, max_tokens=64)


def test_it_learns_and_leaves_student_and_random_numbers_as_they_are(tiny, section):
    student = small_student()
    before = {name: rows.clone() for name, rows in student.state_dict().items()}
    state = torch.get_rng_state()
    found = probe(tiny, section, steps=60, learning_rate=3e-3, max_rows=60)
    score = found.score(student)
    assert torch.equal(torch.get_rng_state(), state)
    assert score["accuracy"] > 75
    assert not student.training
    assert all(torch.equal(rows, before[name]) for name, rows in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    assert probe(tiny, section, steps=60, learning_rate=3e-3, max_rows=60).score(student) == score


@pytest.mark.slow
def test_a_probe_that_diverges_has_no_score_and_the_run_goes_on(tiny, section, caplog):
    wild = {**section, "learning_rate": 1e30, "steps": 20, "every": 100}
    result = distill(load_recipe(with_probe(tiny.recipe(steps=2, warmup_steps=0), wild)), make_probe=GlueProbe)
    assert math.isnan(result.metrics["student.sst-2.accuracy"])
    assert re.search(
        r"probe sst-2: no score, the copy of the student diverged \(probe sst-2, step \d+: 11 steps had a loss or "
        r"gradient that is not finite\); lower probe.learning_rate \(1e\+30\)\n",
        caplog.text,
    )
    assert "probe sst-2, step 3: loss or gradient is not finite" in caplog.text
    assert " step 3: loss" not in caplog.text.replace("probe sst-2, step 3: loss", "")
    assert read_metrics(tiny.folder / "run")[-1]["student.sst-2.accuracy"] is None


def small_student() -> Encoder:
    config = EncoderConfig(
        **{"vocab_size": 100, "max_positions": 64, "hidden_size": 24, "num_layers": 2},
        **{"num_heads": 6, "intermediate_size": 48, "initializer_range": 0.3},
    )
    student = Encoder(config)
    student.reset(torch.Generator().manual_seed(1))
    return student.eval()


def test_a_copy_that_diverges_in_its_last_steps_has_no_score_either(tiny, section, caplog):
    """Too few bad steps to end its training: its numbers would be those of constant predictions."""
    assert math.isnan(probe(tiny, section, learning_rate=1e30).score(small_student())["accuracy"])
    assert "the copy of the student diverged (its loss on the held-out rows is " in caplog.text


def test_one_bad_step_does_not_cost_the_score(tiny, section, monkeypatch, caplog):
    original = FinetuneObjective.accumulate
    calls = []

    def once(self, batch, backward):
        calls.append(found := original(self, batch, backward))
        return replace(found, value=found.value * math.nan) if len(calls) == 2 else found

    monkeypatch.setattr(FinetuneObjective, "accumulate", once)
    assert 0 <= probe(tiny, section).score(small_student())["accuracy"] <= 100
    assert len(calls) == 3
    assert "probe sst-2, step 2: loss or gradient is not finite (loss nan); update skipped (1 so far)" in caplog.text


def test_other_mistakes_are_not_taken_for_a_copy_that_diverged(tiny, section, monkeypatch):
    def broken(self, batch, backward):
        raise DataError("a row is damaged")

    monkeypatch.setattr(FinetuneObjective, "accumulate", broken)
    with pytest.raises(DataError, match=r"^a row is damaged$"):
        probe(tiny, section).score(small_student())


def test_it_says_what_it_reads(tiny, section):
    found = probe(tiny, section, max_rows=50)
    assert found.description == (
        "probe sst-2: 50 of 60 training rows, 50 of 60 rows to score; every 4 steps a copy of each student is "
        "fine-tuned for 3 steps"
    )


def test_a_dry_run_reads_its_files(tiny, section):
    recipe = with_probe(tiny.recipe(), section)
    said = dry_run(load_recipe(recipe, kind=Distillation), make_probe=GlueProbe)
    for label, sentence in said:
        if sentence.startswith("probe sst-2: 40 of 60 training rows"):
            assert label == "checked"
            return
    pytest.fail("the probe is not mentioned")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"task": "sst3"}, "probe.task is 'sst3', expected one of cola, sst-2, mrpc"),
        ({"train": "gone.jsonl"}, "gone.jsonl"),
    ],
)
def test_mistakes_are_named_before_anything_is_computed(tiny, section, changed, message):
    recipe = load_recipe(with_probe(tiny.recipe(), {**section, **changed}), kind=DistillRecipe)
    with pytest.raises(UsageError, match=re.escape(message)):
        distill(recipe, make_probe=GlueProbe)
    assert not (tiny.folder / "run" / "corpus").exists()


def test_a_caller_without_probes_is_told(tiny, section):
    with pytest.raises(UsageError, match=r"probe: run this recipe with minilm distill or minilm.run, or set"):
        distill(load_recipe(with_probe(tiny.recipe(), section), kind=DistillRecipe))
