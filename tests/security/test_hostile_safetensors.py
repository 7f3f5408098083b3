"""Proves that a hostile safetensors file ends in one short DataError, whoever reads it."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilm.errors import DataError
from minilm.files.tensors import map_arrays, read_safetensors, read_safetensors_header


def tensor_file(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(start: int, end: int, *, shape: object = None, dtype: object = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


ENTRY = json.dumps(entry(0, 1))

# The content of the file, and what the safetensors library says about it.
HOSTILE = {
    "empty": (b"", "header too small"),
    "seven_bytes": (b"\0" * 7, "header too small"),
    "length_2_63": (tensor_file({}, length=2**63), "header too large"),
    "length_2_64_minus_1": (tensor_file({}, length=2**64 - 1), "header too large"),
    "length_beyond_file": (tensor_file({}, length=3), "invalid header length"),
    "header_not_utf8": (tensor_file(b'{"\xff":1}'), "invalid UTF-8 in header"),
    "header_not_json": (tensor_file(b"{'a'}"), "invalid JSON in header"),
    "header_empty": (tensor_file(b""), "invalid JSON in header"),
    "header_list": (tensor_file([]), "invalid type: sequence"),
    "header_deep": (tensor_file(b'{"a":' * 50_000), "recursion limit exceeded"),
    "duplicate_name": (
        tensor_file(f'{{"a":{ENTRY},"a":{json.dumps(entry(1, 2))}}}'.encode(), b"xy"),
        "invalid offset",
    ),
    "duplicate_field": (tensor_file(b'{"a":{"dtype":"U8","dtype":"U8"}}'), "duplicate field `dtype`"),
    "metadata_number": (tensor_file({"__metadata__": {"a": 1}}), "expected a string"),
    "metadata_list": (tensor_file({"__metadata__": []}), "expected a map"),
    "entry_number": (tensor_file({"a": 1}), "expected struct TensorInfo"),
    "dtype_unknown": (tensor_file({"a": entry(0, 1, dtype="U9")}, b"x"), "unknown variant `U9`"),
    "dtype_escape": (
        tensor_file({"a": entry(0, 1, dtype="\x1b[2J" + "U" * 5000)}, b"x"),
        r"unknown variant `.x1b.2JUU",
    ),
    "dtype_list": (tensor_file({"a": entry(0, 1, dtype=["U8"])}, b"x"), "invalid type: sequence"),
    "shape_negative": (tensor_file({"a": entry(0, 1, shape=[-1, -1])}, b"x"), "integer `-1`, expected usize"),
    "shape_float": (
        tensor_file({"a": entry(0, 1, shape=[1.0])}, b"x"),
        "floating point `1.0`, expected usize",
    ),
    "shape_bool": (tensor_file({"a": entry(0, 1, shape=[True])}, b"x"), "boolean `true`, expected usize"),
    "shape_text": (tensor_file({"a": entry(0, 1, shape="1")}, b"x"), "expected a sequence"),
    "shape_overflow": (
        tensor_file({"a": entry(0, 0, shape=[2**61, 8, 2])}),
        "overflow computing buffer size",
    ),
    "shape_wraps": (tensor_file({"a": entry(0, 0, shape=[2**32, 2**32])}), "overflow computing buffer size"),
    "offsets_reversed": (tensor_file({"a": entry(1, 0, shape=[1])}, b"x"), "invalid offset for tensor `a`"),
    "offsets_three": (
        tensor_file({"a": {**entry(0, 1), "data_offsets": [0, 1, 2]}}, b"x"),
        "invalid length 3, expected 2",
    ),
    "overlap": (
        tensor_file({"a": entry(0, 4), "b": entry(2, 6)}, b"x" * 6),
        "invalid offset for tensor `b`",
    ),
    "same_place": (tensor_file({"a": entry(0, 4), "b": entry(0, 4)}, b"x" * 4), "invalid offset"),
    "gap": (tensor_file({"a": entry(0, 2), "b": entry(4, 6)}, b"x" * 6), "invalid offset for tensor `b`"),
    "gap_first": (tensor_file({"a": entry(2, 4)}, b"x" * 4), "invalid offset for tensor `a`"),
    "truncated": (tensor_file({"a": entry(0, 8)}, b"x" * 7), "file not fully covered"),
    "trailing": (tensor_file({"a": entry(0, 8)}, b"x" * 9), "file not fully covered"),
    "huge_claim": (tensor_file({"a": entry(0, 2**60)}, b"x"), "file not fully covered"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_safetensors_are_rejected_by_every_reader(tmp_path: Path, name: str) -> None:
    data, message = HOSTILE[name]
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    for read in (read_safetensors, read_safetensors_header, map_arrays):
        with pytest.raises(DataError, match=rf"is not a complete safetensors file \(.*{message}") as caught:
            read(path)
        one_short_line(caught.value)


def one_short_line(error: DataError) -> None:
    assert str(error).isprintable()
    assert str(error).endswith(": copy or save it again")
    assert len(str(error)) < 600


@pytest.mark.parametrize(
    ("shape", "dtype", "data"),
    [([2**63, 0], "U8", b""), ([2], "F4", b"x"), ([4], "F6_E2M3", b"xxx"), ([1] * 65, "U8", b"x")],
    ids=["huge_and_empty", "F4", "F6", "65_axes"],
)
def test_shapes_and_types_that_torch_or_numpy_lack_are_rejected(
    tmp_path: Path, shape: list[int], dtype: str, data: bytes
) -> None:
    """The library considers the file whole; a reader that cannot represent its tensor says so."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(tensor_file({"a": entry(0, len(data), shape=shape, dtype=dtype)}, data))
    with pytest.raises(DataError, match=r"m\.safetensors: array 'a'") as caught:
        map_arrays(path)
    assert str(caught.value).isprintable()
    if len(shape) < 65:  # torch holds any number of axes
        with pytest.raises(DataError, match="not a complete safetensors file") as caught:
            read_safetensors(path)
        one_short_line(caught.value)


GOOD = safetensors.torch.save(
    {"a": torch.arange(4.0), "b": torch.zeros(2, 3, dtype=torch.bfloat16), "c": torch.tensor(1)},
    metadata={"k": "v"},
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=3),
    cut=st.integers(0, 9),
)
def test_random_damage_of_a_tensor_file_is_a_data_error_or_harmless(
    tmp_path: Path, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(GOOD)
    for position, value in changes:
        data[position] = value
    path = tmp_path / "m.safetensors"
    path.write_bytes(data[: len(data) - cut])
    with contextlib.suppress(DataError):
        tensors = read_safetensors(path)
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
            name: shape for name, (_, shape) in read_safetensors_header(path)[0].items()
        }
    with contextlib.suppress(DataError):
        for array in map_arrays(path).values():
            array.sum()  # touches every element
