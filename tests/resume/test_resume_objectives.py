"""Matrices and heads that are trained with students are resumed exactly, and so is a run of a padded teacher."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from tests.resume.conftest import copy_killed, stop_at_step

from minilm.distill import report as report_module
from minilm.distill.run import distill
from minilm.errors import DataError, Interrupted, UsageError
from minilm.infer.api import load
from minilm.recipe import load_recipe

transformers = pytest.importorskip("transformers")

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


def write_mpnet(tiny):
    tiny.write_teacher(family="mpnet", num_segments=0, pad_token_id=1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tiny.teacher / name).unlink()
    special = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]"]
    (tiny.teacher / "vocab.txt").write_text("\n".join([*special, *tiny.words[:-1], "<mask>"]))


def write_t5(tiny):
    """Its tokenizer has no token before a text."""
    shutil.rmtree(tiny.teacher)
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((f"▁{word}", -2.0) for word in tiny.words)]
    transformers.T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(tiny.teacher)
    sizes = {"d_model": 48, "d_kv": 8, "d_ff": 96, "num_layers": 3, "num_heads": 6}
    transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(vocab), **sizes)).save_pretrained(tiny.teacher)


def test_masked_text_needs_a_mask_before_a_corpus_is_built(tiny):
    write_t5(tiny)
    recipe = tiny.recipe(steps=4)
    with pytest.raises(DataError, match=r"and has no \[MASK\], which is needed here: "):
        distill(load_recipe(recipe, ["loss={objective: mlm}"]))
    assert not (tiny.folder / "run" / "corpus").exists()


PADDED = {
    "mpnet, v1": (write_mpnet, "loss={version: v1}"),
    "mpnet, v2": (write_mpnet, "loss={version: v2, relation_heads: 12}"),
    "t5, v2": (write_t5, "loss={version: v2, relation_heads: 12}"),
}


@pytest.mark.parametrize("name", PADDED)
def test_a_run_of_a_padded_teacher_ends_like_one_that_was_not_stopped(tiny, name, assert_same_run, monkeypatch):
    write, loss = PADDED[name]
    write(tiny)
    recipe, whole, out = tiny.recipe(steps=4), tiny.folder / "whole", tiny.folder / "run"
    distill(load_recipe(recipe, [loss, f"out={whole}"]))
    with monkeypatch.context() as patch:
        stop_at_step(patch, 2)
        with pytest.raises(Interrupted, match=r"^stopped by the user at step 2; "):
            distill(load_recipe(recipe, [loss]))
    distill(load_recipe(recipe, [loss]))
    assert_same_run(out, whole)
    log = (out / "log.txt").read_text()
    assert f"teacher {tiny.teacher}: computed by transformers, padded" in log
    assert f"teacher {tiny.teacher}: it does not run packed, which is slower: in the first step it computes 1." in log
    tokenizer, model = (
        getattr(transformers, kind).from_pretrained(out / "model") for kind in ("AutoTokenizer", "AutoModel")
    )
    ids = tokenizer("word3 word1", return_tensors="pt")["input_ids"]
    assert ids.shape[1] == (3 if name == "t5, v2" else 4)
    mean = model.eval()(input_ids=ids).last_hidden_state[0].mean(0).detach().numpy()
    np.testing.assert_allclose(load(out / "model").encode(["word3 word1"])[0], mean, atol=1e-5)
