"""A foreign message becomes one short, printable line."""

from __future__ import annotations

from minilm.errors import one_line


def test_whitespace_is_collapsed_controls_are_escaped_and_the_rest_is_truncated():
    assert one_line(ValueError(" a\n\tb  \x1b[2J\udcff é ")) == r"a b \x1b[2J\udcff é"
    assert one_line("x" * 300) == "x" * 200
    assert one_line("x" * 300, max_chars=None) == "x" * 300


def test_an_error_without_a_message_is_its_class():
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line("") == ""
