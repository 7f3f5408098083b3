"""GLUE on real weights, ours against transformers: same rows, settings, seeds and start; one JSON file per task.

One setting differs: transformers drops attention probabilities (0.1), ours none, as is its default. Both sides
fine-tune the embedded model with the settings of the task's recipe, score the dev file after each epoch and keep the
best epoch. Ours is `minilm finetune`; the other side the transformers Trainer, see `SplitByLength`. Runs already in
the file are not repeated, so this script can be stopped and restarted at any time.

    python benchmarks/glue.py --data glue --task cola --side ours --seeds 1 2 3
    python benchmarks/glue.py --data glue --task cola --side transformers --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ab import machine
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from minilm.embedded import embedded_model
from minilm.files.json import write_json
from minilm.files.regular import sha256_file
from minilm.finetune.make import make_task
from minilm.finetune.squad import SpanTask
from minilm.finetune.sweep import finetune
from minilm.finetune.text import ClassificationTask
from minilm.recipe import FinetuneRecipe, Loaded, find_recipe, flat_values, load_recipe
from minilm.text.tokenizer import Tokenizer
from minilm.train.allocator import FreedMemory, keep_freed_memory
from minilm.train.metrics import read_metrics

RESULTS = Path(__file__).parent / "results" / "glue"


def main() -> None:
    """Run what is missing and store it, run by run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with one folder per task (CoLA/train.tsv, ...)"
    )
    parser.add_argument("--task", required=True, help="folder name of the task, such as CoLA")
    add_run_flags(parser, learning_rate=5e-5)
    chosen = parser.parse_args()
    train, dev = (str(next((chosen.data / chosen.task).glob(f"{part}.tsv*"))) for part in ("train", "dev"))
    for seed in chosen.seeds:
        recipe = recipe_of(f"glue/{chosen.task.lower()}-bert-base", chosen, seed, train=[train], dev=[dev])
        run_missing(recipe, RESULTS / f"{recipe.task.name}.json", side=chosen.side)


def add_run_flags(parser: argparse.ArgumentParser, *, learning_rate: float) -> None:
    """Add which side, which seeds, and the settings of both sides."""
    parser.add_argument("--side", choices=["ours", "transformers"], required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")


def run_missing(recipe: FinetuneRecipe, file: Path, *, side: str) -> None:
    """One run of one side, unless its result is stored."""
    if is_stored(recipe, file, side=side):
        return
    started = time.monotonic()
    per_epoch = ours(recipe) if side == "ours" else theirs(recipe)
    store(recipe, file, side=side, per_epoch=per_epoch, seconds=time.monotonic() - started)


def run_key(recipe: FinetuneRecipe, *, side: str) -> dict[str, object]:
    """The values that identify a run of a task."""
    section = recipe.train
    setting = {"epochs": section.epochs, "learning_rate": section.learning_rate, "batch_size": section.batch_size}
    return {"side": side, "seed": recipe.seed, "precision": section.precision, **setting}


def is_stored(recipe: FinetuneRecipe, file: Path, *, side: str) -> bool:
    """Whether the file contains this run."""
    key = run_key(recipe, side=side)
    return any(all(run[name] == value for name, value in key.items()) for run in stored_in(file)["runs"])


def store(
    recipe: FinetuneRecipe,
    file: Path,
    *,
    side: str,
    per_epoch: Sequence[Mapping[str, float]],
    seconds: float | None = None,
) -> None:
    """Add a run to the file; `per_epoch` are the numbers of its evaluations, `main` among them."""
    row = {
        **run_key(recipe, side=side),
        "best": max(per_epoch, key=lambda numbers: numbers["main"]),
        "last": per_epoch[-1],
        "per epoch": [numbers["main"] for numbers in per_epoch],
        **({} if seconds is None else {"seconds": seconds}),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": machine(),
    }
    data = {
        "train sha256": [sha256_file(Path(name)) for name in recipe.task.train],
        "dev sha256": [sha256_file(Path(name)) for name in recipe.task.dev],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    stored = stored_in(file)  # read again: the other side may have added a run in the meantime
    write_json(file, {"task": recipe.task.name, **data, "runs": [*stored["runs"], row]})
    print({name: row[name] for name in ("side", "seed", "best")}, flush=True)


def stored_in(file: Path) -> dict[str, Any]:
    """The runs of a task's file; none if there is no file yet."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    return found


def recipe_of(name: str, chosen: argparse.Namespace, seed: int, *, train: list[str], dev: list[str]) -> FinetuneRecipe:
    """A shipped recipe without its grid, on the embedded weights."""
    settings = {
        "model": "embedded",
        "seed": seed,
        "task.train": train,
        "task.dev": dev,
        "train.epochs": chosen.epochs,
        "train.learning_rate": chosen.learning_rate,
        "train.precision": chosen.precision,
        "sweep": None,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return load_recipe(find_recipe(name), overrides, kind=FinetuneRecipe).recipe


def ours(recipe: FinetuneRecipe) -> list[Mapping[str, float]]:
    """`minilm finetune`; the numbers of every evaluation."""
    with tempfile.TemporaryDirectory() as work:
        metric = finetuned(recipe, Path(work, "run"))
        return [{**row, "main": row[metric]} for row in read_metrics(Path(work, "run")) if metric in row]


def finetuned(recipe: FinetuneRecipe, out: Path) -> str:
    """Run the recipe in that folder, or resume it; returns the name of its main metric."""
    run = recipe.model_copy(update={"out": str(out)})
    return finetune(Loaded(recipe=run, origins=dict.fromkeys(flat_values(run), "benchmark")))[0].metric


class Rows(torch.utils.data.Dataset):
    """Token ids, segment ids and labels of a split; dev rows, which have no order to keep, from short to long."""

    def __init__(self, task: ClassificationTask | SpanTask, dev_set: str | None) -> None:
        self.sequences = task.train if dev_set is None else task.dev[dev_set]
        self.targets = task.targets if dev_set is None else None
        self.names = ("start_positions", "end_positions") if isinstance(task, SpanTask) else ("labels",)
        lengths = [len(ids) for ids in self.sequences.token_ids]
        self.order = np.arange(len(lengths)) if dev_set is None else np.argsort(lengths, kind="stable")

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, place: int) -> Mapping[str, object]:
        row = self.order[place]
        item = {
            "input_ids": self.sequences.token_ids[row].tolist(),
            "token_type_ids": self.sequences.segment_ids[row].tolist(),
        }
        if self.targets is None:
            return item
        return {**item, **dict(zip(self.names, np.atleast_1d(self.targets[row]).tolist(), strict=True))}


class SplitByLength(Trainer):
    """The Trainer, with each batch computed in four parts of similar length: the same gradient except for dropout.

    With less padding it takes half the hours; `finetune.py`, which compares speed, takes the Trainer as it is.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 (those of the Trainer)
        """Create the Trainer unchanged."""
        super().__init__(**arguments)
        keep_freed_memory()
        self.memory = FreedMemory()

    def compute_loss(
        self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], *_: object, **__: object
    ) -> torch.Tensor:
        """The mean loss over the rows of a padded batch."""
        lengths_B = inputs["attention_mask"].sum(1)
        parts = torch.argsort(lengths_B).chunk(4)
        return torch.stack(
            [self.part_loss(model, inputs, rows, int(lengths_B[rows].max())) * len(rows) for rows in parts]
        ).sum() / len(lengths_B)

    def training_step(self, *inputs: object, **more: object) -> torch.Tensor:
        """The unchanged step; freed memory that has piled up is returned, as in our loop."""
        self.memory.after_step()
        return super().training_step(*inputs, **more)

    @staticmethod
    def part_loss(
        model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], rows: torch.Tensor, longest: int
    ) -> torch.Tensor:
        """The mean loss over some rows, truncated to the longest of them."""
        cut = {name: value[rows, :longest] if value.ndim == 2 else value[rows] for name, value in inputs.items()}
        loss: torch.Tensor = model(**cut).loss
        return loss


def peer_arguments(recipe: FinetuneRecipe, rows: int, out: Path, **more: str | int) -> TrainingArguments:
    """The recipe's settings as Trainer arguments, for a training set of that size."""
    section = recipe.train
    steps = math.ceil(section.epochs * rows / section.batch_size)
    return TrainingArguments(
        output_dir=str(out), num_train_epochs=section.epochs, per_device_train_batch_size=section.batch_size,
        per_device_eval_batch_size=64, learning_rate=section.learning_rate, weight_decay=section.weight_decay,
        warmup_steps=int(section.warmup_fraction * steps), adam_epsilon=section.adam_eps,
        max_grad_norm=section.max_grad_norm, lr_scheduler_type="linear", bf16=section.precision == "bf16",
        use_cpu=True, report_to=[], logging_strategy="no", disable_tqdm=True, seed=recipe.seed, **more,
    )  # fmt: skip


def theirs(recipe: FinetuneRecipe) -> list[Mapping[str, float]]:
    """The transformers Trainer with the settings of run_glue; the numbers after every epoch."""
    tokenizer = Tokenizer.load(embedded_model())
    task = make_task(recipe.task, tokenizer)
    assert isinstance(task, ClassificationTask)
    dev_set = next(iter(task.dev))
    dev = Rows(task, dev_set)
    torch.manual_seed(recipe.seed)
    model = AutoModelForSequenceClassification.from_pretrained(embedded_model(), num_labels=len(task.labels) or 1)
    found: list[Mapping[str, float]] = []
    with tempfile.TemporaryDirectory() as work:
        tokenizer.save(Path(work) / "tokenizer")

        def evaluate(*_: object, **__: object) -> dict[str, float]:
            predictions_BC = np.asarray(trainer.predict(dev).predictions, dtype=np.float32)
            numbers = task.metrics(dev_set, list(predictions_BC[np.argsort(dev.order)]))
            found.append({**numbers, "main": numbers[task.main_metric]})
            return {}

        trainer = SplitByLength(
            model=model,
            args=peer_arguments(recipe, len(task.train), Path(work), eval_strategy="epoch", save_strategy="no"),
            train_dataset=Rows(task, None),
            eval_dataset=dev,
            data_collator=DataCollatorWithPadding(PreTrainedTokenizerFast.from_pretrained(f"{work}/tokenizer")),
        )
        trainer.evaluate = evaluate  # type: ignore[method-assign]
        trainer.train()
    return found


if __name__ == "__main__":
    main()
