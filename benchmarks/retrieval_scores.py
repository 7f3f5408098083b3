"""What the vectors of a model are worth: STS-B test, Cranfield, and the paragraphs of SQuAD 1.1 dev.

STS-B: Spearman correlation of the cosine, times 100. Cranfield: 1,400 documents as "title. text", 225 queries; grades 1
to 4 gain 4 to 1, grade -1 counts as not judged. SQuAD: the paragraph of each question, among all 2,067. Both are
exact searches by cosine with the roles query and document, scored as by `minilm score retrieval`, with 95% intervals
over the queries, for each difference to the first model too. `--max-tokens` replaces the limit of the folders.

    python benchmarks/retrieval_scores.py embedded runs/student/model --stsb stsb/test.jsonl.gz \
        --cranfield retrieval/cranfield_{docs,queries,qrels}.jsonl.gz --squad squad/dev-v1.1.jsonl.gz --json scores.json
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import minilm
from minilm.environment import machine
from minilm.files.json import write_json
from minilm.files.regular import sha256_file
from minilm.files.rows import read_rows
from minilm.files.trec import judgment_location, read_judgments
from minilm.infer.vectors import normalized
from minilm.retrieval.search import nearest
from minilm.retrieval.vectors import StoredRows
from minilm.score.bootstrap import interval, resampled_sums
from minilm.score.glue import compute_metrics
from minilm.score.retrieval import Judgments, RetrievalScores, gains_of, parse_metric, retrieval_scores

METRICS = tuple(map(parse_metric, ("ndcg@10", "mrr@10", "recall@100")))
DEPTH = 100  # documents found for each query
CRANFIELD_GAINS = {1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}

Texts = Mapping[str, str]
"""Texts by id."""
Collection = tuple[Texts, Texts, Judgments]
"""Documents, queries and judgments."""


def main() -> None:
    """Score each model on each set that is given, and store the scores after each model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "models", nargs="+", help="model folders, or embedded; the first is what others are compared to"
    )
    parser.add_argument("--stsb", type=Path, help="rows with sentence1, sentence2 and score")
    parser.add_argument("--cranfield", type=Path, nargs=3, metavar=("DOCUMENTS", "QUERIES", "JUDGMENTS"))
    parser.add_argument("--squad", type=Path, help="rows with id, question and context")
    parser.add_argument("--max-tokens", type=int, help="of a text; by default the limit of each folder")
    parser.add_argument("--engine", default="auto", choices=("auto", "native", "torch"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    files = [path for path in (options.stsb, *(options.cranfield or ()), options.squad) if path]
    collections = {name: read for name, read in (("cranfield", cranfield), ("squad", squad)) if getattr(options, name)}
    collected = {name: read(getattr(options, name)) for name, read in collections.items()}
    stored: dict[str, object] = {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(("torch", "numpy")),
        "data": {path.name: sha256_file(path) for path in files},
    }
    found: dict[str, dict[str, object]] = {}
    first: dict[str, RetrievalScores] = {}
    for name in options.models:
        model = minilm.load(name, engine=options.engine, threads=options.threads)
        if options.max_tokens:
            model.embedding = replace(model.embedding, max_tokens=min(options.max_tokens, model.config.max_tokens))
        started = time.perf_counter()
        row: dict[str, object] = {"weights": weights_hash(model), "max_tokens": model.embedding.max_tokens}
        if options.stsb:
            row["stsb"] = {"spearman": sts(model, options.stsb)}
        for collection, parts in collected.items():
            scores = search(model, parts)
            row[collection] = {**report(scores), **difference(scores, first.setdefault(collection, scores))}
        found[name] = row | {"seconds": round(time.perf_counter() - started, 1)}
        write_json(options.json, {**stored, "models": found})
        print(name, *(f"{key} {value}" for key, value in found[name].items()), sep="\n  ")


def weights_hash(model: minilm.LoadedModel) -> str:
    """SHA-256 of the weights, which are in one file."""
    return next((sha256_file(path) for path in sorted(model.folder.rglob("*.safetensors"))), "")


def sts(model: minilm.LoadedModel, path: Path) -> float:
    """Spearman correlation of the cosines with the judged similarities, times 100."""
    rows = [row.values for row in read_rows(path)]
    left, right = (normalized(model.encode([str(row[name]) for row in rows])) for name in ("sentence1", "sentence2"))
    judged = [float(str(row["score"])) for row in rows]
    return compute_metrics(["spearmanr"], judged, (left * right).sum(1).tolist())["spearmanr"]


def cranfield(paths: tuple[Path, Path, Path]) -> Collection:
    """Documents as title and text, which begins with the title again, as in the original files."""
    documents, queries = ([row.values for row in read_rows(path)] for path in paths[:2])
    return (
        {str(row["id"]): f"{row['title']}. {row['text']}" for row in documents},
        {str(row["id"]): str(row["text"]) for row in queries},
        gains_of(read_judgments(paths[2]), CRANFIELD_GAINS, partial(judgment_location, paths[2])),
    )


def squad(path: Path) -> Collection:
    """Each question, and the paragraphs of all; equal paragraphs are one document."""
    rows = [row.values for row in read_rows(path)]
    ids = {text: str(number) for number, text in enumerate(dict.fromkeys(str(row["context"]) for row in rows))}
    return (
        {number: text for text, number in ids.items()},
        {str(row["id"]): str(row["question"]) for row in rows},
        {str(row["id"]): {ids[str(row["context"])]: 1.0} for row in rows},
    )


def search(model: minilm.LoadedModel, collection: Collection) -> RetrievalScores:
    """Score the best documents of each query by cosine."""
    return retrieval_scores(closest(model, collection, DEPTH), collection[2], METRICS)


def closest(model: minilm.LoadedModel, collection: Collection, count: int) -> dict[str, dict[str, float]]:
    """The best documents of each query, with their cosines."""
    documents, queries, _ = collection
    names = list(documents)
    vectors_ND = model.encode(documents.values(), role="document")
    stored = StoredRows(stored_NW=vectors_ND, dimensions=vectors_ND.shape[1], precision="fp32")
    hits = nearest(model.encode(queries.values(), role="query"), stored, similarity="cosine", k=count)
    found = zip(queries, hits.rows_QK.tolist(), hits.scores_QK.tolist(), strict=True)
    return {query: dict(zip([names[row] for row in rows], scores, strict=True)) for query, rows, scores in found}


def report(scores: RetrievalScores) -> dict[str, object]:
    """The scores, and their intervals over the queries."""
    return {"queries": len(scores.queries), **scores.means(), "interval": intervals(scores.values_QM)}


def difference(scores: RetrievalScores, first: RetrievalScores) -> dict[str, object]:
    """How much better it is than the first model, with paired intervals: the same queries are drawn for both."""
    if scores is first:
        return {}
    return {"difference": intervals(scores.values_QM - first.values_QM)}


def intervals(values_QM: np.ndarray) -> dict[str, list[float]]:
    """The 95% interval of the mean of each metric."""
    means = resampled_sums(values_QM) / len(values_QM)
    return {str(metric): list(interval(means[:, column])) for column, metric in enumerate(METRICS)}


if __name__ == "__main__":
    main()
