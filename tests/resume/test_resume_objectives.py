"""Matrices and heads that are trained with students are resumed exactly, and so is a run of a padded teacher."""

from __future__ import annotations

import pytest
from tests.resume.conftest import copy_killed, stop_at_step

from minilm.distill import report as report_module
from minilm.distill.run import distill
from minilm.errors import Interrupted, UsageError
from minilm.recipe import load_recipe

LOSSES = {
    "hidden": "loss={objective: hidden, layers: all}",
    "mlm": "loss={objective: mlm}",
}
CHANGED = {
    "hidden": ("loss.layers=last", "loss.layers was 'all', is 'last'"),
    "mlm": ("loss.mask_tokens=0.2", "loss.mask_tokens was None, is 0.2"),
}


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    """Plotting is slow and not under test here."""
    monkeypatch.setattr(report_module, "write_report", lambda out, **_: (out / "report.html").touch())


@pytest.mark.parametrize("name", LOSSES)
def test_resuming_equals_the_uninterrupted_run(tiny, name, assert_same_run):
    """As after a kill behind the second step: the run continues from the checkpoint of that step."""
    recipe = tiny.recipe(steps=5, keep_checkpoints=100, checkpoint_every=1)
    whole, out = tiny.folder / "whole", tiny.folder / "resumed"
    distill(load_recipe(recipe, [LOSSES[name], f"out={whole}"]))
    copy_killed(whole, out, after=2)
    distill(load_recipe(recipe, [LOSSES[name], f"out={out}"]))
    assert_same_run(out, whole)
    override, difference = CHANGED[name]
    with pytest.raises(UsageError) as caught:
        distill(load_recipe(recipe, [LOSSES[name], f"out={out}", override]))
    assert f"belongs to a different run: {difference}. Restore" in str(caught.value)


@pytest.fixture
def padded(tiny):
    """The tiny distillation with an MPNet as the teacher, which runs padded."""
    tiny.write_teacher(family="mpnet", num_segments=0, pad_token_id=1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tiny.teacher / name).unlink()
    special = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]"]
    (tiny.teacher / "vocab.txt").write_text("\n".join([*special, *tiny.words[:-1], "<mask>"]))
    return tiny


@pytest.mark.parametrize("loss", ["{version: v1}", "{version: v2, relation_heads: 12}"])
def test_a_run_of_a_padded_teacher_ends_like_one_that_was_not_stopped(padded, loss, assert_same_run, monkeypatch):
    recipe, whole, out = padded.recipe(steps=4), padded.folder / "whole", padded.folder / "run"
    distill(load_recipe(recipe, [f"loss={loss}", f"out={whole}"]))
    with monkeypatch.context() as patch:
        stop_at_step(patch, 2)
        with pytest.raises(Interrupted, match=r"^stopped by the user at step 2; "):
            distill(load_recipe(recipe, [f"loss={loss}"]))
    distill(load_recipe(recipe, [f"loss={loss}"]))
    assert_same_run(out, whole)
    log = (out / "log.txt").read_text()
    assert f"teacher {padded.teacher}: computed by transformers, padded" in log
    assert f"teacher {padded.teacher}: it does not run packed, which is slower: in the first step it computes 1." in log
