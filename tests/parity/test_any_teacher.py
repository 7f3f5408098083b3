"""Proves that a teacher that cannot run packed gives the projections of unpadded single runs of its model.

Expected are the outputs of the projections themselves, by hooks of this file, in transformers' model without padding.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.parity.conftest import relative_difference

from minilm.distill import teacher_ways
from minilm.distill.agreement import relation_agreement
from minilm.distill.relation_loss import V1_PAIRS, relation_loss
from minilm.distill.teacher import PADDED_ONLY_TEACHERS, load_teacher, read_sizes
from minilm.distill.teacher_base import Overhead
from minilm.distill.teacher_cache import require_storable
from minilm.distill.teacher_padded import length_groups
from minilm.errors import DataError, UsageError
from minilm.model.encoder import Relations
from minilm.model.packing import pack, unpack
from minilm.recipe import LossSection

transformers = pytest.importorskip("transformers")

BERT = ("query", "key", "value")
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}
BART = {"d_model": 32, "encoder_layers": 3, "decoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 40,
        "decoder_attention_heads": 4, "decoder_ffn_dim": 40, "pad_token_id": 1}  # fmt: skip
MOBILE = {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2}
PADDED = {
    # class: (settings, the projections, H, what computes it, what more its attention has)
    "MPNet": ({"pad_token_id": 1}, ("q", "k", "v"), 4, "padded", "a bias of relative positions"),
    "DebertaV2": (DISENTANGLED, ("query_proj", "key_proj", "value_proj"), 4, "padded", "terms of relative positions"),
    "Deberta": (DISENTANGLED, ("in_proj",), 4, "padded", "terms of relative positions"),
    "MegatronBert": ({}, BERT, 4, "padded", ""),
    "ConvBert": ({"embedding_size": 16}, BERT, 2, "by length", ""),
    "RoFormer": ({}, BERT, 4, "padded", ""),
    "MobileBert": (MOBILE, BERT, 4, "by length", ""),
    "T5": (T5, ("q", "k", "v"), 4, "padded", "it has a bias, another scale or a window"),
    "Bart": (BART, ("q_proj", "k_proj", "v_proj"), 4, "padded", ""),
}
UNLISTED = {  # found by the usual names of projections
    "RemBert": ({"input_embedding_size": 16}, BERT, 4, "padded", ""),
    "XLM": ({"emb_dim": 32, "n_layers": 3, "n_heads": 4}, ("q_lin", "k_lin", "v_lin"), 4, "padded", ""),
}
LENGTHS = (3, 30, 1, 12, 30, 4, 11)
LAYER = 2


@pytest.fixture(scope="module")
def texts():
    generator = np.random.default_rng(5)
    return [generator.integers(5, 120, size=length) for length in LENGTHS]


def encoder_of(folder):
    if "T5" in folder.name:
        return transformers.T5EncoderModel.from_pretrained(folder).eval()
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    return model.get_encoder() if model.config.is_encoder_decoder else model


@torch.no_grad()
def own_projections(model, names, text):
    """Query, key and value `[N, width]` of the layer, before any rotary step, from a single run without padding."""
    module = [one for one in model.modules() if all(hasattr(one, name) for name in names)][LAYER - 1]
    seen, given = {}, {}
    handles = [module.register_forward_pre_hook(lambda _, __, kept: given.update(kept), with_kwargs=True)]
    for name in names:  # the first call: some project more than the tokens with the same map

        def keep(_, __, out, name=name):
            seen.setdefault(name, out[0])

        handles.append(getattr(module, name).register_forward_hook(keep))
    model(input_ids=torch.from_numpy(text)[None])
    for handle in handles:
        handle.remove()
    return module, [seen[name] for name in names], given


def expected_rows(name, model, names, heads, text):
    """The same, `[N, H, D]`, with what is the family's own between projection and product."""
    module, outputs, given = own_projections(model, names, text)
    if name == "Deberta":  # one map, whose biases come later
        query, key, value = outputs[0].unflatten(-1, (heads, -1)).chunk(3, dim=-1)
        return query + module.q_bias.view(heads, -1), key, value + module.v_bias.view(heads, -1)
    rows = [out.unflatten(-1, (heads, -1)) for out in outputs]
    if name == "RoFormer":  # pairs of columns turn by the angle of their position
        table = given["sinusoidal_pos"].reshape(-1, rows[0].shape[-1])[: len(text)]
        sines, cosines = (part[:, None] for part in table.chunk(2, dim=-1))
        for place in (0, 1):
            even, odd = rows[place][..., ::2], rows[place][..., 1::2]
            turned = [even * cosines - odd * sines, odd * cosines + even * sines]
            rows[place] = torch.stack(turned, dim=-1).flatten(-2)
    return rows


@pytest.mark.parametrize("name", [*PADDED, *UNLISTED])
def test_a_padded_teacher_gives_the_projections_of_single_runs(save, texts, name, caplog):
    settings, names, heads, engine, terms = {**PADDED, **UNLISTED}[name]
    folder = save(name, **settings)
    with caplog.at_level(logging.WARNING, "minilm"):
        teacher = load_teacher(folder, layer=LAYER)
    assert teacher.engine == f"transformers, {engine}"
    assert teacher.sizes == read_sizes(folder, layer=LAYER)
    said = [record.getMessage() for record in caplog.records]
    assert [f"queries and keys alone ({terms})" in one for one in said] == ([True] if terms else [])
    model, packed = encoder_of(folder), pack(texts)
    found = teacher.relations(packed)
    apart = [teacher.relations(pack([text])) for text in texts]
    expected = [expected_rows(name, model, names, heads, text) for text in texts]
    for place, part in enumerate(BERT):
        rows = getattr(found, part)
        assert rows.shape[:2] == (sum(LENGTHS), heads)
        assert relative_difference(rows, torch.cat([one[place] for one in expected])) < 1e-5
        for single, together in zip(apart, unpack(rows, packed), strict=True):
            assert relative_difference(together, getattr(single, part)) < 1e-5  # no row depends on its neighbours


def test_every_padded_teacher_that_is_listed_is_one_of_these():
    assert {getattr(transformers, f"{name}Config").model_type for name in PADDED} == set(PADDED_ONLY_TEACHERS)


# --- v1 ------------------------------------------------------------------------------------------


@torch.no_grad()
def own_attention(folder, text):
    """The model's own attention probabilities of the layer `[H, N, N]`, from a single run without padding."""
    model = encoder_of(folder)
    if hasattr(model, "set_attn_implementation") and "T5" in folder.name:
        model.set_attn_implementation("eager")
    return model(input_ids=torch.from_numpy(text)[None], output_attentions=True).attentions[LAYER - 1][0]


@pytest.mark.parametrize("name", ["MPNet", "T5", "DebertaV2", "ModernBert", "RoFormer"])
def test_v1_learns_the_attention_of_the_model_itself(save, texts, name):
    """With its bias, its scale and its window in it: a student of the same attention has no loss and agrees."""
    local = {"local_attention": 8, "global_attn_every_n_layers": 3, "pad_token_id": 0, "bos_token_id": 1,
             "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}  # fmt: skip
    folder = save(name, **(local if name == "ModernBert" else PADDED[name][0]))
    teacher = load_teacher(folder, layer=LAYER, version="v1")
    packed = pack(texts)
    relations = teacher.relations(packed)
    for text, query, key in zip(
        texts, *(unpack(rows, packed) for rows in (relations.query, relations.key)), strict=True
    ):
        scores = query.transpose(0, 1) @ key.permute(1, 2, 0) / query.shape[-1] ** 0.5
        torch.testing.assert_close(scores.softmax(-1), own_attention(folder, text), atol=1e-5, rtol=1e-4)
    student = Relations(query=relations.query, key=relations.key, value=relations.value)
    losses = relation_loss(relations, student, packed, pairs=V1_PAIRS, num_relation_heads=teacher.sizes.num_heads)
    assert float(losses.abs().max()) < 1e-5
    heads = teacher.sizes.num_heads
    kl, agreement = relation_agreement(relations, student, packed, pairs=V1_PAIRS, num_relation_heads=heads).unbind(1)
    assert float(kl.abs().max()) < 1e-4
    assert torch.equal(agreement, torch.full_like(agreement, len(texts)))


def test_a_window_is_found_however_wide_it_is(save):
    """Of 512 tokens, in a model for texts of a thousand: texts of 150 tokens do not show it."""
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
    wide = {"local_attention": 512, "global_attn_every_n_layers": 3, "pad_token_id": 0, **ids}
    folder = save("ModernBert", **wide, max_position_embeddings=1024)
    assert load_teacher(folder, layer=LAYER, version="v1").own_attention
    assert not load_teacher(folder, layer=1, version="v1").own_attention, "the first layer attends to everything"


@pytest.mark.parametrize("layer", [1, 3])
def test_a_model_with_several_attentions_in_a_layer_is_rejected(save, layer):
    """Calls of attention are what counts layers."""
    folder = save("Albert", embedding_size=16, inner_group_num=2)
    with pytest.raises(DataError) as caught:
        load_teacher(folder, layer=layer)
    assert str(caught.value) == (
        f"teacher {folder}: AlbertModel has 3 layers and computes attention 6 times, expected once in each layer; "
        "choose a teacher of another family, such as BERT"
    )


def test_attention_of_the_model_itself_is_not_stored(save):
    """Its logarithms are not queries: a cache would hold as many numbers as a document has tokens, squared."""
    folder = save("MPNet", pad_token_id=1)
    plan = SimpleNamespace(teacher=folder, teacher_layers=(3,))
    with pytest.raises(
        UsageError, match=r"but loss\.version v1 compares the attention that the teacher .* itself: rem"
    ):
        require_storable(LossSection(version="v1"), plan, load_teacher(folder, version="v1"))
    require_storable(LossSection(), plan, load_teacher(folder, version="v2"))


def test_v1_is_rejected_where_the_model_does_not_give_its_attention(save, monkeypatch):
    monkeypatch.setattr(teacher_ways, "_is_distribution", lambda _: False)
    folder = save("MPNet", pad_token_id=1)
    with pytest.raises(DataError) as caught:
        load_teacher(folder, version="v1")
    assert str(caught.value) == (
        f"teacher {folder}: loss.version v1 compares attention, and MPNetModel does not give its own; use v2"
    )


def test_a_model_whose_rows_depend_on_their_batch_is_rejected(save, monkeypatch):
    monkeypatch.setattr(teacher_ways, "_agree", lambda *_: False)
    with pytest.raises(DataError, match="MPNetModel gives other numbers in a batch than for single texts; choose a te"):
        load_teacher(save("MPNet", pad_token_id=1))


# --- padding -------------------------------------------------------------------------------------


def test_sequences_of_similar_length_share_a_padded_batch():
    lengths = [10, 3, 9, 10, 8, 7]
    assert length_groups(lengths, equal=False) == [[0, 3, 2, 4], [5], [1]]
    assert length_groups(lengths, equal=True) == [[0, 3], [2], [4], [5], [1]]
    assert [len(group) for group in length_groups([4096] * 5, equal=False)] == [2, 2, 1]


def test_the_overhead_is_that_of_the_batches(save):
    """Padding where lengths are similar; only more batches where they must be equal."""
    microbatches = [np.array([10, 3, 9, 10, 8, 7]), np.array([4, 4])]
    teacher = load_teacher(save("MPNet", pad_token_id=1))
    assert teacher.overhead(microbatches) == Overhead(tokens=58 / 55, batches=4 / 2)
    teacher.equal_lengths = True
    assert teacher.overhead(microbatches) == Overhead(tokens=1.0, batches=6 / 2)
    assert load_teacher(save("Bert"), native=False).overhead(microbatches) is None
