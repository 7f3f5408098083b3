"""Generation on real weights: fine-tune, generate for the test file, score; one JSON file per task.

It runs the commands a user would: `minilm finetune` with a shipped recipe on the embedded model, `minilm generate`
and `minilm score` with the paper's decoding. All of them resume, so this script can be stopped too;
finished files are in `--work`.

    python benchmarks/generation.py --data DATA --work runs/generation --task qg --epochs 3
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ab import machine

from minilm.embedded import embedded_model
from minilm.files.json import write_json
from minilm.files.regular import sha256_file
from minilm.files.rows import Row, read_rows
from minilm.recipe import FinetuneRecipe, TaskSection, find_recipe, load_recipe
from minilm.text.detokenize import text_of
from minilm.text.tokenizer import Tokenizer

RESULTS = Path(__file__).parent / "results" / "generation"
_EXAMPLES = 20


@dataclass(frozen=True, kw_only=True)
class Test:
    """A task: its training data, and how its test file is decoded and scored.

    Attributes:
        recipe: the shipped recipe, with the paper's settings.
        train: files below the data folder.
        test: file below the data folder; its columns are those of the recipe.
        decoding: options of `minilm generate`; arXiv 2002.10957v2, appendix on generation.
        scoring: options of `minilm score`, the command first.
        key: the column by which questions are pooled, where they are.
    """

    recipe: str
    train: Sequence[str]
    test: str
    decoding: Sequence[str]
    scoring: Sequence[str]
    key: str | None = None


_NO_REPEATS = ("--ban-ngrams", "3", "--ban-ignore")
TESTS: Mapping[str, Test] = {
    "qg": Test(
        recipe="seq2seq/qg-du-l6", train=["qg/du_train_subset.jsonl.gz", "qg/du_dev.jsonl.gz"],
        test="qg/du_test.jsonl.gz",
        decoding=["--beam-size", "5", "--length-penalty", "1.3"], scoring=["qg"], key="sentence_tok",
    ),
    "xsum": Test(
        recipe="seq2seq/xsum-l6", train=["xsum/train_subset.jsonl.gz"], test="xsum/test_subset.jsonl.gz",
        decoding=["--beam-size", "5", "--length-penalty", "0.9", *_NO_REPEATS, "."],
        scoring=["rouge", "--task", "xsum"],
    ),
    "cnndm": Test(
        recipe="seq2seq/cnndm-l6", train=["cnndm/train_subset.jsonl.gz", "cnndm/validation_subset.jsonl.gz"],
        test="cnndm/test_subset.jsonl.gz",
        decoding=["--beam-size", "5", "--length-penalty", "0.7", *_NO_REPEATS, ".|[X_SEP]"],
        scoring=["rouge", "--task", "cnndm", "--trunc-len", "160"],
    ),
}  # fmt: skip


def main() -> None:
    """Run the three commands of a task and store the scores."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with qg/, xsum/ and cnndm/")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and generated files")
    parser.add_argument("--task", choices=list(TESTS), required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    chosen = parser.parse_args()
    test = TESTS[chosen.task]
    columns = load_recipe(find_recipe(test.recipe), kind=FinetuneRecipe).recipe.task
    rows = list(read_rows(chosen.data / test.test))
    scores = run(test, chosen, rows, columns)
    files = {name: sha256_file(chosen.data / name) for name in (*test.train, test.test)}
    found = {
        "task": chosen.task,
        "training examples": sum(1 for name in test.train for _ in read_rows(chosen.data / name)),
        "test examples": len(rows),
        "sha256": files,
        "epochs": chosen.epochs,
        "seed": chosen.seed,
        "precision": chosen.precision,
        "decoding": shlex.join(test.decoding),
        "scores": scores,
        "examples": examples(rows, columns, chosen.work / chosen.task / "test.jsonl"),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": machine(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS / f"{chosen.task}.json", found)
    print(json.dumps(scores, indent=2))


def run(test: Test, chosen: argparse.Namespace, rows: Sequence[Row], columns: TaskSection) -> dict[str, object]:
    """Fine-tune, generate, score; the scores as `minilm score --json` prints them."""
    work: Path = chosen.work / chosen.task
    work.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": "embedded",
        "seed": chosen.seed,
        "out": str(work / "run"),
        "task.train": [str(chosen.data / name) for name in test.train],
        "task.dev": [],
        "train.epochs": chosen.epochs,
        "train.batch_size": 8,  # the sets are small: more steps
        "train.warmup_steps": None,
        "train.warmup_fraction": 0.1,
        "train.precision": chosen.precision,
        "train.checkpoint_every": 50,
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    _minilm("finetune", test.recipe, *overrides)
    output = work / "test.jsonl"
    if not output.exists():
        source = str(chosen.data / test.test)
        _minilm(
            "generate", str(work / "run" / "model"), "--input", source, "--output", str(output),
            "--precision", chosen.precision, *test.decoding,
        )  # fmt: skip
    references = write_references(rows, columns, work, key=test.key)
    files = ["--predictions", str(output), "--references", str(references)]
    pooling = ["--sources", str(references)] if test.key else []
    found = _minilm("score", *test.scoring, *files, *pooling, "--json", capture=True)
    scores: dict[str, object] = json.loads(found)
    return scores


def write_references(rows: Sequence[Row], columns: TaskSection, work: Path, *, key: str | None) -> Path:
    """The references as rows; questions as UniLM compares them: the model's own tokens put together again."""
    tokenizer = Tokenizer.load(embedded_model())
    file = work / "references.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for row in rows:
            text = str(row.values[columns.target])
            if key is None:
                line = {"reference": text}
            else:
                ids = tokenizer.encode([text], special_tokens=False)[0].tolist()
                line = {"reference": text_of(ids, tokenizer), "source": str(row.values[key])}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return file


def examples(rows: Sequence[Row], columns: TaskSection, predictions: Path) -> list[dict[str, str]]:
    """Rows spread evenly over the test file: the source's last part, the reference, what was generated."""
    pairs = list(zip(rows, read_rows(predictions), strict=True))
    places = [number * len(pairs) // _EXAMPLES for number in range(_EXAMPLES)]
    return [
        {
            "source": str(row.values[columns.source[-1]])[:200],
            "reference": str(row.values[columns.target]),
            "prediction": str(generated.values["prediction"]),
        }
        for row, generated in (pairs[place] for place in places)
    ]


def _minilm(*arguments: str, capture: bool = False) -> str:
    """Run a command as a user would; its progress is shown."""
    command = [sys.executable, "-m", "minilm.cli.app", *arguments]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if capture else None)
    return done.stdout or ""


if __name__ == "__main__":
    main()
