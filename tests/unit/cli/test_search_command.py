"""`minilm index` and `minilm search` as users type them: every kind of input, precisions, judged queries, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.rankers import write_ranker

import minilm
from minilm.cli.app import main
from minilm.files.regular import sha256_file
from minilm.infer import predictions
from minilm.infer.similarity import similarities
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.vector_modules import Normalize
from minilm.model.vector_ranges import VECTOR_RANGES, write_symmetric_range
from minilm.retrieval.index import Index, remove_index

WIDTH = 16
DOCUMENTS = {f"d{number}": f"w{number} w{number + 1} w{2 * number}" for number in range(12)}
QUERIES = {"q1": "w3 w4 w6", "q2": "w7 w8"}
QRELS = "q1 0 d3 2\nq1 0 d5 1\nq2 0 d7 1\n"


def write_rows(path, rows, id_name="id"):
    path.write_text("".join(f"{json.dumps({id_name: name, 'text': text})}\n" for name, text in rows.items()))


@pytest.fixture
def folder(generator_dir):
    settings = EmbeddingSettings(modules=(Normalize(),), max_tokens=8, prompts={"query": "w50 ", "document": "w51 "})
    write_embedding(generator_dir, settings, hidden_size=WIDTH)
    return generator_dir


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys, caplog):
    """`run("--flag", ...)` in a folder with docs.jsonl, queries.jsonl and qrels: exit code, output and warnings."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "docs.jsonl", DOCUMENTS)
    write_rows(tmp_path / "queries.jsonl", QUERIES)
    (tmp_path / "qrels").write_text(QRELS)

    def run(*words):
        caplog.clear()
        with pytest.raises(SystemExit) as done:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return done.value.code, "\n".join([captured.out + captured.err, *caplog.messages])

    return run


@pytest.fixture
def index(run, folder):
    assert run("index", folder, "--input", "docs.jsonl", "--output", "idx")[0] == 0
    return "idx"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_a_run_has_the_order_and_the_scores_of_the_similarity(run, index, folder, tmp_path):
    """Queries and documents have the prompts of their roles."""
    code, said = run("search", index, "--input", "queries.jsonl", "--output", "run.jsonl", "--top-k", "5")
    assert (code, "10 results are in run.jsonl" in said) == (0, True)
    model = minilm.load(folder)
    scores = similarities(
        model.encode(list(QUERIES.values()), role="query"), model.encode(DOCUMENTS.values(), role="document"), None
    )
    expected = [
        {"query": name, "document": list(DOCUMENTS)[row], "score": pytest.approx(float(own[row]), abs=1e-6)}
        for name, own in zip(QUERIES, scores, strict=True)
        for row in np.argsort(-own, kind="stable")[:5]
    ]
    assert rows_of(tmp_path / "run.jsonl") == expected
    code, said = run("score", "retrieval", "--predictions", "run.jsonl", "--references", "qrels")
    assert code == 0


def test_one_query_is_answered_in_lines(run, index):
    code, said = run("search", index, "w3 w4 w6", "--top-k", "2")
    lines = said.strip().split("\n")
    assert (code, lines[0], len(lines)) == (0, "w3 w4 w6", 3)
    score, name, text = lines[1].split(maxsplit=2)
    assert text == DOCUMENTS[name]
    assert -1 <= float(score) <= 1


@pytest.mark.parametrize("vectors", ["fp32", "fp16", "int8", "binary"])
def test_an_evaluation_of_an_index_is_that_of_one_with_such_vectors(run, index, folder, vectors):
    """What `--vectors` computes from fp32 is what a folder with these vectors holds, whatever ranges a model states."""
    write_symmetric_range(folder / VECTOR_RANGES, 0.01)
    flags = ["--input", "docs.jsonl", "--output", vectors, "--vectors", vectors, "--dimensions", "12"]
    assert run("index", folder, *flags)[0] == 0
    asked = ["--input", "queries.jsonl", "--evaluate", "qrels", "--json", "--metric", "ndcg@3"]
    whole = json.loads(run("search", index, *asked, "--dimensions", "12", "--vectors", vectors)[1].split("\n")[0])
    own = json.loads(run("search", vectors, *asked)[1].split("\n")[0])
    assert own == whole
    assert own["rows"][0]["bytes"] == {"fp32": 48, "fp16": 24, "int8": 12, "binary": 2}[vectors]


def test_the_scores_of_the_table_are_those_of_score_retrieval(run, index, tmp_path):
    code, said = run("search", index, "--input", "queries.jsonl", "--evaluate", "qrels", "--dimensions", "16,4")
    assert code == 0
    assert "2 queries; differences to the first line" in said
    rows = [line.split() for line in said.split("\n")[1:3]]
    assert [row[:2] for row in rows] == [["16", "fp32"], ["4", "fp32"]]
    run("search", index, "--input", "queries.jsonl", "--output", "run.jsonl", "--top-k", "100")
    _, scored = run("score", "retrieval", "--predictions", "run.jsonl", "--references", "qrels", "--json")
    assert float(rows[0][3]) == pytest.approx(json.loads(scored.split("\n")[0])["ndcg@10"], abs=1e-4)


def test_a_folder_of_beir(run, folder, tmp_path):
    """Title and text are joined by a space; a document with the id of the query is left out."""
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    rows = [{"_id": name, "title": "w9", "text": text} for name, text in DOCUMENTS.items()]
    (beir / "corpus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    write_rows(beir / "queries.jsonl", {"d1": "w1 w2", "q2": "w5", "q3": "w6"}, "_id")
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nd1\td2\t1\nq2\td5\t1\n")
    assert run("index", folder, "--input", beir, "--output", "idx")[0] == 0
    assert Index(tmp_path / "idx").texts.text(3) == "w9 w3 w4 w6"
    code, said = run("search", "idx", "--evaluate", beir)
    assert code == 0
    assert "1 queries have the id of a document, which is left out of their results, as BEIR does (first: 'd1')" in said
    assert "1 of 3 queries have no judgments and do not count" in said


def test_a_judged_query_without_a_relevant_document_is_named_with_its_line(run, index, tmp_path):
    (tmp_path / "qrels").write_text("q1 0 d3 2\nq2 0 d7 0\n")
    code, said = run("search", index, "--input", "queries.jsonl", "--evaluate", "qrels")
    assert (code, "qrels:2: 1 of 2 queries have no relevant document and count as 0 (first: 'q2')" in said) == (0, True)


def test_a_reranker_sorts_the_candidates(tiny_task, run, tmp_path):
    model = tiny_task.write_classifier("reranker", seed=3, num_labels=1)
    texts = {f"d{n}": " ".join(f"word{(n * k) % 9}" for k in range(1, 5)) for n in range(1, 9)}
    write_rows(tmp_path / "docs.jsonl", texts)
    assert run("index", model, "--input", "docs.jsonl", "--output", "idx")[0] == 0
    flags = ["word1 word2", "--output", "-", "--top-k", "3"]
    found = [json.loads(line) for line in run("search", "idx", *flags)[1].split("\n") if line.startswith("{")]
    code, said = run("search", "idx", *flags, "--rerank", model, "--candidates", "5")
    again = [json.loads(line) for line in said.split("\n") if line.startswith("{")]
    wide = run("search", "idx", "word1 word2", "--output", "-", "--top-k", "5")[1].split("\n")
    names = [json.loads(line)["document"] for line in wide if line.startswith("{")]
    scores = minilm.load(model).score_pairs([("word1 word2", texts[name]) for name in names])
    expected = [
        (names[at], pytest.approx(float(scores[at]), abs=1e-6)) for at in np.argsort(-scores, kind="stable")[:3]
    ]
    assert code == 0
    assert [(row["document"], row["score"]) for row in again] == expected
    assert found != again
    write_rows(tmp_path / "queries.jsonl", {"q1": "word1 word2"})
    (tmp_path / "qrels").write_text("q1 0 d3 1\n")
    code, said = run("search", "idx", "--input", "queries.jsonl", "--evaluate", "qrels", "--rerank", model, "--json")
    rows = json.loads(said.split("\n")[0])["rows"]
    assert (code, [bool(row["reranker"]) for row in rows]) == (0, [False, True])
    flags = ["--rerank", model, "--candidates", "3"]
    code, said = run("search", "idx", "word1", *flags)
    assert (code, "--candidates 3 is less than the 10 documents of each query" in said) == (2, True)
    code, said = run("search", "idx", "--input", "queries.jsonl", "--evaluate", "qrels", "--metric", "map", *flags)
    assert (code, "map looks at all documents of each query, but --rerank sorts 3 of them" in said) == (2, True)


def test_as_many_candidates_are_sorted_as_asked_for(tiny_task, run, tmp_path, monkeypatch):
    """Also more than an evaluation looks at by itself."""
    model = tiny_task.write_classifier("reranker", seed=3, num_labels=1)
    write_rows(tmp_path / "docs.jsonl", {f"d{n}": f"word{n % 9} word{n % 7}" for n in range(130)})
    write_rows(tmp_path / "queries.jsonl", {"q1": "word1 word2"})
    (tmp_path / "qrels").write_text("q1 0 d3 1\n")
    assert run("index", model, "--input", "docs.jsonl", "--output", "idx")[0] == 0
    seen = []
    real = predictions.score_part
    monkeypatch.setattr(
        predictions, "score_part", lambda *args, **rest: seen.append(len(args[1])) or real(*args, **rest)
    )
    flags = ["--input", "queries.jsonl", "--evaluate", "qrels", "--rerank", model, "--candidates", "120"]
    assert run("search", "idx", *flags)[0] == 0
    assert seen == [120]


def test_scores_that_a_sigmoid_makes_equal_sort_all_the_same(tiny_task, run, tmp_path):
    """Runs and evaluations have the scores before it, lines to read those after it."""
    model = write_ranker(tiny_task, bias=60.0, activation="Sigmoid")
    texts = {f"d{n}": " ".join(f"word{(n * k) % 9}" for k in range(1, 5)) for n in range(1, 9)}
    write_rows(tmp_path / "docs.jsonl", texts)
    write_rows(tmp_path / "queries.jsonl", {"q1": "word1 word2"})
    assert run("index", model, "--input", "docs.jsonl", "--output", "idx")[0] == 0
    scores = minilm.load(model).score_pairs([("word1 word2", text) for text in texts.values()], raw_scores=True)
    expected = [f"d{at + 1}" for at in np.argsort(-scores, kind="stable")]
    flags = ["--rerank", model, "--top-k", "8"]
    assert run("search", "idx", "--input", "queries.jsonl", "--output", "run.jsonl", *flags)[0] == 0
    found = rows_of(tmp_path / "run.jsonl")
    assert [row["document"] for row in found] == expected
    assert [row["score"] for row in found] == pytest.approx(np.sort(scores)[::-1].tolist(), rel=1e-6)
    lines = run("search", "idx", "word1 word2", *flags)[1].strip().split("\n")[1:9]
    assert [line.split()[:2] for line in lines] == [["1.0000", name] for name in expected]
    for name in expected[:3]:
        (tmp_path / "qrels").write_text(f"q1 0 {name} 1\n")
        asked = ["--input", "queries.jsonl", "--evaluate", "qrels", "--metric", "mrr", "--rerank", model, "--json"]
        said = run("search", "idx", *asked)[1]
        assert json.loads(said.split("\n")[0])["rows"][1]["score"] == pytest.approx(1 / (expected.index(name) + 1))


# --- errors --------------------------------------------------------------------------------------


def test_another_model_is_refused(run, index, folder, tmp_path):
    """Also the same weights with another max length."""
    write_embedding(folder, EmbeddingSettings(modules=(Normalize(),), max_tokens=9), hidden_size=WIDTH)
    code, said = run("search", index, "w1")
    assert code == 2
    assert f"error: idx was built with {folder}, and" in said
    assert "name that model with --model, or build the index again with this one" in said


def test_an_index_is_not_overwritten(run, index, folder):
    code, said = run("index", folder, "--input", "docs.jsonl", "--output", "idx")
    assert (code, "idx already holds an index; remove it, or choose another output" in said) == (2, True)


def test_an_index_is_written_into_an_empty_folder_only(run, folder, tmp_path):
    """The file in the way may be the input itself, or vectors of another command."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "vectors.npy").write_text("precious")
    code, said = run("index", folder, "--input", "docs.jsonl", "--output", "mine")
    assert (code, "mine already exists (a folder that is not empty)" in said) == (2, True), said
    assert (tmp_path / "mine" / "vectors.npy").read_text() == "precious"
    code, said = run("index", folder, "--input", "docs.jsonl", "--output", "qrels")
    assert (code, "qrels already exists (a file)" in said) == (2, True), said


def test_an_index_removed_in_part_is_unfinished(run, index, folder, tmp_path, monkeypatch):
    """A removal that is stopped at any file leaves a folder that is built again."""
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    real = Path.unlink
    for left in range(4):
        done = []

        def unlink(path, *, missing_ok=False, done=done, left=left):
            if len(done) == left:
                raise OSError
            done.append(path)
            real(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            remove_index(tmp_path / "idx")
        code, said = run("index", folder, "--input", "docs.jsonl", "--output", "idx")
        assert (code, "12 documents" in said) == ((2, False) if left == 0 else (0, True)), said
        assert sorted(path.name for path in (tmp_path / "idx").iterdir() if path.name != ".index.unfinished") == [
            "index.json",
            "texts.parquet",
            "vectors.npy",
        ]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("queries.jsonl", "--input and --output are the same file, queries.jsonl"),
        ("idx/texts.parquet", "--output idx/texts.parquet is in the index idx"),
    ],
)
def test_a_run_is_not_written_over_what_is_read(run, index, tmp_path, output, message):
    before = (tmp_path / output).read_bytes()
    code, said = run("search", index, "--input", "queries.jsonl", "--output", output)
    assert (code, message in said) == (2, True), said
    assert (tmp_path / output).read_bytes() == before


def test_other_prompts_make_other_vectors(run, index, folder):
    file = folder / "config_sentence_transformers.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "prompts": {**values["prompts"], "document": "other "}}))
    assert run("search", index, "w1")[0] == 0  # the index was written before, and queries are what they were
    file.write_text(json.dumps({**values, "prompts": {**values["prompts"], "query": "other "}}))
    code, said = run("search", index, "w1")
    assert (code, "encodes queries otherwise (weights, tokenizer, prompt" in said) == (2, True), said


def test_a_model_with_an_unknown_similarity_has_no_index(run, folder, tmp_path):
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "similarity_fn_name": "nearness"}))
    code, said = run("index", folder, "--input", "docs.jsonl", "--output", "idx")
    assert (code, "error: the model's similarity is 'nearness'; expected 'cosine'" in said) == (2, True), said
    assert not (tmp_path / "idx").exists()


def test_a_model_that_has_moved(run, index, folder, tmp_path):
    folder.rename(tmp_path / "moved")
    code, said = run("search", index, "w1")
    assert (code, f"idx was built with {folder}, which is not there any more; name it with --model" in said) == (
        2,
        True,
    )
    assert run("search", index, "w1", "--model", "moved")[0] == 0


def test_lone_surrogates(run, folder, tmp_path):
    """An id is never changed; a text is read as by minilm embed, and counted."""
    rows = '{"id": 1, "text": "w1"}\n{"id": 2, "text": "w1 \\ud800"}\n'
    (tmp_path / "odd.jsonl").write_text(rows)
    code, said = run("index", folder, "--input", "odd.jsonl", "--output", "idx")
    message = "1 of 2 texts contained lone surrogates, which were replaced (first: odd.jsonl:2)"
    assert (code, message in said) == (0, True), said
    index = Index(tmp_path / "idx")
    assert index.texts.text(1) == "w1 \ufffd"
    expected = minilm.load(folder).encode(["w1 \ud800"], role="document")
    np.testing.assert_allclose(index.vectors.block(slice(1, 2)).numbers(), expected, atol=1e-6)
    (tmp_path / "odd.jsonl").write_text(rows + '{"id": "\\ud800", "text": "w1"}\n')
    code, said = run("index", folder, "--input", "odd.jsonl", "--output", "other")
    assert (code, "odd.jsonl:3: id '\\ud800' has a lone surrogate" in said) == (3, True), said


def test_empty_queries_are_counted(run, index, tmp_path):
    write_rows(tmp_path / "queries.jsonl", {"q1": "w1", "q2": " "})
    code, said = run("search", index, "--input", "queries.jsonl")
    assert (code, "1 of 2 texts are empty (first: queries.jsonl:2)" in said) == (0, True), said


@pytest.mark.parametrize(
    ("lines", "code", "message"),
    [
        ("", 3, "error: bad.jsonl: no documents found; expected at least one row"),
        (
            '{"id": 1, "text": "w1"}\n{"id": 1, "text": "w2"}\n',
            3,
            "error: bad.jsonl:2: id '1' is already in bad.jsonl:1",
        ),
        ('{"id": 1, "text": "w1"}\n{"id": 2, "text": 5}\n', 3, "error: bad.jsonl:2: text is a whole number"),
        ('{"id": 1, "body": "w1"}\n', 3, "error: bad.jsonl:1: no field 'text', found 'id', 'body'"),
    ],
)
def test_documents_that_cannot_be_indexed(run, folder, tmp_path, lines, code, message):
    (tmp_path / "bad.jsonl").write_text(lines)
    found, said = run("index", folder, "--input", "bad.jsonl", "--output", "idx")
    assert (found, message in said) == (code, True), said
    assert "no index" in run("search", "idx", "w1")[1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "error: bad.jsonl: no queries found; expected at least one row"),
        (
            '{"id": 1, "text": "w1"}\n{"id": 1, "text": "w2"}\n',
            "error: bad.jsonl:2: id '1' is already in bad.jsonl:1; keep one of each",
        ),
    ],
)
def test_queries_that_cannot_be_searched(run, index, tmp_path, lines, message):
    (tmp_path / "bad.jsonl").write_text(lines)
    code, said = run("search", index, "--input", "bad.jsonl", "--output", "run.jsonl")
    assert (code, message in said) == (3, True), said
    assert not (tmp_path / "run.jsonl").exists()


def test_one_document_has_no_ranges(run, folder, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"id": "only", "text": "w1"}\n')
    code, said = run("index", folder, "--input", "one.jsonl", "--output", "idx", "--vectors", "int8")
    message = "error: one.jsonl:1: found no other document, expected at least two for the ranges of int8; "
    assert (code, f"{message}add documents, or use --vectors fp32" in said) == (3, True), said
    assert run("index", folder, "--input", "one.jsonl", "--output", "idx")[0] == 0


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("q1 0 d3 1\nq1 0 d99 1\n", "error: qrels:2: document 'd99' is not in idx (1 judged documents are not)"),
        ("q1 0 d3 1\nq9 0 d3 1\n", "error: qrels:2: query 'q9' is not among the queries (1 of 2 are not)"),
        ("q1 0 d3 1\nq1 0 d3 1\n", "error: qrels:2: document 'd3' of query 'q1' is already in qrels:1"),
        ("q1 0 d3 0\n", "error: qrels: no document is relevant to any query"),
    ],
)
def test_judgments_that_do_not_fit(run, index, tmp_path, qrels, message):
    (tmp_path / "qrels").write_text(qrels)
    code, said = run("search", index, "--input", "queries.jsonl", "--evaluate", "qrels")
    assert (code, message in said) == (3, True), said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected one of QUERY, --input FILE and --evaluate QRELS"),
        (["w1", "--input", "queries.jsonl"], "expected one of QUERY, --input FILE and --evaluate QRELS"),
        ([" "], "the query is empty"),
        (["w1", "--dimensions", "8"], "--dimensions belongs to --evaluate"),
        (["w1", "--candidates", "8"], "--candidates belongs to --rerank"),
        (["--evaluate", "qrels", "--top-k", "8"], "remove QUERY, --output and --top-k"),
        (["--evaluate", "qrels"], "--evaluate qrels has no queries; name a file with --input"),
        (["w1", "--output", "run.trec"], "--output is run.trec; expected a name that ends in .jsonl"),
        (["--input", "queries.jsonl", "--evaluate", "qrels", "--dimensions", "8,x"], "--dimensions has 'x'"),
        (
            ["--input", "queries.jsonl", "--evaluate", "qrels", "--vectors", "int4"],
            "--vectors has 'int4'; expected fp32",
        ),
        (
            ["--input", "queries.jsonl", "--evaluate", "qrels", "--dimensions", "99"],
            "idx holds fp32 vectors of 16 dimensions, not enough for fp32 of 99",
        ),
    ],
)
def test_arguments_that_do_not_fit(run, index, flags, message):
    code, said = run("search", index, *flags)
    assert (code, message in said) == (2, True), said


def test_sizes_that_an_index_lacks_are_refused_before_a_query_is_read(run, index, monkeypatch):
    monkeypatch.setattr("minilm.retrieval.index.Searcher.encode", None)
    flags = ("--input", "queries.jsonl", "--evaluate", "qrels", "--dimensions", "8,99")
    code, said = run("search", index, *flags)
    assert (code, "not enough for fp32 of 99; build an index with fp32 vectors of as many" in said) == (2, True), said


def test_a_file_that_is_not_the_one_that_was_written(run, folder, tmp_path):
    """Also one of the same shape, which a search could read."""
    write_rows(tmp_path / "other.jsonl", {key: f"{text} w9" for key, text in DOCUMENTS.items()})
    for output, source in (("idx", "docs.jsonl"), ("other", "other.jsonl")):
        assert run("index", folder, "--input", source, "--output", output, "--vectors", "int8")[0] == 0
    for name in ("texts.parquet", "vectors.npy", "vectors.npy.ranges.json"):
        file, other = tmp_path / "idx" / name, (tmp_path / "other" / name).read_bytes()
        whole = file.read_bytes()
        for damaged in (other, whole[:-1] + b"?", whole[:-5], None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            code, said = run("search", "idx", "w1")
            message = f"error: idx/{name}: missing or damaged, see its checksum in index.json; remove the folder, then"
            assert (code, message in said) == (3, True), said
        file.write_bytes(whole)
    assert run("search", "idx", "w1")[0] == 0


def test_an_index_of_an_older_format(run, index, tmp_path):
    file = tmp_path / "idx" / "index.json"
    values = json.loads(file.read_text())
    del values["files"]
    file.write_text(json.dumps({**values, "format": 1}))
    code, said = run("search", index, "w1")
    message = "error: idx/index.json: format is 1, expected 2; remove the folder, then build the index again"
    assert (code, message in said) == (3, True), said


@pytest.mark.parametrize("vectors", ["fp32", "int8"])
def test_warnings_name_the_rows_of_the_user_once(run, folder, tmp_path, vectors):
    """Not those of the file that the folder holds, which has other lines."""
    (tmp_path / "long.csv").write_text(f'id,text\na,"w1\nw2"\nb,{"w3 " * 20}\nc, \n')
    code, said = run("index", folder, "--input", "long.csv", "--output", "idx", "--vectors", vectors)
    assert code == 0
    assert said.count("1 of 3 texts were longer than 8 tokens and were truncated (first: long.csv:4)") == 1, said
    assert said.count("1 of 3 texts are empty (first: long.csv:5)") == 1, said
    assert "parquet" not in said


def test_truncated_pairs_of_all_queries_are_counted(tiny_task, run, tmp_path):
    model = tiny_task.write_classifier("reranker", seed=3, num_labels=1)
    write_rows(tmp_path / "docs.jsonl", {"d1": "word1", "d2": "word2 " * 600})
    write_rows(tmp_path / "queries.jsonl", {"q1": "word1", "q2": "word2"})
    assert run("index", model, "--input", "docs.jsonl", "--output", "idx")[0] == 0
    limit = minilm.load(model).max_tokens
    (tmp_path / "qrels").write_text("q1 0 d1 1\nq2 0 d2 1\n")
    flags = ["--input", "queries.jsonl", "--rerank", model]
    for more in (["--output", "run.jsonl"], ["--evaluate", "qrels"]):
        code, said = run("search", "idx", *flags, *more)
        message = f"2 of 4 texts were longer than {limit} tokens and were truncated (first: query 'word1' with 'word2 w"
        assert (code, message in said) == (0, True), said


def with_its_checksum(folder, name):
    """Let `index.json` state the checksum of a changed file."""
    values = json.loads((folder / "index.json").read_text())
    values["files"] = [
        {**one, "sha256": sha256_file(folder / name)} if one["file"] == name else one for one in values["files"]
    ]
    (folder / "index.json").write_text(json.dumps(values))


def test_files_that_were_damaged_before_their_checksums(run, index, tmp_path):
    vectors = np.load("idx/vectors.npy")
    np.save("idx/vectors.npy", vectors[:, :9])
    with_its_checksum(tmp_path / "idx", "vectors.npy")
    code, said = run("search", index, "w1")
    assert (code, "idx: found 12 texts and float32 vectors of shape (12, 9); index.json says fp32 of" in said) == (
        3,
        True,
    )
    vectors[3] = np.nan
    np.save("idx/vectors.npy", vectors)
    with_its_checksum(tmp_path / "idx", "vectors.npy")
    code, said = run("search", index, "w1")
    assert (code, "is not finite; build the index again" in said) == (3, True)
    (tmp_path / "idx" / "texts.parquet").write_bytes(b"PAR1")
    with_its_checksum(tmp_path / "idx", "texts.parquet")
    code, said = run("search", index, "w1")
    assert (code, "idx/texts.parquet: damaged, or not a parquet file" in said) == (3, True)
