"""The published sizes, the mapping to Hugging Face configurations, and its rejections."""

from __future__ import annotations

import pytest

from minilm.errors import DataError, UsageError
from minilm.model.config import FAMILIES, PRESETS, EncoderConfig, with_vocabulary_of
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


@pytest.mark.parametrize("pooler", [True, False])
def test_the_count_is_that_of_a_real_encoder(pooler):
    encoder = Encoder(TINY, pooler=pooler)
    assert sum(weight.numel() for weight in encoder.parameters()) == TINY.num_parameters(pooler=pooler)


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
            num_segments=1,
            family=family,
            layer_norm_eps=1e-5,
        ),
    )
    assert EncoderConfig.from_hf(config.to_hf()) == config
    assert config.hidden_size == PRESETS[name].hidden_size
    assert (config.vocab_size, config.num_segments, config.layer_norm_eps) == (99, 1, 1e-5)


def test_positions_begin_where_the_family_says():
    bert = EncoderConfig.from_hf({**BERT, "pad_token_id": 5})
    assert (bert.first_position, bert.max_tokens) == (0, 512)
    roberta = EncoderConfig.from_hf({**BERT, "model_type": "roberta", "max_position_embeddings": 514})
    assert (roberta.pad_token_id, roberta.first_position, roberta.max_tokens) == (1, 2, 512)
    assert EncoderConfig.from_hf({**BERT, "model_type": "xlm-roberta", "pad_token_id": 3}).first_position == 4


@pytest.mark.parametrize("name", ["minilm", "electra"])
def test_other_names_of_the_same_computation_are_bert(name):
    assert EncoderConfig.from_hf({**BERT, "model_type": name}).family == "bert"


def test_absent_optional_keys_and_null_mean_the_defaults():
    config = EncoderConfig.from_hf({**BERT, "pad_token_id": None, "rel_pos_bins": 0, "embedding_size": 8})
    assert config == TINY
    assert config.head_size == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, "c.json: model_type 't5'; expected one of bert, roberta, xlm-roberta"),
        ({"hidden_act": "relu"}, "c.json: hidden_act is 'relu'; this encoder supports 'gelu' only"),
        ({"hidden_act": "gelu_new"}, "c.json: hidden_act is 'gelu_new'; this encoder supports 'gelu' only"),
        (
            {"position_embedding_type": "relative_key"},
            "c.json: position_embedding_type is 'relative_key'; this encoder supports 'absolute' only",
        ),
        ({"is_decoder": True}, "c.json: is_decoder is True; this encoder supports False only"),
        ({"rel_pos_bins": 32}, "c.json: rel_pos_bins is 32; this encoder supports 0 only"),
        ({"embedding_size": 4}, "c.json: embedding_size is 4; this encoder supports 8 only"),
        ({"vocab_size": "20"}, "c.json: vocab_size is '20'; expected int"),
        ({"hidden_size": True}, "c.json: hidden_size is True; expected int"),
        ({"hidden_size": 8.0}, "c.json: hidden_size is 8.0; expected int"),
        ({"layer_norm_eps": "1e-12"}, "c.json: layer_norm_eps is '1e-12'; expected float"),
        ({"vocab_size": 0}, "c.json: vocab_size is 0; expected a positive integer"),
        ({"type_vocab_size": 0}, "c.json: num_segments is 0; expected a positive integer"),
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


def test_missing_sizes_are_all_listed():
    with pytest.raises(DataError) as caught:
        EncoderConfig.from_hf({"vocab_size": 3, "hidden_size": 8, "num_attention_heads": 2}, where="c.json")
    assert str(caught.value) == (
        "c.json: missing num_hidden_layers, intermediate_size, max_position_embeddings; "
        "is this the configuration of an encoder?"
    )


def test_impossible_sizes_are_usage_errors_when_they_come_from_code():
    with pytest.raises(UsageError, match=r"^num_layers is -1; expected a positive integer$"):
        EncoderConfig(hidden_size=8, num_layers=-1, num_heads=2, intermediate_size=4)
    with pytest.raises(UsageError, match=r"^hidden_size 8 is not a multiple of num_heads 3; change one"):
        EncoderConfig(hidden_size=8, num_layers=1, num_heads=3, intermediate_size=4)
