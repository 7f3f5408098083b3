"""A missing field is reported with the expected names, the first names found, and how to fix it."""

from __future__ import annotations

from minilm.files.fields import no_field


def test_the_first_eight_names_are_shown_each_shortened():
    row = dict.fromkeys(["x" * 50, *map(str, range(10))])
    shown = ", ".join(repr(name) for name in ["x" * 40, *map(str, range(7))])
    assert no_field(["a", "b"], row, fix="add it") == f"no field 'a' or 'b', found {shown}; add it"
    assert no_field(["a"], {}, fix="add it") == "no field 'a', found no fields; add it"
