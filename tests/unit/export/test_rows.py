"""Proves that no text both calibrates and is compared, and that the texts that ship suffice."""

from __future__ import annotations

import pytest
from tests.unit.export.conftest import write_texts

from minilm.errors import DataError, UsageError
from minilm.export.rows import MOST_ROWS, read_rows


def test_of_each_four_rows_two_calibrate_and_two_are_compared(tmp_path):
    """Repeated texts, which could be on both sides, count once; blank lines are no texts."""
    lines = [f"text {number}" for number in range(40)]
    (tmp_path / "a.txt").write_text("\n".join([*lines[:10], *lines[:9], "", *lines[10:]]))
    rows = read_rows(tmp_path / "a.txt")
    assert rows.calibration == tuple(line for number, line in enumerate(lines) if number % 4 < 2)
    assert rows.compared == tuple(line for number, line in enumerate(lines) if number % 4 >= 2)


def test_a_query_and_its_text_stay_together(tmp_path):
    """In a file that alternates them, both halves have both, in turn."""
    lines = [f"{kind} {number}" for number in range(30) for kind in ("query", "text")]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    rows = read_rows(tmp_path / "a.txt")
    for half in (rows.calibration, rows.compared):
        pairs = list(zip(half[::2], half[1::2], strict=True))
        assert [f"query {text.removeprefix('text ')}" for _, text in pairs] == [query for query, _ in pairs]
        assert len(pairs) == 15


def test_the_first_thousand_are_enough(tmp_path):
    rows = read_rows(write_texts(tmp_path / "a.txt", 1500))
    assert len(rows.calibration) == len(rows.compared) == MOST_ROWS == 512
    assert set(rows.calibration).isdisjoint(rows.compared)


def test_rows_with_names(tmp_path):
    (tmp_path / "a.csv").write_text("id,body\n" + "".join(f"{n},text {n}\n" for n in range(50)))
    assert read_rows(tmp_path / "a.csv", field="body").compared[0] == "text 2"
    with pytest.raises(DataError, match="text"):
        read_rows(tmp_path / "a.csv")


def test_too_few_texts(tmp_path):
    with pytest.raises(DataError) as caught:
        read_rows(write_texts(tmp_path / "a.txt", 39))
    assert str(caught.value) == (
        f"{tmp_path / 'a.txt'}: found 39 different texts, expected at least 40: half of them calibrate and half are "
        "compared; give more texts, or leave out --texts"
    )


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"none\.txt"):
        read_rows(tmp_path / "none.txt")


def test_the_texts_that_ship():
    """As many as the documents say, of all lengths, and each once; other field names do not matter to them."""
    rows = read_rows(None, field="body")
    texts = [*rows.calibration, *rows.compared]
    assert abs(len(rows.calibration) - len(rows.compared)) <= 2
    assert 145 <= len(texts) <= 155
    lengths = sorted(len(text.split()) for text in texts)
    assert lengths[len(lengths) // 4] < 10
    assert lengths[-1] > 90
