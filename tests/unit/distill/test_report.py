"""The report of a distillation shows how each student learned, what it became, and from what."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from minilm.corpus.order import step_documents
from minilm.corpus.shards import Shards
from minilm.distill.run import distill
from minilm.recipe import load_recipe
from minilm.train.metrics import read_metrics

STUDENTS = [
    {"name": "a", "num_layers": 2, "hidden_size": 24, "num_heads": 6, "intermediate_size": 48},
    {"name": "b.c", "init": "layers", "teacher_layers": [3]},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A run of two students that was extended, and its page as text with one line per cell and caption."""
    pytest.importorskip("transformers", reason="distillation needs transformers: pip install 'minilm[hf]'")
    from tests.conftest import TinyDistillation

    tiny = TinyDistillation(tmp_path_factory.mktemp("report")).make()
    recipe, values = tiny.recipe(log_every=2), json.dumps(STUDENTS)
    for steps in (4, 10):
        distill(load_recipe(recipe, [f"students={values}", f"train.steps={steps}"]))
    page = (tiny.folder / "run" / "report.html").read_text()
    return tiny.folder / "run", re.sub(r"\s*<[^>]+>\s*", "\n", page.partition("</style>")[2])


def row_of(page: str, *cells: str) -> bool:
    return re.search(r"\n\s*".join(map(re.escape, cells)), re.sub(r"\n+", "\n", page)) is not None


@pytest.mark.slow
def test_there_is_a_curve_for_each_student_and_relation(finished):
    _, page = finished
    if "No curves" in page:
        pytest.skip("curves need minilm[plot]")
    for title in ("Loss of each relation, logarithmic", "Gradient norm", "Learning rate", "Tokens per second"):
        assert title in page
    for student in ("a", "b.c"):
        assert all(f"{student}.{part}-{part}\n" in page for part in ("query", "key", "value"))


def test_agreement_is_shown_by_head_and_in_the_table(finished):
    """A heat map for each student and pair with a row per evaluation, also without matplotlib."""
    out, page = finished
    last = read_metrics(out)[-1]
    for student in ("a", "b.c"):
        for part in ("query", "key", "value"):
            assert f"{student}.{part}-{part}: share of tokens with the strongest relation that the teacher has" in page
        assert f"\n{last[f'{student}.agreement']:.1%}\n" in page
    heads = [key for key in last if key.startswith("a.key-key.head") and key.endswith(".agreement")]
    assert heads == [f"a.key-key.head{head}.agreement" for head in range(1, 13)]


def test_the_first_note_is_about_the_reference_curve(finished):
    notes = finished[1].partition("\nNotes\n")[2].split()
    assert " ".join(notes).startswith("No reference curve is stored for a recipe of the name")


def test_students_are_beside_their_teacher(finished):
    _, page = finished
    assert row_of(page, "teacher", "3", "48", "6", "96", "64", "67,296")
    assert row_of(page, "a", "2", "24", "6", "48", "64", "14,376")
    assert row_of(page, "b.c", "1", "48", "6", "96", "64", "29,376")
    assert "Student b.c starts as layer 3 of the teacher." in page


def test_tokens_are_those_of_the_documents_that_were_read_across_the_extension(finished):
    out, page = finished
    lengths = Shards.open(out / "corpus" / "shards").lengths
    read = [step_documents(num_documents=180, batch_size=8, seed=42, step=step) for step in range(10)]
    tokens = int(sum(lengths[documents].sum() for documents in read))
    assert sum(row["tokens"] for row in read_metrics(out)) == tokens
    assert row_of(page, "tokens", f"{tokens:,}")
    assert row_of(page, "documents", "80")


def test_the_learning_rate_is_that_of_the_step(finished):
    rates = {row["step"]: row["learning_rate"] for row in read_metrics(finished[0])}
    assert rates[4] == pytest.approx(0.002 * 1 / 1)  # step 4 of 4, after a warmup of 3
    assert rates[6] == pytest.approx(0.002 * 5 / 7)  # step 6 of 10
    assert "This run was extended at step 4: " in finished[1]


def test_hyperparameters_corpus_and_machine_are_listed(finished):
    _, page = finished
    assert row_of(page, "train.learning_rate", "0.002")
    assert row_of(page, "loss.relation_heads", "12")
    assert row_of(page, "of these held out", "20")
    assert all(f"\n{name}\n" in page for name in ("processor", "memory", "time in steps", "versions"))
    assert re.search(r"\ntime in steps\s+[\d.]+ s\n", page)
    assert row_of(page, "loss.version", "v2")
    assert "–" not in page.partition("\nHyperparameters\n")[2]
