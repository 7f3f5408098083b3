"""The number of processes does not change what a step computes; `minilm distill` under torchrun."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from minilm.corpus.build import build_shards
from minilm.corpus.shards import Shards
from minilm.distill.criterion import RelationCriterion
from minilm.distill.objective import DistillObjective, ObjectiveSettings
from minilm.distill.relation_loss import V2_PAIRS
from minilm.distill.teacher import load_teacher
from minilm.errors import UsageError
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.train.distributed import Ranks, process_group
from minilm.train.metrics import read_metrics

REPO = Path(__file__).resolve().parents[2]


def objective(tiny, ranks: Ranks, *, normalization: str = "sequence", num_heldout: int = 20) -> DistillObjective:
    folder = tiny.folder / "shards"
    if not folder.is_dir():
        build_shards([tiny.text], tokenizer=tiny.teacher, out=folder, max_tokens=32)
    config = EncoderConfig(
        **{"vocab_size": 100, "max_positions": 64, "hidden_size": 24, "num_layers": 2},
        **{"num_heads": 6, "intermediate_size": 48, "hidden_dropout": 0.0},
    )
    student = Encoder(config)
    student.reset(torch.Generator().manual_seed(1))
    criterion = RelationCriterion(
        teacher=load_teacher(tiny.teacher),
        students={"student": student},
        layers={"student": ((2, 3),)},
        pairs=dict.fromkeys(V2_PAIRS, 1.0),
        num_relation_heads=12,
        normalization=normalization,
    )
    settings = ObjectiveSettings(
        normalization=normalization,
        batch_size=12,
        tokens_per_batch=40,
        num_heldout=num_heldout,
        seed=3,
    )
    return DistillObjective(criterion, Shards.open(folder), settings, ranks)


def loss_and_gradient(one: DistillObjective, step: int) -> tuple[float, torch.Tensor]:
    total = 0.0
    for batch in one.batch(step).parts:
        loss = one.loss(batch).value
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in one.parameters.values()])


@pytest.mark.parametrize("normalization", ["sequence", "token"])
@pytest.mark.parametrize("world_size", [2, 3, 4, 6])
def test_shares_of_a_step_add_up_to_the_step(tiny, world_size, normalization):
    expected, gradient = loss_and_gradient(objective(tiny, Ranks(), normalization=normalization), 5)
    shares = [
        loss_and_gradient(objective(tiny, Ranks(rank=rank, world_size=world_size), normalization=normalization), 5)
        for rank in range(world_size)
    ]
    assert sum(loss for loss, _ in shares) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(sum(part for _, part in shares), gradient, atol=1e-6, rtol=1e-4)


def test_a_batch_that_cannot_be_shared_is_rejected(tiny):
    with pytest.raises(UsageError, match="cannot be shared evenly by 5 processes; use one of 1, 2, 3, 4, 6, 12"):
        objective(tiny, Ranks(rank=0, world_size=5))


def test_without_held_out_documents_no_process_waits_for_another(tiny):
    """After a probe only the first process has held-out numbers; the others ask for them once more, alone."""
    one = objective(tiny, Ranks(rank=1, world_size=2), num_heldout=0)
    assert one.evaluate() == {}  # without a process group


def test_processes_wait_for_one_that_builds_a_corpus(monkeypatch):
    """By default they give up after half an hour, on GPUs after ten minutes."""
    given = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.distributed.init_process_group", lambda _, **options: given.update(options))
    for collective in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{collective}", lambda: None)
    with process_group() as ranks:
        assert ranks == Ranks(rank=0, world_size=2)
    assert given["timeout"] >= timedelta(days=1)


def test_two_processes_share_a_run(tiny, forked):
    """The corpus is built once; there is one set of files, and metrics cover the full batch."""
    recipe = tiny.recipe(steps=6, eval_every=3, log_every=1)
    command = [forked / "python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(REPO / "src")}
    done = subprocess.run(
        [*command, "-m", "minilm.cli.app", "distill", str(recipe)],
        **{"capture_output": True, "text": True, "check": False, "timeout": 240, "env": {**os.environ, **quiet}},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out loss") == 1
    rows = read_metrics(tiny.folder / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    alone = tiny.recipe("alone", steps=6, eval_every=3, log_every=1, name="alone.yaml")
    quiet["CUDA_VISIBLE_DEVICES"] = ""
    subprocess.run(
        [forked / "minilm", "distill", str(alone)],
        check=True,
        env={**os.environ, **quiet},
        timeout=300,
    )
    expected = read_metrics(tiny.folder / "alone")
    # dropout differs between processes, so the losses are close but not equal
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=0.1)
    assert rows[2]["student.heldout_loss"] == pytest.approx(expected[2]["student.heldout_loss"], rel=0.02)
    assert rows[2]["student.query-query.kl"] == pytest.approx(expected[2]["student.query-query.kl"], rel=0.02)
    assert (tiny.folder / "run" / "model" / "model.safetensors").is_file()


def test_two_processes_share_a_chain(tiny, forked):
    """Both processes go through both stages; one writes, and the student at the end is that of the last stage."""
    command = [forked / "python", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(REPO / "src")}
    recipe = tiny.chain(steps=2, warmup_steps=0)
    for _ in range(2):  # the second start finds both stages finished
        done = subprocess.run(
            [*command, "-m", "minilm.cli.app", "distill", str(recipe)],
            **{"capture_output": True, "text": True, "check": False, "timeout": 240, "env": {**os.environ, **quiet}},
        )
        assert done.returncode == 0, done.stderr
    assert "stage 2 of 2 has finished" in (tiny.folder / "run" / "log.txt").read_text()
    out = tiny.folder / "run"
    weights = [folder / "model" / "model.safetensors" for folder in (out, out / "stages" / "2")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_two_processes_share_the_filling_of_a_cache(tiny, forked):
    """Its files are those that one process writes, and both processes read them."""
    build_shards([tiny.text], tokenizer=tiny.teacher, out=tiny.folder / "shards", max_tokens=32)
    overrides = [f"data.corpus={tiny.folder / 'shards'}", "data.inputs=[]", "cache.precision=bf16"]
    arguments = [
        *("distill", str(tiny.recipe(steps=2, warmup_steps=0))),
        *(word for one in overrides for word in ("--set", one)),
    ]
    script = tiny.folder / "small_files.py"
    script.write_text(
        "from minilm.cli.app import main\nfrom minilm.distill import cache_filling\n"
        f"cache_filling.PART_BYTES = 150_000  # eight files\nmain({arguments!r} + __import__('sys').argv[1:])\n"
    )
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(REPO / "src")}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for before, name in ((launcher, "two"), ([], "one")):
        folders = [f"out={tiny.folder / name}", f"cache.folder={tiny.folder / name}.teacher"]
        done = subprocess.run(
            [forked / "python", *before, script, *(word for one in folders for word in ("--set", one))],
            **{"capture_output": True, "text": True, "check": False, "timeout": 240, "env": {**os.environ, **quiet}},
        )
        assert done.returncode == 0, done.stderr
    two, one = (
        {path.name: path.read_bytes() for path in (tiny.folder / f"{name}.teacher").glob("*/*")}
        for name in ("two", "one")
    )
    assert len(one) > 6
    assert two == one
