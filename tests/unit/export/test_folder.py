"""Proves that a copied folder is the whole model, and nothing that other libraries left in it."""

from __future__ import annotations

import json
import shutil

import pytest

import minilm
from minilm.errors import DataError
from minilm.export.folder import copy_model

OTHERS = ("tf_model.h5", "model.onnx", "pytorch_model.bin", "pytorch_model.bin.index.json", "training_args.bin")


def names(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_what_is_left_out(task, tmp_path):
    source = tmp_path / "m"
    shutil.copytree(task.model, source)
    kept = names(source)
    for name in (*OTHERS, ".hidden", "minilm_int8.json", "minilm_int8.safetensors", "code.py"):
        (source / name).write_text("x")
    (source / "onnx").mkdir()
    (source / "onnx" / "config.json").write_text("{}")
    (source / "README.md").write_text("about")
    (tmp_path / "copy").mkdir()
    copy_model(source, tmp_path / "copy")
    assert names(tmp_path / "copy") == sorted([*kept, "README.md"])
    assert all((source / name).read_bytes() == (tmp_path / "copy" / name).read_bytes() for name in kept)


def test_modules_and_an_encoder_in_its_own_folder(task, tmp_path):
    """As older sentence-transformers wrote them; links, as in Hugging Face's cache, become files."""
    source = tmp_path / "m"
    source.mkdir()
    shutil.copytree(task.model, source / "0_Transformer")
    (source / "0_Transformer" / "config.json").rename(tmp_path / "blob")
    (source / "0_Transformer" / "config.json").symlink_to(tmp_path / "blob")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    modules = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    entries = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]
    (source / "modules.json").write_text(json.dumps(entries))
    (tmp_path / "copy").mkdir()
    copy_model(source, tmp_path / "copy")
    assert names(tmp_path / "copy") == names(source)
    assert not (tmp_path / "copy" / "0_Transformer" / "config.json").is_symlink()
    texts = ["word1 word2", "word3"]
    assert (minilm.load(tmp_path / "copy").encode(texts) == minilm.load(source).encode(texts)).all()


def test_a_pointer_is_no_file(task, tmp_path):
    source = tmp_path / "m"
    shutil.copytree(task.model, source)
    (source / "vocab.txt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "copy").mkdir()
    with pytest.raises(DataError, match=r"vocab\.txt"):
        copy_model(source, tmp_path / "copy")
