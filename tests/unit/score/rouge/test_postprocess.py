"""Post-processing of summaries: every rule of the original, its quirks, its limits, and text without a task."""

from __future__ import annotations

import pytest

from minilm.errors import UsageError
from minilm.score.rouge.postprocess import (
    SUMMARY_TASKS,
    plain_sentences,
    prepare_prediction,
    prepare_reference,
    retokenize,
)

ANY = ("xsum", "cnndm", "gigaword")
FULL = ("cnndm", "gigaword")
RULES = [
    (ANY, "he didn ' t say it ' s done", "he did n't say it 's done"),
    (ANY, "they ' ll and i ' d", "they 'll and i 'd"),
    (ANY, "wait . . . what", "wait ... what"),
    (ANY, "3 , 000 , 000 and 3 . 03 or 4 , abc", "3,000,000 and 3.03 or 4 , abc"),
    (ANY, "U . N . said", "U.N. . said"),
    (ANY, "U . K . G . C . now", "U.K. . G.C. . now"),
    (ANY, "u . n . said", "u . n . said"),
    (ANY, "plan B . A plan", "plan B . A plan"),
    (ANY, "plan B . no . 2", "plan B . no . 2"),
    (ANY, "U . N . x Y . z", "U.N.xY . x Y . z"),  # what the original does with initials two words later
    (ANY, ". . , 3 , .", ". . , 3 , ."),
    (("xsum",), 'a " b " - c \' d', 'a " b " - c \'d'),
    (FULL, '" b " \' x \' "', "`` b '' ` x ' ``"),
    (FULL, "well - known - ish", "well-known-ish"),
    (FULL, "- a - - b -", "- a -- b -"),
    (FULL, "a - ( b ) - c", None),
    (("cnndm",), "( a ) [ b ] { c }", "-LRB- a -RRB- -LSB- b -RSB- -LCB- c -RCB-"),
    (("gigaword",), "( a ) & < [UNK] <unk>", "-lrb- a -rrb- &amp; &lt; UNK UNK"),
    (ANY, "", ""),
]


@pytest.mark.parametrize(
    ("task", "text", "expected"),
    [(task, text, expected) for tasks, text, expected in RULES for task in tasks if expected is not None],
)
def test_words_are_joined_as_the_original_joins_them(task, text, expected):
    assert retokenize(text, SUMMARY_TASKS[task]) == expected


def test_a_dash_does_not_join_brackets():
    assert retokenize("a - ( b ) - c", SUMMARY_TASKS["cnndm"]) == "a - -LRB- b -RRB--c"  # the code counts as a word


def test_xsum_codes_round_brackets():
    assert prepare_prediction(" the ( old ) man(s) ", "xsum") == "the -LRB- old -RRB- man -LRB- s -RRB- "


def test_gigaword_hides_the_digit_1():
    assert prepare_prediction("11 of 21 [X_SEP] ones", "gigaword") == "## of 2# [X_SEP] ones"


def test_cnndm_drops_short_sentences_after_joining_words():
    text = "one two three four [X_SEP] one two three four five[X_SEP]a - b c d e"
    assert prepare_prediction(text, "cnndm") == "one two three four five"


def test_cnndm_drops_repetitions_and_remembers_what_it_dropped():
    first, second, third = "a b c d e f g h i j", "A b c d e f g h x y", "a a x y z a b"
    text = " [X_SEP] ".join([first, second, third])
    assert prepare_prediction(text, "cnndm", duplicate_rate=0.7) == first
    assert prepare_prediction(text, "cnndm", duplicate_rate=0.8) == f"{first}\n{second}\n{third}"
    for off in (0, 1):
        assert prepare_prediction(text, "cnndm", duplicate_rate=off) == f"{first}\n{second}\n{third}"


def test_words_are_truncated_across_sentences():
    text = "a b c d e [X_SEP] f g h i j [X_SEP] k l m n o"
    assert prepare_prediction(text, "cnndm", trunc_len=7) == "a b c d e\nf g"
    assert prepare_prediction(text, "cnndm", trunc_len=5) == "a b c d e"
    assert prepare_prediction("a b c", "xsum", trunc_len=2) == "a b"
    many = " ".join(f"w{number}" for number in range(70))
    assert len(prepare_prediction(many, "cnndm").split()) == 60
    assert len(prepare_prediction(many, "cnndm", trunc_len=0).split()) == 70


def test_references_are_divided_for_cnndm_only():
    assert prepare_reference(" a . <S_SEP> b . ", "cnndm") == "a .\nb ."
    assert prepare_reference(" a . <S_SEP> b . ", "xsum") == "a . <S_SEP> b ."


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a . [X_SEP] b .", "a .\nb ."), ("a<S_SEP>b", "a\nb"), ("<t> a . </t>  <t> b . </t>", "a .\n\nb ."),
     ("a\nb", "a\nb"), ("as  it - is [x_sep] ( here )", "as  it - is [x_sep] ( here )"), ("", "")],
)  # fmt: skip
def test_without_a_task_only_sentences_are_divided(text, expected):
    assert plain_sentences(text).replace("\n\n", "\n") == expected.replace("\n\n", "\n")


@pytest.mark.parametrize("prepare", [prepare_prediction, prepare_reference])
def test_an_unknown_task_is_a_usage_error(prepare):
    with pytest.raises(UsageError, match=r"^unknown summary task 'dm'; expected one of xsum, cnndm, gigaword$"):
        prepare("a", "dm")


@pytest.mark.parametrize("limits", [{"trunc_len": -1}, {"duplicate_rate": 1.5}, {"duplicate_rate": -0.1}])
def test_limits_out_of_range_are_a_usage_error(limits):
    with pytest.raises(UsageError, match=r"^trunc_len is -?\d+ and duplicate_rate is .*; expected trunc_len >= 0 and"):
        prepare_prediction("a", "cnndm", **limits)
