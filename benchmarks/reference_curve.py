"""Store the curve of a finished run as the reference of its recipe: `reference_curve.py RUN --text "what it read"`.

In: the folder of a run of a shipped distillation recipe, without changes that matter; what its text is, in words.
Out: `recipes/distill/curves/NAME.json`, which ships with the recipe: reports of later runs draw it behind their own
curve. At most 200 points of a curve are kept, each with five digits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from minilm.distill.reference import Reference, differences, recipe_checksum
from minilm.embedded import model_path
from minilm.errors import MinilmError, UsageError
from minilm.files.atomic import atomic_write, make_folder
from minilm.files.json import read_json
from minilm.model.metadata import model_checksums
from minilm.recipe import DistillRecipe, find_recipe, load_recipe
from minilm.train.folder import RECIPE
from minilm.train.metrics import read_metrics
from minilm.train.state import extensions

CURVES = Path(__file__).resolve().parents[1] / "recipes" / "distill" / "curves"
_MAX_POINTS = 200


def reference_of(run: Path, text: str) -> tuple[str, Reference]:
    """The name of the recipe and what is stored about a run.

    Raises:
        UsageError: the run is not finished, or not one of a shipped recipe as it is.
    """
    recipe = load_recipe(run / RECIPE, kind=DistillRecipe).recipe
    shipped = find_recipe(f"distill/{recipe.name}")
    metrics = read_metrics(run)
    if not metrics or metrics[-1]["step"] != recipe.train.steps:
        raise UsageError(f"{run}: the run has not finished: run its recipe to the end first")
    changed = differences(recipe)
    if extended := extensions(run / "checkpoints"):
        changed.append(f"it was extended at step {extended[0]}")
    if changed:
        raise UsageError(f"{run}: not a run of distill/{recipe.name} as it ships: {'; '.join(changed)}")
    tokens, seconds = (sum(row[name] for row in metrics) for name in ("tokens", "seconds"))
    documents = recipe.train.steps * recipe.train.batch_size
    return recipe.name, Reference(
        recipe_sha256=recipe_checksum(shipped),
        teacher=model_checksums(model_path(recipe.teacher.model)),
        seed=recipe.seed,
        text=text,
        machine=_machine(read_json(run / "env.json")),
        budget={
            "steps": recipe.train.steps,
            "documents": documents,
            "tokens": int(tokens),
            "seconds": round(seconds),
        },
        loss=_points(metrics, "loss"),
        heldout_loss=[_points(metrics, f"{student.name}.heldout_loss") for student in recipe.students],
    )


def _points(metrics: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
    """Steps and values of a number, thinned so that the last one stays."""
    found = [(row["step"], float(f"{row[key]:.5g}")) for row in metrics if row.get(key) is not None]
    stride = -(-len(found) // _MAX_POINTS)
    return found[::-1][:: stride or 1][::-1]


def _machine(environment: Mapping[str, object]) -> str:
    facts = cast("Mapping[str, Mapping[str, object]]", environment)
    versions = facts["versions"]
    used = ", ".join(f"{name} {versions[name]}" for name in ("minilm", "torch"))
    devices = "; ".join(str(value) for value in facts["devices"].values())
    return f"{facts['cpu']['model']}, threads: {facts['threads']['torch threads']}, GPUs: {devices}; {used}"


def main(arguments: Sequence[str]) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the finished run")
    parser.add_argument(
        "--text", required=True, help="what it was trained on, such as '20,000 paragraphs of Wikipedia'"
    )
    parser.add_argument("--out", type=Path, default=CURVES, help="folder of the curves")
    args = parser.parse_args(arguments)
    name, reference = reference_of(args.run, args.text)
    make_folder(args.out)
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in asdict(reference).items())
    atomic_write(args.out / f"{name}.json", "{\n" + ",\n".join(lines) + "\n}\n")
    print(f"wrote {args.out / f'{name}.json'}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MinilmError as error:
        sys.exit(f"error: {error}")
