"""A Git LFS pointer or UTF-16 in place of a file is named by every reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from minilm.errors import DataError, UsageError
from minilm.files.by_id import read_by_id
from minilm.files.formats import read_file
from minilm.files.json import read_json
from minilm.files.regular import read_text, sha256_file
from minilm.files.rows import read_lines, read_rows
from minilm.files.tensors import map_arrays, read_safetensors, read_safetensors_header
from minilm.files.texts import read_texts
from minilm.files.torch_bin import read_plain_pickles, read_torch_bin
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.tally import Tally
from minilm.tasks.squad.read import read_squad
from minilm.text.tokenizer import Tokenizer
from minilm.text.vocabulary import read_vocab

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 90868376\n"
READERS = {
    "model.safetensors": (read_safetensors, read_safetensors_header, map_arrays, sha256_file),
    "pytorch_model.bin": (read_torch_bin,),
    "scores.pickle": (lambda path: list(read_plain_pickles(path)),),
    "config.json": (read_json, read_file),
    "recipe.yaml": (lambda path: load_recipe(path, kind=FinetuneRecipe),),
    "vocab.txt": (read_vocab, read_text, Tokenizer.load),
    "tokenizer.json": (Tokenizer.load,),
    **{
        f"rows.{suffix}": (
            lambda path: list(read_rows(path)),
            lambda path: list(read_texts([path], max_bad_rows=0, tally=Tally())),
        )
        for suffix in ("jsonl", "csv", "parquet", "jsonl.gz")
    },
}


@pytest.mark.parametrize("name", READERS)
def test_a_git_lfs_pointer_is_named_as_what_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(POINTER)
    for read in READERS[name]:
        with pytest.raises((DataError, UsageError)) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path} is a Git LFS pointer to a file of 90868376 bytes, not the file: run 'git lfs pull' in its "
            "repository, or download the file again"
        )


UTF_16 = {
    "config.json": read_json,
    "vocab.txt": Tokenizer.load,
    "tokenizer.json": Tokenizer.load,
    "squad.json": read_squad,
    "squad.jsonl": read_squad,
    "predictions.json": lambda path: read_by_id(path, str, fields=("prediction",)),
    "predictions.jsonl": lambda path: read_by_id(path, str, fields=("prediction",)),
    "rows.tsv": lambda path: list(read_rows(path)),
    "lines.txt": lambda path: list(read_lines(path)),
    "recipe.yaml": lambda path: load_recipe(path, kind=FinetuneRecipe),
}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", UTF_16)
def test_utf_16_is_named_as_the_cause_by_every_reader_of_text(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes("\ufeff{}\n".encode(encoding))
    with pytest.raises((DataError, UsageError), match="the file is UTF-16, expected UTF-8; write it again as UTF-8"):
        UTF_16[name](path)


def test_a_text_about_pointers_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a " + POINTER)
    assert len(list(read_texts([tmp_path / "a.txt"], max_bad_rows=0, tally=Tally()))) == 3
