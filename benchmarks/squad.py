"""SQuAD on real weights, ours against transformers: same windows, settings, seeds and start; one JSON file a version.

As `glue.py`, which does the work: both sides fine-tune the embedded model, answer the dev file after each epoch and
keep the best one. Runs that stand in the file already are not run again, so this can be stopped and started at will.

    python benchmarks/squad.py --version 2.0 --train train-v2.0.json --dev dev-v2.0.json --side ours --seeds 1
"""

from __future__ import annotations

import argparse
from pathlib import Path

from glue import add_run_flags, recipe_of, run_missing

from minilm.train.allocator import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "squad"


def main() -> None:
    """Run what is missing and store it, run by run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", choices=["1.1", "2.0"], required=True)
    parser.add_argument("--train", nargs="+", required=True, help="official JSON or JSONL, each also .gz")
    parser.add_argument("--dev", required=True)
    add_run_flags(parser, learning_rate=6e-5)
    chosen = parser.parse_args()
    keep_freed_memory()
    name = f"squad/squad{chosen.version[0]}-bert-base"
    for seed in chosen.seeds:
        recipe = recipe_of(name, chosen, seed, train=chosen.train, dev=chosen.dev)
        run_missing(recipe, RESULTS / f"{chosen.version}.json", side=chosen.side)


if __name__ == "__main__":
    main()
