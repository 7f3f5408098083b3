"""Microsoft's command line for seq2seq fine-tuning (s2s-ft), unchanged. A thin shim over `minilm`.

In: the flags of `run_seq2seq.py`, those of March 2020 and those of the last version, with the defaults of March 2020.
Out: in --output_dir a Hugging Face folder `ckpt-<step>` every --save_steps and after the last step, as
`decode_seq2seq.py` wants them, and `train_opt.json`; in its `run/` everything of the training run. The same command
again resumes where it was stopped.

    torchrun --nproc_per_node 2 examples/microsoft/run_seq2seq.py --train_file train.json --model_type minilm ...
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from original_flags import TRAINING, DeadFlag, Flag, every, if_positive, make_parser, training, training_recipe

from minilm.cli.app import run_reporting
from minilm.errors import UsageError
from minilm.files.atomic import atomic_write, make_folder
from minilm.finetune.run import finetune_once
from minilm.recipe import FinetuneRecipe, Loaded, TrainingSection, resolved_yaml
from minilm.train.distributed import Ranks
from minilm.train.folder import RECIPE

logger = logging.getLogger("minilm.run_seq2seq")

MASK_WAYS = "v2: pseudo-masking; v1: masked target tokens; v0: the next token"
TARGET_MASKING = (
    "v2 and v0: share of true target tokens that are masked (0 as in March 2020; the last version has 0.5); "
    "v1: share that is masked and predicted"
)
not_negative = partial(max, 0.0)
FLAGS = (
    *TRAINING,
    Flag("train_file", ..., "JSON lines with src and tgt, texts or token lists", "task.train", lambda file: [file]),
    Flag("max_source_seq_length", 464, "longest source, with [CLS] and [SEP]", "task.max_source_tokens"),
    Flag("max_target_seq_length", 48, "longest target, with the final [SEP]", "task.max_target_tokens"),
    Flag("label_smoothing", 0.1, "share of the probability for the wrong tokens", "task.label_smoothing"),
    Flag("mask_way", "v2", MASK_WAYS, "task.mask_way", choices=("v0", "v1", "v2")),
    Flag("random_prob", 0.1, "of a masked token: a random one instead of [MASK]", "task.random_prob"),
    Flag("keep_prob", 0.1, "of a masked token: the token itself", "task.keep_prob"),
    Flag("source_mask_prob", -1.0, "share of source tokens that are masked", "task.source_mask_prob", not_negative),
    Flag("target_mask_prob", 0.0, TARGET_MASKING, "task.target_mask_prob", not_negative),
    Flag("num_max_mask_token", 0, "v1: max masked tokens of one target; 0 for no limit", "task.max_masked_tokens"),
    Flag("fix_word_embedding", False, "leave the word table as it is", "task.freeze_words"),
    Flag("num_training_epochs", 10.0, "passes over the training pairs", "train.epochs"),
    Flag("num_training_steps", -1, "steps; if positive, replaces --num_training_epochs", "train.steps", if_positive),
    Flag("num_warmup_steps", 0, "steps of linear warmup; then the rate falls linearly to 0", "train.warmup_steps"),
    Flag("weight_decay", 0.01, "not on biases and LayerNorm", "train.weight_decay"),
    Flag("save_steps", 1500, "a checkpoint every N steps, and after the last", "train.checkpoint_every", every),
    DeadFlag("log_dir", "", "metrics are in run/metrics.jsonl"),
    DeadFlag("cached_train_features_file", "", "there is no feature cache: pairs are read anew, so none can be stale"),
    DeadFlag("lmdb_cache", False, "there is no feature cache"),
    DeadFlag("lmdb_dtype", "h", "there is no feature cache"),
)
parser = partial(make_parser, "run_seq2seq.py", "Fine-tune an encoder as a sequence-to-sequence model.", FLAGS)


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    with training(parser(), arguments) as (args, ranks):
        out = Path(args.output_dir)
        if not (out / "run" / RECIPE).is_file() and any(out.glob("ckpt-*")):
            raise UsageError(f"--output_dir {out} holds ckpt-* but no run of this script: name another one")
        loaded = _recipe(args, ranks)
        options = json.dumps(vars(args), indent=2, sort_keys=True) + "\n"
        if ranks.is_first and not (out / "train_opt.json").is_file():
            make_folder(out)
            atomic_write(out / "train_opt.json", options)
        finetune_once(loaded.recipe, resolved=resolved_yaml(loaded), ranks=ranks, label="run_seq2seq", models=out)
        if ranks.is_first:
            atomic_write(out / "train_opt.json", options)  # not those of an earlier start that was rejected
            print(f"Training is done: the checkpoints are {out}/ckpt-*")
    return 0


def _recipe(args: argparse.Namespace, ranks: Ranks) -> Loaded[FinetuneRecipe]:
    """The flags as a recipe."""
    if args.num_max_mask_token and args.mask_way != "v1":
        logger.warning("--num_max_mask_token has no effect with --mask_way %s", args.mask_way)
    longest = args.max_source_seq_length + 2 * args.max_target_seq_length
    changes: dict[str, object] = {
        "task.max_masked_tokens": args.num_max_mask_token if args.mask_way == "v1" else 0,
        "task.shuffle": "once",  # as the original, which shuffles the features before it caches them
        "train.tokens_per_batch": max(TrainingSection.tokens_per_batch, longest),
    }
    return training_recipe(args, FLAGS, ranks, kind="seq2seq", changes=changes)


if __name__ == "__main__":
    sys.exit(run_reporting(lambda: main(sys.argv[1:])))
