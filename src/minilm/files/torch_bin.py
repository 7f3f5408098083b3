"""PyTorch `.bin`/`.pt` state dicts, and pickles of plain data, read without executing anything in them.

In: a file written by `torch.save`, in the zip format (since 1.6) or the older stream format; or plain pickles.
Out: {name: tensor}, or the plain values. A pickle is a program for a small stack machine; here `pickletools`
only lists its instructions, and our own machine interprets the few that a state dict needs. No global is ever
imported: names on a short list become inert records; every other name is rejected. Tensors are built at the end,
after each view has been checked against the size of its storage.
"""

from __future__ import annotations

import io
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

import numpy as np

from minilm.errors import DataError, one_line
from minilm.files.regular import reading
from minilm.files.torch_views import A, Storage, View, ViewsOf, build, check_view, numpy_views, torch_views

if TYPE_CHECKING:
    import torch

_STREAM_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM_PROTOCOL = 1001
_MAX_INSTRUCTIONS = 5_000_000
_MAX_PICKLE_BYTES = 64 * 2**20

# storage class: (torch dtype, bytes per element)
_STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}


@dataclass(frozen=True)
class _Name:
    """An allowed global: a record of its name, never the object itself."""

    module: str
    name: str


# Values are never printed, hashed or compared before their type is known: a pickle can nest tuples so that any of
# these would take forever or overflow the stack.
_MARK = object()


def read_torch_bin(path: Path) -> dict[str, torch.Tensor]:
    """Read a PyTorch state dict; parameters become plain tensors, shared storages stay shared.

    Raises:
        DataError: not a state dict, truncated, a global that is not on the short list (named), a value that
            is not a tensor (named), or a view that reaches outside its storage.
    """
    return _read(path, torch_views)


def read_torch_bin_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a PyTorch state dict as numpy arrays, without torch; bfloat16 becomes float32. Raises as above."""
    return _read(path, numpy_views)


def _read(path: Path, views_of: ViewsOf[A]) -> dict[str, A]:
    with reading(path):
        with path.open("rb") as file:
            magic = file.read(4)
        if not magic:
            raise DataError(f"{path} is empty: expected a PyTorch state dict")
        return _read_zip(path, views_of) if magic == b"PK\x03\x04" else _read_stream(path, views_of)


def read_plain_pickles(path: Path) -> Iterator[object]:
    """Read a file of consecutive pickles that contain only numbers, strings, lists and dicts with string keys.

    Raises:
        DataError: missing, empty, truncated or damaged, or it refers to any global (named).
    """
    with reading(path), _reporting_damage(path, "a file of plain pickles"), path.open("rb") as file:
        if not file.read(1):
            raise DataError(f"{path} is empty: expected a file of plain pickles")
        file.seek(0)
        while file.peek(1):
            yield _Machine(path, plain=True).run(file)


@contextmanager
def _reporting_damage(path: Path, what: str = "a PyTorch state dict") -> Iterator[None]:
    """Turn the standard library's errors about broken bytes into a one-sentence DataError."""
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, EOFError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is damaged or not {what}: {one_line(error)}") from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, struct.error, RuntimeError, MemoryError) as error:
        raise DataError(f"{path} is damaged or not {what}: {one_line(error)}") from error


# --- the machine ---------------------------------------------------------------------------------


class _Source(Protocol):
    """What `pickletools` needs: bytes from the current position on."""

    def read(self, count: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


class _Machine:
    """Interprets the instructions of one pickle; its values are plain data and the records above."""

    def __init__(self, path: Path, *, plain: bool = False) -> None:
        self.path = path
        self.plain = plain
        self.what = "plain data" if plain else "a state dict"
        self.stack: list[object] = []
        self.memo: dict[object, object] = {}

    def run(self, source: _Source) -> object:
        """Return the value that the pickle describes, and leave the source positioned after it."""
        begin = source.tell()
        for count, (opcode, argument, position) in enumerate(pickletools.genops(cast(IO[bytes], source))):
            if count > _MAX_INSTRUCTIONS or (position or 0) - begin > _MAX_PICKLE_BYTES:
                raise DataError(f"{self.path}: a pickle in it is far too large for {self.what}")
            if opcode.name == "STOP":
                break
            handler = _HANDLERS.get(opcode.name)
            if handler is None:
                raise DataError(
                    f"{self.path}: pickle instruction {opcode.name} does not belong in {self.what}: rejected"
                )
            handler(self, argument)
        return self.stack.pop()

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def pop_tuple(self, count: int) -> tuple[object, ...]:
        if count > len(self.stack):
            raise ValueError("pickle stack underflow")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items

    def remember(self, key: object) -> None:
        self.memo[key] = self.stack[-1]

    def set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError("items set on something that is not a dict")
        if not all(isinstance(key, str) for key in items[::2]):
            raise ValueError("a key that is not a string")
        target.update(zip(items[::2], items[1::2], strict=True))

    def append_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("items appended to something that is not a list")
        target.extend(items)

    def push_name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a global whose name is not a string")
        known = _Name(module, name)
        if self.plain:
            raise DataError(
                f"{self.path}: the file refers to {module:.80}.{name:.80}, but may contain only plain lists and "
                "numbers: rejected, nothing was executed; get it from a source you trust"
            )
        if known not in _CALLS and not (known.module == "torch" and known.name in _STORAGES):
            raise DataError(
                f"{self.path}: the file refers to {module}.{name}, which a state dict does not need: rejected, "
                "nothing was executed; use weights from a source you trust, preferably as safetensors"
            )
        self.push(known)

    def reduce(self) -> None:
        function, arguments = self.pop_tuple(2)
        if not (isinstance(function, _Name) and function in _CALLS and isinstance(arguments, tuple)):
            raise ValueError("a call to something that is not callable")
        self.push(_CALLS[function](*arguments))

    def build(self) -> None:
        """Drop the state: in a state dict, only the `_metadata` of its OrderedDict."""
        target, _ = self.pop_tuple(2)
        if not isinstance(target, dict):
            raise ValueError("a state set on something that is not a dict")
        self.push(target)

    def push_storage(self) -> None:
        record = self.stack.pop()
        if not (isinstance(record, tuple) and len(record) in (5, 6) and record[0] == "storage"):
            raise ValueError("an unknown kind of persistent id")
        self.push(_parse_storage(*record[1:]))


def _parse_storage(kind: object, key: object, _location: object, total: object, part: object = None) -> Storage:
    if not (isinstance(kind, _Name) and kind.name in _STORAGES and isinstance(key, str)):
        raise ValueError("a storage of unknown type")
    dtype, item_bytes = _STORAGES[kind.name]
    count = _size(total)
    if part is None:
        return Storage(key=key, dtype=dtype, item_bytes=item_bytes, total=count, first=0, count=count)
    if not (isinstance(part, tuple) and len(part) == 3):
        raise ValueError("an unknown kind of storage view")
    first, length = _size(part[1]), _size(part[2])
    if first + length > count:
        raise ValueError(f"storage view {first}..{first + length} reaches outside its {count} elements")
    return Storage(key=key, dtype=dtype, item_bytes=item_bytes, total=count, first=first, count=length)


def _size(value: object) -> int:
    if type(value) is int and 0 <= value < 2**62:
        return value
    shown = value if type(value) is int else type(value).__name__
    raise ValueError(f"{shown} where a size was expected")


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or len(value) > 64:
        raise ValueError("a shape that is not a short tuple")
    return tuple(_size(item) for item in value)


def _make_dict(items: object = ()) -> dict[object, object]:
    if not isinstance(items, (list, tuple)):
        raise ValueError("an OrderedDict of something that is not a list")
    if not all(isinstance(key, str) for key, _ in items):
        raise ValueError("a key that is not a string")
    return dict(items)


def _make_size(items: object = ()) -> tuple[int, ...]:
    return _sizes(items)


def _make_view(storage: object, offset: object, size: object, stride: object, *_: object) -> View:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    view = View(storage=storage, offset=_size(offset), size=_sizes(size), stride=_sizes(stride))
    if len(view.size) != len(view.stride):
        raise ValueError("a tensor whose shape and strides differ in length")
    return view


def _make_parameter(data: object, *_: object) -> View:
    if not isinstance(data, View):
        raise ValueError("a parameter without a tensor")
    return data


_CALLS: Mapping[_Name, Callable[..., object]] = {
    _Name("collections", "OrderedDict"): _make_dict,
    _Name("torch", "Size"): _make_size,
    _Name("torch._utils", "_rebuild_tensor_v2"): _make_view,
    _Name("torch._utils", "_rebuild_parameter"): _make_parameter,
}


def _push_argument(machine: _Machine, argument: object) -> None:
    machine.push(argument)


_HANDLERS: Mapping[str, Callable[[_Machine, object], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT"), _push_argument),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _push_argument),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _push_argument),
    "MARK": lambda machine, _: machine.push(_MARK),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_tuple(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_tuple(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_tuple(3)),
    "APPEND": lambda machine, _: machine.append_items([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append_items(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(list(machine.pop_tuple(2))),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, key: machine.push(machine.memo[key])),
    "GLOBAL": lambda machine, name: machine.push_name(*str(name).split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.push_name(*machine.pop_tuple(2)),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.push_storage(),
}


# --- the two file formats ------------------------------------------------------------------------


def _read_zip(path: Path, views_of: ViewsOf[A]) -> dict[str, A]:
    """The zip format: `NAME/data.pkl` and one uncompressed member `NAME/data/KEY` per storage."""
    with _reporting_damage(path), zipfile.ZipFile(path) as archive:
        prefix = _find_prefix(path, archive.namelist())
        members = _check_members(path, archive)
        if members[f"{prefix}/data.pkl"].file_size > _MAX_PICKLE_BYTES:
            raise DataError(f"{path}: the pickle in it is far larger than that of any state dict")
        if f"{prefix}/byteorder" in members and archive.read(f"{prefix}/byteorder") != b"little":
            raise DataError(f"{path}: written on a big-endian machine: save it again on a little-endian one")
        source = io.BytesIO(archive.read(f"{prefix}/data.pkl"))
        views = _check_state_dict(path, _Machine(path).run(source))

        def read(storage: Storage) -> np.ndarray:
            member = members[f"{prefix}/data/{storage.key}"]
            if member.file_size != storage.total * storage.item_bytes:
                raise ValueError(f"storage {storage.key!r} has {member.file_size} bytes, not {storage.total} elements")
            with archive.open(member) as data:
                return _read_bytes(data, member.file_size)

        return build(path, views, read, views_of)


def _check_members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise DataError(f"{path}: a name appears twice in the zip: rejected")
    for member in members.values():
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise DataError(
                f"{path}: {member.filename!r} is compressed or encrypted, but torch.save writes neither: rejected"
            )
    if sum(member.file_size for member in members.values()) > path.stat().st_size:
        raise DataError(f"{path}: the parts of the zip claim more bytes than the file has: rejected")
    return members


def _find_prefix(path: Path, members: Sequence[str]) -> str:
    prefixes = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl")]
    if len(prefixes) != 1 or "/" in prefixes[0]:
        raise DataError(f"{path}: a zip without exactly one NAME/data.pkl, as torch.save writes it: not a state dict")
    if f"{prefixes[0]}/constants.pkl" in members:
        raise DataError(f"{path}: a TorchScript program, not a state dict: save model.state_dict() instead")
    return prefixes[0]


def _read_stream(path: Path, views_of: ViewsOf[A]) -> dict[str, A]:
    """The old format: magic, protocol, system, state dict and storage keys as pickles, then the storages."""
    with (
        _reporting_damage(path),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source,
    ):
        if _Machine(path).run(source) != _STREAM_MAGIC or _Machine(path).run(source) != _STREAM_PROTOCOL:
            raise DataError(f"{path} is not a PyTorch state dict: neither the zip nor the stream format")
        system = _Machine(path).run(source)
        if not (isinstance(system, dict) and system.get("little_endian") is True):
            raise DataError(f"{path}: written on a big-endian machine: save it again on a little-endian one")
        views = _check_state_dict(path, _Machine(path).run(source))
        keys = _Machine(path).run(source)
        if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
            raise ValueError("the list of storages is not a list of names")
        item_bytes = {view.storage.key: view.storage.item_bytes for view in views.values()}
        positions: dict[str, tuple[int, int]] = {}
        position = source.tell()
        for key in keys:
            count = int.from_bytes(source[position : position + 8], "little")
            positions[key] = (position + 8, count)
            position += 8 + count * item_bytes[key]
            if position > len(source):
                raise ValueError(f"truncated: storage {key!r} should end at byte {position} of {len(source)}")

        def read(storage: Storage) -> np.ndarray:
            begin, count = positions[storage.key]
            if count != storage.total:
                raise ValueError(f"storage {storage.key!r} has {count} elements, not {storage.total}")
            file.seek(begin)
            return _read_bytes(file, count * storage.item_bytes)

        return build(path, views, read, views_of)


def _read_bytes(file: IO[bytes], count: int) -> np.ndarray:
    buffer = np.empty(count, dtype=np.uint8)
    done = 0
    while done < count:
        part = file.read(min(count - done, 2**24))
        if not part:
            raise EOFError("the file ends inside a storage")
        buffer[done : done + len(part)] = np.frombuffer(part, dtype=np.uint8)
        done += len(part)
    return buffer


# --- tensors -------------------------------------------------------------------------------------


def _check_state_dict(path: Path, value: object) -> dict[str, View]:
    """Return {name: view}; anything other than tensors under string keys is rejected by name."""
    if not isinstance(value, dict):
        raise DataError(f"{path}: found {type(value).__name__}, expected a state dict (names to tensors)")
    for name, view in value.items():
        if not isinstance(name, str) or not isinstance(view, View):
            raise DataError(
                f"{path}: entry {str(name)[:80]!r}: found {type(view).__name__}, expected a tensor: "
                "save model.state_dict() alone"
            )
        check_view(path, name, view)
    return value
