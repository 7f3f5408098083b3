"""Our weight names and the published ones convert in both directions without loss."""

from __future__ import annotations

import pytest
import torch

from minilm.errors import DataError
from minilm.model.config import FAMILIES, EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import HEADS, Model, new_head
from minilm.model.tensor_names import hf_names, listed, to_hf, to_ours


def tiny(family, head, pooler=None):
    sizes = {"hidden_size": 8, "num_layers": 2, "num_heads": 2, "intermediate_size": 12, "vocab_size": 20}
    special = {"num_segments": 2 if FAMILIES[family].segments else 0, "pad_token_id": 1}
    config = EncoderConfig(**sizes, **special, family=family, embedding_size=4 if family == "electra" else None)
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(config, pooler=pooler)
    encoder.reset(generator)
    return Model(encoder, new_head(head, config, num_labels=3, generator=generator) if head else None)


@pytest.mark.parametrize("pooler", [True, False])
@pytest.mark.parametrize("head", [None, *HEADS])
@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_is_the_identity(family, head, pooler):
    pooler = (pooler and FAMILIES[family].base_pooler) or head == "classification"
    ours = tiny(family, head, pooler).state_dict()
    theirs = to_hf(ours, family=family, head=head)
    back = to_ours(theirs, ours, family=family, head=head, where="w")
    assert list(back) == list(ours)
    assert all(torch.equal(back[name], ours[name]) for name in ours)
    assert sum(t.numel() for t in theirs.values()) == sum(t.numel() for t in ours.values())


@pytest.mark.parametrize("head", [None, *HEADS])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_two_weights_share_a_published_name(family, head):
    ours = tiny(family, head, True if head == "classification" else None).state_dict()
    names = [theirs for name in ours for theirs in hf_names(name, family=family, head=head)]
    assert len(set(names)) == len(names)
    prefix = "roberta." if family in ("xlm-roberta", "camembert") else f"{family}."
    heads = ("cls.", "lm_head.", "classifier.", "pre_classifier.", "qa_outputs.", "vocab_", "generator_")
    encoder = [name for name in names if not name.startswith(heads)]
    assert all(name.startswith(prefix) == (head is not None) for name in encoder)


@pytest.mark.parametrize(
    ("ours", "family", "head", "theirs"),
    [
        ("encoder.embeddings.norm.bias", "bert", None, ("embeddings.LayerNorm.bias",)),
        (
            "encoder.embeddings.segment.weight",
            "bert",
            "span",
            ("bert.embeddings.token_type_embeddings.weight",),
        ),
        ("encoder.pooler.weight", "bert", "classification", ("bert.pooler.dense.weight",)),
        ("encoder.pooler.weight", "roberta", "classification", ("classifier.dense.weight",)),
        ("head.out.bias", "xlm-roberta", "classification", ("classifier.out_proj.bias",)),
        ("head.norm.weight", "roberta", "mlm", ("lm_head.layer_norm.weight",)),
        ("head.bias", "bert", "mlm", ("cls.predictions.bias",)),
        ("encoder.embeddings.project.bias", "electra", "span", ("electra.embeddings_project.bias",)),
        ("encoder.pooler.weight", "distilbert", "classification", ("pre_classifier.weight",)),
        ("encoder.layers.1.ffn_norm.bias", "distilbert", None, ("transformer.layer.1.output_layer_norm.bias",)),
        ("encoder.relative.table.weight", "mpnet", "mlm", ("mpnet.encoder.relative_attention_bias.weight",)),
        (
            "encoder.layers.0.qkv.weight",
            "mpnet",
            None,
            tuple(f"encoder.layer.0.attention.attn.{part}.weight" for part in "qkv"),
        ),
        (
            "encoder.layers.11.qkv.bias",
            "xlm-roberta",
            "mlm",
            tuple(f"roberta.encoder.layer.11.attention.self.{part}.bias" for part in ("query", "key", "value")),
        ),
    ],
)
def test_published_names(ours, family, head, theirs):
    assert hf_names(ours, family=family, head=head) == theirs


@pytest.mark.parametrize("prefix", ["", "bert.", "electra.", "roberta.", "distilbert.", "mpnet."])
@pytest.mark.parametrize("old", [False, True])
def test_every_published_prefix_and_the_old_layer_norm_names_are_understood(prefix, old):
    ours = tiny("bert", None).state_dict()
    theirs = {}
    for name, tensor in to_hf(ours, family="bert", head=None).items():
        if old and "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        theirs[prefix + name] = tensor
    back = to_ours(theirs, ours, family="bert", head=None, where="w")
    assert all(torch.equal(back[name], ours[name]) for name in ours)


def fused(ours, bias_shape=(-1,)):
    """The checkpoint as Microsoft's later code wrote it: one matrix, no key bias."""
    theirs = to_hf(ours, family="bert", head=None)
    for layer in range(2):
        base = f"encoder.layer.{layer}.attention.self."
        parts = [theirs.pop(f"{base}{part}.weight") for part in ("query", "key", "value")]
        theirs[f"{base}qkv_linear.weight"] = torch.cat(parts)
        theirs[f"{base}q_bias"] = theirs.pop(f"{base}query.bias").view(bias_shape)
        theirs[f"{base}v_bias"] = theirs.pop(f"{base}value.bias").view(bias_shape)
        del theirs[f"{base}key.bias"]
    return {f"bert.{name}": tensor for name, tensor in theirs.items()}


@pytest.mark.parametrize("bias_shape", [(-1,), (1, 1, -1)])
def test_fused_projections_are_split_and_the_key_bias_is_zero(bias_shape):
    ours = {name: torch.randn_like(tensor) for name, tensor in tiny("bert", None).state_dict().items()}
    back = to_ours(fused(ours, bias_shape), ours, family="bert", head=None, where="w")
    for name, expected in ours.items():
        if name.endswith("qkv.bias"):
            expected = expected.clone()
            expected[8:16] = 0
        assert torch.equal(back[name], expected), name


def test_a_fused_projection_without_its_biases_is_rejected():
    theirs = fused(tiny("bert", None).state_dict())
    del theirs["bert.encoder.layer.1.attention.self.v_bias"]
    with pytest.raises(DataError) as caught:
        to_ours(theirs, [], family="bert", head=None, where="w.bin")
    assert str(caught.value) == ("w.bin: encoder.layer.1.attention.self.qkv_linear.weight (24, 8) without v_bias")


def test_a_fused_projection_without_three_parts_is_rejected():
    theirs = fused(tiny("bert", None).state_dict())
    theirs["bert.encoder.layer.0.attention.self.qkv_linear.weight"] = torch.zeros(25, 8)
    with pytest.raises(DataError, match=r"qkv_linear.weight \(25, 8\) without 3 parts$"):
        to_ours(theirs, [], family="bert", head=None, where="w.bin")
    theirs["bert.encoder.layer.0.attention.self.qkv_linear.weight"] = torch.tensor(1.0)
    with pytest.raises(DataError, match=r"qkv_linear.weight \(\) without 3 parts$"):
        to_ours(theirs, [], family="bert", head=None, where="w.bin")


def test_projections_of_different_shapes_are_rejected_by_name():
    ours = tiny("bert", None).state_dict()
    theirs = to_hf(ours, family="bert", head=None)
    theirs["encoder.layer.0.attention.self.key.weight"] = torch.zeros(8, 7)
    with pytest.raises(DataError) as caught:
        to_ours(theirs, ours, family="bert", head=None, where="w")
    assert str(caught.value) == (
        "w: tensors of one attention layer differ in shape: "
        "encoder.layer.0.attention.self.query.weight (8, 8), "
        "encoder.layer.0.attention.self.key.weight (8, 7), "
        "encoder.layer.0.attention.self.value.weight (8, 8)"
    )


@pytest.mark.parametrize("name", ["bert.encoder.rel_pos_bias.weight", "bert.rel_pos_bias.weight", "rel_pos_bias"])
def test_relative_position_biases_are_rejected(name):
    with pytest.raises(DataError) as caught:
        to_ours({name: torch.zeros(1)}, [], family="bert", head=None, where="w.bin")
    assert str(caught.value) == (
        f"w.bin: {name} is a relative position bias (UniLM 1.2 / 2); "
        "this encoder supports absolute positions only, which all MiniLM models use"
    )


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.position_ids",
        "roberta.embeddings.token_type_ids",
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder_weight",
        "cls.seq_relationship.bias",
        "crit_mask_lm_smoothed.one_hot",
        "lm_head.decoder.bias",
        "classifier.weight",
        "qa_outputs.bias",
        "discriminator_predictions.dense.weight",
        "generator_predictions.dense.weight",
        "vocab_projector.weight",
        "vocab_layer_norm.bias",
        "pre_classifier.weight",
        "bert.pooler.dense.bias",
    ],
)
def test_tied_copies_buffers_and_unrequested_heads_are_skipped(name):
    assert to_ours({name: torch.zeros(1)}, [], family="bert", head=None, where="w") == {}


def test_unexpected_tensors_are_listed():
    theirs = {name: torch.zeros(1) for name in ("bert.encoder.layer.0.extra", "odd", *(f"x.{i}" for i in range(7)))}
    with pytest.raises(DataError) as caught:
        to_ours(theirs, [], family="bert", head=None, where="w")
    assert str(caught.value) == (
        "w: unexpected tensors encoder.layer.0.extra, odd, x.0, x.1, x.2, x.3 and 3 more; expected a bert encoder"
    )


def test_a_list_for_a_message_is_short():
    assert listed(["a", "b"]) == "a, b"
    assert listed("abcdefgh", most=2) == "a, b and 6 more"


@pytest.mark.parametrize("part", ["query", "value"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn])
def test_quantized_weights_are_rejected_by_their_type(part, dtype):
    ours = tiny("bert", None).state_dict()
    name = f"encoder.layer.1.attention.self.{part}.weight"
    theirs = to_hf(ours, family="bert", head=None)
    theirs[name] = theirs[name].to(dtype)
    with pytest.raises(DataError) as caught:
        to_ours(theirs, ours, family="bert", head=None, where="w")
    kind = str(dtype).removeprefix("torch.")
    assert str(caught.value) == (
        f"w: quantized tensors {name} ({kind}); save the model as float32, float16 or bfloat16"
    )
