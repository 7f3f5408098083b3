"""Weights in several files, and under the names that training wrappers give them, are those of the plain file."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from minilm.errors import DataError
from minilm.files.json import write_json
from minilm.model.checkpoint import read_model, write_model
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.model.metadata import model_checksums

CONFIG = EncoderConfig(hidden_size=8, num_layers=2, num_heads=2, intermediate_size=12, vocab_size=20, max_positions=16)


def make(head=None):
    generator = torch.Generator().manual_seed(7)
    encoder = Encoder(CONFIG)
    encoder.reset(generator)
    return Model(encoder, new_head(head, CONFIG, num_labels=3, generator=generator) if head else None)


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def rejection(path):
    with pytest.raises(DataError) as caught:
        read_model(path)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path):
    write_model(make(), tmp_path)
    return tmp_path


def split(folder, single, save):
    """Split the weights of `folder` in three files with an index; `single` is the name without shards."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, _, suffix = single.rpartition(".")
    weight_map = {name: f"{stem}-{number % 3 + 1:05}-of-00003.{suffix}" for number, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        save({name: tensors[name] for name, where in weight_map.items() if where == file}, folder / file)
    write_json(folder / f"{single}.index.json", {"metadata": {}, "weight_map": weight_map})
    return tensors


SHARDED = pytest.mark.parametrize(
    ("single", "save"), [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)]
)


@SHARDED
def test_sharded_weights_are_those_of_one_file(folder, single, save):
    tensors = split(folder, single, save)
    assert same(read_model(folder), make())
    before = model_checksums(folder)
    last = folder / f"{single.replace('.', '-00003-of-00003.')}"
    name = list(tensors)[2]
    save({**{name: tensors[name] for name in list(tensors)[2::3]}, name: tensors[name] + 1}, last)
    assert model_checksums(folder)["weights"] != before["weights"]
    last.unlink()
    assert rejection(folder) == f"cannot read {last}: No such file or directory"


@SHARDED
def test_a_tensor_in_two_shards_is_rejected(folder, single, save):
    tensors = split(folder, single, save)
    first, second = (folder / single.replace(".", f"-{number:05}-of-00003.") for number in (1, 2))
    save({name: tensors[name] for name in [next(iter(tensors)), *list(tensors)[1::3]]}, second)
    assert first.is_file()
    assert rejection(folder) == (
        f"{second}: tensors {next(iter(tensors))} are also in another shard; expected each tensor once"
    )


@pytest.mark.parametrize(
    "wrap",
    [
        "module.{}",
        "_orig_mod.{}",
        "model.{}",
        "module._orig_mod.{}",
        "_orig_mod.module.{}",
        "model.bert.{}",
        "_fsdp_wrapped_module.{}",
        "model.module.bert.{}",
    ],
)
@pytest.mark.parametrize("head", [None, "classification", "mlm"])
def test_prefixes_of_training_wrappers_are_left_out(tmp_path, caplog, head, wrap):
    model = make(head)
    write_model(model, tmp_path, head=head)
    tensors = {name.removeprefix("bert."): tensor for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file({wrap.format(name): tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    assert same(read_model(tmp_path, head=head), model)
    assert caplog.messages == []


def test_names_inside_a_model_lose_what_compiling_its_layers_added(folder):
    tensors = load_file(folder / "model.safetensors")
    inside = {
        name.replace(".attention.", "._checkpoint_wrapped_module._orig_mod.attention."): tensors[name]
        for name in tensors
    }
    assert len(set(inside) - set(tensors)) == 20
    save_file(inside, folder / "model.safetensors")
    assert same(read_model(folder), make())


def test_two_models_in_one_file_are_rejected(folder):
    """A moving average beside the weights, for example: which one is meant is not known."""
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "module.pooler.dense.bias": tensors["pooler.dense.bias"] + 1}, folder / "model.safetensors")
    message = rejection(folder)
    assert message.startswith(f"{folder}/model.safetensors: two tensors are pooler.dense.bias (one is ")
    assert message.endswith("); expected one model; save the one to use alone")
