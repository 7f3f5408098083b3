"""What goes to one file system is added up, without what is there already."""

from __future__ import annotations

import shutil

import pytest

from minilm.distill import room as module
from minilm.distill.room import Room, held_bytes
from minilm.errors import SystemProblem

MIB = 2**20


@pytest.fixture
def ten_free(monkeypatch, tmp_path):
    """A folder of a disk with 10 MiB, and one of a second disk."""
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * MIB)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    other = tmp_path / "other"
    other.mkdir()
    real = module._device
    monkeypatch.setattr(module, "_device", lambda place: -1 if place == other else real(place))
    return tmp_path / "new" / "run", other / "cache"


def require(room: Room, folder, size: float, held: int = 0) -> str:
    return room.require(folder, size * MIB, held=held * MIB, what=f"it needs {size}", ways_out="choose another")


def test_folders_of_one_disk_share_it(ten_free):
    folder, other = ten_free
    room = Room()
    assert require(room, folder, 6) == "it needs 6; 10.0 MiB are free"
    require(room, other, 9)
    with pytest.raises(SystemProblem) as caught:
        require(room, folder / "cache", 5)
    assert str(caught.value) == (
        "it needs 5, but only 10.0 MiB are free and what else this run writes there needs 6.0 MiB: choose another"
    )
    require(room, folder / "cache", 4)


def test_what_is_there_already_needs_no_room(ten_free):
    folder, _ = ten_free
    room = Room()
    room.take(folder, 8 * MIB, held=20 * MIB)  # an earlier run, which is replaced
    require(room, folder, 11, held=1)
    with pytest.raises(SystemProblem, match=r"^it needs 2, but only 10\.0 MiB are free besides the 1\.0 MiB that .*"):
        require(room, folder, 2, held=1)


def test_held_bytes_are_those_of_all_files(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"123")
    (tmp_path / "c").write_bytes(b"1")
    assert held_bytes(tmp_path / "a", tmp_path / "c", tmp_path / "gone") == 3
