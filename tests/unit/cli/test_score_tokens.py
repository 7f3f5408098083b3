"""`minilm score tokens`: seqeval's numbers from predictions and references in every format, or one clear error."""

from __future__ import annotations

import csv
import io
import json
import random
import warnings
from functools import partial
from pathlib import Path

import pytest

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture
def score(score):
    """`score(predictions, references, *options)` for this kind."""
    return partial(score, "tokens")


def drawn(seed: int) -> list[list[str]]:
    """Tags of 40 sentences; some I- continue nothing."""
    draw = random.Random(seed)
    return [draw.choices(TAGS, k=1 + n % 7) for n in range(40)]


def well_formed(sentences: list[list[str]]) -> list[list[str]]:
    """The same in IOB2."""
    return [
        [
            f"B-{tag[2:]}" if tag[0] == "I" and before[2:] != tag[2:] else tag
            for before, tag in zip(["O", *tags], tags, strict=False)
        ]
        for tags in sentences
    ]


def write(name: str, sentences: list[list[str]], *, field: str = "ner_tags") -> str:
    """Write tagged words in the format of the name; rows are in another order, with ids."""
    words = [[f"w{n}" for n in range(len(tags))] for tags in sentences]
    if name.endswith(".conll"):
        pairs = (zip(one, tags, strict=True) for one, tags in zip(words, sentences, strict=True))
        Path(name).write_text("\n".join("".join(f"{word} {tag}\n" for word, tag in those) for those in pairs))
        return name
    both = enumerate(zip(words, sentences, strict=True))
    rows = [{"id": str(n), "tokens": one, field: tags} for n, (one, tags) in both][::-1]
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), name)
    elif name.endswith(".csv"):
        with Path(name).open("w", newline="") as file:
            csv.writer(file).writerows([["id", field], *([row["id"], json.dumps(row[field])] for row in rows)])
    else:
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


@pytest.mark.parametrize("references", ["r.conll", "r.jsonl", "r.parquet"])
@pytest.mark.parametrize("predictions", ["p.jsonl", "p.conll", "p.csv", "p.parquet"])
def test_numbers_are_those_of_seqeval_from_every_format(score, predictions, references):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = pytest.importorskip("seqeval.metrics", reason="needs seqeval: pip install 'minilm[dev]'")
        from seqeval.scheme import IOB2
    gold, found = well_formed(drawn(1)), drawn(2)
    files = write(predictions, found, field="tags"), write(references, gold)
    code, out, said = score(*files, "--json")
    assert (code, said) == (0, [])
    numbers = json.loads(out)
    for prefix, options in (("", {}), ("strict_", {"mode": "strict", "scheme": IOB2})):
        report = metrics.classification_report(gold, found, output_dict=True, zero_division=0, **options)
        for rate, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert numbers[prefix + rate] == pytest.approx(100 * report["micro avg"][theirs])
            for average in ("macro", "weighted"):
                assert numbers[f"{prefix}{average}_{rate}"] == pytest.approx(100 * report[f"{average} avg"][theirs])
            for kind in ("PER", "LOC"):
                ours = numbers["types"][kind][f"{prefix.replace('_', ' ')}{rate}"]
                assert ours == pytest.approx(100 * report[kind][theirs])
    assert numbers["f1"] != numbers["strict_f1"]
    assert numbers["types"]["PER"]["references"] == report["PER"]["support"]
    assert numbers["accuracy"] == pytest.approx(100 * metrics.accuracy_score(gold, found))
    assert (numbers["sentences"], numbers["words"]) == (40, sum(map(len, gold)))
    assert set(numbers["signature"]) == {"default", "strict"}


def test_the_table_names_both_kinds_of_numbers(score):
    gold, found = [["B-PER", "I-PER", "O"], ["B-LOC"]], [["I-PER", "I-PER", "O"], ["B-LOC"]]
    code, out, said = score(write("p.jsonl", found, field="tags"), write("r.conll", gold))
    assert (code, said) == (0, [])
    lines = [line.split() for line in out.splitlines()]
    assert lines[:10] == [
        ["f1", "100.0000"],
        ["precision", "100.0000"],
        ["recall", "100.0000"],
        ["strict_f1", "66.6667"],
        ["strict_precision", "100.0000"],
        ["strict_recall", "50.0000"],
        ["accuracy", "75.0000"],
        ["sentences", "2"],
        ["words", "4"],
        [],
    ]
    assert out.splitlines()[10].split("  ")[0] == "type"
    whole, nothing = ["100.0000"] * 3, ["0.0000"] * 3
    assert lines[11:17] == [
        ["LOC", *whole, *whole, "1", "1"],
        ["PER", *whole, *nothing, "1", "1"],
        ["micro", "average", *whole, "100.0000", "50.0000", "66.6667", "2", "2"],
        ["macro", "average", *whole, "50.0000", "50.0000", "50.0000", "2", "2"],
        ["weighted", "average", *whole, "50.0000", "50.0000", "50.0000", "2", "2"],
        [],
    ]
    assert out.splitlines()[17:] == [
        "default: as seqeval and conlleval; an I- tag that continues nothing begins an entity",
        "strict: as seqeval with mode='strict', scheme=IOB2; only a B- tag begins an entity",
    ]


def test_a_missing_prediction_counts_as_o(score):
    gold = [["B-PER", "O"], ["B-LOC", "O"]]
    code, out, said = score(write("p.jsonl", gold[:1], field="tags"), write("r.conll", gold), "--json")
    assert said == ["p.jsonl: 1 of 2 references have no prediction and their words count as O (first: '1')"]
    numbers = json.loads(out)
    assert (code, numbers["precision"], numbers["recall"], numbers["accuracy"]) == (0, 100, 50, 75)


@pytest.mark.parametrize("side", ["predictions", "references"])
@pytest.mark.parametrize("kind", ["jsonl", "text"])
def test_one_side_may_be_standard_input(score, monkeypatch, side, kind):
    gold = [["B-PER", "O"], ["B-LOC", "O"]]
    files = {"predictions": write("p.jsonl", gold, field="tags"), "references": write("r.conll", gold)}
    given = Path(write("s.jsonl" if kind == "jsonl" else "s.conll", gold)).read_bytes()
    files[side] = "-"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(given))))
    code, out, said = score(*files.values(), "--json", "--input-format", kind)
    assert (code, said, json.loads(out)["strict_f1"]) == (0, [], 100)


def test_other_schemes_are_scored_as_the_same_entities(score):
    gold = [["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]]
    iob1, iobes = [["I-PER", "I-PER", "O", "I-LOC", "B-LOC"]], [["B-PER", "E-PER", "O", "S-LOC", "S-LOC"]]
    for references in (iob1, iobes):
        for predictions in (gold, iobes):
            out = score(write("p.jsonl", predictions, field="tags"), write("r.conll", references), "--json")[1]
            assert json.loads(out)["strict_f1"] == 100
    files = write("p.jsonl", iob1, field="tags"), write("r.conll", iob1)
    assert json.loads(score(*files, "--json")[1])["strict_f1"] < 100  # predictions are IOB2 unless a scheme is given
    assert json.loads(score(*files, "--json", "--scheme", "IOB1")[1])["strict_f1"] == 100


def test_columns_labels_and_ids_are_those_of_a_recipe_or_of_flags(score):
    rows = [{"n": "a", "w": ["x", "y"], "t": [1, 0]}, {"n": "b", "w": ["z"], "t": [2]}]
    Path("r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("p.jsonl").write_text('{"id": "b", "tags": ["B-LOC"]}\n{"id": "a", "tags": ["B-PER", "O"]}\n')
    task = {"kind": "tokens", "name": "own", "train": ["x.jsonl"], "words": "w", "tags": "t", "id": "n"}
    task["labels"] = ["O", "B-PER", "B-LOC"]
    whole = {"kind": "finetune", "name": "own", "out": "run", "model": "teacher", "task": task, "train": {}}
    Path("own.yaml").write_text(json.dumps(whole))
    code, out, said = score("p.jsonl", "r.jsonl", "--task", "own.yaml", "--json")
    assert (code, said, json.loads(out)["strict_f1"]) == (0, [], 100)
    message = "--labels is part of the task in own.yaml: remove the flag, or --task"
    assert score("p.jsonl", "r.jsonl", "--task", "own.yaml", "--labels", "O") == (2, "", [message])
    usual = [{"id": row["n"], "tokens": row["w"], "tags": row["t"]} for row in rows]
    Path("r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in usual))
    assert json.loads(score("p.jsonl", "r.jsonl", "--labels", "O,B-PER,B-LOC", "--json")[1])["f1"] == 100
    code, _, [said] = score("p.jsonl", "r.jsonl")
    assert code == 2
    assert "found tag 1, a number without a name" in said
    assert "(score tokens: --labels)" in said


GOLD = [["B-PER", "O"], ["B-LOC"]]


@pytest.mark.parametrize(
    ("predictions", "options", "code", "message"),
    [
        ('{"id": "0", "tags": ["O"]}', (), 3, "p.jsonl: id '0': found 1 tags, expected 2, one for each word of r.c"),
        ('{"id": "0", "tags": ["O", "PER"]}', (), 3, "p.jsonl:1: id '0': found tag 'PER', expected O, B-TYPE or I-T"),
        ('{"id": "0", "tags": ["O", 3]}', (), 3, "p.jsonl:1: id '0': a tag is a whole number, expected its name"),
        ('{"id": "0", "tags": "O O"}', (), 3, "p.jsonl:1: id '0': found a string, expected a list of tags"),
        ('{"id": "0", "prediction": [{"label": "PER"}]}', (), 3, "predict on the words of the references: a column f"),
        ('{"id": "9", "tags": ["O"]}', (), 3, "p.jsonl: no prediction id matches a reference id"),
        ('{"id": "0", "tags": ["S-PER", "O"]}', ("--scheme", "IOB1"), 3, "p.jsonl: id '0': found tag 'S-PER', expec"),
        ("", (), 3, "p.jsonl: the file is empty"),
        ("", ("--labels", "O,O"), 2, "--labels O,O: expected different names, separated by commas"),
        ("", ("--labels", "O,PER"), 2, "--labels O,PER: labels: found tag 'PER', expected O"),
    ],
)
def test_mistakes_are_one_line(score, predictions, options, code, message):
    write("r.conll", GOLD)
    Path("p.jsonl").write_text(f"{predictions}\n")
    found, out, said = score("p.jsonl", "r.conll", *options)
    assert (found, out) == (code, "")
    assert message in said[-1]


def test_other_words_are_rejected_and_other_formats_too(score):
    write("r.conll", GOLD)
    Path("p.conll").write_text("w0 B-PER\nother O\n\nw0 B-LOC\n")
    code, _, [said] = score("p.conll", "r.conll")
    assert (code, said) == (
        3,
        "p.conll: id '0': found the word 'other', expected 'w1' as in r.conll:2; check that the files belong together",
    )
    Path("empty.conll").write_text("\n")
    assert score("empty.conll", "r.conll")[2] == ["empty.conll: found no sentence with a word, expected at least one"]
    Path("r.csv").write_text("a,b\n1,2\n")
    assert "a cell of a .csv or .tsv file cannot hold a list of words" in score("p.conll", "r.csv")[2][0]
