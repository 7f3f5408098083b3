"""What scripts that train and store scores share: a process that is ready, the file of results, a run of a recipe.

In: a parser of options; a recipe as values. Out: options, what the file has already; the model and the result of a run.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import minilm
from minilm.environment import machine
from minilm.files.json import read_json
from minilm.train.allocator import keep_freed_memory


def ready(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, also those of all scripts, in a process that is ready to train; `--work` is a folder that exists."""
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    keep_freed_memory()
    options.work.mkdir(parents=True, exist_ok=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    return options


def begin(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options of a script that stores scores of models, and the content of its file, with how it was called."""
    options = ready(parser)
    stored: dict[str, Any] = dict(read_json(options.json)) if options.json.exists() else {"models": {}}
    return options, stored | {"command": " ".join(["python", *sys.argv]), "machine": machine(("torch", "numpy"))}


def trained(recipe: Mapping[str, object], work: Path) -> tuple[Path, dict[str, Any]]:
    """Fine-tune by a recipe, or resume that; the folder of the best model, and the result of the run."""
    file = work / "recipe.yaml"
    file.write_text(json.dumps(recipe))
    summary = minilm.run(minilm.load_recipe(file))
    return summary.models["model"], dict(read_json(summary.folder / "result.json"))
