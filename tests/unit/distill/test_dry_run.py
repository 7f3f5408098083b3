"""`minilm distill --dry-run` measures a step and says what the run will cost, where it would die, whether it learns."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minilm.cli import app
from minilm.corpus.build import build_shards
from minilm.distill import measure
from minilm.distill.agreement import agreement_numbers
from minilm.distill.costs import Lengths, folder_bytes, step_flops
from minilm.distill.dry_run import dry_run
from minilm.distill.relation_loss import V2_PAIRS
from minilm.distill.run import distill
from minilm.distill.stages import planned
from minilm.distill.student import make_student
from minilm.errors import DataError, SystemProblem
from minilm.files.tensors import write_safetensors
from minilm.model.checkpoint import read_model
from minilm.model.packing import pack
from minilm.recipe import Distillation, load_recipe


def findings(recipe: Path, *overrides: str) -> list[tuple[str, str]]:
    return list(dry_run(load_recipe(recipe, overrides, kind=Distillation)))


def said(found: list[tuple[str, str]], beginning: str) -> str:
    [line] = [line for _, line in found if line.startswith(beginning)]
    return line


def test_the_plan_of_a_run(tiny):
    """Each number has its unit and its source; nothing is written."""
    recipe = tiny.recipe(learning_rate=0.02)
    before = sorted(tiny.folder.rglob("*"))
    found = findings(recipe)
    assert sorted(tiny.folder.rglob("*")) == before
    tokens = said(found, "tokens: ")
    assert re.fullmatch(
        r"tokens: 149 a step, 4\.46 k in 30 steps, 1\.2 epochs; 18\.6 tokens a document, estimated from 200 documents "
        r"at the beginning of the data",
        tokens,
    )
    time = said(found, "time: ")
    assert re.fullmatch(
        r"time: \S+ m?s a step, .+ in all, [\d,]+ tokens/s; measured here in one process, fp32 on \w+, the teacher by "
        r"[\w ,]+, on 149 tokens, \d+% of the time in the teacher; without held-out losses and probes",
        time,
    )
    assert re.match(
        r"operations: [\d.]+ MFLOP a step, [\d.]+ MFLOP in all, [\d.]+ [MG]FLOP/s; ", said(found, "operations")
    )
    assert re.match(r"memory: \d+\.\d GiB, the peak of this process while it measured; ", said(found, "memory: "))
    assert said(found, "disk: ").startswith(f"disk: at most 2.0 MiB in {tiny.folder}/run (corpus 0.0 MiB, checkpoints ")
    assert said(found, "written ") == (
        f"written into {tiny.folder}/run: corpus/, checkpoints/, metrics.jsonl, model/ and report.html"
    )
    [(label, updates)] = [one for one in found if " updates on one batch (2 documents, " in one[1]]
    assert label == "checked"
    assert 1 < int(updates.split()[0]) <= 20


def test_a_chain_is_planned_stage_by_stage(tiny):
    """The second stage is measured with a stand-in for its teacher, which does not exist yet."""
    found = findings(tiny.chain())
    lines = [line for _, line in found]
    for stage in (1, 2):
        assert any(line.startswith(f"stage {stage}: time: ") for line in lines)
        assert any(re.match(rf"stage {stage}: \d+ updates on one batch ", line) for line in lines)
    assert f"stage 2: teacher {tiny.folder}/run/stages/1/model: 3 layers, width 24" in "\n".join(lines)
    assert not any("minilm-stage-" in line for line in lines)
    assert lines[-2].startswith("time of all stages: ")
    assert "corpus/, stages/1/ to stages/2/ (a run folder each), model/ and report.html" in lines[-1]
    assert not (tiny.folder / "run").exists()


def test_a_built_corpus_is_counted(tiny):
    manifest = build_shards([tiny.text], tokenizer=tiny.teacher, out=tiny.folder / "shards", max_tokens=32)
    found = findings(tiny.recipe(), f"data.corpus={tiny.folder / 'shards'}", "data.inputs=[]")
    mean = manifest.tokens / manifest.documents
    assert f"{mean:.1f} tokens a document, counted in the corpus" in said(found, "tokens: ")
    assert "(checkpoints " in said(found, "disk: ")


def test_a_loss_that_does_not_fall_by_half_is_a_warning(tiny):
    found = findings(tiny.recipe(learning_rate=1e-9))
    [(label, line)] = [one for one in found if "updates on one batch" in one[1]]
    assert label == "warning"
    assert line.startswith("20 updates ")
    assert "more than half of it: train.learning_rate 1e-09 may be too low or too high, or the student starts" in line


def test_what_a_run_would_die_of(tiny, monkeypatch):
    """Weights that are damaged, and a disk that is too small."""
    usage = shutil.disk_usage(tiny.folder)._replace(free=2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(
        SystemProblem, match=r"disk: at most 2\.0 MiB in .*, but only 1\.0 MiB are free: choose another"
    ):
        findings(tiny.recipe())
    monkeypatch.undo()
    write_safetensors(tiny.teacher / "model.safetensors", {"none": torch.zeros(1)})
    with pytest.raises(DataError, match="the weights lack"):
        findings(tiny.recipe())


def test_fewer_documents_than_are_held_out_are_a_warning(tiny):
    found = findings(tiny.recipe(), "data.heldout_documents=300")
    assert ("warning", "data.heldout_documents is 300, but the data seems to have 200 documents") in found


@pytest.mark.slow
def test_what_goes_to_one_disk_is_added_up(tiny, monkeypatch):
    """The run folder, and the cache of each stage: each alone would fit."""
    recipe, overrides = tiny.chain(), ["cache={precision: bf16}"]
    found = [line for _, line in findings(recipe, *overrides)]
    sizes = [re.search(r"(?:disk: at most|cache:) ([\d.]+) MiB", line) for line in found]
    disk, *caches = [float(size[1]) for size in sizes if size]
    assert len(caches) == 2
    free = disk + sum(caches) - 0.3
    assert free > max(disk, *caches) + 0.1
    usage = shutil.disk_usage(tiny.folder)._replace(free=int(free * 2**20))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(SystemProblem, match=r"cache: .* and what else this run writes there needs [\d.]+"):
        findings(recipe, *overrides)


def test_the_command_prints_the_recipe_and_its_findings_as_it_finds_them(tiny, capsys, monkeypatch):
    monkeypatch.setattr("minilm.train.allocator.keep_freed_memory", lambda: True)  # it lasts as long as the process
    with pytest.raises(SystemExit) as caught:
        app.main(["distill", str(tiny.recipe(learning_rate=0.02)), "--dry-run"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert "  learning_rate: 0.02  # from recipe.yaml:" in out
    lines = err.splitlines()
    assert lines[0].startswith("checked: teacher ")
    assert any(line.startswith("measure 2") for line in lines), "progress is shown"
    assert lines[-1].startswith("planned: written into ")


def test_an_update_is_timed_to_its_end_on_a_device(monkeypatch):
    """A GPU returns before it has done what it was given."""
    events: list[str] = []
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    monkeypatch.setattr(optimizer, "step", lambda: events.append("step"))
    monkeypatch.setattr(measure, "_wait_for_device", lambda: events.append("wait"))
    assert measure._timed_update(optimizer) >= 0
    assert events == ["step", "wait", "step", "wait"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_operations_are_those_that_torch_counts(tiny, version):
    """Of the linear maps; those of pairs of tokens are by hand, because torch does not count them on processors."""
    heads = "null" if version == "v1" else "12"
    overrides = [f"loss.version={version}", f"loss.relation_heads={heads}", "train.batch_size=2"]
    with planned(load_recipe(tiny.recipe(), overrides, kind=Distillation)) as [stage]:
        recipe, plan = stage.recipe, stage.plan
        models = [
            read_model(tiny.teacher).encoder,
            make_student(plan.students["student"], teacher=tiny.teacher, seed=0),
        ]
    lengths = np.array([24, 9])
    packed = pack([np.arange(5, 5 + length) for length in lengths])
    counts = []
    for model in models:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval().relations(packed)
        counts.append(counter.get_total_flops())
    known = Lengths.of(lengths, documents=2, source="here")
    found = step_flops(recipe, plan, known)
    pairs, squares = 2 if version == "v1" else 3, int((lengths**2).sum())
    attention = 2 * 2 * squares * (2 * 48 + 3 * 1 * 24)  # scores and sums; the last layer has none
    relations = 2 * pairs * squares * (48 + 3 * 24)
    assert found == pytest.approx(counts[0] + 3 * counts[1] + attention + relations, rel=1e-6)


@pytest.mark.slow
def test_the_disk_is_that_of_a_run(tiny):
    """At most, and not by far: a checkpoint is complete before an older one goes, so one more is counted."""
    recipe = load_recipe(tiny.recipe(steps=6), kind=Distillation)
    with planned(recipe) as [stage]:
        expected = folder_bytes(stage.recipe, stage.plan)
    distill(load_recipe(tiny.recipe(steps=6)))
    out = tiny.folder / "run"
    found = {
        name: sum(file.stat().st_size for file in (out / folder).rglob("*.safetensors"))
        for name, folder in (("checkpoints", "checkpoints"), ("models", "model"))
    }
    assert found["checkpoints"] * 3 / 2 == pytest.approx(expected["checkpoints"], rel=0.25)
    assert found["models"] * 2 == pytest.approx(expected["models"], rel=0.25)


def test_the_disk_holds_every_line_of_metrics(tiny):
    """Evaluations too, whose lines have two numbers for each student, pair and head."""
    students = [{"name": letter * 64, "num_layers": 1, "hidden_size": 48} for letter in "ab"]
    overrides = [f"students={json.dumps(students)}", "loss.relation_heads=48"]
    recipe = tiny.recipe(steps=600, log_every=1, eval_every=1)
    with planned(load_recipe(recipe, overrides, kind=Distillation)) as [stage]:
        expected = folder_bytes(stage.recipe, stage.plan)["metrics and report"]
    numbers = torch.rand(3, 2, 48, dtype=torch.float64) * 1e-10  # long ones
    found = [agreement_numbers(student["name"], list(V2_PAIRS), numbers) for student in students]
    lines = 600 * sum(len(json.dumps(one)) for one in found)
    assert 2 * lines < expected < 3 * lines, "written once more where a run is resumed"
