"""Distil the embedded 6-layer MiniLM into 3 layers and compare the vectors of both on held-out texts.

Shows a shipped recipe with changed values, `minilm.run` and its summary. Twenty steps on the help topics of Python (or
on your texts, one a line) show that it works; a useful student needs more text and thousands of steps.
The same command again continues a run that was stopped. Needs the extras `hf` and `embedded`.

    python examples/distil.py [--texts my.txt] [--steps 20] [--out runs/example-distil]
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import minilm


def main(arguments: Sequence[str]) -> None:
    """Distil, then print the held-out loss and how alike teacher and student are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, help="one text per line; Python's help topics if omitted")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/example-distil"))
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.texts is None:
        paragraphs = (" ".join(part.split()) for topic in topics.values() for part in topic.split("\n\n"))
        args.texts = args.out / "texts.txt"
        args.texts.write_text("".join(f"{text}\n" for text in paragraphs if len(text) > 40), encoding="utf-8")

    changes = {
        "data.inputs": [str(args.texts)],
        "train.steps": args.steps,
        "train.warmup_steps": args.steps // 10,
        "out": str(args.out / "run"),
    }
    recipe = minilm.load_recipe(
        minilm.find_recipe("tiny-embedded"), [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    )
    summary = minilm.run(recipe)
    print(f"held-out loss: {summary.numbers['l3-h384.heldout_loss']:.4f}; report: {summary.folder / 'report.html'}")

    held_out = [line for line in args.texts.read_text("utf-8").split("\n") if line][-64:]
    teacher, student = (minilm.load(path).encode(held_out) for path in ("embedded", summary.models["l3-h384"]))
    print(f"mean cosine of teacher's and student's vectors: {(teacher * student).sum(1).mean():.3f}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except minilm.MinilmError as error:  # also Ctrl-C: the state is saved
        sys.exit(f"error: {error}")
