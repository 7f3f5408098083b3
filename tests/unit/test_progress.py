"""The progress display: a plain line every ten seconds in a pipe, a live bar on a terminal, nothing when silent."""

from __future__ import annotations

import io
import sys

import pytest

from minilm import progress
from minilm.progress import BYTES, Progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def run(clock, display: Progress) -> None:
    with display as shown:
        shown.begin(1000, 200)
        for _ in range(4):
            clock[0] += 6
            shown.advance(100, status="loss 1")


def test_an_unknown_total_is_not_shown(clock, capsys):
    with Progress("build") as shown:
        shown.begin(None)
        clock[0] = 10.0
        shown.advance(0.0, status="7 documents")
    assert capsys.readouterr().err == "build  7 documents\n"


def test_lines_in_a_pipe_have_rate_status_and_time_left(clock, capsys):
    run(clock, Progress("predict", unit="rows"))
    assert capsys.readouterr().err.splitlines() == [
        "resuming: 200 of 1,000 rows are finished",
        "predict 400/1,000  16.7 rows/s  loss 1  0:00:36 left",
        "predict 600/1,000  16.7 rows/s  loss 1  0:00:24 left",
    ]


def test_without_a_unit_only_the_status_is_shown(clock, capsys):
    run(clock, Progress("distill"))
    assert capsys.readouterr().err.splitlines()[0] == "distill 400/1,000  loss 1  0:00:36 left"


def test_fractions_are_shown_and_no_rate_yet(clock, capsys):
    with Progress("build") as shown:
        shown.begin(2.5)
        clock[0] = 10.0
        shown.advance(0.0, status="x")
    assert capsys.readouterr().err == "build 0.0/2.5  x  time left unknown\n"


def test_files_are_counted_in_bytes_kib_and_mib_with_rate_and_time_left(clock, capsys):
    with Progress("build", unit=BYTES) as shown:
        shown.begin(5 * 2**20)
        for read, status in ((512, "a"), (3 * 2**19 - 512, "b"), (7 * 2**19, "c")):
            clock[0] += 10
            shown.advance(read, status=status)
    assert capsys.readouterr().err.splitlines() == [
        "build 512 bytes/5.0 MiB  51 bytes/s  a  1 day, 4:26:30 left",
        "build 1.5 MiB/5.0 MiB  76.8 KiB/s  b  0:00:47 left",
        "build 5.0 MiB/5.0 MiB  171 KiB/s  c",
    ]


def test_standard_input_has_no_rate_of_bytes(clock, capsys):
    with Progress("build", unit=BYTES) as shown:
        shown.begin(None)
        clock[0] = 10.0
        shown.advance(0, status="7 documents")
    assert capsys.readouterr().err == "build  7 documents\n"


def test_silent_shows_nothing(clock, capsys):
    run(clock, Progress("distill", unit="steps", silent=True))
    assert capsys.readouterr().err == ""


def test_a_terminal_has_one_live_line(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    run(clock, Progress("predict", unit="rows"))
    written = sys.stderr.getvalue()
    assert "600/1,000" in written
    assert "16.7 rows/s  loss 1" in written
    assert "left" not in written


def test_a_display_that_nobody_can_read_never_ends_the_work(clock, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    class GoneTerminal(Gone):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    for stream in (Gone(), GoneTerminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        run(clock, Progress("predict", unit="rows"))
