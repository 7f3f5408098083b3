"""Microsoft's command line for seq2seq fine-tuning (s2s-ft), unchanged. A thin shim over `minilm`.

In: the flags of `run_seq2seq.py`, those of March 2020 and those of the last version, with the defaults of March 2020.
Out: in --output_dir a Hugging Face folder `ckpt-<step>` every --save_steps and after the last step, as
`decode_seq2seq.py` wants them, and `train_opt.json`; in its `run/` everything of the training run. The same command
again goes on where it was stopped.

    torchrun --nproc_per_node 2 examples/run_seq2seq.py --train_file train.json --model_type minilm ...
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
from minilm.finetune.run import finetune_once
from minilm.model.metadata import read_config
from minilm.recipe import FinetuneRecipe, Loaded, resolved_yaml
from minilm.train.distributed import Ranks, is_first_process, process_group, wait_for_first
from minilm.train.folder import RECIPE

logger = logging.getLogger("minilm.run_seq2seq")

_TOKENS_PER_BATCH = 16384

_TEXTS = {
    "config_name": "configuration of the model (file or folder) where it does not lie beside it",
    "tokenizer_name": "vocab.txt, tokenizer.json or a folder with one of them, where none lies beside the model",
}
_NUMBERS: Mapping[str, tuple[float, str]] = {
    "max_source_seq_length": (464, "longest source, with [CLS] and [SEP]; the tail is cut"),
    "max_target_seq_length": (48, "longest target, with the final [SEP]; the tail is cut"),
    "per_gpu_train_batch_size": (8, "pairs a step for each process"),
    "learning_rate": (5e-5, "peak"),
    "gradient_accumulation_steps": (1, "multiplies the batch; microbatches are cut by tokens anyway"),
    "weight_decay": (0.01, "not on biases and LayerNorm"),
    "adam_epsilon": (1e-8, "of AdamW"),
    "max_grad_norm": (1.0, "gradients are clipped to it"),
    "label_smoothing": (0.1, "share of the probability for other tokens than the right one"),
    "num_training_steps": (-1, "steps; replaces --num_training_epochs when more than 0"),
    "num_training_epochs": (10.0, "passes over the training pairs"),
    "num_warmup_steps": (0, "steps of linear warmup; then the rate falls linearly to 0"),
    "random_prob": (0.1, "of a masked token: a random one instead of [MASK]"),
    "keep_prob": (0.1, "of a masked token: the token itself"),
    "source_mask_prob": (-1.0, "share of source tokens that are masked"),
    "target_mask_prob": (
        0.0,
        "v2 and v0: share of true target tokens that are masked (0 as in March 2020; the last version has 0.5); "
        "v1: share that is masked and predicted",
    ),
    "num_max_mask_token": (0, "v1: most masked tokens of one target; 0 for no limit"),
    "logging_steps": (500, "a line of metrics every so many steps"),
    "save_steps": (1500, "a checkpoint every so many steps, and after the last"),
    "seed": (42, "everything random is derived from it"),
}
_SWITCHES = {
    "do_lower_case": "lower the text; needed for an uncased bare vocab.txt",
    "no_cuda": "compute on the CPU",
    "fp16": "train in bfloat16 autocast on CPUs and GPUs that have it; weights stay float32",
    "fix_word_embedding": "leave the word table as it is",
}
_DEAD: Mapping[str, tuple[int | str | bool, str]] = {
    "log_dir": ("", "metrics are in run/metrics.jsonl"),
    "cache_dir": ("", "nothing is downloaded"),
    "cached_train_features_file": ("", "there is no feature cache: pairs are read anew, so none can be stale"),
    "lmdb_cache": (False, "there is no feature cache"),
    "lmdb_dtype": ("h", "there is no feature cache"),
    "fp16_opt_level": ("O1", "--fp16 is bfloat16 autocast"),
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
    "task.max_source_tokens": "max_source_seq_length",
    "task.max_target_tokens": "max_target_seq_length",
    "task.label_smoothing": "label_smoothing",
    "task.mask_way": "mask_way",
    "task.source_mask_prob": "source_mask_prob",
    "task.target_mask_prob": "target_mask_prob",
    "task.random_prob": "random_prob",
    "task.keep_prob": "keep_prob",
    "task.max_masked_tokens": "num_max_mask_token",
    "task.freeze_words": "fix_word_embedding",
    "train.epochs": "num_training_epochs",
    "train.steps": "num_training_steps",
    "train.batch_size": "per_gpu_train_batch_size",
    "train.learning_rate": "learning_rate",
    "train.warmup_steps": "num_warmup_steps",
    "train.adam_eps": "adam_epsilon",
    "train.weight_decay": "weight_decay",
    "train.max_grad_norm": "max_grad_norm",
    "train.precision": "fp16",
    "train.log_every": "logging_steps",
    "train.checkpoint_every": "save_steps",
}


def parser() -> argparse.ArgumentParser:
    """The original's flags and defaults."""
    made = argparse.ArgumentParser(
        prog="run_seq2seq.py",
        description="Fine-tune an encoder as a sequence-to-sequence model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--train_file", required=True, help="a JSON object a line: src and tgt, texts or token lists")
    made.add_argument("--model_type", required=True, help=f"one of {', '.join(MODEL_TYPES)}")
    made.add_argument("--model_name_or_path", required=True, help="Microsoft's .bin, a model folder, or 'embedded'")
    made.add_argument("--output_dir", required=True, help="where the checkpoints are written")
    made.add_argument(
        "--mask_way",
        default="v2",
        choices=("v0", "v1", "v2"),
        help="v2: pseudo-masking; v1: masked target tokens; v0: the next token",
    )
    add_flags(made, texts=_TEXTS, numbers=_NUMBERS, switches=_SWITCHES, dead=_DEAD)
    add_local_rank(made)
    return made


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    if not is_first_process():
        logging.getLogger("minilm").setLevel(logging.ERROR)  # the first process speaks for all
    args = parser().parse_args(arguments)
    require_launcher(args.local_rank)
    if args.no_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop from the system is a Ctrl-C
    _require_family(args)
    out = Path(args.output_dir)
    with process_group() as ranks:
        if ranks.world_size == 1 and torch.cuda.device_count() > 1:
            logger.warning("one of %d GPUs is used: start with torchrun to use all", torch.cuda.device_count())
        if not (out / "run" / RECIPE).is_file() and any(out.glob("ckpt-*")):
            raise UsageError(f"--output_dir {out} holds ckpt-* but no run of this script: name another one")
        wait_for_first(ranks)  # all have looked before one writes
        loaded = _recipe(args, ranks)
        options = json.dumps(vars(args), indent=2, sort_keys=True) + "\n"
        if ranks.is_first and not (out / "train_opt.json").is_file():
            make_folder(out)
            atomic_write(out / "train_opt.json", options)
        finetune_once(loaded.recipe, resolved=resolved_yaml(loaded), ranks=ranks, label="run_seq2seq", models=out)
        if ranks.is_first:
            atomic_write(out / "train_opt.json", options)  # not those of a start that was refused before
            print(f"Training is done: the checkpoints are {out}/ckpt-*")
    return 0


def _require_family(args: argparse.Namespace) -> None:
    require_model_type(args.model_type)
    config = Path(args.config_name) if args.config_name else None
    found = read_config(model_path(args.model_name_or_path), config=config)
    require_family(args.model_type, found.family, args.config_name or args.model_name_or_path)


def _recipe(args: argparse.Namespace, ranks: Ranks) -> Loaded[FinetuneRecipe]:
    """The flags as a recipe."""
    model = model_path(args.model_name_or_path)
    tokenizer = Path(args.tokenizer_name) if args.tokenizer_name else model if model.is_dir() else model.parent
    longest = args.max_source_seq_length + 2 * args.max_target_seq_length
    if args.num_max_mask_token and args.mask_way != "v1":
        logger.warning("--num_max_mask_token has no effect with --mask_way %s", args.mask_way)
    values = {key: getattr(args, flag) for key, flag in _FLAG_OF.items()} | {
        "kind": "finetune",
        "name": "run_seq2seq",
        "out": str(Path(args.output_dir, "run")),
        "config": args.config_name or None,
        "tokenizer": args.tokenizer_name or None,
        "lowercase": lowercase(args.do_lower_case, tokenizer),
        "task.kind": "seq2seq",
        "task.name": "seq2seq",
        "task.train": [args.train_file],
        "task.source_mask_prob": max(0.0, args.source_mask_prob),
        "task.target_mask_prob": max(0.0, args.target_mask_prob),
        "task.max_masked_tokens": args.num_max_mask_token if args.mask_way == "v1" else 0,
        "task.shuffle": "once",  # as the original, which shuffles the features before it caches them
        "train.steps": args.num_training_steps if args.num_training_steps > 0 else None,
        "train.batch_size": args.per_gpu_train_batch_size * ranks.world_size * args.gradient_accumulation_steps,
        "train.tokens_per_batch": max(_TOKENS_PER_BATCH, longest),
        "train.precision": precision_of(fp16=args.fp16),
        "train.log_every": args.logging_steps if args.logging_steps > 0 else NEVER,
        "train.checkpoint_every": args.save_steps if args.save_steps > 0 else NEVER,
    }
    return recipe_of_flags(values, _FLAG_OF, script="run_seq2seq.py")


if __name__ == "__main__":
    sys.exit(run_reporting(lambda: main(sys.argv[1:])))
