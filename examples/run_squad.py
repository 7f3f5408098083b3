"""Microsoft's command line for SQuAD, unchanged: train, answer, score. A thin shim over `minilm`.

In: the flags of `run_squad.py` of transformers 2.5.1, which the MiniLM README names, with its defaults.
Out: in --output_dir the model as a Hugging Face folder, `predictions_.json`, `nbest_predictions_.json`,
`null_odds_.json` (SQuAD 2.0) and `results.json`; in its `run/` everything of the training run.

    torchrun --nproc_per_node 2 examples/run_squad.py --model_type bert --model_name_or_path embedded ...
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from original_flags import (
    MODEL_TYPES,
    NEVER,
    add_flags,
    add_local_rank,
    lowercase,
    precision_of,
    recipe_of_flags,
    require_family,
    require_launcher,
    require_model_type,
)

from minilm.cli.app import run_reporting
from minilm.embedded import model_path
from minilm.errors import UsageError
from minilm.files.atomic import atomic_write, make_folder
from minilm.files.json import write_json
from minilm.finetune.run import finetune_once
from minilm.finetune.squad import SpanTask
from minilm.model.checkpoint import read_model
from minilm.model.metadata import read_config, saved_head
from minilm.recipe import FinetuneRecipe, Loaded, resolved_yaml
from minilm.tasks.squad.answers import official_files
from minilm.tasks.squad.read import read_squad
from minilm.tasks.squad.settings import SquadSettings
from minilm.text.tokenizer import Tokenizer
from minilm.train.distributed import Ranks, is_first_process, process_group, wait_for_first
from minilm.train.folder import MODELS, RECIPE
from minilm.train.state import AnotherRunError

logger = logging.getLogger("minilm.run_squad")

_TOKENS_PER_BATCH = 16384

_TEXTS = {
    "data_dir": "folder of the two files below; their names are joined to it",
    "train_file": "SQuAD .json, or .jsonl with a question a line, each optionally .gz",
    "predict_file": "the same, to answer and to score",
    "config_name": "configuration of the model (file or folder) where it does not lie beside it",
    "tokenizer_name": "vocab.txt, tokenizer.json or a folder with one of them, where none lies beside the model",
}
_NUMBERS: Mapping[str, tuple[float, str]] = {
    "null_score_diff_threshold": (0.0, "the answer is empty when the no-answer score is better by more than this"),
    "max_seq_length": (384, "longest window of question and context, in tokens"),
    "doc_stride": (128, "context tokens from the start of a window to that of the next"),
    "max_query_length": (64, "longest question in tokens; the rest is cut"),
    "per_gpu_train_batch_size": (8, "windows a step for each process"),
    "learning_rate": (5e-5, "peak"),
    "gradient_accumulation_steps": (1, "multiplies the batch; microbatches are cut by tokens anyway"),
    "weight_decay": (0.0, "not on biases and LayerNorm"),
    "adam_epsilon": (1e-8, "of AdamW"),
    "max_grad_norm": (1.0, "gradients are clipped to it"),
    "num_train_epochs": (3.0, "passes over the training windows"),
    "max_steps": (-1, "steps; replaces --num_train_epochs when more than 0"),
    "warmup_steps": (0, "steps of linear warmup; then the rate falls linearly to 0"),
    "n_best_size": (20, "starts and ends tried per window, entries of the n-best list"),
    "max_answer_length": (30, "longest answer in tokens"),
    "logging_steps": (500, "a line of metrics every so many steps; 0: only evaluations"),
    "save_steps": (500, "a checkpoint every so many steps; 0: only the last"),
    "seed": (42, "everything random is derived from it"),
}
_SWITCHES = {
    "version_2_with_negative": "questions may have no answer (SQuAD 2.0)",
    "do_train": "train on --train_file",
    "do_eval": "answer and score --predict_file",
    "evaluate_during_training": "also score every --logging_steps; the best weights are kept instead of the last",
    "do_lower_case": "lower the text; needed for an uncased bare vocab.txt",
    "eval_all_checkpoints": "keep all checkpoints and score each, too",
    "no_cuda": "compute on the CPU",
    "overwrite_output_dir": "train from the first step, whatever --output_dir holds",
    "fp16": "train in bfloat16 autocast on CPUs and GPUs that have it; weights and evaluation stay float32",
}
_DEAD: Mapping[str, tuple[int | str | bool, str]] = {
    "cache_dir": ("", "nothing is downloaded"),
    "per_gpu_eval_batch_size": (8, "batches are cut by tokens"),
    "verbose_logging": (False, "every warning is shown once anyway"),
    "lang_id": (0, "it is for XLM models, which cannot be read"),
    "overwrite_cache": (False, "there is no feature cache: windows are made anew, so none can be stale"),
    "fp16_opt_level": ("O1", "--fp16 is bfloat16 autocast"),
    "threads": (1, "the tokenizer uses the cores by itself, once for each context"),
    "server_ip": ("", "there is no remote debugger"),
    "server_port": ("", "there is no remote debugger"),
}
# Which flag sets a key of the recipe.
_FLAG_OF = {
    "seed": "seed",
    "out": "output_dir",
    "model": "model_name_or_path",
    "config": "config_name",
    "tokenizer": "tokenizer_name",
    "lowercase": "do_lower_case",
    "task.train": "train_file",
    "task.dev": "evaluate_during_training",
    "task.max_tokens": "max_seq_length",
    "task.version": "version_2_with_negative",
    "task.stride": "doc_stride",
    "task.max_question_tokens": "max_query_length",
    "task.max_answer_tokens": "max_answer_length",
    "task.n_best": "n_best_size",
    "task.null_threshold": "null_score_diff_threshold",
    "task.postprocess": "postprocess",
    "train.epochs": "num_train_epochs",
    "train.steps": "max_steps",
    "train.batch_size": "per_gpu_train_batch_size",
    "train.learning_rate": "learning_rate",
    "train.warmup_steps": "warmup_steps",
    "train.adam_eps": "adam_epsilon",
    "train.weight_decay": "weight_decay",
    "train.max_grad_norm": "max_grad_norm",
    "train.precision": "fp16",
    "train.log_every": "logging_steps",
    "train.eval_every": "logging_steps",
    "train.checkpoint_every": "save_steps",
}


def parser() -> argparse.ArgumentParser:
    """The original's flags and defaults, and `--postprocess`."""
    made = argparse.ArgumentParser(
        prog="run_squad.py",
        description="Fine-tune an encoder on SQuAD, answer and score.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--model_type", required=True, help=f"one of {', '.join(MODEL_TYPES)}")
    add("--model_name_or_path", required=True, help="Microsoft's .bin, a model folder, or 'embedded'")
    add("--output_dir", required=True, help="where the model and the predictions are written")
    add_flags(made, texts=_TEXTS, numbers=_NUMBERS, switches=_SWITCHES, dead=_DEAD)
    add_local_rank(made)
    add(
        "--postprocess",
        choices=("exact", "classic"),
        default="exact",
        help="exact: answers are pieces of the context; classic: guessed from tokens, as the original does",
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    if not is_first_process():
        logging.getLogger("minilm").setLevel(logging.ERROR)  # the first process speaks for all
    args = parser().parse_args(arguments)
    _require_sense(args)
    if args.no_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop from the system is a Ctrl-C
    model = model_path(args.model_name_or_path)
    config = Path(args.config_name) if args.config_name else None
    _require_fit(args, model, config)
    with process_group() as ranks:
        if ranks.world_size == 1 and torch.cuda.device_count() > 1:
            logger.warning("one of %d GPUs is used: start with torchrun to use all", torch.cuda.device_count())
        path = _tokenizer_path(args, model)
        lowered = lowercase(args.do_lower_case, path)
        # what is wrong is said before hours of training, flags first
        recipe = _recipe(args, lowered, ranks) if args.do_train else None
        if recipe:
            _require_own_folder(args)
        file = _file(args, "predict_file") if args.do_eval else None
        tokenizer = Tokenizer.load(path, lowercase=lowered)
        task = _task(args, file, tokenizer) if file else None
        if recipe:
            _train(args, recipe, ranks)
            model, config = Path(args.output_dir), None
        if task is not None:
            tokenizer.require_vocab_size(read_config(model, config=config).vocab_size, where=str(model))
            _evaluate(args, task, (model, config), ranks)
    return 0


# --- what is asked for -----------------------------------------------------------------------------


def _require_sense(args: argparse.Namespace) -> None:
    if not (args.do_train or args.do_eval):
        raise UsageError("neither --do_train nor --do_eval is given: there is nothing to do")
    require_launcher(args.local_rank)
    require_model_type(args.model_type)


def _require_fit(args: argparse.Namespace, model: Path, config: Path | None) -> None:
    """Refuse a model of another type, with too few positions, or (when it is only asked) without a head."""
    found = read_config(model, config=config)
    require_family(args.model_type, found.family, config or model)
    if args.max_seq_length > found.max_tokens:
        raise UsageError(
            f"--max_seq_length is {args.max_seq_length}, but {model} has positions for {found.max_tokens} tokens: "
            f"set it to {found.max_tokens} or less"
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


def _tokenizer_path(args: argparse.Namespace, model: Path) -> Path:
    if args.tokenizer_name:
        return Path(args.tokenizer_name)
    return model if model.is_dir() else model.parent


# --- training --------------------------------------------------------------------------------------


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
    """Train in `run/`, or go on there, then put the model into --output_dir."""
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


def _recipe(args: argparse.Namespace, lowered: bool | None, ranks: Ranks) -> Loaded[FinetuneRecipe]:
    """The flags as a recipe; raises UsageError naming the flag that cannot be."""
    values: dict[str, object] = {key: getattr(args, flag) for key, flag in _FLAG_OF.items()} | {
        "kind": "finetune",
        "name": "run_squad",
        "out": str(Path(args.output_dir, "run")),
        "lowercase": lowered,
        "task.kind": "squad",
        "task.name": "squad",
        "task.train": [str(_file(args, "train_file"))],
        "task.dev": [str(_file(args, "predict_file"))] if args.evaluate_during_training else [],
        "task.version": _version(args),
        "train.steps": args.max_steps if args.max_steps > 0 else None,
        "train.batch_size": args.per_gpu_train_batch_size * ranks.world_size * args.gradient_accumulation_steps,
        "train.tokens_per_batch": max(_TOKENS_PER_BATCH, args.max_seq_length),
        "train.precision": precision_of(fp16=args.fp16),
        "train.log_every": _every(args.logging_steps),
        "train.eval_every": _every(args.logging_steps) if args.evaluate_during_training else 0,
        "train.checkpoint_every": _every(args.save_steps),
    }
    return recipe_of_flags(values, _FLAG_OF, script="run_squad.py")


def _every(steps: int) -> int:
    """As in the original, 0 or less means never."""
    return steps if steps > 0 else NEVER


# --- answers ---------------------------------------------------------------------------------------


def _task(args: argparse.Namespace, file: Path, tokenizer: Tokenizer) -> SpanTask:
    """The questions to answer, cut into windows."""
    return SpanTask(
        [],
        {"dev": read_squad(file)},
        tokenizer,
        settings=SquadSettings(
            name="squad",
            max_tokens=args.max_seq_length,
            stride=args.doc_stride,
            max_question_tokens=args.max_query_length,
            version=_version(args),
            n_best=args.n_best_size,
            max_answer_tokens=args.max_answer_length,
            null_threshold=args.null_score_diff_threshold,
            postprocess=args.postprocess,
        ),
    )


def _evaluate(args: argparse.Namespace, task: SpanTask, source: tuple[Path, Path | None], ranks: Ranks) -> None:
    """Answer and score the questions with the model, then with each checkpoint where that is asked for."""
    path, config = source
    out = Path(args.output_dir)
    make_folder(out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    results: dict[str, float] = {}
    for step, folder in [("", path), *_checkpoints(args)]:
        model = read_model(folder, config=None if step else config, head="span").eval().to(device)
        outputs = task.predict(model, task.dev["dev"], token_budget=_TOKENS_PER_BATCH, ranks=ranks)
        answers = task.chosen("dev", outputs)
        results |= {f"{key}_{step}" if step else key: value for key, value in task.scores("dev", answers).items()}
        for name, content in official_files(answers).items() if ranks.is_first else ():
            atomic_write(out / f"{name}_{step}.json", json.dumps(content, indent=4) + "\n")
    if ranks.is_first:
        write_json(out / "results.json", results)
        print(f"Results: {results}")


def _checkpoints(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """The step and the model of each checkpoint that --eval_all_checkpoints means."""
    if not (args.do_train and args.eval_all_checkpoints):
        return []
    folders = {
        int(path.name.removeprefix("ckpt-")): path for path in Path(args.output_dir, "run", MODELS).glob("ckpt-*")
    }
    return [(str(step), folders[step]) for step in sorted(folders)]


if __name__ == "__main__":
    sys.exit(run_reporting(lambda: main(sys.argv[1:])))
