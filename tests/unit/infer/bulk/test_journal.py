"""Rows kept beside an output: found again, truncated where a kill tore them, rejected if they are another job's."""

from __future__ import annotations

import json

import pytest

from minilm.errors import DataError, SystemProblem, UsageError
from minilm.infer.bulk.journal import Unfinished

JOB = {"model": {"weights": "ab"}, "settings": {"beam_size": 5, "length_penalty": 0.9}}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


def test_rows_are_found_again(output):
    with Unfinished(output, JOB) as rows:
        assert len(rows) == 0
        rows.add([(7, {"text": "ä\u2028"}), (2, {"score": -1.25})])
        assert (7 in rows, 3 in rows, rows[7]) == (True, False, {"text": "ä\u2028"})
    with Unfinished(output, JOB) as rows:
        assert len(rows) == 2
        rows.add([(3, {"text": "\ud800"})])
        assert [rows[number] for number in (2, 3, 7)] == [{"score": -1.25}, {"text": "\ud800"}, {"text": "ä\u2028"}]
        rows.remove()
    assert not list(output.parent.iterdir())


def test_a_torn_file_loses_only_what_was_not_finished(output):
    """Truncated at every byte: whole lines stay, and the job resumes after them."""
    with Unfinished(output, JOB) as rows:
        path = rows.path
        rows.add([(0, {"text": "a"}), (1, {"text": "b"})])
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with Unfinished(output, JOB) as rows:
            assert len(rows) == max(0, sum(end <= length for end in ends) - 1)
            rows.add([(5, {"text": "c"})])
            assert rows[5] == {"text": "c"}
        with Unfinished(output, JOB) as rows:
            assert rows[5] == {"text": "c"}


def test_another_jobs_rows_are_rejected_and_kept(output):
    with Unfinished(output, JOB) as rows:
        path = rows.path
        rows.add([(0, {"text": "a"})])
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"holds finished rows of another job \(different: settings\); repeat that"):
        Unfinished(output, JOB | {"settings": {"beam_size": 4}})
    assert path.read_bytes() == before


def test_a_job_that_finished_nothing_blocks_no_other(output):
    with Unfinished(output, JOB):
        pass
    assert not list(output.parent.iterdir())
    other = JOB | {"settings": {"beam_size": 4}}
    with Unfinished(output, other) as rows:
        rows.add([(0, {"text": "a"})])
    with Unfinished(output, other) as rows:
        assert rows[0] == {"text": "a"}


def test_a_damaged_line_is_named(output):
    with Unfinished(output, JOB) as rows:
        path = rows.path
        rows.add([(0, {}), (1, {})])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + "{broken\n" + lines[2])
    with pytest.raises(DataError, match=r"\.out\.jsonl\.unfinished:2: broken JSON.*; remove the file to"):
        Unfinished(output, JOB)


def test_only_one_process_writes_at_a_time(output):
    with Unfinished(output, JOB), pytest.raises(UsageError, match=r"another process is writing .*/out.jsonl; wait"):
        Unfinished(output, JOB)


def test_a_missing_folder_is_a_clear_error(tmp_path):
    with pytest.raises(SystemProblem, match=r"cannot write .*: the folder does not exist: create it first"):
        Unfinished(tmp_path / "absent" / "out.jsonl", JOB)


def test_the_first_line_is_the_job(output):
    with Unfinished(output, JOB) as rows:
        assert json.loads(rows.path.read_text()) == JOB
