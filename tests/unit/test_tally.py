"""What was truncated or skipped is counted over all parts and reported once each, with the first location."""

from __future__ import annotations

from minilm.tally import Tally, reporting_tally


def test_parts_are_added_up_and_the_first_location_is_kept(caplog):
    tally = Tally()
    tally.add("rows were cut", [], of=10)
    tally.add("rows were cut", ["f:13", "f:17"], of=10)
    tally.add("rows were cut", ["f:21"], of=5)
    tally.add("tokens are unknown", ["f:2"], of=400)
    tally.add("rows are empty", [], of=25)
    tally.report()
    assert caplog.messages == ["3 of 25 rows were cut (first: f:13)", "1 of 400 tokens are unknown (first: f:2)"]


def test_counts_may_lack_locations_or_totals_and_keep_the_first_five(caplog):
    tally = Tally()
    tally.add("texts are empty", [], count=3)
    tally.add("rows are bad", [f"f:{line}" for line in range(4)])
    tally.add("rows are bad", ["f:4", "f:5"])
    tally.add("tokens are unknown", ["f:1"], of=9, count=2)
    assert (tally["rows are bad"].count, tally["rows are bad"].first) == (6, [f"f:{line}" for line in range(5)])
    assert tally["nothing"].count == 0
    tally.report()
    assert caplog.messages == [
        "3 texts are empty",
        "6 rows are bad (first: f:0)",
        "2 of 9 tokens are unknown (first: f:1)",
    ]


def test_truncated_texts_are_reported_by_location(caplog):
    tally = Tally()
    tally.add_truncated([1, 2], ["a", "b", "c"], max_tokens=7)
    tally.report()
    assert caplog.messages == ["2 of 3 texts were longer than 7 tokens and were truncated (first: b)"]


def test_nothing_found_is_not_reported(caplog):
    tally = Tally()
    tally.add("rows were cut", [], of=10)
    tally.report()
    assert not caplog.messages


def test_it_is_also_reported_when_the_work_stops_early(caplog):
    def work():
        with reporting_tally() as tally:
            tally.add("rows were cut", ["f:1"], of=2)
            yield 1
            tally.add("rows were cut", ["f:3"], of=2)

    parts = work()
    next(parts)
    parts.close()
    assert caplog.messages == ["1 of 2 rows were cut (first: f:1)"]


def test_what_was_reported_before_is_not_reported_again(caplog):
    reported = set()
    for locations in (["f:1"], ["f:2"], ["f:3"]):
        with reporting_tally(reported) as tally:
            tally.add("rows were cut", locations, of=2)
            tally.add("tokens are unknown", [] if locations == ["f:1"] else locations, of=9)
    assert caplog.messages == ["1 of 2 rows were cut (first: f:1)", "1 of 9 tokens are unknown (first: f:2)"]
