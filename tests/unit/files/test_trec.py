"""Runs and judgments: every format gives the same scores and grades, and every mistake is one error with its line."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from minilm.errors import DataError, UsageError
from minilm.files.source import StandardInput
from minilm.files.trec import judgments_file, read_judgments, read_run

RUN = {"1": {"d1": 0.5, "d 2": -1.0}, "2": {"d1": 3.0}}
GRADES = {"1": {"d1": 2, "d 2": -1}, "2": {"d1": 0}}


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    """Files are named without their folder, so that whole errors can be compared."""
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    data = text.encode()
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return Path(name)


def rows_of(values: dict[str, dict[str, float]], column: str) -> list[dict[str, object]]:
    return [
        {"query": int(query), "document": document, column: value}
        for query, documents in values.items()
        for document, value in documents.items()
    ]


def in_format(name: str, rows: list[dict[str, object]]) -> Path:
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), name)
        return Path(name)
    sign = {"csv": ",", "tsv": "\t"}.get(name.removesuffix(".gz")[-3:])
    if sign is None:
        return write(name, "".join(json.dumps(row) + "\n" for row in rows))
    return write(
        name, "".join(sign.join(map(str, cells)) + "\n" for cells in [list(rows[0]), *(r.values() for r in rows)])
    )


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "tsv", "tsv.gz", "parquet"])
def test_rows_of_every_format(suffix):
    assert read_run(in_format(f"r.{suffix}", rows_of(RUN, "score"))) == RUN
    assert read_judgments(in_format(f"j.{suffix}", rows_of(GRADES, "grade"))) == GRADES


@pytest.mark.parametrize("name", ["a.trec", "a.txt", "a.tsv", "a", "a.qrels.gz"])
def test_columns_of_trec(name):
    """Columns are separated by spaces or tabs; the rank is not used; blank lines are skipped."""
    assert read_run(write(name, "1 Q0 d1 7 5e-1 tag\n\n1\tQ0\td2\t9 -1 tag\r\n2 Q0 d1 1 +3 tag")) == {
        "1": {"d1": 0.5, "d2": -1.0},
        "2": {"d1": 3.0},
    }
    assert read_judgments(write(name, "1 0 d1 2\n1\t0\td2\t-1\n2 0 d1 0.0\n")) == {
        "1": {"d1": 2, "d2": -1},
        "2": {"d1": 0},
    }


@pytest.mark.parametrize("name", ["beir/qrels/test.tsv", "beir/qrels/test.tsv.gz"])
def test_a_folder_of_beir(name):
    write("beir/qrels/dev.tsv", "not read")
    write(name, "query-id\tcorpus-id\tscore\n1\td1\t2\n1\td 2\t-1\n2\td1\t0\n")
    assert read_judgments(Path("beir")) == read_judgments(Path("beir/qrels")) == GRADES
    assert judgments_file(Path("beir")) == Path(name)


@pytest.mark.parametrize(
    ("files", "fix"),
    [([], "name the file with the judgments"), (["dev", "train"], "name one of dev.tsv, train.tsv in beir/qrels")],
)
def test_a_folder_without_the_test_split(files, fix):
    Path("beir/qrels").mkdir(parents=True)
    for name in files:
        write(f"beir/qrels/{name}.tsv", "x")
    with pytest.raises(UsageError) as caught:
        read_judgments(Path("beir"))
    assert str(caught.value) == f"beir: a folder without qrels/test.tsv; {fix}"


def test_standard_input(monkeypatch):
    for format_, text in (
        ("jsonl", '{"query-id": 1, "corpus-id": "d1", "score": "0.5"}\n'),
        ("text", "1 Q0 d1 1 .5 t\n"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text.encode()))))
        assert read_run(StandardInput(format_)) == {"1": {"d1": 0.5}}


EXPECTED_RUN = "expected 6 (query Q0 document rank score tag), or a header that names query, document and score"
EXPECTED_GRADE = "expected a whole number of at most nine digits as the grade"


@pytest.mark.parametrize(
    ("read", "name", "text", "message"),
    [
        (read_run, "a.trec", "", "a.trec: the file is empty; expected at least one query with a document"),
        (read_run, "a.trec", " \n\n", "a.trec: the file is empty; expected at least one query with a document"),
        (read_judgments, "a.jsonl", "", "a.jsonl: the file is empty; expected at least one query with a document"),
        (read_judgments, "a.tsv", "query\tdocument\tgrade\n", "a.tsv: the file is empty; expected at least one "),
        (
            read_run,
            "a.trec",
            "1 Q0 d1 1 1 t\n1 Q0 d2 2 1\n",
            f"a.trec:2: found 5 columns, {EXPECTED_RUN}; correct the row",
        ),
        (read_run, "a.trec", "1 0 d1 1\n", f"a.trec:1: found 4 columns, {EXPECTED_RUN}; correct the row"),
        (
            read_judgments,
            "a.tsv",
            "1\td1\t1\n",
            "a.tsv:1: found 3 columns, expected 4 (query iteration document grade), or a header that names query, "
            "document and grade; correct the row",
        ),
        (
            read_judgments,
            "a.tsv",
            "query-id\tcorpus-id\tscore\n1\td1\t1\n1\td2\n",
            "a.tsv:3: found 2 columns, expected 3 as in the header",
        ),
        (
            read_run,
            "a.trec",
            "1 Q0 d1 1 1 t\n2 Q0 d1 1 1 t\n1 Q0 d2 1 nan t\n",
            "a.trec:3: query '1', document 'd2': found nan, expected a finite number",
        ),
        (
            read_run,
            "a.trec",
            "1 Q0 d1 1 inf t\n",
            "a.trec:1: query '1', document 'd1': found inf, expected a finite number",
        ),
        (read_run, "a.trec", "1 Q0 d1 1 1_0 t\n", "a.trec:1: query '1', document 'd1': found '1_0', expected a number"),
        (
            read_run,
            "a.jsonl",
            '{"query": "1", "document": "d1", "score": null}\n',
            "a.jsonl:1: query '1', document 'd1': found null, expected a number",
        ),
        (
            read_run,
            "a.jsonl",
            '{"query": "1", "document": "d1", "rank": 1}\n',
            "a.jsonl:1: no field 'score', found 'query', 'document', 'rank'; add the field or correct its name",
        ),
        (read_judgments, "a.txt", "1 0 d1 0.5\n", f"a.txt:1: query '1', document 'd1': found 0.5, {EXPECTED_GRADE}"),
        (read_judgments, "a.txt", "1 0 d1 yes\n", f"a.txt:1: query '1', document 'd1': found yes, {EXPECTED_GRADE}"),
        (
            read_judgments,
            "a.jsonl",
            '{"query": 1, "document": 2, "grade": 1e300}\n',
            f"a.jsonl:1: query '1', document '2': found 1e+300, {EXPECTED_GRADE}",
        ),
        (
            read_judgments,
            "a.jsonl",
            '{"query": 1, "document": 2, "grade": true}\n',
            "a.jsonl:1: query '1', document '2': found true or false, expected a whole number as the grade",
        ),
        (
            read_judgments,
            "a.jsonl",
            '{"query": 1.5, "document": 2, "grade": 1}\n',
            "a.jsonl:1: the id is a number, expected a string or a whole number",
        ),
        (
            read_judgments,
            "a.csv",
            "query,document,grade\n1,,1\n",
            "a.csv:2: the id of the document is empty; correct the row",
        ),
        (read_run, "a.csv", "query,document,score\n,d1,1\n", "a.csv:2: the id of the query is empty; correct the row"),
        (
            read_run,
            "a.trec",
            "1 Q0 d1 1 3 t\n2 Q0 d1 1 1 t\n1 Q0 d2 2 2 t\n1 Q0 d2 3 1 t\n1 Q0 d1 3 1 t\n",
            "a.trec:4: document 'd2' of query '1' is already in a.trec:3 (2 repeated in all); keep one of each",
        ),
        (
            read_judgments,
            "a.txt",
            "1 0 d1 1\n1 0 d1 1\n",
            "a.txt:2: document 'd1' of query '1' is already in a.txt:1 (1 repeated in all); keep one of each",
        ),
    ],
)
def test_mistakes(read, name, text, message):
    with pytest.raises(DataError) as caught:
        read(write(name, text))
    assert str(caught.value).startswith(message)


def test_a_missing_file_is_a_wrong_argument():
    for read in (read_run, read_judgments):
        with pytest.raises(UsageError, match=r"^nowhere: no such file; check the input path$"):
            read(Path("nowhere"))
