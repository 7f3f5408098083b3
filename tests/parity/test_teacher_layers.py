"""Proves that a teacher gives several layers in one pass, and hidden rows, with the numbers of single runs."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from minilm.distill.teacher import load_teacher
from minilm.distill.teacher_base import Wanted
from minilm.errors import UsageError
from minilm.kernels.library import find_library
from minilm.model.packing import pack

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'minilm[hf]'")

DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}
WAYS = {
    "Bert": ({}, "packed"),
    "Roberta": ({"pad_token_id": 1}, "packed"),
    "MPNet": ({"pad_token_id": 1}, "padded"),  # hooks
    "DebertaV2": (DISENTANGLED, "padded"),
    "T5": (T5, "padded"),  # interface
    "ConvBert": ({"embedding_size": 16}, "by length"),
}
LAYERS = (1, 3)


@pytest.fixture(scope="module")
def packed():
    generator = np.random.default_rng(5)
    return pack([generator.integers(5, 120, size=length) for length in (3, 30, 1, 12, 30, 4, 11)])


@pytest.mark.parametrize("name", WAYS)
def test_several_layers_are_those_of_single_passes(save, packed, name, caplog):
    settings, engine = WAYS[name]
    folder = save(name, **settings)
    with caplog.at_level(logging.INFO, "minilm"):
        teacher = load_teacher(folder, wanted=Wanted(layers=LAYERS))
    assert teacher.engine == f"transformers, {engine}"
    assert [one.getMessage() for one in caplog.records if "native engine" in one.getMessage()] == [
        f"teacher {folder}: not on the native engine, which gives the relations of layer 3 alone, not those of layers "
        "1, 3"
    ]
    found = teacher.relations_of(packed)
    assert tuple(found) == LAYERS
    for layer in LAYERS:
        alone = load_teacher(folder, layer=layer, native=False).relations(packed)
        for part in ("query", "key", "value"):
            torch.testing.assert_close(getattr(found[layer], part), getattr(alone, part), atol=1e-5, rtol=1e-5)
    assert torch.equal(teacher.relations(packed).key, found[3].key), "of the last one"


@pytest.mark.parametrize(
    ("wanted", "more"), [({"layers": (1,)}, "those of layer 1"), ({"layers": (3,), "hidden": True}, "hidden rows")]
)
def test_the_log_says_what_the_native_engine_does_not_give(save, wanted, more, caplog):
    with caplog.at_level(logging.INFO, "minilm"):
        load_teacher(save("Bert"), wanted=Wanted(**wanted))
    assert f"which gives the relations of layer 3 alone, not {more}" in caplog.text


def test_several_layers_of_the_models_own_attention(save, packed):
    """MPNet has a bias in its attention: v1 learns what the model computes, in each layer."""
    folder = save("MPNet", pad_token_id=1)
    found = load_teacher(folder, version="v1", wanted=Wanted(layers=LAYERS, attention=True)).relations_of(packed)
    for layer in LAYERS:
        alone = load_teacher(folder, layer=layer, version="v1").relations(packed)
        for part in ("query", "key", "value"):
            torch.testing.assert_close(getattr(found[layer], part), getattr(alone, part), atol=1e-4, rtol=1e-4)
    plain = load_teacher(folder, version="v1", wanted=Wanted(layers=(3,))).relations(packed)
    assert plain.query.shape != found[3].query.shape, "value-value alone needs no attention"


@pytest.mark.parametrize("name", WAYS)
def test_hidden_rows_are_those_of_single_runs_without_padding(save, packed, name):
    settings, engine = WAYS[name]
    folder = save(name, **settings)
    teacher = load_teacher(folder, wanted=Wanted(layers=LAYERS, hidden=True))
    assert teacher.engine == f"transformers, {engine}"
    found = teacher.hidden_of(packed)
    kind = transformers.T5EncoderModel if name == "T5" else transformers.AutoModel
    model = kind.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        texts = packed.token_ids.split(list(packed.lengths))
        states = [model(input_ids=text[None], output_hidden_states=True).hidden_states for text in texts]
    for layer in LAYERS:
        expected = torch.cat([one[layer][0] for one in states])
        assert float((found[layer] - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.skipif(find_library().functions is None, reason="the kernels are not built: make kernels")
def test_a_native_teacher_that_was_loaded_for_relations_gives_no_hidden_rows(save, packed):
    with pytest.raises(UsageError, match=r"was not loaded for hidden rows; load it with wanted\.hidden"):
        load_teacher(save("Bert")).hidden_of(packed)
