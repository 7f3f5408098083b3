"""Resuming is exact and rejected for a different run, and stopping is clean."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.resume.conftest import copy_killed, stop_at_step

from minilm.distill import report as report_module
from minilm.distill import run as run_module
from minilm.distill.run import distill
from minilm.distill.teacher import Teacher
from minilm.errors import Interrupted, UsageError
from minilm.files.json import read_json
from minilm.files.regular import sha256_file
from minilm.files.tensors import read_safetensors
from minilm.recipe import load_recipe
from minilm.train.loop import Event, train
from minilm.train.metrics import read_metrics
from minilm.train.schedule import linear_schedule
from minilm.train.state import extensions


def run(recipe: Path, *overrides: str, resume: str = "auto"):
    return distill(load_recipe(recipe, overrides), resume=resume)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return tmp_path_factory.mktemp("finished") / "whole"


@pytest.fixture
def finished(tiny, template):
    """The recipe, and a finished run with every checkpoint kept (computed once, then moved where it is used)."""
    recipe = tiny.recipe(steps=12, keep_checkpoints=100, checkpoint_every=1, log_every=5)
    if not template.exists():
        run(recipe, f"out={template}")
    shutil.copytree(template, tiny.folder / "whole")
    return recipe, tiny.folder / "whole"


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Plotting is slow and not under test here."""
    monkeypatch.setattr(report_module, "write_report", lambda out, **_: (out / "report.html").touch())


def test_resuming_at_any_checkpoint_equals_the_uninterrupted_run(tiny, finished, assert_same_run):
    recipe, whole = finished
    for step in (1, 5, 8, 11):
        out = tiny.folder / f"from-{step}"
        copy_killed(whole, out, after=step)
        run(recipe, f"out={out}")
        assert_same_run(out, whole)
        shutil.rmtree(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_step_saves_and_stops(tiny, finished, monkeypatch, assert_same_run, number):
    recipe, whole = finished
    out = tiny.folder / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_at_step(patch, 5, number)
        with pytest.raises(Interrupted, match=r"^stopped by the user at step 5; run the same command to resume$"):
            run(recipe, "train.checkpoint_every=500")
    assert signal.getsignal(number) is before
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000005"]
    run(recipe, "train.checkpoint_every=500")
    assert_same_run(out, whole)


def test_two_signals_stop_at_once_without_saving(tiny, finished, monkeypatch, assert_same_run):
    recipe, whole = finished
    with monkeypatch.context() as patch:
        stop_at_step(patch, 5, signal.SIGINT, times=2)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, "train.checkpoint_every=3")
    assert [path.name for path in (tiny.folder / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    run(recipe, "train.checkpoint_every=3")
    assert_same_run(tiny.folder / "run", whole)


def wait_for_rows(process, out: Path, wanted: int) -> None:
    while process.poll() is None and len(read_metrics(out)) < wanted:
        time.sleep(0.005)


def test_ctrl_c_on_the_command_line_is_two_clean_lines(tiny, start_cli):
    recipe = tiny.recipe(steps=100_000, log_every=1, checkpoint_every=100_000)
    process = start_cli("distill", recipe)
    wait_for_rows(process, tiny.folder / "run", 2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == ""
    lines = [line for line in errors.splitlines() if not line.startswith("INFO: ")]
    step = json.loads(next((tiny.folder / "run").glob("checkpoints/*/state.json")).read_text())["step"]
    assert lines == [
        "WARNING: stopping after this step; interrupt again to stop immediately, without saving",
        f"error: stopped by the user at step {step}; run the same command to resume",
    ]
    assert "ended by Interrupted" in (tiny.folder / "run" / "log.txt").read_text()


def test_sigterm_before_the_first_step_is_an_interruption_too(tiny, start_cli):
    process = start_cli("distill", tiny.recipe())
    while process.poll() is None and not (tiny.folder / "run" / "log.txt").exists():
        time.sleep(0.005)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    reported = "error: stopped immediately; run the same command to resume from the last checkpoint, if there is one"
    assert errors.splitlines()[-1] == reported


def flip_a_byte(file: Path, where: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(len(data) * where)] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "flipped byte in the model": lambda folder: flip_a_byte(folder / "model.safetensors", 0.7),
    "flipped byte in the optimizer": lambda folder: flip_a_byte(folder / "optimizer.safetensors", 0.9),
    "flipped byte in the state": lambda folder: flip_a_byte(folder / "state.json", 0.02),
    "another step in the state": lambda folder: (folder / "state.json").write_text(
        (folder / "state.json").read_text().replace('"step": 12', '"step": 11')
    ),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "no model": lambda folder: (folder / "model.safetensors").unlink(),
    "truncated model": lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100),
    "empty folder": lambda folder: [file.unlink() for file in folder.iterdir()],
    "empty state": lambda folder: (folder / "state.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(finished, tiny, caplog, assert_same_run, damage):
    recipe, whole = finished
    out = tiny.folder / "run"
    shutil.copytree(whole, out)
    DAMAGES[damage](out / "checkpoints" / "step-00000012")
    run(recipe)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "step-00000012 is damaged (" in warnings[0]
    assert warnings[0].endswith("; trying the previous one")
    assert any("at step 11 of 12" in record.getMessage() for record in caplog.records)
    assert_same_run(out, whole)


def test_when_every_checkpoint_is_damaged_the_run_starts_over_and_says_so(finished, tiny, caplog, assert_same_run):
    recipe, whole = finished
    out = tiny.folder / "run"
    shutil.copytree(whole, out)
    for state in out.glob("checkpoints/*/state.json"):
        state.unlink()
    run(recipe)
    assert any("is usable; starting from the first step" in record.getMessage() for record in caplog.records)
    assert_same_run(out, whole)


def test_a_damaged_newer_checkpoint_never_replaces_a_good_one(finished, tiny):
    """With one checkpoint kept, the first save after falling back must survive, not a damaged later one."""
    recipe, whole = finished
    out = tiny.folder / "run"
    shutil.copytree(whole, out)
    for step in (11, 12):
        flip_a_byte(out / "checkpoints" / f"step-{step:08d}" / "model.safetensors", 0.5)
    with pytest.MonkeyPatch.context() as patch:

        def die_when_saved(event: Event, _: int) -> None:
            if event == "saved":
                raise KeyboardInterrupt

        patch.setattr(run_module, "train", partial(train, on_event=die_when_saved))
        shutil.rmtree(out / "checkpoints" / "step-00000010")
        with pytest.raises(KeyboardInterrupt):
            run(recipe, "train.keep_checkpoints=1")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000010"]


REFUSED = {
    "train.learning_rate=0.1": "train.learning_rate was 0.002, is 0.1",
    "train.steps=11": "train.steps was 12, is 11",
    "train.batch_size=9": "train.batch_size was 8, is 9",
    "train.tokens_per_batch=65": "train.tokens_per_batch was 64, is 65",
    "train.precision=bf16": "train.precision was 'fp32', is 'bf16'",
    "seed=7": "seed was 42, is 7",
    "loss.relation_heads=6": "loss.relation_heads was 12, is 6",
    "students.0.num_layers=1": "students.0.num_layers was 2, is 1",
    "teacher.layer=2": "teacher.layer was 3, is 2",
    "data.heldout_documents=21": "data.heldout_documents was 20, is 21",
}


def test_a_changed_value_is_rejected_by_name(finished):
    recipe, whole = finished
    before = (whole / "recipe.resolved.yaml").read_bytes()
    for override, difference in REFUSED.items():
        with pytest.raises(UsageError) as caught:
            run(recipe, f"out={whole}", override)
        said = re.sub(r"teacher\.engine was '[^']*', is '[^']*'; ", "", str(caught.value))  # not every one has bf16
        assert said == (
            f"{whole}/checkpoints/step-00000012 belongs to a different run: {difference}. "
            "Restore these values or choose another out folder"
        )
    assert (whole / "recipe.resolved.yaml").read_bytes() == before


def test_the_command_line_names_the_flag_that_starts_over(finished, start_cli):
    recipe, whole = finished
    process = start_cli("distill", recipe, "--set", f"out={whole}", "--set", "seed=7")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.splitlines()[-1].endswith("or choose another out folder, or start over with --resume never")


def test_another_engine_of_the_teacher_is_another_run(finished, monkeypatch):
    """Its bits differ: kernels switched off, or another instruction set."""
    recipe, whole = finished
    before = sums(whole)["teacher.engine"]

    def other(folder, sizes, precision):
        return None

    monkeypatch.setattr("minilm.distill.teacher.native_teacher", other)
    if before == "transformers, packed":
        pytest.skip("the kernels are not built: make kernels")
    with pytest.raises(UsageError) as caught:
        run(recipe, f"out={whole}")
    assert f"run: teacher.engine was {before!r}, is 'transformers, packed'. Restore" in str(caught.value)


def test_every_difference_is_named(finished):
    recipe, whole = finished
    with pytest.raises(UsageError, match=r"run: seed was 42, is 7; train\.steps was 12, is 14\. Restore"):
        run(recipe, f"out={whole}", "train.steps=14", "seed=7")


def sums(out: Path) -> dict[str, str]:
    identity = read_json(next(out.glob("checkpoints/*/state.json")))["identity"]
    assert isinstance(identity, dict)
    return identity


def test_another_dataset_is_rejected_and_the_old_one_resumes(finished, tiny, assert_same_run):
    """A run that was killed in the middle computes the rest with the text that it began with."""
    recipe, whole = finished
    out, text, old = tiny.folder / "killed", tiny.text.read_text(), sums(whole)["dataset"]
    copy_killed(whole, out, after=5)
    tiny.text.write_text(text + "word1 word2\n")
    with pytest.raises(UsageError, match=f"a different run: dataset was '{old}', is '[0-9a-f]{{64}}'"):
        run(recipe, f"out={out}")
    tiny.text.write_text(text)
    run(recipe, f"out={out}")
    assert_same_run(out, whole)


def test_another_teacher_is_rejected(finished, tiny):
    recipe, whole = finished
    old = sums(whole)["teacher weights"]
    tiny.write_teacher(seed=5)
    with pytest.raises(UsageError, match=f"a different run: teacher weights was '{old}', is '[0-9a-f]{{64}}'. R"):
        run(recipe, f"out={whole}")
    config = tiny.teacher / "config.json"
    tiny.write_teacher()
    config.write_text(config.read_text().replace("1e-12", "1e-05"))
    with pytest.raises(UsageError, match=r"a different run: teacher config was '[0-9a-f]{64}', is '[0-9a-f]{64}'. R"):
        run(recipe, f"out={whole}")


def test_another_tokenizer_is_rejected(finished, tiny):
    recipe, whole = finished
    tiny.write_teacher(words=(*tiny.words[:-1], "another"))
    with pytest.raises(UsageError, match=r"dataset was .*; tokenizer was '[0-9a-f]{64}', is '[0-9a-f]{64}'. R"):
        run(recipe, f"out={whole}")


def test_harmless_changes_are_accepted(finished, tiny):
    """How often something is written, and the paths of the run, its text and its teacher, may change."""
    recipe, whole = finished
    shutil.rmtree(whole / "checkpoints" / "step-00000012")
    for name in ("whole", "teacher", "text.txt"):
        shutil.move(tiny.folder / name, tiny.folder / f"moved-{name}")
    (tiny.folder / "moved-text.txt").rename(tiny.folder / "text.txt")
    result = run(
        recipe, f"out={tiny.folder / 'moved-whole'}", f"teacher.model={tiny.folder / 'moved-teacher'}", "name=b",
        "train.log_every=1", "train.checkpoint_every=2", "train.keep_checkpoints=1", "train.eval_every=5",
        "train.max_bad_steps=3", "data.workers=1",
    )  # fmt: skip
    assert result.folders == {"student": tiny.folder / "moved-whole" / "model"}


def test_resume_never_starts_over_and_leaves_nothing_of_the_old_run(finished, tiny, caplog):
    recipe, whole = finished
    run(recipe, f"out={whole}", "train.steps=4", "train.learning_rate=0.1", resume="never")
    assert "removed checkpoints, metrics.jsonl, report.html, model from" in caplog.text
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in range(1, 5)
    ]
    assert [row["step"] for row in read_metrics(whole)] == [4]
    run(recipe, f"out={tiny.folder / 'fresh'}", "train.steps=4", "train.learning_rate=0.1")
    assert sha256_file(whole / "model" / "model.safetensors") == sha256_file(
        tiny.folder / "fresh" / "model" / "model.safetensors"
    )


def test_resume_never_killed_early_does_not_restore_the_old_run(finished, monkeypatch):
    recipe, whole = finished
    with monkeypatch.context() as patch:
        stop_at_step(patch, 1, signal.SIGINT, times=2)
        with pytest.raises(KeyboardInterrupt):
            run(recipe, f"out={whole}", resume="never")
    assert not list(whole.glob("checkpoints/*"))
    assert not (whole / "model").exists()
    assert read_metrics(whole) == []


def test_a_finished_run_started_again_computes_nothing(finished, tiny, monkeypatch, assert_same_run):
    recipe, whole = finished
    shutil.copytree(whole, tiny.folder / "before")
    first = (whole / "metrics.jsonl").read_bytes()
    no_step = partial(train, on_event=lambda event, _: pytest.fail(f"a step was run: {event}"))
    monkeypatch.setattr(run_module, "train", no_step)
    monkeypatch.setattr(run_module.DistillObjective, "evaluate", lambda _: pytest.fail("evaluated again"))
    result = run(recipe, f"out={whole}")
    assert (whole / "metrics.jsonl").read_bytes() == first
    assert result.metrics["student.heldout_loss"] == read_metrics(whole)[-1]["student.heldout_loss"]
    assert_same_run(whole, tiny.folder / "before")


# --- extending ---------------------------------------------------------------------------------


def test_a_finished_run_is_extended_on_the_schedule_of_the_new_length(finished, tiny, caplog):
    recipe, whole = finished
    before = read_metrics(whole)
    result = run(recipe, f"out={whole}", "train.steps=20", "train.log_every=1")
    rows = read_metrics(whole)
    assert rows[: len(before)] == before
    added = {row["step"]: row for row in rows[len(before) :]}
    assert list(added) == list(range(13, 21))
    expected = {step: 0.002 * linear_schedule(step - 1, warmup_steps=3, total_steps=20) for step in added}
    assert {step: row["learning_rate"] for step, row in added.items()} == pytest.approx(expected)
    assert result.metrics["student.heldout_loss"] == added[20]["student.heldout_loss"]
    [said] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == (
        "extended at step 12: the learning rate had decayed to zero there and continues on the schedule of 20 steps, "
        "so this is not one run of 20 steps"
    )
    assert "20 steps (extended at step 12) of 8 documents" in (whole / "model" / "README.md").read_text()


def test_an_extended_run_resumes_exactly_and_can_be_extended_again(finished, tiny, monkeypatch, assert_same_run):
    """Stopped right after it was extended, before its first checkpoint, and again later."""
    recipe, whole = finished
    unbroken = tiny.folder / "unbroken"
    shutil.copytree(whole, unbroken)
    for steps in (16, 20):
        run(recipe, f"out={unbroken}", f"train.steps={steps}", "train.checkpoint_every=3")
    for steps, step in ((16, 14), (16, 16), (20, 17), (20, 19)):
        with monkeypatch.context() as patch:
            stop_at_step(patch, step, signal.SIGINT, times=2)
            with pytest.raises(KeyboardInterrupt):
                run(recipe, f"out={whole}", f"train.steps={steps}", "train.checkpoint_every=3")
        if step == 16:
            run(recipe, f"out={whole}", "train.steps=16", "train.checkpoint_every=3")
    run(recipe, f"out={whole}", "train.steps=20", "train.checkpoint_every=3")
    assert_same_run(whole, unbroken)
    assert extensions(whole / "checkpoints") == (12, 16)


def test_a_run_that_has_not_finished_is_not_extended(finished):
    recipe, whole = finished
    shutil.rmtree(whole / "checkpoints" / "step-00000012")
    with pytest.raises(UsageError) as caught:
        run(recipe, f"out={whole}", "train.steps=20")
    assert str(caught.value) == (
        f"{whole}/checkpoints/step-00000011 belongs to a run of 12 steps that has not finished; train.steps is now 20, "
        "but only a run that has done all of its steps is extended (train.patience may have ended it early). "
        "Restore 12, or choose another out folder"
    )


def test_an_extended_run_is_not_shortened_again(finished):
    recipe, whole = finished
    run(recipe, f"out={whole}", "train.steps=14")
    with pytest.raises(UsageError, match=r"belongs to a different run: train\.steps was 14, is 12\. Restore"):
        run(recipe, f"out={whole}")


STUDENTS = [
    {"name": "keys", "num_layers": 2, "hidden_size": 24, "num_heads": 6, "intermediate_size": 48},
    {"name": "v1.norm.wide", "num_layers": 1, "hidden_size": 48, "num_heads": 4, "intermediate_size": 64},
]


def test_each_of_several_students_learns_as_if_alone_from_one_teacher_pass(tiny, monkeypatch):
    """Weights and held-out losses are equal bit for bit; the names would cause trouble as module names."""
    recipe = tiny.recipe(steps=6)
    values = json.loads(recipe.read_text())
    calls = Counter[str]()
    relations = Teacher.relations

    def counted(self, packed):
        calls["teacher"] += 1
        return relations(self, packed)

    monkeypatch.setattr(Teacher, "relations", counted)
    results, passes = {}, {}
    for name, students in (("both", STUDENTS), ("0", STUDENTS[:1]), ("1", STUDENTS[1:])):
        calls.clear()
        recipe.write_text(json.dumps({**values, "students": students, "out": str(tiny.folder / name)}))
        results[name] = run(recipe)
        passes[name] = calls["teacher"]
    assert passes["both"] == passes["0"] == passes["1"]
    for number, student in enumerate(STUDENTS):
        together, alone = results["both"], results[str(number)]
        name = str(student["name"])
        assert together.folders[name] == tiny.folder / "both" / "model" / name
        assert together.metrics[f"{name}.heldout_loss"] == alone.metrics[f"{name}.heldout_loss"]
        ours, theirs = (read_safetensors(result.folders[name] / "model.safetensors") for result in (together, alone))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
