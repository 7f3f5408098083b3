"""The quickstart's data: real, labeled, equal on every machine, and no held-out text leaks into training."""

import pytest

from minilm.errors import DataError
from minilm.quickstart.text import MAX_PER_CLASS, MIN_PER_CLASS, NUM_CLASSES, installed_text, text_of_files


@pytest.fixture(scope="module")
def material():
    return installed_text()


@pytest.mark.slow
def test_every_python_has_enough_text_for_a_real_task(material):
    assert len(material.labels) == NUM_CLASSES
    assert len(material.unlabelled) > 5000
    for label in range(NUM_CLASSES):
        count = sum(row.label == label for row in (*material.train, *material.heldout))
        assert MIN_PER_CLASS <= count <= MAX_PER_CLASS


def test_held_out_paragraphs_are_in_no_other_part(material):
    heldout = {row.text for row in material.heldout}
    assert len(heldout) == len(material.heldout)
    assert not heldout & {row.text for row in material.train}
    assert not heldout & set(material.unlabelled)


def test_files_of_the_user_are_labeled_by_file(tmp_path):
    files = [tmp_path / "birds.txt", tmp_path / "trains.txt"]
    for file in files:
        lines = [f"{file.stem} number {n} is one of those that everybody in the village knows" for n in range(40)]
        file.write_text("\n".join(lines), encoding="utf-8")
    found = text_of_files(files)
    assert text_of_files(files) == found  # the same split again
    assert found.labels == ("birds.txt", "trains.txt")
    assert {found.labels[row.label].split(".")[0] == row.text.split()[0] for row in found.train} == {True}


def test_one_file_is_labeled_by_tenths(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text("\n".join(f"line {n} of the only book that this village ever had" for n in range(300)))
    assert text_of_files([file]).labels[:2] == ("part 1", "part 10")


def test_too_little_text_says_how_much_is_needed(tmp_path):
    file = tmp_path / "note.txt"
    file.write_text("only a single line of text that is long enough to count as one\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"1 paragraphs .* expected at least 2 classes of 20; provide more text"):
        text_of_files([file])
