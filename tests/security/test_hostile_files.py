"""Proves that hostile files end in one DataError: nothing runs (a canary file shows it), nothing blows up."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilm.errors import DataError
from minilm.files.torch_bin import read_torch_bin
from minilm.text.tokenizer import Tokenizer

# --- pickles -------------------------------------------------------------------------------------


class Call:
    """Pickles as a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


class Storage:
    """Pickles as the persistent id of a storage."""

    def __init__(self, *record: object) -> None:
        self.record = record


class Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value.record if isinstance(value, Storage) else None


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def zip_file(program: bytes, *, storages: dict[str, bytes] | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:  # type: ignore[arg-type]
        archive.writestr("m/data.pkl", program)
        archive.writestr("m/byteorder", "little")
        archive.writestr("m/version", "3\n")
        for key, data in (storages or {}).items():
            archive.writestr(f"m/data/{key}", data)
    return buffer.getvalue()


def stream_file(program: bytes, *, storages: dict[str, bytes] | None = None, keys: object = None) -> bytes:
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    storages = storages or {}
    tail = b"".join(struct.pack("<q", len(data) // 4) + data for data in storages.values())
    return b"".join(map(pickled, head)) + program + pickled(list(storages) if keys is None else keys) + tail


BOTH = pytest.mark.parametrize("make", [zip_file, stream_file], ids=["zip", "stream"])
FLOATS = Storage("storage", torch.FloatStorage, "0", "cpu", 4)


def view(storage: object = FLOATS, offset: object = 0, size: object = (4,), stride: object = (1,)) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {})


def assert_rejected(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_torch_bin(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@BOTH
def test_the_files_made_here_are_read_when_nothing_is_wrong(tmp_path: Path, make: object) -> None:
    program, data = pickled({"a": view()}), {"0": struct.pack("<4f", 1, 2, 3, 4)}
    (tmp_path / "m.bin").write_bytes(make(program, storages=data))  # type: ignore[operator]
    assert read_torch_bin(tmp_path / "m.bin")["a"].tolist() == [1, 2, 3, 4]
    if make is zip_file:
        assert torch.load(tmp_path / "m.bin", weights_only=True)["a"].tolist() == [1, 2, 3, 4]


def payloads(canary: Path) -> dict[str, tuple[bytes, str]]:
    touch = f"open({str(canary)!r}, 'w')"
    nested = pickle.dumps(Call(os.system, f"touch {canary}"))
    global_eval = b"c__builtin__\neval\n(X" + struct.pack("<I", len(touch)) + touch.encode() + b"tR."
    return {
        "os_system": (pickled(Call(os.system, f"touch {canary}")), r"refers to (posix|nt)\.system"),
        "eval": (pickled({"a": Call(eval, touch)}), r"refers to (__builtin__|builtins)\.eval"),
        "eval_by_hand": (b"\x80\x02" + global_eval, r"refers to __builtin__\.eval"),
        "open": (pickled({"a": Call(open, str(canary), "w")}), r"refers to (io|_io)\.open"),
        "popen": (
            pickled({"a": Call(subprocess.Popen, ["touch", str(canary)])}),
            r"refers to (subprocess|commands)\.Popen",
        ),
        "getattr": (
            pickled(Call(getattr, "a", "b")),
            r"refers to (__builtin__|builtins)\.getattr",
        ),
        "torch_load": (pickled({"a": Call(torch.load, str(canary))}), r"refers to torch\.serialization\.load"),
        "loads": (pickled({"a": Call(pickle.loads, nested)}), r"refers to (_pickle|pickle)\.loads"),
        "load_from_bytes": (
            pickled({"a": Call(torch.storage._load_from_bytes, nested)}),
            r"refers to torch\.storage\._load_from_bytes",
        ),
        "dotted": (b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.", r"refers to torch\.os\.system"),
        "obj": (b"(cos\nsystem\nX\x01\0\0\0ao.", r"refers to os\.system"),
        "inst": (b"(X\x01\0\0\0aios\nsystem\n.", "instruction INST does not belong"),
        "newobj": (b"\x80\x02ctorch\nSize\n)\x81.", "instruction NEWOBJ does not belong"),
        "extension": (b"\x80\x02\x82\x01.", "instruction EXT1 does not belong"),
        "build_on_name": (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}b.",
            "a state set on something that is not a dict",
        ),
        "call_a_storage": (pickled({"a": 1})[:-1] + b"ctorch\nFloatStorage\n)R.", "is not callable"),
        "payload_as_storage": (
            pickled({"a": view(Storage("storage", Call(os.system, f"touch {canary}"), "0", "cpu", 4))}),
            r"refers to (posix|nt)\.system",
        ),
        "persistent_text": (b"\x80\x02X\x01\0\0\0aQ.", "unknown kind of persistent id"),
    }


@BOTH
@pytest.mark.parametrize("name", payloads(Path("canary")))
def test_payloads_do_not_run(tmp_path: Path, make: object, name: str) -> None:
    canary = tmp_path / "canary"
    program, message = payloads(canary)[name]
    assert_rejected(tmp_path / "m.bin", make(program), message)  # type: ignore[operator]
    assert not canary.exists()


@pytest.mark.parametrize("make", [zip_file, stream_file])
def test_a_payload_hidden_in_a_storage_stays_bytes(tmp_path: Path, make: object) -> None:
    canary = tmp_path / "canary"
    payload = pickle.dumps(Call(os.system, f"touch {canary}"))
    payload += b"\0" * (-len(payload) % 4)
    storage = Storage("storage", torch.FloatStorage, "0", "cpu", len(payload) // 4)
    program = pickled({"a": view(storage, 0, (len(payload) // 4,))})
    (tmp_path / "m.bin").write_bytes(make(program, storages={"0": payload}))  # type: ignore[operator]
    tensor = read_torch_bin(tmp_path / "m.bin")["a"]
    assert tensor.view(torch.uint8).numpy().tobytes() == payload
    assert not canary.exists()


def test_the_canary_would_sing(tmp_path: Path) -> None:
    """The payloads above are live: the ordinary unpickler does run them."""
    canary = tmp_path / "canary"
    pickle.loads(payloads(canary)["os_system"][0])
    assert canary.exists()


@BOTH
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (view(offset=1), "tensor 'a' of shape \\(4,\\) reaches element 4 of a storage of 4: rejected"),
        (view(size=(5,)), "reaches element 4 of a storage of 4"),
        (view(size=(2, 2), stride=(3, 1)), "reaches element 4"),
        (view(size=(2,), stride=(2**61,)), "reaches element 2305843009213693952"),
        (view(offset=-1), "-1 where a size was expected"),
        (view(stride=(-1,)), "-1 where a size was expected"),
        (view(size=(2**63,)), "9223372036854775808 where a size was expected"),
        (view(size=(2**40,), stride=(0,)), "is larger than the whole file: rejected"),
        (view(size=(True,)), "bool where a size was expected"),
        (view(size=(1.0,)), "float where a size was expected"),
        (view(size=(4, 1)), "whose shape and strides differ in length"),
        (view(size=(1,) * 65, stride=(1,) * 65), "a shape that is not a short tuple"),
        (view(storage="0"), "a tensor without a storage"),
        (
            view(Storage("storage", torch.FloatStorage, "0", "cpu", 5), size=(5,)),
            "storage '0' has .* not 5",
        ),
        (view(Storage("storage", torch.FloatStorage, "9", "cpu", 4)), "damaged"),
        (view(Storage("storage", torch.FloatStorage, "../0", "cpu", 4)), "damaged"),
        (
            view(Storage("storage", torch.FloatStorage, "0", "cpu", 4, ("v", 3, 2))),
            r"storage view 3\.\.5 reaches outside",
        ),
        (view(Storage("storage", torch.FloatStorage, "0", "cpu", -4)), "-4 where a size was expected"),
        (view(Storage("module", torch.FloatStorage, "0", "cpu", 4)), "unknown kind of persistent id"),
        (Call(torch._utils._rebuild_tensor_v2), "damaged"),
        (Call(torch._utils._rebuild_parameter, "x", True, {}), "a parameter without a tensor"),
    ],
)
def test_views_that_do_not_fit_are_rejected(tmp_path: Path, make: object, tensor: Call, message: str) -> None:
    assert_rejected(tmp_path / "m.bin", make(pickled({"a": tensor}), storages={"0": b"\0" * 16}), message)  # type: ignore[operator]


def test_one_storage_described_in_two_ways_is_rejected(tmp_path: Path) -> None:
    other = Storage("storage", torch.IntStorage, "0", "cpu", 4)
    program = pickled({"a": view(), "b": view(other)})
    for make in (zip_file, stream_file):
        assert_rejected(
            tmp_path / "m.bin", make(program, storages={"0": b"\0" * 16}), "is described in two ways: rejected"
        )


DOUBLING = b"\x80\x02X\x01\0\0\0a" + b"".join(b"q%c\x68%c\x68%c\x86" % (i, i, i) for i in range(200))
DEEP = b"\x80\x02)" + b"\x85" * 300_000


@BOTH
@pytest.mark.parametrize(
    "program",
    [
        DOUBLING + b".",  # 2**200 leaves when printed or compared
        b"\x80\x02}" + DOUBLING[2:] + b"K\x01s.",  # the same as a key
        DOUBLING + DOUBLING[2:] + b"\x93.",  # as the name of a global
        DEEP + b".",
        b"\x80\x02}" + DEEP[2:] + b"K\x01s.",  # hashing it would overflow the stack
        b"\x80\x02ccollections\nOrderedDict\n]" + DEEP[2:] + b"K\x01\x86a\x85R.",
        b"\x80\x02}q\0h\0h\0s.",
        b"\x80\x02K\x01r\xff\xff\xff\xff.",  # a memo of four billion slots
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"\x80\x02I" + b"9" * 10_000 + b"\n.",
        b"\x80\x02" + b"0" * 10 + b".",
        b"\x80\x02" + b"t.",
        b"\x80\x02" + b".",
        b"\x80\xff.",
        b"",
        b"\xff\xff",
    ],
)
def test_pickles_made_to_exhaust_or_crash_are_rejected(tmp_path: Path, make: object, program: bytes) -> None:
    assert_rejected(tmp_path / "m.bin", make(program), "expected|rejected|damaged|neither")  # type: ignore[operator]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("as_zip", [True, False])
def test_random_damage_is_a_data_error_or_harmless(tmp_path: Path, as_zip: bool, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(4.0), "b": torch.ones(2, 2).T}, buffer, _use_new_zipfile_serialization=as_zip)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.bin").write_bytes(damaged)
    with contextlib.suppress(DataError):
        for tensor in read_torch_bin(tmp_path / "m.bin").values():
            tensor.sum()  # touches every element


# --- zips ----------------------------------------------------------------------------------------


def test_zip_bombs_are_rejected_before_they_unfold(tmp_path: Path) -> None:
    program = pickled({"a": view()})
    bomb = zip_file(program, storages={"0": b"\0" * 50_000_000}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    assert_rejected(tmp_path / "m.bin", bomb, "is compressed or encrypted, but torch.save writes neither: rejected")


def test_parts_that_claim_more_than_the_file_has_are_rejected(tmp_path: Path) -> None:
    data = bytearray(zip_file(pickled({"a": view()}), storages={"0": b"\0" * 16}))
    place = data.rindex(b"PK\x01\x02")  # the last central directory entry: the storage
    data[place + 20 : place + 28] = struct.pack("<II", 2**31, 2**31)
    assert_rejected(tmp_path / "m.bin", bytes(data), "claim more bytes than the file has: rejected")


def test_odd_names_in_a_zip_are_rejected(tmp_path: Path) -> None:
    def with_names(*names: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, pickled({}))
        return buffer.getvalue()

    no_pickle = r"a zip without exactly one NAME/data\.pkl, as torch\.save writes it"
    assert_rejected(tmp_path / "m.bin", with_names("data.pkl"), no_pickle)
    assert_rejected(tmp_path / "m.bin", with_names("a/data.pkl", "b/data.pkl"), no_pickle)
    assert_rejected(tmp_path / "m.bin", with_names("../../data.pkl"), no_pickle)
    assert_rejected(tmp_path / "m.bin", with_names("x.txt"), no_pickle)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = with_names("a/data.pkl", "a/data/0", "a/data/0")
    assert_rejected(tmp_path / "m.bin", twice, "a name appears twice in the zip: rejected")
    (tmp_path / "m.bin").write_bytes(with_names("a/data.pkl", "../../../evil", "/etc/evil"))
    assert read_torch_bin(tmp_path / "m.bin") == {}  # nothing is ever unpacked to disk
    assert os.listdir(tmp_path) == ["m.bin"]


def test_a_damaged_storage_fails_its_checksum(tmp_path: Path) -> None:
    data = bytearray(zip_file(pickled({"a": view()}), storages={"0": b"weights!" * 2}))
    data[data.index(b"weights!")] ^= 1
    assert_rejected(tmp_path / "m.bin", bytes(data), "damaged or not a PyTorch state dict: Bad CRC-32")


def test_big_endian_files_are_rejected(tmp_path: Path) -> None:
    data = zip_file(pickled({})).replace(b"little", b"biggie")
    assert_rejected(tmp_path / "m.bin", data, "damaged")  # the checksum of the member notices first
    stream = stream_file(pickled({})).replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    assert_rejected(tmp_path / "m.bin", stream, "written on a big-endian machine")


def test_reading_a_state_dict_imports_nothing_it_names(tmp_path: Path) -> None:
    """The module of a rejected name is not even imported."""
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    (tmp_path / "m.bin").write_bytes(zip_file(b"\x80\x02cevil_module\nThing\n."))
    file = str(tmp_path / "m.bin")
    code = (
        f"from pathlib import Path; from minilm.files.torch_bin import read_torch_bin; read_torch_bin(Path({file!r}))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300)
    assert "refers to evil_module.Thing" in result.stderr
    assert not (tmp_path / "canary").exists()


# --- tokenizer files -----------------------------------------------------------------------------

VOCAB = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.txt", (VOCAB + "a\n").encode(), r"vocab\.txt:7: token 'a' is also on line 6"),
        ("vocab.txt", (VOCAB + "b\0\n").encode(), r"vocab\.txt:7: NUL character"),
        ("vocab.txt", VOCAB.encode() + b"\xc3\x28\n", r"vocab\.txt:7: byte 0xc3 is not UTF-8"),
        (
            "vocab.txt",
            VOCAB.encode() + "\ud800\n".encode("utf-8", "surrogatepass"),
            r"vocab\.txt:7: byte 0xed",
        ),
        ("vocab.txt", VOCAB.encode("utf-16"), r"vocab\.txt: the file is UTF-16"),
        ("tokenizer.json", b"", "broken JSON"),
        ("tokenizer.json", b"{}", "not a tokenizer.json: no model"),
        (
            "tokenizer.json",
            b'{"model": {"type": "WordPiece", "vocab": {"a": 0}}}',
            r"tokenizers library rejects it|frames",
        ),
        (
            "tokenizer.json",
            b'{"model": {"type": "WordPiece", "vocab": {"\\ud800": 0}}}',
            "tokenizers library rejects it",
        ),
        (
            "tokenizer.json",
            b'{"model": {"type": "WordPiece", "vocab": {"a": 99999999999}}}',
            "no token has id 0",
        ),
        ("tokenizer.json", b"[" * 100_000, "nested too deeply"),
    ],
)
def test_hostile_tokenizer_files_are_rejected(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
