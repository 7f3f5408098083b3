"""Search texts by meaning: one vector per text, compared by their scalar products.

Shows `minilm.load` and `encode`. The embedded model was trained for sentence similarity, so its neighbours are good;
a distilled model that was not fine-tuned gives worse ones. Needs the extra `embedded`, or name a model folder:

    python examples/encode.py "How do I stop a loop early?"
    python examples/encode.py "How do I stop a loop early?" --texts my.txt --model runs/mine/model
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import minilm

TEXTS = """A break statement leaves the innermost loop that surrounds it.
A list holds its items in order and may be changed.
A tuple cannot be changed after it was made.
Opening a file for writing removes what was in it.
An exception that nobody handles ends the program with a traceback.
The train to the mountains leaves at seven in the morning."""


def main(arguments: Sequence[str]) -> None:
    """Print the texts that are closest to the query."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", nargs="?", default="How do I stop a loop early?")
    parser.add_argument("--texts", type=Path, help="one text per line; six sentences if omitted")
    parser.add_argument("--model", default="embedded", help="a model folder")
    parser.add_argument("--top", type=int, default=3, help="texts to print")
    args = parser.parse_args(arguments)
    texts = [line for line in (args.texts.read_text("utf-8") if args.texts else TEXTS).split("\n") if line.strip()]

    model = minilm.load(args.model)
    vectors = model.encode(texts)  # [number of texts, width]; the embedded model's have length 1
    query = model.encode([args.query])[0]
    similarities = vectors @ query
    for number in (-similarities).argsort()[: args.top]:
        print(f"{similarities[number]:.3f}  {texts[number]}")


if __name__ == "__main__":
    main(sys.argv[1:])
