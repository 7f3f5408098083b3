"""Microsoft's published commands on real rows and weights, run one after the other as a user types them.

As in docs/how-to.md, launcher included, except for paths, steps and epochs, and two processes instead of four.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from minilm.decode.traces import read_traces
from minilm.files.tensors import read_safetensors

REPO = Path(__file__).resolve().parents[2]
NAME = "minilm-l12-h384-uncased"  # as the commands call it, here the embedded model
TRAINING, HELD_OUT = 8, 2


@pytest.fixture(scope="module")
def commands() -> dict[str, list[str]]:
    """Arguments of each command of the guide after `python`, by script name."""
    text = (REPO / "docs" / "how-to.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.match(r"(python|torchrun) .*examples/microsoft/\w+\.py --", line)]
    return {
        Path(next(word for word in line.split() if word.endswith(".py"))).stem: shlex.split(
            re.sub(r"^torchrun", "-m torch.distributed.run", line.removeprefix("python "))
            .replace("./examples", "examples")
            .replace("examples", str(REPO / "examples"))
        )
        for line in lines
    }


@pytest.fixture
def folder(tmp_path, real_model_dir) -> Path:
    """The files named in the commands, here those of the embedded model."""
    torch.save(read_safetensors(real_model_dir / "model.safetensors"), tmp_path / f"{NAME}.bin")
    for name, source in ((f"{NAME}-config.json", "config.json"), ("vocab.txt", "vocab.txt")):
        (tmp_path / name).write_bytes((real_model_dir / source).read_bytes())
    return tmp_path


def rows_of(path: Path, count: int) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in islice(file, count)]


@pytest.fixture
def run(folder, forked) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run(words, flag=value)`: a command of the guide, with different values for some of its flags."""

    def start(words: list[str], *, program: str = "python", **changes: object) -> subprocess.CompletedProcess[str]:
        words = [word.replace("--nproc_per_node=4", "--nproc_per_node=2") for word in words]
        for flag, value in changes.items():
            words[words.index(f"--{flag}") + 1] = str(value)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        changed = {"PET_MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO / "src")}
        done = subprocess.run(
            [forked / program, *words],
            cwd=folder,
            env={**os.environ, **changed},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return start


@pytest.fixture
def rouge(run) -> Callable[[str], dict[str, float]]:
    """`rouge(predictions)`: scores against the file `gold`."""

    def scored(predictions: str) -> dict[str, float]:
        flags = ["--predictions", predictions, "--references", "gold", "--task", "xsum", "--json"]
        return json.loads(run(["score", "rouge", *flags], program="minilm").stdout)

    return scored


@pytest.mark.slow
def test_the_commands_train_decode_rescore_and_evaluate_summaries(folder, commands, data_dir, run, rouge):
    rows = rows_of(data_dir / "xsum" / "train_subset.jsonl.gz", TRAINING)
    (folder / "train.json").write_text(
        "".join(json.dumps({"src": row["document"], "tgt": row["summary"]}) + "\n" for row in rows)
    )
    held_out = rows_of(data_dir / "xsum" / "test_subset.jsonl.gz", HELD_OUT)
    (folder / "test.json").write_text("".join(json.dumps({"src": row["document"]}) + "\n" for row in held_out))
    (folder / "gold").write_text("".join(" ".join(row["summary"].split()) + "\n" for row in held_out))
    steps = {"num_training_steps": 2, "num_warmup_steps": 1}
    trained = run(commands["run_seq2seq"], per_gpu_train_batch_size=2, nproc_per_node=2, **steps)
    assert "no trained mlm head" in trained.stderr
    words = [word.replace("ckpt-108000", "ckpt-2") for word in commands["decode_seq2seq"]]
    run(words)
    found = (folder / "out" / "ckpt-2.test").read_text(encoding="utf-8").splitlines()
    assert len(found) == HELD_OUT
    assert len(read_traces(folder / "out" / "ckpt-2.test.trace.safetensors")) == HELD_OUT
    words = [word.replace("ckpt-108000", "ckpt-2") for word in commands["gen_seq_from_trace"]]
    run(words)
    again = folder / "out" / "ckpt-2.test.alp0.9"
    assert len(again.read_text(encoding="utf-8").splitlines()) == HELD_OUT
    numbers, perfect = (rouge(predictions) for predictions in (str(again), "gold"))
    assert numbers["pairs"] == HELD_OUT
    assert numbers["rouge1"] < perfect["rouge1"] == perfect["rougeL"] == 100


@pytest.mark.slow
def test_the_commands_train_and_answer_questions(folder, commands, data_dir, run):
    data = folder / "data"
    data.mkdir()
    for name, source, count in (("train", "train-v2.0_subset", TRAINING), ("dev", "dev-v2.0", HELD_OUT)):
        rows = rows_of(data_dir / "squad" / f"{source}.jsonl.gz", count)
        (data / f"{name}-v2.0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fewer = {"num_train_epochs": 1, "per_gpu_train_batch_size": 4}
    files = {"train_file": "train-v2.0.jsonl", "predict_file": "dev-v2.0.jsonl"}
    done = run(commands["run_squad"], output_dir="out", data_dir=data, **fewer, **files)
    results = json.loads(done.stdout.splitlines()[-1].removeprefix("Results: ").replace("'", '"'))
    assert results["total"] == HELD_OUT
    for name in ("predictions_", "nbest_predictions_", "null_odds_"):
        assert len(json.loads((folder / "out" / f"{name}.json").read_text())) == HELD_OUT
