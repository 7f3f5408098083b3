"""Microsoft's command line for SQuAD, unchanged: train, answer, score. A thin shim over `minilm`.

In: the flags of `run_squad.py` of transformers 2.5.1, which the MiniLM README names, with its defaults.
Out: in --output_dir the model as a Hugging Face folder, `predictions_.json`, `nbest_predictions_.json`,
`null_odds_.json` (SQuAD 2.0) and `results.json`; in its `run/` everything of the training run.

    torchrun --nproc_per_node 2 examples/microsoft/run_squad.py --model_type bert --model_name_or_path embedded ...
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from original_flags import (
    TRAINING,
    DeadFlag,
    Flag,
    every,
    lowercase,
    processes,
    require_model_type,
    training_arguments,
    training_parser,
    training_recipe,
)

from minilm.cli.app import run_reporting
from minilm.embedded import model_path
from minilm.errors import UsageError
from minilm.files.atomic import atomic_write, make_folder
from minilm.files.json import write_json
from minilm.finetune.run import finetune_once, tokenizer_path
from minilm.finetune.squad import SpanTask
from minilm.model.checkpoint import read_model
from minilm.model.metadata import read_config, saved_head
from minilm.recipe import FinetuneRecipe, Loaded, TrainingSection, resolved_yaml
from minilm.tasks.squad.answers import official_files
from minilm.tasks.squad.read import read_squad
from minilm.tasks.squad.settings import SquadSettings
from minilm.text.tokenizer import Tokenizer
from minilm.train.distributed import Ranks, wait_for_first
from minilm.train.folder import MODELS, RECIPE
from minilm.train.state import AnotherRunError

POSTPROCESS = "exact: answers are pieces of the context; classic: guessed from tokens, as the original does"
FLAGS = (
    *TRAINING,
    Flag("data_dir", None, "folder of the two files below; their names are joined to it"),
    Flag("train_file", None, "SQuAD .json, or .jsonl with a question a line, each optionally .gz", "task.train"),
    Flag("predict_file", None, "the same, to answer and to score"),
    Flag("version_2_with_negative", False, "questions may have no answer (SQuAD 2.0)", "task.version"),
    Flag("null_score_diff_threshold", 0.0, "the no-answer score is better by more: no answer", "task.null_threshold"),
    Flag("max_seq_length", 384, "longest window of question and context, in tokens", "task.max_tokens"),
    Flag("doc_stride", 128, "context tokens from the start of a window to that of the next", "task.stride"),
    Flag("max_query_length", 64, "longest question in tokens; the rest is truncated", "task.max_question_tokens"),
    Flag("n_best_size", 20, "starts and ends tried per window, entries of the n-best list", "task.n_best"),
    Flag("max_answer_length", 30, "longest answer in tokens", "task.max_answer_tokens"),
    Flag("postprocess", "exact", POSTPROCESS, "task.postprocess", choices=("exact", "classic")),
    Flag("do_train", False, "train on --train_file"),
    Flag("do_eval", False, "answer and score --predict_file"),
    Flag("evaluate_during_training", False, "also score every --logging_steps; the best weights are kept", "task.dev"),
    Flag("eval_all_checkpoints", False, "keep all checkpoints and score each, too"),
    Flag("overwrite_output_dir", False, "train from the first step, whatever --output_dir holds"),
    Flag("num_train_epochs", 3.0, "passes over the training windows", "train.epochs"),
    Flag("max_steps", -1, "steps; replaces --num_train_epochs when more than 0", "train.steps"),
    Flag("warmup_steps", 0, "steps of linear warmup; then the rate falls linearly to 0", "train.warmup_steps"),
    Flag("weight_decay", 0.0, "not on biases and LayerNorm", "train.weight_decay"),
    Flag("save_steps", 500, "a checkpoint every N steps; 0: only the last", "train.checkpoint_every"),
    DeadFlag("per_gpu_eval_batch_size", 8, "batches are formed by tokens"),
    DeadFlag("verbose_logging", False, "every warning is shown once anyway"),
    DeadFlag("lang_id", 0, "it is for XLM models, which cannot be read"),
    DeadFlag("overwrite_cache", False, "there is no feature cache: windows are made anew, so none can be stale"),
    DeadFlag("threads", 1, "the tokenizer uses the cores by itself, once for each context"),
)


def parser() -> argparse.ArgumentParser:
    """The original's flags and defaults, and `--postprocess`."""
    return training_parser("run_squad.py", "Fine-tune an encoder on SQuAD, answer and score.", FLAGS)


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    args = training_arguments(parser(), arguments)
    model = model_path(args.model_name_or_path)
    config = Path(args.config_name) if args.config_name else None
    _require_fit(args, model, config)
    with processes() as ranks:
        # what is wrong is reported before hours of training, flags first
        recipe = _recipe(args, ranks) if args.do_train else None
        if recipe:
            _require_own_folder(args)
        file = _file(args, "predict_file") if args.do_eval else None
        path = tokenizer_path(args.tokenizer_name, model)
        lowered = recipe.recipe.lowercase if recipe else lowercase(args.do_lower_case, path)
        tokenizer = Tokenizer.load(path, lowercase=lowered)
        task = _task(args, file, tokenizer) if file else None
        if recipe:
            _train(args, recipe, ranks)
            model, config = Path(args.output_dir), None
        if task is not None:
            tokenizer.require_vocab_size(read_config(model, config=config).vocab_size, where=str(model))
            _evaluate(args, task, (model, config), ranks)
    return 0


def _require_fit(args: argparse.Namespace, model: Path, config: Path | None) -> None:
    """Reject a model of another type, with too few positions, or (when it is only asked) without a head."""
    if not (args.do_train or args.do_eval):
        raise UsageError("neither --do_train nor --do_eval is given: there is nothing to do")
    require_model_type(args.model_type, model, config)
    room = read_config(model, config=config).max_tokens
    if args.max_seq_length > room:
        raise UsageError(
            f"--max_seq_length is {args.max_seq_length}, but {model} has positions for {room} tokens: "
            f"set it to {room} or less"
        )
    if not args.do_train and saved_head(model, config=config) != "span":
        raise UsageError(
            f"{model} has no trained span head (architectures in its configuration name no ...ForQuestionAnswering): "
            "add --do_train, or name a model fine-tuned on SQuAD"
        )


def _file(args: argparse.Namespace, flag: str) -> Path:
    """A data file; in --data_dir the official name is the default."""
    name = getattr(args, flag)
    if name is None and args.data_dir is not None:
        name = f"{'train' if flag == 'train_file' else 'dev'}-v{_version(args)}.json"
    if name is None:
        raise UsageError(f"--{flag} is missing: name the file, or --data_dir with the official ones")
    return Path(args.data_dir or ".", name)


def _version(args: argparse.Namespace) -> Literal["1.1", "2.0"]:
    return "2.0" if args.version_2_with_negative else "1.1"


def _recipe(args: argparse.Namespace, ranks: Ranks) -> Loaded[FinetuneRecipe]:
    """The flags as a recipe."""
    changes: dict[str, object] = {
        "name": "run_squad",
        "task.kind": "squad",
        "task.name": "squad",
        "task.train": [str(_file(args, "train_file"))],
        "task.dev": [str(_file(args, "predict_file"))] if args.evaluate_during_training else [],
        "task.version": _version(args),
        "train.eval_every": every(args.logging_steps) if args.evaluate_during_training else 0,
    }
    return training_recipe(args, FLAGS, ranks, longest=args.max_seq_length, steps=args.max_steps, changes=changes)


def _require_own_folder(args: argparse.Namespace) -> None:
    """Refuse to write among the files of something else."""
    out = Path(args.output_dir)
    foreign = not (out / "run" / RECIPE).is_file() and [path for path in out.glob("*") if path.name != "run"]
    if foreign and not args.overwrite_output_dir:
        raise UsageError(
            f"--output_dir {out} is not empty and holds no run of this script: name another one, or give "
            "--overwrite_output_dir"
        )


def _train(args: argparse.Namespace, recipe: Loaded[FinetuneRecipe], ranks: Ranks) -> None:
    """Train in `run/`, or resume there, then put the model into --output_dir."""
    out = Path(args.output_dir)
    wait_for_first(ranks)  # all have looked before one writes
    try:
        finetune_once(
            recipe.recipe,
            resolved=resolved_yaml(recipe),
            afresh=args.overwrite_output_dir,
            ranks=ranks,
            label="run_squad",
            models=out / "run" / MODELS if args.eval_all_checkpoints else None,
        )
    except AnotherRunError as error:
        raise AnotherRunError(f"{error}, or give --overwrite_output_dir") from None
    if ranks.is_first:
        for file in sorted((out / "run" / "model").iterdir()):
            atomic_write(out / file.name, file.read_bytes())
    wait_for_first(ranks)


def _task(args: argparse.Namespace, file: Path, tokenizer: Tokenizer) -> SpanTask:
    """The questions to answer, cut into windows."""
    names = (
        "max_tokens",
        "stride",
        "max_question_tokens",
        "n_best",
        "max_answer_tokens",
        "null_threshold",
        "postprocess",
    )
    values = {flag.key: getattr(args, flag.name) for flag in FLAGS}
    settings = SquadSettings(name="squad", version=_version(args), **{name: values[f"task.{name}"] for name in names})
    return SpanTask([], {"dev": read_squad(file)}, tokenizer, settings=settings)


def _evaluate(args: argparse.Namespace, task: SpanTask, source: tuple[Path, Path | None], ranks: Ranks) -> None:
    """Answer and score the questions with the model, then with each checkpoint where that is asked for."""
    path, config = source
    out = Path(args.output_dir)
    make_folder(out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results: dict[str, float] = {}
    scores_all = args.do_train and args.eval_all_checkpoints
    found = {int(one.name.removeprefix("ckpt-")): one for one in (out / "run" / MODELS).glob("ckpt-*") if scores_all}
    for step, folder in [("", path), *((str(step), found[step]) for step in sorted(found))]:
        model = read_model(folder, config=None if step else config, head="span").eval().to(device)
        outputs = task.predict(model, task.dev["dev"], token_budget=TrainingSection.tokens_per_batch, ranks=ranks)
        answers = task.chosen("dev", outputs)
        results |= {f"{key}_{step}" if step else key: value for key, value in task.scores("dev", answers).items()}
        for name, content in official_files(answers).items() if ranks.is_first else ():
            atomic_write(out / f"{name}_{step}.json", json.dumps(content, indent=4) + "\n")
    if ranks.is_first:
        write_json(out / "results.json", results)
        print(f"Results: {results}")


if __name__ == "__main__":
    sys.exit(run_reporting(lambda: main(sys.argv[1:])))
