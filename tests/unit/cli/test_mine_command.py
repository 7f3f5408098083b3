"""`minilm mine` as users type it; the choice itself is tested in `unit/retrieval` and against sentence-transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.rankers import write_ranker

import minilm
from minilm.cli.app import main
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.tasks.embed.rows import training_rows
from minilm.tasks.embed.settings import EmbedSettings

PAIRS = [("w1 w2", "w1 w2 w3"), ("w5", "w5 w6"), ("w1 w2", "w2 w1"), ("w40", "w41")]
CORPUS = ["w1 w2 w9", "w5 w9", "w1 w7", "w8", "w1 w2 w9"]


@pytest.fixture
def mine(generator_dir, tmp_path, monkeypatch, capsys, caplog):
    """`mine(MODEL, "--flag", ...)` with pairs.jsonl and corpus.txt: exit code, and output with warnings."""
    monkeypatch.chdir(tmp_path)
    rows = [{"query": query, "positive": positive} for query, positive in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "corpus.txt").write_text("".join(f"{text}\n" for text in CORPUS))

    def run(*words, model=generator_dir, pairs="pairs.jsonl"):
        caplog.clear()
        with pytest.raises(SystemExit) as done:
            main(["mine", str(model), "--input", pairs, "--output", "out.jsonl", *map(str, words)])
        captured = capsys.readouterr()
        return done.value.code, "\n".join([captured.out + captured.err, *caplog.messages])

    return run


def rows_of(path):
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_bm25_finds_texts_that_share_words(mine, tmp_path):
    """A query's positives are never its negatives, and what shares no word is not a candidate."""
    pytest.importorskip("bm25s", reason="BM25 is not installed: pip install 'minilm[search]'")
    code, said = mine("--corpus", "corpus.txt", "--negatives", "2", model="bm25")
    assert (code, "3 pairs with negatives are in out.jsonl" in said) == (0, True)
    assert "1 of 3 queries have no negative left and are not in the output (first: 'w40')" in said
    assert "1 of 3 queries have fewer negatives than asked for (first: 'w5')" in said
    rows = rows_of(tmp_path / "out.jsonl")
    found = [(row["query"], row["positive"], row["negatives"]) for row in rows]
    assert found == [
        ("w1 w2", "w1 w2 w3", ["w1 w2 w9", "w1 w7"]),
        ("w1 w2", "w2 w1", ["w1 w2 w9", "w1 w7"]),
        ("w5", "w5 w6", ["w5 w9"]),
    ]
    assert all(row["scores"][1:] == sorted(row["scores"][1:], reverse=True) for row in rows)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_model_finds_some_for_each_pair_and_training_reads_them(mine, tmp_path):
    code, _ = mine("--negatives", "2")
    assert code == 0
    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["query"] for row in rows] == ["w1 w2", "w1 w2", "w5", "w40"]
    assert all(len(row["negatives"]) == 2 and len(row["scores"]) == 3 for row in rows)
    read = list(training_rows([str(tmp_path / "out.jsonl")], EmbedSettings(name="embed", loss="kl")))
    assert [one.texts for one in read] == [(row["query"], row["positive"], *row["negatives"]) for row in rows]
    assert [one.scores for one in read] == [tuple(row["scores"]) for row in rows]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_teacher_scores_what_is_written_without_scores(mine, tmp_path):
    assert mine("--negatives", "2", "--no-scores")[0] == 0
    rows = rows_of(tmp_path / "out.jsonl")
    assert [set(row) for row in rows] == [{"query", "positive", "negatives"}] * 4
    taught = EmbedSettings(name="embed", loss="kl", teacher="t")
    assert len(list(training_rows([str(tmp_path / "out.jsonl")], taught))) == 4


def test_an_empty_text_is_no_negative(mine, tmp_path):
    """Training would reject it."""
    (tmp_path / "texts.jsonl").write_text('{"text": "w9"}\n{"text": " "}\n')
    code, said = mine("--corpus", "texts.jsonl", "--negatives", "9", "--range-max", "9")
    assert (code, "1 of 2 texts are empty and not looked at (first: texts.jsonl:2)" in said) == (0, True), said
    assert all(text.strip() for row in rows_of(tmp_path / "out.jsonl") for text in row["negatives"])


def test_other_columns_and_a_random_choice(mine, tmp_path):
    (tmp_path / "q.csv").write_text("question,answer\nw1,w1 w2\nw3,w3 w4\n")
    flags = ["--query", "question", "--positive", "answer", "--corpus", "corpus.txt", "--sampling", "random"]
    assert mine(*flags, "--negatives", "1", "--range-max", "4", pairs="q.csv")[0] == 0
    first = (tmp_path / "out.jsonl").read_bytes()
    mine(*flags, "--negatives", "1", "--range-max", "4", pairs="q.csv")
    assert (tmp_path / "out.jsonl").read_bytes() == first


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "error: bad.jsonl: no pairs found; expected at least one row"),
        (
            '{"query": "w1", "positive": "w2"}\n{"query": "w1"}\n',
            "error: bad.jsonl:2: no field 'positive', found 'query'",
        ),
        ('{"query": "w1", "positive": " "}\n', "error: bad.jsonl:1: column 'positive' is an empty text; correct the"),
        ('{"query": "", "positive": "w1"}\n', "error: bad.jsonl:1: column 'query' is an empty text; correct the"),
        ('{"query": "w1", "positive": ["w1"]}\n', "error: bad.jsonl:1: column 'positive' is a list, expected a string"),
    ],
)
def test_pairs_that_cannot_be_read(mine, tmp_path, lines, message):
    (tmp_path / "bad.jsonl").write_text(lines)
    code, said = mine(pairs="bad.jsonl")
    assert (code, message in said) == (3, True), said


@pytest.mark.parametrize("model", ["bm25", "MODEL"])
def test_a_query_is_no_negative_of_its_own(mine, generator_dir, tmp_path, model):
    """Where queries are also positives of others, as in pairs of duplicate questions; it takes no rank either."""
    if model == "bm25":
        pytest.importorskip("bm25s", reason="BM25 is not installed: pip install 'minilm[search]'")
    texts = ["w11 w12 w13", "w11 w12", "w11 w13", "w12 w13 w14", "w11 w14"]
    rows = [{"query": one, "positive": other} for one, other in zip(texts, texts[1:] + texts[:1], strict=True)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert mine("--negatives", "2", "--range-max", "2", model=generator_dir if model == "MODEL" else model)[0] == 0
    found = rows_of(tmp_path / "out.jsonl")
    assert [len(row["negatives"]) for row in found] == [2] * 5
    assert all(not {row["query"], row["positive"]} & {*row["negatives"]} for row in found)


def test_scores_that_a_sigmoid_makes_equal_still_sort_the_candidates(mine, tiny_task, tmp_path):
    model = write_ranker(tiny_task, bias=60.0, activation="Sigmoid")
    texts = [f"word{n} word{n * n % 90} word{3 * n % 80}" for n in range(12)]
    (tmp_path / "corpus.txt").write_text("".join(f"{text}\n" for text in texts))
    (tmp_path / "pairs.jsonl").write_text('{"query": "word1 word5", "positive": "word1 word5 word6"}\n')
    flags = ["--corpus", "corpus.txt", "--rerank", model, "--negatives", "4", "--range-max", "12"]
    assert mine(*flags, model=tiny_task.model)[0] == 0
    scores = minilm.load(model).score_pairs([("word1 word5", text) for text in texts], raw_scores=True)
    [row] = rows_of(tmp_path / "out.jsonl")
    assert row["negatives"] == [texts[at] for at in np.argsort(-scores)[:4]]


def test_an_id_twice_in_the_corpus(mine, tmp_path):
    (tmp_path / "twice.jsonl").write_text('{"id": "a", "text": "w1"}\n{"id": "a", "text": "w2"}\n')
    code, said = mine("--corpus", "twice.jsonl")
    message = "error: twice.jsonl:2: id 'a' is already in twice.jsonl:1; keep one of each"
    assert (code, message in said) == (3, True), said


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("column", ["query", "positive"])
def test_a_list_in_a_cell_is_no_text(mine, tmp_path, suffix, column):
    """Training rejects it, too; a remark in brackets is a text, and so is what a .jsonl spells in a string."""
    cells = {"query": "[w1] w2", "positive": "w3", column: '["w1", "w2"]'}
    if suffix == ".csv":
        cells[column] = '"[""w1"", ""w2""]"'
    separator = "," if suffix == ".csv" else "\t"
    path = tmp_path / f"bad{suffix}"
    path.write_text("".join(f"{separator.join(row)}\n" for row in (cells, cells.values())))
    code, said = mine(pairs=path.name)
    message = f"error: {path.name}:2: column '{column}' is a list, expected a string; correct the row or remove it"
    assert (code, message in said) == (3, True), said
    spelled = [{"query": "[w1] w2", "positive": "w3"}, {"query": "w1", "positive": '["w1", "w2"]'}]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in spelled))
    assert mine("--negatives", "1")[0] == 0
    assert [row["positive"] for row in rows_of(tmp_path / "out.jsonl")] == ["w3", '["w1", "w2"]']


def test_truncated_texts_are_named_by_their_words(mine, tmp_path, generator_dir):
    """They come from several files and columns; no hidden file is named."""
    write_embedding(generator_dir, EmbeddingSettings(max_tokens=8), hidden_size=16)
    (tmp_path / "corpus.txt").write_text(f"w1\n{'w2 ' * 20}\n")
    code, said = mine("--corpus", "corpus.txt", "--negatives", "1")
    message = "1 of 6 texts were longer than 8 tokens and were truncated (first: text 'w2 w2 w2"
    assert (code, message in said, "parquet" in said) == (0, True, False), said


def test_truncated_pairs_of_a_reranker_are_counted(mine, tmp_path, tiny_task):
    model = tiny_task.write_classifier("reranker", seed=3, num_labels=1)
    (tmp_path / "corpus.txt").write_text(f"word1\n{'word2 ' * 600}\n")
    limit = minilm.load(model).max_tokens
    code, said = mine("--corpus", "corpus.txt", "--negatives", "6", "--rerank", model, model=model)
    message = f"3 of 22 texts were longer than {limit} tokens and were truncated (first: query 'w1 w2' with 'word2 w"
    assert (code, message in said) == (0, True), said


def test_vectors_of_an_older_format_are_computed_again(mine, tmp_path, monkeypatch):
    from minilm.retrieval import mine as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT", 1)
        patch.setattr(module, "_mine", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert mine()[0] == 130
    [old] = tmp_path.glob(".out.jsonl.index-*")
    (old / "index.json").write_text('{"format": 1}')
    assert mine()[0] == 0
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_empty_corpus(mine, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    code, said = mine("--corpus", "empty.txt")
    assert (code, "error: empty.txt: no documents found; expected at least one row" in said) == (3, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text", "body"], "--text and --id name columns of --corpus"),
        (["--range-max", "2"], "range_min 0 to range_max 2 leaves 2 candidates, expected at least negatives, 3"),
        (["--corpus", "out.jsonl"], "--output out.jsonl is also an input"),
        (["--rerank", "MODEL"], "has no score for a pair of texts, expected a model with one score"),
    ],
)
def test_arguments_that_do_not_fit(mine, generator_dir, flags, message):
    code, said = mine(*(generator_dir if flag == "MODEL" else flag for flag in flags))
    assert (code, message in said) == (2, True), said


def test_finished_queries_of_another_job_are_not_mixed_in(mine, monkeypatch, tmp_path):
    from minilm.retrieval import mine as module

    monkeypatch.setattr(module, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code, said = mine()
    assert (code, "stopped by the user; run the same command to finish out.jsonl" in said) == (130, True)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    code, said = mine("--max-score", "0.5")
    assert (code, "holds finished rows of another job (different: settings)" in said) == (2, True), said
    monkeypatch.setattr(module, "_mine", lambda *_: pytest.fail("all queries are finished"))
    assert mine()[0] == 0


def test_nothing_is_left_beside_an_output_with_any_name(mine, tmp_path):
    code, _ = mine("--output", "h[1]*.jsonl")
    assert code == 0
    assert (tmp_path / "h[1]*.jsonl").exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_ending_of_the_output(mine):
    code, said = mine("--output", "out.csv")
    assert (code, "--output is out.csv; expected a name that ends in .jsonl\n" in said) == (2, True), said


def test_the_corpus_in_a_folder_is_not_written_over(mine, tmp_path):
    (tmp_path / "beir").mkdir()
    (tmp_path / "beir" / "corpus.jsonl").write_text('{"_id": "1", "title": "", "text": "w1"}\n')
    code, said = mine("--corpus", "beir", "--output", "beir/corpus.jsonl")
    assert (code, "--output beir/corpus.jsonl is also an input" in said) == (2, True), said
