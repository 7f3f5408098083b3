"""Which columns of a file are read as texts."""

from __future__ import annotations

import pytest

from minilm.files.rows import Row
from minilm.infer.bulk.predict import InputColumns
from minilm.tasks.text.rows import OfficialLayout, TextColumns

PUBLISHED = OfficialLayout(
    columns=(
        TextColumns(text="question", text_pair="sentence", label="label"),
        TextColumns(text="review", label="label"),
    )
)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (["text", "id"], ("text", None)),
        (["question", "sentence"], ("question", "sentence")),
        (["sentence", "review"], ("review", None)),  # half a pair is not a match
        (["other"], ("text", None)),  # nothing fits: the message names what was asked for
    ],
)
def test_the_names_of_published_files_are_tried_when_the_task_s_own_are_absent(header, expected):
    columns = InputColumns(text="text", id="id", official=PUBLISHED)
    found = columns.of(Row(line=1, values=dict.fromkeys(header, "x")))
    assert (found.text, found.text_pair) == expected
    assert found.id == "id"
