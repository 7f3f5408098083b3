"""What is written is read back bit for bit, by us and by the libraries that others use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from minilm.errors import DataError, SystemProblem, UsageError
from minilm.files.atomic import atomic_folder, atomic_write
from minilm.files.json import read_json, write_json
from minilm.files.regular import read_text, sha256_file, sha256_text
from minilm.files.tensors import map_arrays, read_safetensors, read_safetensors_header, write_arrays, write_safetensors

SHAPES = [(3, 4), (1,), (), (0, 5), (2, 3, 1)]
TORCH_DTYPES = [
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
]


def all_kinds() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"{name}.{number}": torch.randint(0, 2, shape, generator=generator).to(getattr(torch, name))
        for name in TORCH_DTYPES
        for number, shape in enumerate(SHAPES)
    }


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert set(left) == set(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert torch.equal(left[name], right[name]), name


# --- hashes, text, JSON --------------------------------------------------------------------------


def test_hashes_are_sha256_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes("é".encode())
    assert sha256_file(path) == sha256_text("é")
    assert sha256_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_comes_back_equal_in_the_given_order(tmp_path: Path) -> None:
    value = {"z": [1, 2.5, None, True], "a": {"é": "\u2028"}}
    write_json(tmp_path / "v.json", value)
    assert list(read_json(tmp_path / "v.json").items()) == list(value.items())
    assert (tmp_path / "v.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"a": 1,\n "b": {"a": 1},\n "a": 2}',
            r'v\.json:3: key "a" appears twice in one object: keep one of them$',
        ),
        (b'{"x": [{"k": 1,\n"\\u006b": 2}]}', r'v\.json:2: key "\\u006b" appears twice'),
        (b'{"a": "\xff"}', r"v\.json:1: byte 0xff is not UTF-8: save the file as UTF-8$"),
        (b'{"a": 1,\n', r"v\.json:2: broken JSON, .* \(column 1\)$"),
        (b"[1]", r"v\.json:1: expected a JSON object \{\.\.\.\}, found a list$"),
        (b'{"a":' * 100_000, r"v\.json: the JSON is nested too deeply$"),
        (b'{"a":' + b"9" * 5000 + b"}", r"v\.json: broken JSON, Exceeds the limit"),
        (b"", r"v\.json:1: broken JSON"),
    ],
)
def test_bad_json_is_rejected_with_its_location(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "v.json")


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"v\.json is larger than 1 bytes"):
        read_json(tmp_path / "v.json", max_bytes=1)
    with pytest.raises(DataError, match="pipe is not a regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"cannot read .*none: No such file"):
        sha256_file(tmp_path / "none")
    with pytest.raises(DataError, match="NUL character"):
        read_text(tmp_path / "a\0b")


# --- atomic writes -------------------------------------------------------------------------------


def test_write_replaces_whole_files_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "f"
    atomic_write(path, "old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]


def test_folder_appears_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    with atomic_folder(path) as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "f").write_text("x")
        assert not path.exists()
        assert aside.name == f".out.tmp-{os.getpid()}"
    assert (path / "sub" / "f").read_text() == "x"
    assert os.listdir(path.parent) == ["out"]


def test_a_file_of_a_folder_that_fails_has_its_final_name_in_the_message(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(SystemProblem) as caught, atomic_folder(path) as aside:
        atomic_write(aside / "missing" / "f", "x")
    message = str(caught.value)
    assert message == f"cannot write {path}/missing/f: the folder does not exist: create it first"
    assert os.listdir(tmp_path) == []


def test_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(path, replace=True) as aside:
        (aside / str(1 // len(os.listdir(aside)))).touch()
    assert os.listdir(path) == ["old"]
    assert os.listdir(tmp_path) == ["out"]


def test_folder_that_exists_is_kept_unless_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    with atomic_folder(path) as aside:  # an empty folder may be reused
        (aside / "old").touch()
    with (
        pytest.raises(UsageError, match=r"out already exists \(a folder that is not empty\): remove it or"),
        atomic_folder(path),
    ):
        pass
    with atomic_folder(path, replace=True) as aside:
        (aside / "new").touch()
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["out"]
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match=r"file already exists \(a file\)"),
        atomic_folder(tmp_path / "file", replace=True),
    ):
        pass


def dead_pid() -> int:
    """The id of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_leftovers_of_dead_processes_are_removed_and_others_kept(tmp_path: Path) -> None:
    dead, alive = dead_pid(), os.getppid()
    for name in (f".out.tmp-{dead}", f".out.tmp-{alive}", f".other.tmp-{dead}", f".out.tmp-{os.getpid()}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").touch()
    (tmp_path / f".out.tmp-{dead}-1").touch()
    with atomic_folder(tmp_path / "out"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([f".other.tmp-{dead}", f".out.tmp-{alive}", "out"])


def test_folder_lost_between_two_renames_comes_back(tmp_path: Path) -> None:
    old = tmp_path / f".out.old-{dead_pid()}"
    old.mkdir()
    (old / "kept").touch()
    with pytest.raises(KeyError), atomic_folder(tmp_path / "out", replace=True):
        raise KeyError
    assert os.listdir(tmp_path / "out") == ["kept"]


# --- tensor files --------------------------------------------------------------------------------


def test_tensors_of_every_type_and_shape_are_read_back(tmp_path: Path) -> None:
    path, tensors = tmp_path / "t.safetensors", all_kinds()
    write_safetensors(path, tensors, {"format": "pt", "é": "ü"})
    same(read_safetensors(path), tensors)
    same(safetensors.torch.load_file(path), tensors)
    info, metadata = read_safetensors_header(path)
    assert metadata == {"format": "pt", "é": "ü"}
    assert info["bfloat16.0"] == ("BF16", (3, 4))
    assert info["bool.2"] == ("BOOL", ())


def test_files_of_the_safetensors_library_are_read(tmp_path: Path) -> None:
    path, tensors = tmp_path / "t.safetensors", all_kinds()
    safetensors.torch.save_file(tensors, path, metadata={"a": "b"})
    same(read_safetensors(path), tensors)
    assert read_safetensors_header(path)[1] == {"a": "b"}


def test_views_tied_tensors_and_parameters_are_written_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "t": base.T,
        "row": base[1],
        "base": base,
        "tied": base,
        "param": torch.nn.Parameter(base[:, 1:3]),
    }
    write_safetensors(tmp_path / "t", tensors)
    read = read_safetensors(tmp_path / "t")
    same(read, {name: tensor.detach() for name, tensor in tensors.items()})
    read["t"].add_(1)  # it has its own memory
    same(read_safetensors(tmp_path / "t"), {name: tensor.detach() for name, tensor in tensors.items()})


def test_a_file_may_hold_no_tensors(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "t", {})
    assert read_safetensors(tmp_path / "t") == {}
    assert map_arrays(tmp_path / "t") == {}


def test_arrays_are_mapped_read_only(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {
        "ids": np.arange(7, dtype=np.uint16),
        "wide": np.arange(5, dtype=np.uint32),
        "offsets": np.array([0, 2**40], dtype=np.int64),
        "strided": np.arange(10, dtype=np.int32)[::3],
        "flags": np.array([True, False]),
        "none": np.zeros((0, 3), dtype=np.float64),
    }
    write_arrays(path, arrays)
    library = safetensors.numpy.load_file(path)
    for name, mapped in map_arrays(path).items():
        assert mapped.dtype == arrays[name].dtype
        np.testing.assert_array_equal(mapped, arrays[name])
        np.testing.assert_array_equal(mapped, library[name])
        assert isinstance(mapped, np.memmap) or not mapped.size
        assert mapped.flags.aligned
        assert not mapped.flags.writeable


def test_bfloat16_has_no_numpy_type(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "t", {"w": torch.zeros(2, dtype=torch.bfloat16)})
    with pytest.raises(DataError, match="array 'w' has type BF16, which numpy does not have"):
        map_arrays(tmp_path / "t")


def test_header_is_plain_json_with_aligned_data(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", {"x": np.zeros(3, dtype=np.int8)})
    data = (tmp_path / "a").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % 8 == 0
    assert json.loads(data[8 : 8 + length]) == {"x": {"dtype": "I8", "shape": [3], "data_offsets": [0, 3]}}
