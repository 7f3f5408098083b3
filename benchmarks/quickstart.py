"""`minilm quickstart` with several seeds: does distillation help, whatever the seed?

A seed draws the batches of distillation, and the head, order and dropout of fine-tuning; students start as layers of
the teacher. Finished seeds are not repeated, an interrupted one resumes.

    python benchmarks/quickstart.py --work runs/quickstart-seeds --json benchmarks/results/quickstart/MACHINE.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ab import machine

from minilm.files.json import write_json
from minilm.quickstart.run import quickstart
from minilm.quickstart.text import installed_text
from minilm.train.allocator import keep_freed_memory


def main() -> None:
    """Run the seeds that the file lacks, and print the mean of each model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    text = installed_text()
    found: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {"seeds": {}}
    for seed in map(str, options.seeds):
        if seed not in found["seeds"]:
            tables = quickstart(text, options.work / seed, seed=int(seed))
            found["seeds"][seed] = [asdict(row) for row in tables.rows]
            found.setdefault("vectors", {})[seed] = [asdict(row) for row in tables.vectors]
            write_json(options.json, {"machine": machine(), "text": text.source, **found})
    for rows in zip(*found["seeds"].values(), strict=True):
        accuracies = [row["accuracy"] for row in rows]
        print(f"{rows[0]['name']:<25}{statistics.mean(accuracies):7.1%}", *(f"{one:.1%}" for one in accuracies))


if __name__ == "__main__":
    main()
