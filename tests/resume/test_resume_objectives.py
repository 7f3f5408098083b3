"""Matrices and heads that are trained with students are resumed exactly; another loss is another run."""

from __future__ import annotations

import shutil

import pytest

from minilm.distill import report as report_module
from minilm.distill.run import distill
from minilm.errors import UsageError
from minilm.recipe import load_recipe

LOSSES = {
    "hidden": "loss={objective: hidden, layers: all}",
    "mlm": "loss={objective: mlm}",
}
CHANGED = {
    "hidden": ("loss.layers=last", "loss.layers was 'all', is 'last'"),
    "mlm": ("loss.mask_tokens=0.2", "loss.mask_tokens was None, is 0.2"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_resuming_equals_the_uninterrupted_run(tiny, name, assert_same_run, monkeypatch):
    """As after a kill behind the second step: the run continues from the checkpoint of that step."""
    monkeypatch.setattr(report_module, "write_report", lambda out, **_: (out / "report.html").touch())
    recipe = tiny.recipe(steps=5, keep_checkpoints=100, checkpoint_every=1)
    whole, out = tiny.folder / "whole", tiny.folder / "resumed"
    distill(load_recipe(recipe, [LOSSES[name], f"out={whole}"]))
    shutil.copytree(whole, out)
    for later in (3, 4, 5):
        shutil.rmtree(out / "checkpoints" / f"step-{later:08d}")
    shutil.rmtree(out / "model")
    distill(load_recipe(recipe, [LOSSES[name], f"out={out}"]))
    assert_same_run(out, whole)
    override, difference = CHANGED[name]
    with pytest.raises(UsageError) as caught:
        distill(load_recipe(recipe, [LOSSES[name], f"out={out}", override]))
    assert f"belongs to a different run: {difference}. Restore" in str(caught.value)
