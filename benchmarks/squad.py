"""SQuAD on real weights, ours against transformers: same windows, settings, seeds and start.

As `glue.py`, but training resumes: finished runs are in `--work`. One model per side and seed is
trained as for SQuAD 2.0, without a look at the dev files. Then the last weights of both sides answer the questions of
both dev files, by the same code, those that are in both once; those of SQuAD 1.1 always with a span. One JSON file per
version.

    python benchmarks/squad.py --data DATA --train train-v2.0.json --work runs/squad --side ours --seeds 1
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from glue import (
    Rows,
    SplitByLength,
    add_run_flags,
    finetuned,
    is_stored,
    peer_arguments,
    recipe_of,
    run_key,
    store,
)
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, PreTrainedTokenizerFast

from minilm.embedded import embedded_model
from minilm.files.json import read_json, write_json
from minilm.files.regular import sha256_file
from minilm.finetune.make import dev_files, make_task
from minilm.finetune.sequences import Array, Sequences
from minilm.finetune.squad import SpanTask
from minilm.model.checkpoint import read_model
from minilm.recipe import FinetuneRecipe, SquadSection
from minilm.tasks.squad.read import read_squad
from minilm.text.tokenizer import Tokenizer
from minilm.train.allocator import keep_freed_memory
from minilm.train.state import require_same

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
        plain = recipe_of("squad/squad2-bert-base", chosen, seed, train=train, dev=[])
        often = replace(plain.train, checkpoint_every=_CHECKPOINT_EVERY)
        recipe = plain.model_copy(update={"train": often})
        run_missing(
            recipe, dict(zip(VERSIONS, dev, strict=True)), chosen.work / f"{chosen.side}-seed{seed}", chosen.side
        )


def run_missing(recipe: FinetuneRecipe, dev: Mapping[str, str], out: Path, side: str) -> None:
    """One training of one side and its answers, unless they are stored."""
    files = {version: RESULTS / f"{version}.json" for version in dev}
    missing = {version: file for version, file in files.items() if not is_stored(recipe, file, side=side)}
    if not missing:
        return
    if side == "ours":
        finetuned(recipe, out)
    else:
        train_theirs(recipe, out)
    outputs: dict[bytes, Array] = {}
    for version, file in missing.items():
        task = replace(recipe.task, version=version, dev=[dev[version]])
        asked = recipe.model_copy(update={"task": task})
        store(asked, file, side=side, per_epoch=[scores(out / "model", asked, outputs)])


def train_theirs(recipe: FinetuneRecipe, out: Path) -> None:
    """The transformers Trainer with the settings of run_qa; the model in `model/`."""
    require_same_run(recipe, out)
    tokenizer = Tokenizer.load(embedded_model())
    task = make_task(recipe.task, tokenizer)
    assert isinstance(task, SpanTask)
    tokenizer.save(out / "model")
    torch.manual_seed(recipe.seed)
    trainer = SplitByLength(
        model=AutoModelForQuestionAnswering.from_pretrained(embedded_model()),
        args=peer_arguments(
            recipe,
            len(task.train),
            out,
            save_strategy="steps",
            save_steps=recipe.train.checkpoint_every,
            save_total_limit=2,
        ),
        train_dataset=Rows(task, None),
        data_collator=DataCollatorWithPadding(PreTrainedTokenizerFast.from_pretrained(str(out / "model"))),
    )
    states = sorted(out.glob("checkpoint-*/trainer_state.json"), key=lambda file: int(file.parent.name.split("-")[1]))
    trainer.train(resume_from_checkpoint=str(states[-1].parent) if states else None)  # the state is written last
    trainer.save_model(str(out / "model"))


def require_same_run(recipe: FinetuneRecipe, out: Path) -> None:
    """Our side rejects the folder of another run itself; the Trainer would resume from whatever it finds."""
    identity = {
        **run_key(recipe, side="transformers"),
        "train sha256": [sha256_file(Path(name)) for name in recipe.task.train],
    }
    file = out / "run.json"
    if file.exists():
        require_same(read_json(file), identity, out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, identity)


def scores(model: Path, recipe: FinetuneRecipe, outputs: dict[bytes, Array]) -> Mapping[str, float]:
    """The official scores of a model's answers to the recipe's dev file.

    `outputs` caches the scores of each window by its token ids; missing windows are computed and added.
    """
    assert isinstance(recipe.task, SquadSection)
    dev = {name: read_squad(Path(file)) for name, file in dev_files(recipe.task.dev).items()}
    task = SpanTask([], dev, Tokenizer.load(model), settings=recipe.task)
    ((name, windows),) = task.dev.items()
    keys = [ids.tobytes() for ids in windows.token_ids]
    new = [row for row, key in enumerate(keys) if key not in outputs]
    asked = Sequences(
        token_ids=[windows.token_ids[row] for row in new], segment_ids=[windows.segment_ids[row] for row in new]
    )
    trained = read_model(model, head="span").eval()
    answered = task.predict(trained, asked, token_budget=recipe.train.tokens_per_batch)
    outputs.update(zip((keys[row] for row in new), answered, strict=True))
    numbers = task.metrics(name, [outputs[key] for key in keys])
    return {**numbers, "main": numbers[task.main_metric]}


if __name__ == "__main__":
    main()
