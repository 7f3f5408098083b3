"""The published sizes, the mapping to Hugging Face configurations, and its rejections."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minilm.errors import DataError, UsageError
from minilm.model.config import FAMILIES, PRESETS, EncoderConfig, require_family, with_vocabulary_of
from minilm.model.encoder import Encoder

TINY = EncoderConfig(hidden_size=8, num_layers=2, num_heads=2, intermediate_size=12, vocab_size=20)
BERT = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 512,
}


DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 20,
    "dim": 8,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 12,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize(
    ("name", "with_pooler", "pooler"),
    [
        ("L12-H384", 33_360_000, 147_840),
        ("L6-H384", 22_713_216, 147_840),
        ("L6-H768", 66_955_008, 590_592),
        ("BERT-Base", 109_482_240, 590_592),
    ],
)
def test_presets_have_the_published_number_of_parameters(name, with_pooler, pooler):
    config = EncoderConfig.preset(name)
    assert config.num_parameters() == with_pooler
    assert config.num_parameters(pooler=False) == with_pooler - pooler
    assert (config.num_heads, config.max_positions, config.layer_norm_eps) == (12, 512, 1e-12)
    assert config.intermediate_size == 4 * config.hidden_size


@pytest.mark.parametrize("pooler", [True, False, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_is_that_of_a_real_encoder(family, pooler):
    special = {"family": family, "pad_token_id": 1, "num_segments": 2 if FAMILIES[family].segments else 0}
    config = replace(TINY, **special, embedding_size=4 if family == "electra" else None)
    encoder = Encoder(config, pooler=pooler)
    assert sum(weight.numel() for weight in encoder.parameters()) == config.num_parameters(pooler=pooler)


def test_an_unknown_preset_names_the_closest_one():
    with pytest.raises(UsageError) as caught:
        EncoderConfig.preset("L12-H348")
    assert str(caught.value) == (
        "unknown preset 'L12-H348'; expected one of L12-H384, L6-H384, L6-H768, BERT-Base; did you mean 'L12-H384'?"
    )
    with pytest.raises(UsageError, match=r"unknown preset 'zzz'; expected one of [^;]*$"):
        EncoderConfig.preset("zzz")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PRESETS)
def test_hugging_face_values_and_back_is_the_identity(name, family):
    config = with_vocabulary_of(
        PRESETS[name],
        EncoderConfig(
            hidden_size=8,
            num_layers=1,
            num_heads=1,
            intermediate_size=1,
            vocab_size=99,
            pad_token_id=1,
            max_positions=514,
            num_segments=int(FAMILIES[family].segments),
            family=family,
            layer_norm_eps=1e-5 if "layer_norm_eps" in FAMILIES[family].hf_keys() else 1e-12,
            classifier_dropout=None if family == "mpnet" else 0.3,
            span_dropout=0.4 if family == "distilbert" else 0.0,
        ),
    )
    assert EncoderConfig.from_hf(config.to_hf()) == config
    assert config.hidden_size == PRESETS[name].hidden_size
    assert (config.vocab_size, config.max_positions, config.family) == (99, 514, family)


def test_positions_begin_where_the_family_says():
    bert = EncoderConfig.from_hf({**BERT, "pad_token_id": 5})
    assert (bert.first_position, bert.max_tokens) == (0, 512)
    roberta = EncoderConfig.from_hf({**BERT, "model_type": "roberta", "max_position_embeddings": 514})
    assert (roberta.pad_token_id, roberta.first_position, roberta.max_tokens) == (1, 2, 512)
    assert EncoderConfig.from_hf({**BERT, "model_type": "xlm-roberta", "pad_token_id": 3}).first_position == 4


def test_another_name_of_the_same_computation_is_bert():
    assert EncoderConfig.from_hf({**BERT, "model_type": "minilm"}).family == "bert"


def test_absent_keys_of_a_family_have_its_own_defaults():
    electra = EncoderConfig.from_hf({**BERT, "model_type": "electra"})
    assert (electra.embedding_size, electra.embedding_width) == (128, 128)
    distilbert = EncoderConfig.from_hf(DISTILBERT)
    assert (distilbert.classifier_dropout, distilbert.span_dropout, distilbert.num_segments) == (0.2, 0.1, 0)
    mpnet = EncoderConfig.from_hf({**BERT, "model_type": "mpnet", "max_position_embeddings": 514})
    assert (mpnet.pad_token_id, mpnet.max_tokens, mpnet.num_segments) == (1, 512, 0)


def test_embeddings_of_the_hidden_width_need_no_map():
    config = EncoderConfig.from_hf({**BERT, "model_type": "electra", "embedding_size": 8})
    assert config.embedding_size is None
    assert config.to_hf()["embedding_size"] == 8


def test_a_dropout_that_is_not_stated_is_that_of_the_hidden_rows():
    assert "classifier_dropout" not in TINY.to_hf()
    config = replace(TINY, family="distilbert", num_segments=0, hidden_dropout=0.3)
    assert config.to_hf()["seq_classif_dropout"] == 0.3


def test_absent_optional_keys_and_null_mean_the_defaults():
    config = EncoderConfig.from_hf({**BERT, "pad_token_id": None, "rel_pos_bins": 0, "embedding_size": 8})
    assert config == TINY
    assert config.head_size == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "modernbert"},
            "c.json: model_type 'modernbert'; expected one of bert, roberta, xlm-roberta, camembert, distilbert, "
            "electra, mpnet (other encoders are teachers only: minilm distill)",
        ),
        *(
            (
                {"hidden_act": name},
                f"c.json: hidden_act is '{name}'; this encoder supports 'gelu', 'gelu_pytorch_tanh', 'relu'",
            )
            for name in ("gelu_fast", "gelu_10", "quick_gelu", "gelu_accurate")
        ),
        (
            {"position_embedding_type": "relative_key"},
            "c.json: position_embedding_type is 'relative_key'; this encoder supports 'absolute' only",
        ),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            "c.json: quantization_config is {'quant_method': 'bitsandbytes'}; this encoder supports None only",
        ),
        ({"is_decoder": True}, "c.json: is_decoder is True; this encoder supports False only"),
        ({"rel_pos_bins": 32}, "c.json: rel_pos_bins is 32; this encoder supports 0 only"),
        ({"embedding_size": 4}, "c.json: embedding_size is 4; this encoder supports 8 only"),
        (
            {"num_attention_heads": 3},
            "c.json: hidden_size 8 is not a multiple of num_heads 3; change one of the two",
        ),
    ],
)
def test_what_this_encoder_does_not_compute_is_rejected(change, message):
    with pytest.raises(DataError) as caught:
        EncoderConfig.from_hf({**BERT, **change}, where="c.json")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {**DISTILBERT, "activation": "silu"},
            "activation is 'silu'; this encoder supports 'gelu', 'gelu_pytorch_tanh', 'relu'",
        ),
        (
            {**DISTILBERT, "num_hidden_layers": 0},
            "num_hidden_layers is 0; expected a whole number from 1 to 1000",
        ),
        ({**DISTILBERT, "n_layers": 0}, "n_layers is 0; expected a whole number from 1 to 1000"),
        ({**DISTILBERT, "qa_dropout": 2}, "qa_dropout is 2; expected a number from 0 to 1"),
        ({**DISTILBERT, "dim": None}, "missing dim; is this the configuration of an encoder?"),
        (
            {**BERT, "model_type": "mpnet", "relative_attention_num_buckets": 64},
            "relative_attention_num_buckets is 64; this encoder supports 32 only",
        ),
        ({**BERT, "model_type": "mpnet", "pad_token_id": 0}, "pad_token_id is 0; this encoder supports 1 only"),
        (
            {**BERT, "model_type": "electra", "embedding_size": 0},
            "embedding_size is 0; expected a whole number from 1 to 131072",
        ),
        ({**BERT, "classifier_dropout": "0.1"}, "classifier_dropout is '0.1'; expected a number from 0 to 1"),
    ],
)
def test_what_a_family_does_not_compute_is_rejected_by_its_own_keys(config, message):
    with pytest.raises(DataError) as caught:
        EncoderConfig.from_hf(config, where="c.json")
    assert str(caught.value) == f"c.json: {message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "mpnet"}, "num_segments is 2; expected 0, because mpnet models have no segments"),
        ({"num_segments": 0}, "num_segments is 0; expected a whole number from 1 to 262144"),
        (
            {"embedding_size": 4},
            "embedding_size is 4; expected None, because embeddings of bert models have the width hidden_size",
        ),
    ],
)
def test_values_that_a_family_does_not_have_are_usage_errors(change, message):
    with pytest.raises(UsageError) as caught:
        replace(TINY, **change)
    assert str(caught.value) == message


SIZE = "expected a whole number from 1 to"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("vocab_size", "20", f"'20'; {SIZE} 67108864"),
        ("vocab_size", 0, f"0; {SIZE} 67108864"),
        ("hidden_size", True, f"True; {SIZE} 131072"),
        ("hidden_size", 8.0, f"8.0; {SIZE} 131072"),
        ("num_hidden_layers", 2**31, f"2147483648; {SIZE} 1000"),
        ("num_attention_heads", [2], f"[2]; {SIZE} 131072"),
        ("intermediate_size", 2**62, f"4611686018427387904; {SIZE} 1048576"),
        ("max_position_embeddings", 10**70, f"1{59 * '0'}; {SIZE} 262144"),
        ("type_vocab_size", 0, f"0; {SIZE} 262144"),
        ("hidden_dropout_prob", 3.5, "3.5; expected a number from 0 to 1"),
        ("attention_probs_dropout_prob", -0.1, "-0.1; expected a number from 0 to 1"),
        ("layer_norm_eps", "1e-12", "'1e-12'; expected a number from 0 to 1"),
        ("layer_norm_eps", float("nan"), "nan; expected a number from 0 to 1"),
        ("layer_norm_eps", 10**400, f"1{59 * '0'}; expected a number from 0 to 1"),
        ("initializer_range", -0.02, "-0.02; expected a number from 0 to 100"),
        ("initializer_range", float("inf"), "inf; expected a number from 0 to 100"),
        ("pad_token_id", -1, "-1; expected a whole number from 0 to 67108864"),
    ],
)
def test_every_number_has_a_type_and_a_range(key, value, expected):
    with pytest.raises(DataError) as caught:
        EncoderConfig.from_hf({**BERT, key: value}, where="c.json")
    assert str(caught.value) == f"c.json: {key} is {expected}"


def test_the_published_range_of_every_number_is_allowed():
    """No dropout, all dropout, whole numbers in place of decimals."""
    EncoderConfig.from_hf({**BERT, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 1, "layer_norm_eps": 0.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pad_token_id": 20}, "c.json: pad_token_id is 20; expected an id below vocab_size 20"),
        (
            {"model_type": "roberta", "max_position_embeddings": 2},
            "c.json: max_positions is 2; expected more than 2, because a roberta model counts positions from "
            "pad_token_id + 1",
        ),
    ],
)
def test_values_that_contradict_each_other_are_rejected(change, message):
    with pytest.raises(DataError) as caught:
        EncoderConfig.from_hf({**BERT, **change}, where="c.json")
    assert str(caught.value) == message


@pytest.mark.parametrize("key", [key for key in BERT if key != "model_type"])
def test_null_in_place_of_a_size_is_a_missing_size(key):
    with pytest.raises(DataError, match=f"^c.json: missing {key}; is this the configuration of an encoder"):
        EncoderConfig.from_hf({**BERT, key: None}, where="c.json")


def test_missing_sizes_are_all_listed():
    with pytest.raises(DataError) as caught:
        EncoderConfig.from_hf({"vocab_size": 3, "hidden_size": 8, "num_attention_heads": 2}, where="c.json")
    assert str(caught.value) == (
        "c.json: missing num_hidden_layers, intermediate_size, max_position_embeddings; "
        "is this the configuration of an encoder?"
    )


def test_impossible_sizes_are_usage_errors_when_they_come_from_code():
    with pytest.raises(UsageError, match=r"^num_layers is -1; expected a whole number from 1 to 1000$"):
        EncoderConfig(hidden_size=8, num_layers=-1, num_heads=2, intermediate_size=4)
    with pytest.raises(UsageError, match=r"^hidden_size 8 is not a multiple of num_heads 3; change one"):
        EncoderConfig(hidden_size=8, num_layers=1, num_heads=3, intermediate_size=4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", ["Model", "ForSequenceClassification"])
def test_without_a_model_type_the_class_names_the_family(family, suffix):
    values = {**BERT, **DISTILBERT, "architectures": [f"{FAMILIES[family].architecture}{suffix}"]}
    del values["model_type"]
    assert require_family(values, where="c.json") == family


def test_a_class_of_another_family_without_a_model_type_is_rejected():
    values = {key: value for key, value in BERT.items() if key != "model_type"}
    with pytest.raises(DataError) as caught:
        EncoderConfig.from_hf({**values, "architectures": ["BertGenerationEncoder"]}, where="c.json")
    assert str(caught.value).startswith(
        "c.json: model_type is missing, and architectures ['BertGenerationEncoder']; expected model_type one of bert, "
    )
