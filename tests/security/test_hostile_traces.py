"""Proves that a hostile score trace ends in one DataError: nothing runs (a canary file shows it), nothing blows up."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
from collections import OrderedDict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilm.decode.traces import Trace, read_original_traces, read_traces, write_traces
from minilm.errors import DataError

HEADER = {"version": 0.0, "num_samples": 1}
RECORD = {"scores": [[-1.0, -2.0]], "wids": [[7, 8]], "ptrs": [[0, 0]]}


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.fixture
def rejection(tmp_path):
    """`rejection(bytes)`: the message of the DataError."""

    def check(data):
        path = tmp_path / "t.trace.pickle"
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            list(read_original_traces(path))
        message = str(caught.value)
        assert "\n" not in message
        return message

    return check


def test_the_canary_can_sing(canary):
    """Otherwise its silence would prove nothing."""
    pickle.loads(pickle.dumps(Call(os.mkdir, str(canary))))
    assert canary.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_calls_are_rejected_and_not_made(rejection, canary, protocol):
    calls = (
        Call(os.system, f"touch {canary}"),
        Call(os.mkdir, str(canary)),
        Call(open, str(canary), "w"),
        Call(exec, f"open({str(canary)!r}, 'w')"),
        Call(subprocess.run, ["touch", str(canary)]),
    )
    for call in calls:
        for records in ([call], [HEADER, call], [HEADER, RECORD | {"scores": call}], [HEADER, RECORD, call]):
            message = rejection(b"".join(pickle.dumps(one, protocol=protocol) for one in records))
            assert "rejected" in message or "its first record has no num_samples" in message
            assert not canary.exists()


@pytest.mark.parametrize("value", [torch.zeros(2), OrderedDict(a=1), {1, 2}, slice(0), 1j, b"x", bytearray(b"x")])
def test_even_harmless_objects_are_rejected(rejection, value):
    message = rejection(pickle.dumps(HEADER) + pickle.dumps(RECORD | {"scores": value}))
    assert "t.trace.pickle" in message


def test_names_are_rejected_and_shown(rejection):
    message = rejection(pickle.dumps(Call(os.system, "true")))
    assert "the file refers to posix.system, but may contain only plain lists and numbers: rejected" in message
    assert "nothing was executed; get it from a source you trust" in message


def test_lists_that_contain_themselves_are_rejected(rejection):
    own = [[-1.0]]
    own.append(own)
    assert "must be lists of lists of numbers" in rejection(
        pickle.dumps(HEADER) + pickle.dumps(RECORD | {"scores": own})
    )


def test_a_pickle_with_endless_instructions_is_rejected(rejection, monkeypatch):
    monkeypatch.setattr("minilm.files.torch_bin._MAX_INSTRUCTIONS", 1000)
    assert "far too large for plain data" in rejection(b"\x80\x02" + b"N" * 2000 + b".")


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_are_rejected_or_read(tmp_path, data):
    """One byte changed, or the end cut off: a DataError or traces, never anything else."""
    whole = bytearray(pickle.dumps(HEADER) + pickle.dumps(RECORD))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "t.trace.pickle"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(DataError):
        list(read_original_traces(path))


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_traces_of_ours_are_rejected_or_read(tmp_path, data):
    path = tmp_path / "t.trace.safetensors"
    write_traces(path, [Trace(scores=RECORD["scores"], ids=RECORD["wids"], parents=RECORD["ptrs"])])
    whole = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(DataError):
        read_traces(path)
