"""The scheme of tags is found, and conversion to IOB2 changes no entity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.score.entities import Span, entity_spans
from minilm.tasks.tokens.schemes import Scheme, TagError, find_scheme, iob2_labels, require_tag, to_iob2

KINDS = ("PER", "LOC")
gaps_and_entities = st.lists(
    st.one_of(st.just(("", 1)), st.tuples(st.sampled_from(KINDS), st.integers(1, 4))), max_size=8
)


def written(parts: list[tuple[str, int]], scheme: Scheme) -> list[str]:
    """The tags of words outside and of entities, as a scheme writes them."""
    tags: list[str] = []
    before = ""
    for kind, length in parts:
        if not kind:
            tags.append("O")
        elif scheme == "IOB2":
            tags += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
        elif scheme == "IOB1":
            tags += [f"{'B' if before == kind else 'I'}-{kind}", *[f"I-{kind}"] * (length - 1)]
        else:
            tags += [f"S-{kind}"] if length == 1 else [f"B-{kind}", *[f"I-{kind}"] * (length - 2), f"E-{kind}"]
        before = kind
    return tags


@pytest.mark.slow
@given(st.lists(gaps_and_entities, min_size=1, max_size=5), st.sampled_from(("IOB1", "IOB2", "IOBES")))
def test_entities_are_the_same_in_every_scheme(sentences, scheme):
    tags = [written(parts, scheme) for parts in sentences]
    expected = [written(parts, "IOB2") for parts in sentences]
    assert to_iob2(tags, scheme) == expected
    assert to_iob2(tags, find_scheme(tags)) == expected
    for parts, own in zip(sentences, expected, strict=True):
        assert [(one.type, one.end - one.start) for one in entity_spans(own, strict=True)] == [p for p in parts if p[0]]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ([["O", "O"]], "IOB2"),
        ([["B-PER", "B-PER", "I-PER"]], "IOB2"),
        ([["O", "I-PER"]], "IOB1"),
        (
            [["B-PER"], ["I-PER", "B-PER"], ["I-LOC"]],
            "found tag 'B-PER', which begins an entity as in IOB2, and elsewhere",
        ),
        (
            [["B-PER", "I-LOC"]],
            "found tag 'B-PER', which begins an entity as in IOB2, and elsewhere 'I-LOC', which begins",
        ),
        ([["S-PER"]], "IOBES"),
        ([["B-PER", "E-PER"]], "IOBES"),
    ],
)
def test_the_scheme_is_found_or_the_contradiction(tags, scheme):
    if " " not in scheme:
        assert find_scheme(tags) == scheme
        return
    with pytest.raises(TagError, match=scheme) as caught:
        find_scheme(tags)
    assert (caught.value.sentence, caught.value.word) == (0, 0)


def test_iob1_lets_both_prefixes_begin_an_entity():
    assert to_iob2([["B-PER", "I-LOC", "I-LOC", "B-LOC"]], "IOB1") == [["B-PER", "B-LOC", "I-LOC", "B-LOC"]]


@pytest.mark.parametrize(
    ("tags", "scheme", "where", "message"),
    [
        (
            ["O", "I-PER"],
            "IOB2",
            1,
            "found tag 'I-PER' where no entity of its type precedes; in IOB2 an entity begins with",
        ),
        (["B-PER", "E-PER"], "IOB2", 1, "found tag 'E-PER', expected O, B-TYPE or I-TYPE, because task.scheme is IOB2"),
        (["S-PER"], "IOB1", 0, "because task.scheme is IOB1"),
        (["B-PER", "O"], "IOBES", 1, "found tag 'O' after 'B-PER'; in IOBES an entity is S-, or B- then I- up to E-"),
        (["O", "B-PER"], "IOBES", 1, "found the end of the sentence after 'B-PER'"),
        (["E-PER"], "IOBES", 0, "found tag 'E-PER' after the beginning"),
        (["S-PER", "I-PER"], "IOBES", 1, "found tag 'I-PER' after 'S-PER'"),
        (["B-PER", "E-LOC"], "IOBES", 1, "found tag 'E-LOC' after 'B-PER'"),
        (["B-PER", "E-PER", "E-PER"], "IOBES", 2, "found tag 'E-PER' after 'E-PER'"),
    ],
)
def test_a_tag_that_the_scheme_does_not_allow_is_named(tags, scheme, where, message):
    with pytest.raises(TagError) as caught:
        to_iob2([["O"], tags], scheme)
    assert message in str(caught.value)
    assert (caught.value.sentence, caught.value.word) == (1, where)


def test_labels_are_completed_to_iob2_and_keep_their_numbers():
    assert iob2_labels(["O", "I-PER", "B-LOC", "I-LOC"]) == ("O", "I-PER", "B-LOC", "I-LOC", "B-PER")
    assert iob2_labels(["S-PER", "B-PER", "I-PER", "E-PER"]) == ("B-PER", "I-PER", "O")
    assert entity_spans(["E-PER", "S-PER"]) == [Span(type="PER", start=0, end=1), Span(type="PER", start=1, end=2)]


@pytest.mark.parametrize(
    ("tag", "instead"),
    [
        ("U-PER", "S-PER"),
        ("L-PER", "E-PER"),
        ("W-PER", "S-PER"),
        ("M-PER", "I-PER"),
        ("PER-B", "B-PER"),
        ("PER_U", "S-PER"),
        ("B_PER", "B-PER"),
        ("U-geo-loc", "S-geo-loc"),
    ],
)
def test_a_tag_of_another_notation_is_rejected_with_how_to_write_it(tag, instead):
    with pytest.raises(
        ValueError, match=f"^found tag '{tag}', expected O, B-TYPE .*; write it as '{instead}'"
    ) as caught:
        require_tag(tag)
    changes_letter = tag[0] in "ULWM" or tag[-1] == "U"
    assert ("(L- is E-, U- is S-, M- is I-, W- is S-)" in str(caught.value)) == changes_letter


@pytest.mark.parametrize("tag", ["PER", "o", "", "-", "B-", "X-PER"])
def test_what_is_no_tag_in_any_notation_has_no_advice(tag):
    with pytest.raises(
        ValueError, match=r"expected O, B-TYPE or I-TYPE \(IOB1, IOB2\), or with IOBES also E-TYPE and S-TYPE$"
    ):
        require_tag(tag)
