"""Small embedding models that learn the vectors of a teacher, without labels: what they keep, over the tokens read.

The texts are the same for all students: sentences and passages of documents, questions, and sentences of STS-B's
training set. The teacher's vectors are computed once. Students learn these, or the teacher's similarities of the texts
of a batch, which need no map between widths. With `--teacher embedded` the students are a family of sizes, started as
layers of the teacher or at random; with another teacher they have the size of the embedded model or of half of its
layers. Scores are those of retrieval_scores.py, with the same sets; the best checkpoint on STS-B's dev set counts. What
the file has already is not repeated, and an interrupted training resumes.

    python benchmarks/embedding_students.py --text text/{wikipedia,books}_train-*.jsonl.gz \
        --questions qqp/duplicate_pairs.jsonl.gz --passages qg/du_test.jsonl.gz --stsb stsb \
        --cranfield retrieval/cranfield_{docs,queries,qrels}.jsonl.gz --squad squad/dev-v1.1.jsonl.gz \
        --work family --json benchmarks/results/embedding_students/family.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ab import interleaved
from ablation import UNTRAINED, untrained
from retrieval_scores import Collection, cranfield, difference, report, search, squad, sts
from training import begin, trained

import minilm
from minilm.bench.workloads import NUM_PASSAGES, paragraphs
from minilm.distill.plan import plan_distillation
from minilm.embedded import embedded_model
from minilm.files.atomic import atomic_write
from minilm.files.json import write_json
from minilm.files.regular import sha256_file
from minilm.files.rows import read_rows
from minilm.recipe import DistillRecipe, load_recipe
from minilm.score.retrieval import RetrievalScores
from minilm.train.metrics import read_metrics

T = TypeVar("T")

EMBEDDED, START = "embedded", "3 layers, not trained"
# Student -> its section of the recipe; none: the embedded model itself is trained.
FAMILY: Mapping[str, Mapping[str, object]] = {
    "3 layers": {"init": "layers", "teacher_layers": [2, 4, 6]},
    "2 layers": {"init": "layers", "teacher_layers": [3, 6]},
    "1 layer": {"init": "layers", "teacher_layers": [1]},
    "4 layers": {"init": "layers", "teacher_layers": [1, 3, 4, 6]},
    "6 layers x 192": {"num_layers": 6, "hidden_size": 192, "num_heads": 12},
    "3 layers x 192": {"num_layers": 3, "hidden_size": 192, "num_heads": 12},
}
BIGGER: Mapping[str, Mapping[str, object]] = {
    "6 layers": {},
    "3 layers": FAMILY["3 layers"],
    "6 layers, random": {"num_layers": 6},
}
GENTLE = {"6 layers": (0.5, 3e-5)}  # student -> epochs and learning rate: this one is a good model at its start
SENTENCES = 24_000  # of documents, at most; then passages and questions, at most
PASSAGES = 15_000
QUESTIONS = 20_000
PAIRS = 5_000  # of each kind of texts
BATCH = {"vectors": 128, "similarities": 64}
MAX_TOKENS, EVALUATIONS = 256, 8
WORDS_OF_SENTENCE, WORDS_OF_PASSAGE = range(6, 50), range(50, 150)


def main() -> None:
    """Train and score the students that are missing, and store each with its curve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="documents, rows with text")
    parser.add_argument("--questions", type=Path, required=True, help="rows with question1 and question2")
    parser.add_argument("--passages", type=Path, required=True, help="rows with context and question")
    parser.add_argument("--stsb", type=Path, required=True, help="folder of train, dev and test")
    parser.add_argument("--cranfield", type=Path, nargs=3, required=True)
    parser.add_argument("--squad", type=Path)
    parser.add_argument("--teacher", default=EMBEDDED)
    parser.add_argument("--loss", choices=["vectors", "similarities"], default="vectors")
    parser.add_argument("--students", nargs="+", help="by default all")
    parser.add_argument("--texts", type=int, help="number of training texts; by default all")
    parser.add_argument("--epochs", type=float, default=1.0, help=f"but for {', '.join(GENTLE)} of another teacher")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="as for --epochs")
    parser.add_argument("--speed", action="store_true", help="only measure those that are trained, on an idle machine")
    options, stored = begin(parser)
    if options.speed:
        stored["speed"] = speeds({name: folder_of(name, options) for name in stored["models"]})
        write_json(options.json, stored)
        return
    texts = written(options)
    count = sum(1 for _ in read_rows(texts))
    stored["texts"] = {"count": count, "sha256": sha256_file(texts)}
    collections = {"cranfield": cranfield(options.cranfield)} | (
        {"squad": squad(options.squad)} if options.squad else {}
    )
    first: dict[str, RetrievalScores] = {}
    for known in dict.fromkeys([options.teacher, EMBEDDED]):
        if known == options.teacher or known not in stored["models"]:
            stored["models"][Path(known).name] = scores_of(minilm.load(known), options, collections, first)
    if options.teacher == EMBEDDED and START not in stored["models"]:
        start = {"start": FAMILY["3 layers"]} | scores_of(
            minilm.load(start_of(texts, options)), options, collections, first
        )
        stored["models"][START] = start
        write_json(options.json, stored)
    students = FAMILY if options.teacher == EMBEDDED else BIGGER
    for name in options.students or students:
        if name not in stored["models"]:
            folder, facts = student_of(name, students[name], texts, count, options)
            stored["models"][name] = facts | scores_of(minilm.load(folder), options, collections, first)
            write_json(options.json, stored)
            print(name, *(f"{key} {value}" for key, value in stored["models"][name].items()), sep="\n  ", flush=True)


def speeds(folders: Mapping[str, str | Path]) -> dict[str, float]:
    """Passages a second of each model, native and in fp32, in turn."""
    passages = paragraphs()[:NUM_PASSAGES]
    models = {name: minilm.load(folder, engine="native") for name, folder in folders.items()}
    seconds = interleaved({name: partial(model.encode, passages) for name, model in models.items()})
    return {name: len(passages) / one for name, one in seconds.items()}


def folder_of(name: str, options: argparse.Namespace) -> str | Path:
    """The folder of a model: the teacher, or a student."""
    if name == START:
        return Path(options.work) / UNTRAINED / "start"
    known = {Path(model).name: model for model in (options.teacher, EMBEDDED)}
    return known.get(name) or run_of(name, options) / "model"


def start_of(texts: Path, options: argparse.Namespace) -> Path:
    """The folder of the 3-layer student before its first step."""
    recipe = {
        "kind": "distill",
        "name": "start",
        "out": str(options.work),
        "data": {"inputs": [str(texts)]},
        "teacher": {"model": EMBEDDED},
        "students": [{"name": "start", **FAMILY["3 layers"]}],
        "loss": {"version": "v2"},
        "train": {"steps": 1, "warmup_steps": 0, "batch_size": 1, "learning_rate": 1e-4},
    }
    file = options.work / "start.yaml"
    file.write_text(json.dumps(recipe))
    plan = plan_distillation(load_recipe(file, [], kind=DistillRecipe).recipe, tokenizer=embedded_model())
    return next(folder for _, folder in untrained(plan, options.work, seed=0))


def run_of(name: str, options: argparse.Namespace) -> Path:
    """The run folder of a student."""
    return Path(options.work) / "runs" / name.replace(", ", "-").replace(" ", "-")


def scores_of(
    model: minilm.LoadedModel,
    options: argparse.Namespace,
    collections: Mapping[str, Collection],
    first: dict[str, RetrievalScores],
) -> dict[str, object]:
    """Its size, its correlation on STS-B's test set and its searches, compared with those of the first model."""
    config = model.config
    found: dict[str, object] = {
        "layers": config.num_layers,
        "width": config.hidden_size,
        "parameters": config.num_parameters(),
        "stsb": {"spearman": sts(model, split(options.stsb, "test"))},
    }
    for name, parts in collections.items():
        scores = search(model, parts)
        found[name] = {**report(scores), **difference(scores, first.setdefault(name, scores))}
    return found


def student_of(
    name: str, student: Mapping[str, object], texts: Path, count: int, options: argparse.Namespace
) -> tuple[Path, dict[str, object]]:
    """The folder of a student, trained or resumed; its start, its curve on STS-B's dev set and its seconds."""
    out = run_of(name, options)
    epochs, learning_rate = GENTLE.get(name, (options.epochs, options.learning_rate))
    steps = int(epochs * count / BATCH[options.loss])
    recipe: dict[str, Any] = {
        "kind": "finetune",
        "name": "embedding-students",
        "out": str(out),
        "model": EMBEDDED,
        "task": {
            "kind": "embed",
            "name": "embedding-students",
            "loss": options.loss,
            "teacher": options.teacher,
            "cache": str(options.work / "teacher"),
            "train": [str(texts)],
            "dev": [str(split(options.stsb, "dev"))],
            "max_tokens": MAX_TOKENS,
        },
        "train": {
            "steps": steps,
            "batch_size": BATCH[options.loss],
            "learning_rate": learning_rate,
            "precision": options.precision,
            "eval_every": steps // EVALUATIONS,
            "checkpoint_every": 100,
        },
    }
    if student:
        recipe["student"] = student
    folder, result = trained(recipe, options.work)
    metric = result["main_metric"]
    return folder, {
        "start": student or EMBEDDED,
        "loss": options.loss,
        "steps": steps,
        "texts of a step": BATCH[options.loss],
        "learning rate": learning_rate,
        "precision": options.precision,
        "seconds": result["seconds"],
        "stsb dev": {
            "start": result["references"]["start" if student else "base"][metric],
            "curve": curve(out, metric),
        },
    }


def curve(run: Path, metric: str) -> list[dict[str, float]]:
    """The metric over the tokens read."""
    tokens, points = 0.0, []
    for row in read_metrics(run):
        tokens += row.get("tokens", 0.0)
        if metric in row:
            points.append({"step": row["step"], "tokens": tokens, metric: row[metric]})
    return points


def split(folder: Path, name: str) -> Path:
    """The file of a part of STS-B."""
    return next(folder.glob(f"{name}.jsonl*"))


def written(options: argparse.Namespace) -> Path:
    """The file of training texts, shuffled."""
    out: Path = options.work / f"{options.loss}.jsonl"
    if not out.exists():
        rng = random.Random(0)
        found = single_texts(options, rng) if options.loss == "vectors" else paired_texts(options, rng)
        atomic_write(out, "".join(json.dumps({"text": text}) + "\n" for text in found[: options.texts]))
    return out


def single_texts(options: argparse.Namespace, rng: random.Random) -> list[str]:
    """All kinds of texts, as many as there are up to a limit; no text twice."""
    asked = unique(text for pair in columns(options.questions, "question1", "question2") for text in pair)
    found = unique(
        [
            *(text for pair in columns(split(options.stsb, "train"), "sentence1", "sentence2") for text in pair),
            *some(asked, QUESTIONS, rng),
            *(text for pair in columns(options.passages, "question", "context") for text in pair),
            *of_documents(options.text, rng),
        ]
    )
    rng.shuffle(found)
    return found


def paired_texts(options: argparse.Namespace, rng: random.Random) -> list[str]:
    """As many of each kind: sentences of STS-B, duplicate questions, questions and passages, passages of documents."""
    kinds = [
        columns(split(options.stsb, "train"), "sentence1", "sentence2"),
        columns(options.questions, "question1", "question2"),
        columns(options.passages, "question", "context"),
        [pair for file in options.text for document in paragraphs_of(file) for pair in neighbours(document)],
    ]
    pairs = [pair for found in kinds for pair in some(unique(found), PAIRS, rng)]
    rng.shuffle(pairs)
    return list(itertools.chain.from_iterable(pairs))


def columns(file: Path, *names: str) -> list[tuple[str, ...]]:
    """Some values of each row."""
    return [tuple(str(row.values[name]) for name in names) for row in read_rows(file)]


def paragraphs_of(file: Path) -> list[list[str]]:
    """The paragraphs of each document."""
    return [[part.strip() for part in text.split("\n")] for (text,) in columns(file, "text")]


def neighbours(paragraphs: Sequence[str]) -> list[tuple[str, ...]]:
    """Passages of a document, each with the next one."""
    passages = sized(paragraphs, WORDS_OF_PASSAGE)
    return list(itertools.pairwise(passages))


def of_documents(files: Sequence[Path], rng: random.Random) -> list[str]:
    """Sentences and passages, equally many of each file."""
    sentences: list[str] = []
    passages: list[str] = []
    for file in files:
        paragraphs = list(itertools.chain.from_iterable(paragraphs_of(file)))
        found = (sentence for part in paragraphs for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z“\"])", part))
        sentences += some(sized(found, WORDS_OF_SENTENCE), SENTENCES // len(files), rng)
        passages += some(sized(paragraphs, WORDS_OF_PASSAGE), PASSAGES // len(files), rng)
    return sentences + passages


def sized(texts: Iterable[str], words: range) -> list[str]:
    """The texts whose number of words is in the range."""
    return [text for text in texts if len(text.split()) in words]


def some(texts: Sequence[T], count: int, rng: random.Random) -> list[T]:
    """A random choice."""
    return rng.sample(texts, min(count, len(texts)))


def unique(texts: Iterable[T]) -> list[T]:
    """What is found, in order, each once."""
    return list(dict.fromkeys(texts))


if __name__ == "__main__":
    main()
