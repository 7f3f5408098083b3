"""Which model files are read, what is reported about those that do not match, and what is written."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from minilm.errors import DataError, UsageError
from minilm.files.json import read_json, write_json
from minilm.files.regular import sha256_file
from minilm.model.checkpoint import read_model, write_model
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import HEADS, Model, new_head
from minilm.model.metadata import model_checksums, read_config, read_labels, saved_head
from minilm.model.packing import pack

CONFIG = EncoderConfig(hidden_size=8, num_layers=2, num_heads=2, intermediate_size=12, vocab_size=20, max_positions=16)
QUERY = "encoder.layer.0.attention.self.query.weight"


def make(head=None, *, num_labels=3, config=CONFIG, pooler=True):
    generator = torch.Generator().manual_seed(7)
    encoder = Encoder(config, pooler=pooler)
    encoder.reset(generator)
    return Model(encoder, new_head(head, config, num_labels=num_labels, generator=generator) if head else None)


def edit(folder, **changes):
    """Rewrite the weights of a folder: `name=tensor` sets, `name=None` removes (dots are written as `__`)."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def folder(tmp_path):
    write_model(make(), tmp_path)
    return tmp_path


def rejection(path, **settings):
    with pytest.raises(DataError) as caught:
        read_model(path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- round trip ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("head", [None, *HEADS])
def test_writing_and_reading_is_the_identity(tmp_path, caplog, family, head):
    model = make(head, config=EncoderConfig(**{**_fields(CONFIG), "family": family, "pad_token_id": 1}))
    write_model(model, tmp_path, head=head)
    assert same(read_model(tmp_path, head=head), model)
    assert read_config(tmp_path) == model.encoder.config
    assert saved_head(tmp_path) == head
    assert caplog.messages == []


def _fields(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_a_model_that_was_read_is_ready_to_use_and_to_train(folder):
    model = read_model(folder)
    assert not model.training
    assert all(weight.requires_grad and weight.is_leaf for weight in model.parameters())
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_become_float32(folder, dtype):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")
    model = read_model(folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.state_dict(), make().state_dict(), atol=1e-2, rtol=1e-2)


def test_labels_are_kept_in_id_order(tmp_path):
    names = [f"name {index}" for index in range(12)]
    write_model(make("classification", num_labels=12), tmp_path, head="classification", labels=names)
    assert read_labels(tmp_path) == tuple(names)
    assert json.loads((tmp_path / "config.json").read_text())["label2id"]["name 11"] == 11
    assert read_model(tmp_path, head="classification").head.out.out_features == 12


@pytest.mark.parametrize("num_labels", [1, 2, 3])
def test_the_number_of_classes_survives_without_label_names(tmp_path, num_labels):
    model = make("classification", num_labels=num_labels)
    write_model(
        model,
        tmp_path,
        head="classification",
        problem="regression" if num_labels == 1 else "single_label_classification",
    )
    assert same(read_model(tmp_path, head="classification"), model)
    assert len(read_labels(tmp_path)) == num_labels
    assert ("problem_type" in json.loads((tmp_path / "config.json").read_text())) == (num_labels == 1)


def test_a_span_has_two_scores_whatever_the_file_was_trained_for_before(tmp_path):
    write_model(make("classification", num_labels=3), tmp_path, head="classification")
    assert read_model(tmp_path, head="span").head.out.out_features == 2


def test_writing_under_another_head_than_the_models_own_is_rejected(tmp_path):
    with pytest.raises(UsageError) as caught:
        write_model(make("span"), tmp_path)
    assert str(caught.value) == "head is None, but the model has SpanHead; pass the model's own head"
    with pytest.raises(UsageError, match=r"^head is 'mlm', but the model has NoneType; pass the model's own"):
        write_model(make(), tmp_path, head="mlm")
    with pytest.raises(UsageError, match=r"^found 2 labels for 3 classes; expected one name per class$"):
        write_model(make("classification"), tmp_path, head="classification", labels=["a", "b"])
    assert list(tmp_path.iterdir()) == []


# --- mismatched tensors --------------------------------------------------------------------------


def test_missing_tensors_are_listed_by_their_published_names(folder):
    edit(folder, **{"embeddings.LayerNorm.weight": None, "encoder.layer.1.output.dense.bias": None})
    assert rejection(folder) == (
        f"{folder}/model.safetensors: missing tensors embeddings.LayerNorm.weight, "
        "encoder.layer.1.output.dense.bias; the file does not match its config.json"
    )


def test_one_missing_projection_is_named_alone(folder):
    edit(folder, **{QUERY: None})
    assert rejection(folder) == (
        f"{folder}/model.safetensors: missing tensors {QUERY}; the file does not match its config.json"
    )


def test_a_configuration_with_more_layers_than_the_file_is_rejected(folder):
    edit_config(folder, num_hidden_layers=3)
    message = rejection(folder)
    assert message.startswith(
        f"{folder}/model.safetensors: missing tensors encoder.layer.2.attention.self.query.weight, "
    )
    assert message.endswith(" and 10 more; the file does not match its config.json")


def test_a_configuration_with_fewer_layers_than_the_file_is_rejected(folder):
    edit_config(folder, num_hidden_layers=1)
    message = rejection(folder)
    assert message.startswith(f"{folder}/model.safetensors: unexpected tensors encoder.layer.1.")
    assert message.endswith(" and 10 more; expected a bert encoder")


def test_mis_shaped_tensors_are_listed_with_both_shapes(folder):
    edit_config(folder, vocab_size=21, max_position_embeddings=17)
    assert rejection(folder) == (
        f"{folder}/model.safetensors: tensors do not match config.json: "
        "embeddings.word_embeddings.weight (20, 8) (expected (21, 8)), "
        "embeddings.position_embeddings.weight (16, 8) (expected (17, 8))"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_size", 2**17), ("intermediate_size", 2**20), ("vocab_size", 2**26), ("max_position_embeddings", 2**18)],
)
@pytest.mark.parametrize("head", [None, *HEADS])
def test_sizes_that_the_file_does_not_have_take_no_memory(folder, monkeypatch, head, key, value):
    """The largest allowed values: building the encoder or its head with one of them takes up to 128 GiB."""
    edit_config(folder, **{key: value})
    monkeypatch.setattr("minilm.model.checkpoint.new_head", None)
    assert f"{folder}/model.safetensors: tensors do not match config.json: " in rejection(folder, head=head)


def test_a_position_table_without_a_row_for_a_token_is_a_wrong_shape(tmp_path):
    """A .bin of a RoBERTa model whose table ends before the first token's row cannot be repeated."""
    write_model(make(config=replace(CONFIG, family="roberta", pad_token_id=1)), tmp_path)
    edit(tmp_path, embeddings__position_embeddings__weight=torch.zeros(2, 8))
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "m.bin")
    assert rejection(tmp_path / "m.bin") == (
        f"{tmp_path}/m.bin: tensors do not match config.json: "
        "embeddings.position_embeddings.weight (2, 8) (expected (16, 8))"
    )


def test_a_scalar_in_place_of_a_matrix_is_rejected(folder):
    edit(folder, **{"encoder.layer.1.output.dense.bias": torch.tensor(1.0)})
    assert rejection(folder).endswith("encoder.layer.1.output.dense.bias () (expected (8,))")


def test_half_a_pooler_is_rejected(folder):
    edit(folder, **{"pooler.dense.bias": None})
    assert rejection(folder).endswith("missing tensors pooler.dense.bias; the file does not match its config.json")


# --- missing heads and poolers -------------------------------------------------------------------


def test_a_missing_pooler_is_no_problem_if_it_is_not_read(folder, caplog):
    edit(folder, **{"pooler.dense.bias": None, "pooler.dense.weight": None})
    model = read_model(folder)
    assert model.encoder.pooler is None
    assert caplog.messages == []
    again = folder / "again"
    again.mkdir()
    write_model(model, again)
    assert same(read_model(again), model)


def test_a_fresh_head_is_warned_about_and_repeatable(folder, caplog):
    with caplog.at_level(logging.WARNING):
        one = read_model(folder, head="classification", num_labels=4, seed=3)
    assert caplog.messages == [
        f"{folder}/model.safetensors has no trained classification head; initialized 2 tensors randomly"
    ]
    assert one.head.out.weight.shape == (4, 8)
    assert torch.equal(one.encoder.pooler.weight, make().encoder.pooler.weight)
    assert same(one, read_model(folder, head="classification", num_labels=4, seed=3))
    other = read_model(folder, head="classification", num_labels=4, seed=4)
    assert not torch.equal(one.head.out.weight, other.head.out.weight)


def test_a_classifier_without_pooler_gets_a_fresh_one(tmp_path, caplog):
    """A folder may claim to be ...ForSequenceClassification without a pooler or classifier."""
    write_model(make(pooler=False), tmp_path)
    edit_config(tmp_path, architectures=["BertForSequenceClassification"])
    assert saved_head(tmp_path) == "classification"
    model = read_model(tmp_path, head="classification")
    assert caplog.messages == [
        f"{tmp_path}/model.safetensors has no trained classification head; initialized 4 tensors randomly"
    ]
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    assert model.encoder.pooler.weight.std().item() == pytest.approx(0.02, rel=0.4)
    assert not model.encoder.pooler.bias.any()
    assert read_model(tmp_path).encoder.pooler is None


def test_heads_that_were_not_requested_are_left_out(tmp_path):
    write_model(make("mlm"), tmp_path, head="mlm")
    assert same(read_model(tmp_path), make())


@pytest.mark.parametrize(
    ("names", "head"),
    [
        (["BertForPreTraining"], "mlm"),
        (["XLMRobertaForMaskedLM"], "mlm"),
        (["BertForQuestionAnswering"], "span"),
        (["BertModel"], None),
        ([], None),
        (None, None),
        ("BertForMaskedLM", None),
        ([3], None),
    ],
)
def test_the_saved_head_comes_from_the_architecture(folder, names, head):
    edit_config(folder, architectures=names)
    assert saved_head(folder) == head


@pytest.mark.parametrize("labels", [{"a": "x"}, {"1": "x"}, ["x"], "x"])
def test_broken_labels_are_rejected(folder, labels):
    edit_config(folder, id2label=labels)
    with pytest.raises(DataError) as caught:
        read_labels(folder)
    assert str(caught.value) == f"{folder}/config.json: id2label must map the ids 0, 1, ... to names"


# --- locations of weights ------------------------------------------------------------------------


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("config_name", ["minilm-l12-h384-uncased-config.json", "config.json"])
def test_microsofts_bin_with_its_configuration_beside_it(folder, new_format, config_name):
    bin_file = folder / "minilm-l12-h384-uncased.bin"
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors["crit_mask_lm_smoothed.one_hot"] = torch.zeros(1, 20)
    tensors["cls.predictions.decoder_weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    torch.save(tensors, bin_file, _use_new_zipfile_serialization=new_format)
    (folder / "config.json").rename(folder / config_name)
    (folder / "model.safetensors").unlink()
    assert same(read_model(bin_file), make())


def test_the_configuration_named_after_the_bin_wins(folder):
    bin_file = folder / "m.bin"
    torch.save(load_file(folder / "model.safetensors"), bin_file)
    shutil.copy(folder / "config.json", folder / "m-config.json")
    edit_config(folder, num_hidden_layers=9)
    assert read_config(bin_file).num_layers == 2


def test_a_configuration_elsewhere_is_used_by_every_reader(folder, tmp_path_factory):
    """Like Microsoft's `--config_name`: a file or folder replaces the configuration next to the model."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    bin_file = folder / "m.bin"
    torch.save(load_file(folder / "model.safetensors"), bin_file)
    (folder / "model.safetensors").unlink()
    shutil.copy(folder / "config.json", elsewhere / "config.json")
    edit_config(elsewhere, id2label={"0": "no", "1": "yes"}, architectures=["BertForQuestionAnswering"])
    edit_config(folder, num_hidden_layers=9)
    for config in (elsewhere, elsewhere / "config.json"):
        assert read_config(bin_file, config=config).num_layers == 2
        assert read_labels(bin_file, config=config) == ("no", "yes")
        assert saved_head(bin_file, config=config) == "span"
        assert same(read_model(bin_file, config=config), make())
        assert model_checksums(bin_file, config=config)["config"] == sha256_file(elsewhere / "config.json")
    with pytest.raises(DataError, match=r"cannot read .*nothing\.json"):
        read_model(bin_file, config=elsewhere / "nothing.json")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_folder_with_an_old_bin(folder, new_format):
    torch.save(
        load_file(folder / "model.safetensors"),
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=new_format,
    )
    (folder / "model.safetensors").unlink()
    assert same(read_model(folder), make())


def shard(folder, weight_map_of=lambda name: name):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: weight_map_of(file) for file, part in files.items() for name in part}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_joined(folder):
    shard(folder)
    assert same(read_model(folder), make())


def test_a_missing_shard_is_named(folder):
    shard(folder)
    (folder / "b.safetensors").unlink()
    assert rejection(folder) == f"cannot read {folder}/b.safetensors: No such file or directory"


@pytest.mark.parametrize("place", ["../{}", "/etc/{}", "sub/{}", "./{}"])
def test_a_shard_outside_the_folder_is_rejected(folder, place):
    shard(folder, place.format)
    assert rejection(folder) == (
        f"{folder}/model.safetensors.index.json: a shard is outside the folder; expected plain file names"
    )


@pytest.mark.parametrize("weight_map", [None, [], {}, {"a": 3}, {"a": ["b"]}, "x"])
def test_a_broken_index_is_rejected(folder, weight_map):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert rejection(folder) == (
        f"{folder}/model.safetensors.index.json: weight_map must map tensor names to file names"
    )


def test_a_folder_without_weights_or_configuration_says_what_is_expected(folder):
    (folder / "model.safetensors").unlink()
    assert (
        rejection(folder)
        == f"{folder}: no weights; expected model.safetensors or pytorch_model.bin, or its .index.json"
    )
    (folder / "config.json").unlink()
    assert rejection(folder) == f"{folder}: no configuration; expected {folder}/config.json"
    (folder / "m.bin").write_bytes(b"")
    assert rejection(folder / "m.bin") == (
        f"{folder}/m.bin: no configuration; expected {folder}/m-config.json or {folder}/config.json"
    )
    assert rejection(folder / "none") == (f"{folder}/none: no such model; expected a model folder or a .bin file")


# --- the position table --------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "source"), [(40, [*range(16), *range(16), *range(8)]), (5, range(5))])
def test_the_position_table_of_a_bin_is_tiled_or_truncated_as_its_configuration_says(folder, caplog, rows, source):
    torch.save(load_file(folder / "model.safetensors"), folder / "m.bin")
    edit_config(folder, max_position_embeddings=rows)
    table = read_model(folder / "m.bin").encoder.embeddings.position.weight
    assert torch.equal(table, make().encoder.embeddings.position.weight[list(source)])
    assert caplog.messages == [f"position table resized from 16 to {rows} rows to match the configuration"]


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
@pytest.mark.parametrize(
    ("rows", "source"), [(37, [0, 1, *range(2, 16), *range(2, 16), *range(2, 9)]), (9, range(9))], ids=["tiled", "cut"]
)
def test_positions_up_to_the_padding_id_are_never_repeated(tmp_path, caplog, family, rows, source):
    """RoBERTa does not use rows 0 and 1: the first token has row 2, where the repeated rows start."""
    config = replace(CONFIG, family=family, pad_token_id=1, num_segments=1)
    original = make("mlm", config=config)
    write_model(original, tmp_path, head="mlm")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "m.bin")
    edit_config(tmp_path, max_position_embeddings=rows)
    model = read_model(tmp_path / "m.bin", head="mlm")
    old, new = (one.encoder.embeddings.position.weight for one in (original, model))
    assert torch.equal(new, old[list(source)])
    assert model.encoder.config.max_tokens == rows - 2
    assert caplog.messages == [f"position table resized from 16 to {rows} rows to match the configuration"]
    with torch.inference_mode():
        before, after = (one.encoder(pack([np.arange(5, 12)])) for one in (original.eval(), model))
    torch.testing.assert_close(after, before)


def test_a_grown_position_table_is_the_one_of_the_original_code(golden_dir, tmp_path):
    values = read_json(golden_dir / "model" / "config.json")
    write_json(tmp_path / "m-config.json", {**values, "max_position_embeddings": 144})
    torch.save(load_file(golden_dir / "model" / "model.safetensors"), tmp_path / "m.bin")
    expected = load_file(golden_dir / "s2s_train" / "s2sft-202003_resize_pseudo_ls0.safetensors")
    table = read_model(tmp_path / "m.bin", head="mlm").encoder.embeddings.position.weight
    assert torch.equal(table, expected["position_embeddings_after_resize"])
