"""Sides run in turn, and rounds in which other processes used the processors do not count."""

from __future__ import annotations

import itertools

import pytest

from minilm.bench import rounds
from minilm.bench.rounds import Run, busy_seconds, in_turn


@pytest.fixture
def clock(monkeypatch):
    """Every side takes 10 seconds on two processors, and uses them all."""
    now = itertools.count(0.0, 10.0)
    monkeypatch.setattr(rounds, "perf_counter", lambda: next(now))
    monkeypatch.setattr(rounds, "_allowed", lambda: {0, 1})


def sides_of(log: list[str], names: str = "ab"):
    def run(name: str) -> Run:
        log.append(name)
        return Run(seconds=(float(len(log)),), used=20.0)

    return {name: lambda name=name: run(name) for name in names}


def busy_of(others: list[float]):
    """What the system says before and after each side, if other processes use `others` beside the side's 20 seconds."""
    values = [0.0]
    for other in others:
        values += [values[-1] + 20.0 + other] * 2
    found = iter(values)
    return lambda: next(found)


def test_sides_alternate(clock):
    log: list[str] = []
    measured = in_turn(sides_of(log), rounds=2, busy=busy_of([0.0] * 4))
    assert "".join(log) == "abab"
    assert [sorted(one) for one in measured.rounds] == [["a", "b"]] * 2
    assert (measured.dropped, measured.others) == (0, 0.0)


def test_disturbed_rounds_are_dropped_and_repeated(clock):
    """5 of 20 seconds were used by others in the second round: it is not among those that count."""
    log: list[str] = []
    measured = in_turn(sides_of(log), rounds=2, busy=busy_of([0.0, 0.0, 0.0, 5.0, 0.0, 1.0]))
    assert "".join(log) == "ababab"
    assert [one["a"].seconds for one in measured.rounds] == [(1.0,), (5.0,)]
    assert measured.dropped == 1
    assert measured.others == pytest.approx((1.0 - 0.02) / 20)


def test_where_all_rounds_are_disturbed_the_least_disturbed_count(clock):
    log: list[str] = []
    measured = in_turn(sides_of(log, "a"), rounds=1, busy=busy_of([8.0, 5.0]))
    assert [one["a"].seconds for one in measured.rounds] == [(2.0,)]
    assert measured.dropped == 1
    assert measured.others == pytest.approx(0.249)


def test_where_the_system_says_nothing_no_round_is_dropped(clock):
    measured = in_turn(sides_of([]), rounds=2, busy=lambda: None)
    assert (len(measured.rounds), measured.dropped, measured.others) == (2, 0, None)


def test_busy_seconds_are_those_of_the_processors_that_may_be_used(tmp_path, monkeypatch):
    """User, nice, system, both interrupts and stolen time; not idle, not waiting for disks, not of other processors."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 10 20 5000 3000 1 2 4 0 0\ncpu1 7 7 7 7 7 7 7 7 0 0\nctxt 5\n")
    monkeypatch.setattr(rounds, "_allowed", lambda: {0})
    monkeypatch.setattr(rounds.os, "sysconf", lambda name: 100)
    assert busy_seconds(stat) == pytest.approx(1.37)
    assert busy_seconds(tmp_path / "none") is None
