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
from functools import partial
from pathlib import Path

import torch
from original_flags import TRAINING, DeadFlag, Flag, every, if_positive, make_parser, training, training_recipe

from minilm.cli.app import run_reporting
from minilm.embedded import model_path
from minilm.errors import UsageError
from minilm.files.atomic import atomic_write, make_folder
from minilm.files.json import write_json
from minilm.finetune.run import finetune_once, tokenizer_path
from minilm.finetune.squad import SpanTask
from minilm.model.checkpoint import read_model
from minilm.model.metadata import read_config, saved_head
from minilm.recipe import FinetuneRecipe, Loaded, SquadSection, TrainingSection, resolved_yaml
from minilm.tasks.squad.answers import official_files
from minilm.tasks.squad.read import read_squad
from minilm.text.tokenizer import Tokenizer
from minilm.train.distributed import Ranks
from minilm.train.folder import MODELS, RECIPE

VERSIONS = {False: "1.1", True: "2.0"}
POSTPROCESS = "exact: answers are pieces of the context; classic: guessed from tokens, as the original does"
FLAGS = (
    *TRAINING,
    Flag("data_dir", str, "folder of the two files below; their names are joined to it"),
    Flag("train_file", str, "SQuAD .json, or .jsonl with a question a line, each optionally .gz", "task.train"),
    Flag("predict_file", str, "the same, to answer and to score"),
    Flag("version_2_with_negative", False, "questions may have no answer (SQuAD 2.0)", "task.version", VERSIONS.get),
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
    Flag("max_steps", -1, "steps; if positive, replaces --num_train_epochs", "train.steps", if_positive),
    Flag("warmup_steps", 0, "steps of linear warmup; then the rate falls linearly to 0", "train.warmup_steps"),
    Flag("weight_decay", 0.0, "not on biases and LayerNorm", "train.weight_decay"),
    Flag("save_steps", 500, "a checkpoint every N steps; 0: only the last", "train.checkpoint_every", every),
    DeadFlag("per_gpu_eval_batch_size", 8, "batches are formed by tokens"),
    DeadFlag("verbose_logging", False, "every warning is shown once anyway"),
    DeadFlag("lang_id", 0, "it is for XLM models, which cannot be read"),
    DeadFlag("overwrite_cache", False, "there is no feature cache: windows are made anew, so none can be stale"),
    DeadFlag("threads", 1, "the tokenizer uses the cores by itself, once for each context"),
)
parser = partial(make_parser, "run_squad.py", "Fine-tune an encoder on SQuAD, answer and score.", FLAGS)


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    with training(parser(), arguments, advice="give --overwrite_output_dir") as (args, ranks):
        model = model_path(args.model_name_or_path)
        config = Path(args.config_name) if args.config_name else None
        _require_fit(args, model, config)
        loaded = _recipe(args, ranks)
        if args.do_train:
            _require_own_folder(args)
        task = _task(args, loaded.recipe, config) if args.do_eval else None  # reports errors before hours of training
        if args.do_train:
            model, config = _train(args, loaded, ranks), None
        if task is not None:
            _evaluate(args, task, model, config, ranks)
    return 0


def _require_fit(args: argparse.Namespace, model: Path, config: Path | None) -> None:
    """Reject a model with too few positions, or (without --do_train) without a head."""
    if not (args.do_train or args.do_eval):
        raise UsageError("neither --do_train nor --do_eval is given: there is nothing to do")
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


def _file(args: argparse.Namespace, flag: str) -> str:
    """A data file; in --data_dir the official name is the default."""
    name = getattr(args, flag)
    if name is None and args.data_dir is not None:
        name = f"{'train' if flag == 'train_file' else 'dev'}-v{VERSIONS[args.version_2_with_negative]}.json"
    if name is None:
        raise UsageError(f"--{flag} is missing: name the file, or --data_dir with the official ones")
    return str(Path(args.data_dir or ".", name))


def _recipe(args: argparse.Namespace, ranks: Ranks) -> Loaded[FinetuneRecipe]:
    """The flags as a recipe; without --do_train, only its task is used."""
    changes: dict[str, object] = {
        "task.train": [_file(args, "train_file" if args.do_train else "predict_file")],
        "task.dev": [_file(args, "predict_file")] if args.evaluate_during_training else [],
        "train.eval_every": every(args.logging_steps) if args.evaluate_during_training else 0,
        "train.tokens_per_batch": max(TrainingSection.tokens_per_batch, args.max_seq_length),
    }
    if not args.do_train:
        changes["train.precision"] = "fp32"  # answers are always computed in float32
    return training_recipe(args, FLAGS, ranks, kind="squad", changes=changes)


def _require_own_folder(args: argparse.Namespace) -> None:
    """Reject an --output_dir that holds the files of something else."""
    out = Path(args.output_dir)
    foreign = not (out / "run" / RECIPE).is_file() and [path for path in out.glob("*") if path.name != "run"]
    if foreign and not args.overwrite_output_dir:
        raise UsageError(
            f"--output_dir {out} is not empty and holds no run of this script: name another one, or give "
            "--overwrite_output_dir"
        )


def _task(args: argparse.Namespace, recipe: FinetuneRecipe, config: Path | None) -> SpanTask:
    """The questions to answer, split into windows."""
    file, model = Path(_file(args, "predict_file")), model_path(recipe.model)
    tokenizer = Tokenizer.load(tokenizer_path(recipe.tokenizer, model), lowercase=recipe.lowercase)
    tokenizer.require_vocab_size(read_config(model, config=config).vocab_size, where=str(model))
    assert isinstance(recipe.task, SquadSection)
    return SpanTask([], {"dev": read_squad(file)}, tokenizer, settings=recipe.task)


def _train(args: argparse.Namespace, loaded: Loaded[FinetuneRecipe], ranks: Ranks) -> Path:
    """Train in `run/`, or resume there, and copy the model to --output_dir; returns the model's folder."""
    run = Path(loaded.recipe.out)
    finetune_once(
        loaded.recipe,
        resolved=resolved_yaml(loaded),
        afresh=args.overwrite_output_dir,
        ranks=ranks,
        label="run_squad",
        models=run / MODELS if args.eval_all_checkpoints else None,
    )
    for file in sorted((run / "model").iterdir()) if ranks.is_first else ():
        atomic_write(Path(args.output_dir, file.name), file.read_bytes())
    return run / "model"


def _evaluate(args: argparse.Namespace, task: SpanTask, model: Path, config: Path | None, ranks: Ranks) -> None:
    """Answer and score the questions with the model, then with each checkpoint if requested."""
    out = Path(args.output_dir)
    make_folder(out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {"": model}
    if args.do_train and args.eval_all_checkpoints:
        steps = sorted(int(folder.name.removeprefix("ckpt-")) for folder in (out / "run" / MODELS).glob("ckpt-*"))
        models |= {str(step): out / "run" / MODELS / f"ckpt-{step}" for step in steps}
    results: dict[str, float] = {}
    for step, folder in models.items():
        loaded = read_model(folder, config=config, head="span").eval().to(device)
        outputs = task.predict(loaded, task.dev["dev"], token_budget=TrainingSection.tokens_per_batch, ranks=ranks)
        answers = task.chosen("dev", outputs)
        results |= {f"{key}_{step}" if step else key: value for key, value in task.scores("dev", answers).items()}
        for name, content in official_files(answers).items() if ranks.is_first else ():
            atomic_write(out / f"{name}_{step}.json", json.dumps(content, indent=4) + "\n")
    if ranks.is_first:
        write_json(out / "results.json", results)
        print(f"Results: {results}")


if __name__ == "__main__":
    sys.exit(run_reporting(lambda: main(sys.argv[1:])))
