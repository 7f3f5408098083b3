"""Fine-tune a model to write questions, then generate: the best target, several with scores, and token by token.

Shows a seq2seq recipe, `generate`, `generations` with `GenerationSettings`, and `stream`. Without MODEL, the script
trains for a minute or two on 60 generated rows: the result only turns sentences like these into questions. Real
summaries need hours of fine-tuning (see `minilm recipes list`); pass such a model's folder. Needs the extra `embedded`.

    python examples/generate.py [MODEL]
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import minilm

OUT = Path("runs/example-generate")
WHO = ("the baker", "my neighbour", "a small dog", "the captain", "her sister")
WHERE = ("near the bridge", "in the market", "behind the church", "on the beach")
RECIPE = """
kind: finetune
name: example-generate
out: runs/example-generate/run
model: embedded
task: {kind: seq2seq, name: example, train: [runs/example-generate/train.jsonl], source: [text], target: question}
train: {epochs: 20, batch_size: 12, learning_rate: 1e-3}
"""


def fine_tuned() -> Path:
    """Write the rows and the recipe, and fine-tune; returns the model's folder."""
    OUT.mkdir(parents=True, exist_ok=True)
    made = product(WHO, ("waits", "sleeps", "sings"), WHERE)
    rows = [{"text": f"{who} {does} {where}.", "question": f"who {does} {where}?"} for who, does, where in made]
    (OUT / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (OUT / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return minilm.run(minilm.load_recipe(OUT / "recipe.yaml")).models["model"]


def main(arguments: Sequence[str]) -> None:
    """Print what is generated for a sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a model folder; fine-tunes one if omitted")
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    model = minilm.load(args.model or fine_tuned())
    text = "the captain sings in the market."
    print("best of 5 beams:", model.generate([text])[0])
    settings = minilm.GenerationSettings(n_best=3, length_penalty=1.0)
    for candidate in model.generations([text], settings)[0].candidates:
        print(f"{candidate.score:.2f}  {candidate.text}")
    print("token by token:", *model.stream(text), sep="|")


if __name__ == "__main__":
    main(sys.argv[1:])
