"""Fine-tune a model to answer questions about a text, then ask it.

Shows a recipe for rows like those of SQuAD, and `answer` with its location in the text. Without MODEL, the script
trains for half a minute on 80 generated rows: the result only understands sentences like these. For real questions,
fine-tune on SQuAD (`minilm finetune squad2-in-house-l6`) and pass that model's folder. Needs the extra `embedded`.

    python examples/answer.py [MODEL]
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import minilm

OUT = Path("runs/example-answer")
WHO = ("The baker", "My old neighbour", "A small dog", "The captain", "Her sister")
WHERE = ("near the bridge", "in the market", "behind the church", "on the beach")
RECIPE = """
kind: finetune
name: example-answer
out: runs/example-answer/run
model: embedded
task: {kind: squad, name: example, version: "1.1", train: [runs/example-answer/train.jsonl]}
train: {epochs: 4, batch_size: 12, learning_rate: 3e-4}
"""


def fine_tuned() -> Path:
    """Write the rows and the recipe, and fine-tune; returns the model's folder."""
    OUT.mkdir(parents=True, exist_ok=True)
    rows: list[object] = []
    for who, where, when in product(WHO, WHERE, ("today", "since Monday")):
        context = f"{who} waits {where} {when}."
        for question, text in (("Who waits?", who), ("Where?", where)):
            answers = [{"text": text, "answer_start": context.index(text)}]
            rows.append({"id": str(len(rows)), "question": question, "context": context, "answers": answers})
    (OUT / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (OUT / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return minilm.run(minilm.load_recipe(OUT / "recipe.yaml")).models["model"]


def main(arguments: Sequence[str]) -> None:
    """Print the answers to two questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model folder; fine-tunes one if omitted")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    reader = minilm.load(parser.parse_args(arguments).model or fine_tuned())
    for question in ("Who waits?", "Where?"):
        answer = reader.answer(question, "The tired postman waits near the harbor at noon.")
        print(f"{question} {answer.text!r} (characters {answer.start} to {answer.end}, score {answer.score:.2f})")


if __name__ == "__main__":
    main(sys.argv[1:])
