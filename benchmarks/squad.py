"""SQuAD on real weights, ours against transformers: same windows, settings, seeds and start.

As `glue.py`, but training goes on where it was stopped: what is finished lies in `--work`. One model a side and seed is
trained as for SQuAD 2.0, without a look at the dev files. Then the last weights of both sides answer the questions of
both dev files, by the same code; those of SQuAD 1.1 always with a span. One JSON file a version.

    python benchmarks/squad.py --data DATA --train train-v2.0.json --work runs/squad --side ours --seeds 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from glue import Rows, SplitByLength, add_run_flags, is_stored, peer_arguments, recipe_of, store
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, PreTrainedTokenizerFast
from transformers.trainer_utils import get_last_checkpoint

from minilm.embedded import embedded_model
from minilm.model.checkpoint import read_model
from minilm.recipe import FinetuneRecipe, Loaded, flat_values
from minilm.tasks.make import make_task
from minilm.tasks.objective import predict
from minilm.tasks.span import SpanTask
from minilm.tasks.sweep import finetune
from minilm.text.tokenizer import Tokenizer
from minilm.train.allocator import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "squad"
VERSIONS = ("1.1", "2.0")
_CHECKPOINT_EVERY = 50  # steps


def main() -> None:
    """Run what is missing and store it, run by run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of all files")
    parser.add_argument("--train", nargs="+", required=True, help="official JSON or JSONL, each also .gz")
    parser.add_argument("--dev", nargs=2, default=["dev-v1.1.json", "dev-v2.0.json"], help="of each version")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs")
    add_run_flags(parser, learning_rate=6e-5)
    chosen = parser.parse_args()
    keep_freed_memory()
    train, dev = ([str(chosen.data / name) for name in names] for names in (chosen.train, chosen.dev))
    for seed in chosen.seeds:
        recipe = recipe_of("squad/squad2-bert-base", chosen, seed, train=train, dev=[])
        run_missing(
            recipe, dict(zip(VERSIONS, dev, strict=True)), chosen.work / f"{chosen.side}-seed{seed}", chosen.side
        )


def run_missing(recipe: FinetuneRecipe, dev: Mapping[str, str], out: Path, side: str) -> None:
    """One training of one side and its answers, unless they are stored."""
    files = {version: RESULTS / f"{version}.json" for version in dev}
    if all(is_stored(recipe, file, side=side) for file in files.values()):
        return
    started = time.monotonic()
    model = ours(recipe, out) if side == "ours" else theirs(recipe, out)
    for version, file in files.items():
        task = recipe.task.model_copy(update={"version": version, "dev": [dev[version]]})
        asked = recipe.model_copy(update={"task": task})
        store(asked, file, side=side, per_epoch=[scores(model, asked)], seconds=time.monotonic() - started)


def ours(recipe: FinetuneRecipe, out: Path) -> Path:
    """`minilm finetune`; the folder of the model."""
    settings = recipe.train.model_copy(update={"checkpoint_every": _CHECKPOINT_EVERY})
    run = recipe.model_copy(update={"out": str(out), "train": settings})
    finetune(Loaded(recipe=run, origins=dict.fromkeys(flat_values(run), "benchmark")))
    return out / "model"


def theirs(recipe: FinetuneRecipe, out: Path) -> Path:
    """The transformers Trainer with the settings of run_qa; the folder of the model."""
    tokenizer = Tokenizer.load(embedded_model())
    task = make_task(recipe.task, tokenizer)
    assert isinstance(task, SpanTask)
    tokenizer.save(out / "model")
    torch.manual_seed(recipe.seed)
    trainer = SplitByLength(
        model=AutoModelForQuestionAnswering.from_pretrained(embedded_model()),
        args=peer_arguments(
            recipe, len(task.train), out, save_strategy="steps", save_steps=_CHECKPOINT_EVERY, save_total_limit=1
        ),
        train_dataset=Rows(task, None),
        data_collator=DataCollatorWithPadding(PreTrainedTokenizerFast.from_pretrained(str(out / "model"))),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(out)))
    trainer.save_model(str(out / "model"))
    return out / "model"


def scores(model: Path, recipe: FinetuneRecipe) -> Mapping[str, float]:
    """The official scores of a model's answers to the recipe's dev file."""
    section = recipe.task.model_copy(update={"train": []})
    task = make_task(section, Tokenizer.load(model))
    assert isinstance(task, SpanTask)
    ((name, sequences),) = task.dev.items()
    outputs = predict(
        read_model(model, head="span"), sequences, task.outputs, tokens_per_batch=recipe.train.tokens_per_batch
    )
    numbers = task.metrics(name, outputs)
    return {**numbers, "main": numbers[task.main_metric]}


if __name__ == "__main__":
    main()
