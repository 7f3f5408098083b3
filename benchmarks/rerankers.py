"""A reranker from mined negatives, and half as many layers taught by its scores, on the first texts of a bi-encoder.

The embedded model mines negatives for questions of SQuAD's training set (`minilm mine`) and becomes a reranker with
LambdaLoss. Students start as layers 2, 4 and 6 of it and learn its scores of the same texts, which are stored once
(`task.teacher`): each score (mse), or the distance of each negative from the positive (margin_mse). Judged: the 50
texts that the embedded model finds for questions of SQuAD 1.1 dev, among all its paragraphs, and for the queries of
Cranfield, in the order of each reranker and in that of the embedded model, with 95% intervals of the differences. What
the file has already is not repeated, and an interrupted training resumes.

    python benchmarks/rerankers.py --passages qg/du_test.jsonl.gz --squad squad/dev-v1.1.jsonl.gz \
        --cranfield retrieval/cranfield_{docs,queries,qrels}.jsonl.gz --work rerankers \
        --json benchmarks/results/rerankers/MACHINE.json
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval_scores import METRICS, Collection, closest, cranfield, difference, report, squad
from training import begin, trained

import minilm
from minilm.files.atomic import atomic_write
from minilm.files.json import write_json
from minilm.files.regular import sha256_file
from minilm.files.rows import read_rows
from minilm.score.retrieval import RetrievalScores, retrieval_scores
from minilm.train.metrics import read_metrics

BI_ENCODER, TEACHER = "embedded", "6 layers, labels"
STUDENTS = {"3 layers, mse": "mse", "3 layers, margin_mse": "margin_mse", "3 layers, labels": "lambda"}
LAYERS = [2, 4, 6]
DEPTH, MAX_TOKENS, HELDOUT = 50, 256, 200
NEGATIVES = ("--negatives", "3", "--range-max", "50", "--relative-margin", "0.05", "--sampling", "random")

Candidates = Mapping[str, Mapping[str, float]]
"""The score of each candidate by its id, by the id of the query."""


def main() -> None:
    """Train and score the rerankers that are missing, and store each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--passages", type=Path, required=True, help="rows with question and context")
    parser.add_argument("--squad", type=Path, required=True)
    parser.add_argument("--cranfield", type=Path, nargs=3, required=True)
    parser.add_argument("--queries", type=int, default=4500, help="of training")
    parser.add_argument("--judged", type=int, default=200, help="questions of SQuAD dev")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    options, stored = begin(parser)
    train, dev = mined(options)
    stored["training rows"] = {"count": sum(1 for _ in read_rows(train)), "sha256": sha256_file(train)}
    collections = {
        "squad": some_queries(squad(options.squad), options.judged),
        "cranfield": cranfield(options.cranfield),
    }
    bi_encoder = minilm.load(BI_ENCODER)
    found = {name: closest(bi_encoder, parts, DEPTH) for name, parts in collections.items()}
    first = {name: retrieval_scores(found[name], parts[2], METRICS) for name, parts in collections.items()}
    stored["models"][BI_ENCODER] = {name: report(scores) for name, scores in first.items()}
    teacher = options.work / "runs" / "teacher" / "model"
    for name in (TEACHER, *STUDENTS):
        if name in stored["models"]:
            continue
        if name == TEACHER:
            folder, facts = reranker_of("teacher", options, train=train, dev=dev, loss="lambda")
        else:
            loss = STUDENTS[name]
            of = None if loss == "lambda" else teacher
            folder, facts = reranker_of(loss, options, train=train, dev=dev, loss=loss, teacher=of, layers=LAYERS)
        model = minilm.load(folder, precision=options.precision)
        for collection, parts in collections.items():
            scores = reranked(model, found[collection], parts)
            facts[collection] = {**report(scores), **difference(scores, first[collection])}
        stored["models"][name] = facts
        write_json(options.json, stored)
        print(name, *(f"{key} {value}" for key, value in facts.items()), sep="\n  ", flush=True)


def mined(options: argparse.Namespace) -> tuple[Path, Path]:
    """Rows with query, positive and negatives to train with, and some that are held out."""
    pairs, every, train, dev = (options.work / f"{name}.jsonl" for name in ("pairs", "mined", "train", "dev"))
    if not dev.exists():
        rows = [row.values for row in read_rows(options.passages)]
        chosen = random.Random(0).sample(rows, options.queries + HELDOUT)
        lines = [json.dumps({"query": row["question"], "positive": row["context"]}) + "\n" for row in chosen]
        atomic_write(pairs, "".join(lines))
        program = "from minilm.cli.app import main; main()"
        files = ("--input", str(pairs), "--output", str(every))
        subprocess.run([sys.executable, "-c", program, "mine", BI_ENCODER, *files, *NEGATIVES], check=True)
        kept = every.read_text(encoding="utf-8").splitlines(keepends=True)
        unscored = [
            json.dumps({key: json.loads(line)[key] for key in ("query", "positive", "negatives")}) + "\n"
            for line in kept
        ]
        atomic_write(train, "".join(unscored[:-HELDOUT]))
        atomic_write(dev, "".join(unscored[-HELDOUT:]))
    return train, dev


def reranker_of(
    name: str,
    options: argparse.Namespace,
    *,
    train: Path,
    dev: Path,
    loss: str,
    teacher: Path | None = None,
    layers: list[int] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """The folder of a reranker, trained or resumed; its settings, its curve on held-out rows and its seconds.

    It starts as its teacher, which scores the rows, or else as the embedded model.
    """
    start = BI_ENCODER if teacher is None else str(teacher)
    out = options.work / "runs" / name
    rows = sum(1 for _ in read_rows(train))
    batch = 64 if loss == "mse" else 16
    recipe: dict[str, Any] = {
        "kind": "finetune",
        "name": "rerankers",
        "out": str(out),
        "model": start,
        "task": {
            "kind": "rerank",
            "name": "rerankers",
            "loss": loss,
            "train": [str(train)],
            "dev": [str(dev)],
            "max_tokens": MAX_TOKENS,
        },
        "train": {
            "epochs": 1,
            "batch_size": batch,
            "learning_rate": options.learning_rate,
            "precision": options.precision,
            "eval_every": rows // 16 // 4,
            "checkpoint_every": 50,
        },
    }
    if teacher:
        recipe["task"]["teacher"] = str(teacher)
    if layers:
        recipe["student"] = {"init": "layers", "teacher_layers": layers}
    folder, result = trained(recipe, options.work)
    metric = result["main_metric"]
    return folder, {
        "loss": loss,
        "start": start if start == BI_ENCODER else TEACHER,
        "layers": layers or "all",
        "steps": result["steps"],
        "learning rate": options.learning_rate,
        "precision": options.precision,
        "seconds": result["seconds"],
        "held out": {str(row["step"]): row[metric] for row in read_metrics(out) if metric in row},
    }


def some_queries(collection: Collection, count: int) -> Collection:
    """The collection with a random choice of its queries."""
    documents, queries, judgments = collection
    chosen = sorted(random.Random(0).sample(sorted(queries), min(count, len(queries))))
    return documents, {query: queries[query] for query in chosen}, {query: judgments[query] for query in chosen}


def reranked(model: minilm.LoadedModel, found: Candidates, collection: Collection) -> RetrievalScores:
    """Score the candidates in the order of a reranker."""
    documents, queries, judgments = collection
    run = {}
    for query, texts in found.items():
        scores = model.score_pairs([(queries[query], documents[text]) for text in texts])
        run[query] = dict(zip(texts, map(float, scores), strict=True))
    return retrieval_scores(run, judgments, METRICS)


if __name__ == "__main__":
    main()
