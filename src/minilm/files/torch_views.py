"""Tensors as a PyTorch file describes them, and the tensors of torch or arrays of numpy that they become.

In: descriptions of strided views, the bytes of the storages. Out: {name: tensor or array}, after each view was checked
against the size of its storage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from minilm.errors import DataError
from minilm.files.tensors import bf16_to_float32

if TYPE_CHECKING:
    import torch

A = TypeVar("A", "torch.Tensor", np.ndarray)

_SPARE_VIEW_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Storage:
    """A run of elements in the file; `first` and `count` select a part of it (in very old files)."""

    key: str
    dtype: str
    item_bytes: int
    total: int
    first: int
    count: int


@dataclass(frozen=True, kw_only=True)
class View:
    """A tensor as the file describes it: a strided view of a storage, counted in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


ViewsOf = Callable[[np.ndarray, str], Callable[[View], A]]
"""The bytes of a storage and its dtype -> what turns the description of a view into that view."""


def check_view(path: Path, name: str, view: View) -> None:
    """Raise DataError if a view reaches outside its storage, or is larger than the file."""
    count = math.prod(view.size)
    last = view.offset + sum((size - 1) * step for size, step in zip(view.size, view.stride, strict=True))
    if count and last >= view.storage.count:
        raise DataError(
            f"{path}: tensor {name!r} of shape {view.size} reaches element {last} of a storage of "
            f"{view.storage.count}: rejected"
        )
    if count * view.storage.item_bytes > path.stat().st_size + _SPARE_VIEW_BYTES:
        raise DataError(f"{path}: tensor {name!r} of shape {view.size} is larger than the whole file: rejected")


def build(
    path: Path, views: Mapping[str, View], read: Callable[[Storage], np.ndarray], views_of: ViewsOf[A]
) -> dict[str, A]:
    """Read each storage once and build its views."""
    flat: dict[str, tuple[Storage, np.ndarray]] = {}
    shared: dict[str, Callable[[View], A]] = {}
    tensors = {}
    for name, view in views.items():
        storage = view.storage
        if math.prod(view.size) == 0:
            nothing = replace(view, offset=0, storage=replace(storage, first=0))
            tensors[name] = views_of(np.zeros(storage.item_bytes, dtype=np.uint8), storage.dtype)(nothing)
            continue
        if storage.key not in flat:
            flat[storage.key] = storage, read(storage)
            shared[storage.key] = views_of(flat[storage.key][1], storage.dtype)
        first, whole = flat[storage.key]
        if first.dtype != storage.dtype or len(whole) != storage.total * storage.item_bytes:
            raise DataError(f"{path}: storage {storage.key!r} is described in two ways: rejected")
        tensors[name] = shared[storage.key](view)
    return tensors


def torch_views(whole: np.ndarray, dtype: str) -> Callable[[View], torch.Tensor]:
    """Views of a storage as tensors of torch."""
    import torch

    flat = torch.from_numpy(whole).view(getattr(torch, dtype))
    return lambda view: flat.as_strided(view.size, view.stride, view.storage.first + view.offset)


def numpy_views(whole: np.ndarray, dtype: str) -> Callable[[View], np.ndarray]:
    """Views of a storage as read-only arrays; bfloat16 becomes float32."""
    flat = bf16_to_float32(whole.view(np.uint16)) if dtype == "bfloat16" else whole.view(dtype)

    def view_of(view: View) -> np.ndarray:
        steps = tuple(step * flat.itemsize for step in view.stride)
        begin = view.storage.first + view.offset
        return np.lib.stride_tricks.as_strided(flat[begin:], view.size, steps, writeable=False)

    return view_of
