"""Missing fields are reported with the expected names and those found; lists in cells are told from texts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.files.fields import NUMBER_LIST, TEXT_LIST, items_in, no_field


def test_the_first_eight_names_are_shown_each_shortened():
    row = dict.fromkeys(["x" * 50, *map(str, range(10))])
    shown = ", ".join(repr(name) for name in ["x" * 40, *map(str, range(7))])
    assert no_field(["a", "b"], row, fix="add it") == f"no field 'a' or 'b', found {shown}; add it"
    assert no_field(["a"], {}, fix="add it") == "no field 'a', found no fields; add it"


@given(st.lists(st.text()))
def test_a_list_of_texts_survives_a_cell(texts):
    for indent in (None, 1):
        assert items_in(json.dumps(texts, indent=indent), spelled=TEXT_LIST) == texts
    assert items_in(texts, spelled=None) == texts


@pytest.mark.parametrize("text", ["", "a", "[Music]", "[1] a footnote", "[]", "[a", '["a"] b', "['a']"])
def test_a_text_is_a_text_where_lists_are_lists(text):
    assert items_in(text, spelled=None) == [text]


@pytest.mark.parametrize("cell", ["", "a", "[Music]", "[1] a footnote", "[a", '"[b]"'])
def test_a_remark_in_brackets_does_not_make_a_cell_a_list(cell):
    assert items_in(cell, spelled=TEXT_LIST) == [cell]


@pytest.mark.parametrize("cell", ["['a', 'b']", '["a"', '["a"] b', '[ "a" "b"]', "[]]", '["' + "[" * 100_000])
def test_a_cell_that_begins_like_a_list_must_be_one(cell):
    with pytest.raises(ValueError, match=r"found .*, expected a list in JSON, such as \[\"a\", \"b\"\]"):
        items_in(cell, spelled=TEXT_LIST)


def test_numbers_in_a_cell():
    assert items_in(" [1, -0.5]", spelled=NUMBER_LIST) == [1, -0.5]
    assert items_in("1.5", spelled=NUMBER_LIST) == ["1.5"]
    with pytest.raises(ValueError, match=r"found '\[1 2\]', expected a list in JSON, such as \[1, -0.5\]"):
        items_in("[1 2]", spelled=NUMBER_LIST)
