"""What Microsoft's command lines share: tables of flags, what a flag means on this machine, recipes made of flags.

In: rows of `Flag`, parsed arguments. Out: parsers; the processes of a run; a `FinetuneRecipe` whose errors name the
flag.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError

from minilm.embedded import model_path
from minilm.errors import UsageError
from minilm.finetune.run import tokenizer_path
from minilm.model.config import FAMILIES
from minilm.model.metadata import read_config
from minilm.model.precision import Precision
from minilm.recipe import FinetuneRecipe, Loaded, TrainingSection, flat_values
from minilm.train.allocator import keep_freed_memory
from minilm.train.distributed import Ranks, is_first_process, process_group

logger = logging.getLogger("minilm.examples")

MODEL_TYPES = {name: "bert" for name in ("minilm", "unilm", "electra")} | {family: family for family in FAMILIES}
"""Names of --model_type and the family each belongs to."""


class Flag(NamedTuple):
    """A flag: False is the default of a switch, None of a text that may be left out, ... of one that is required."""

    name: str
    default: object
    help: str
    key: str | None = None
    """The key of the recipe that it sets."""
    choices: tuple[str, ...] | None = None


class DeadFlag(Flag):
    """A flag of the original that changes nothing here, which is reported where it is given; `help` says why."""


class _Warn(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, True if self.nargs == 0 else values)
        logger.warning("%s has no effect: %s", option_string, (self.help or "").removeprefix("no effect: "))


def add_flags(parser: argparse.ArgumentParser, flags: Iterable[Flag]) -> None:
    """Add what a table says."""
    for flag in flags:
        options: dict[str, object] = {"help": flag.help, "default": flag.default}
        if isinstance(flag, DeadFlag):
            options |= {"action": _Warn, "help": f"no effect: {flag.help}"}
        if flag.default is False:
            options |= {"nargs": 0} if isinstance(flag, DeadFlag) else {"action": "store_true"}
        elif flag.default is ...:
            options |= {"required": True, "default": None}
        elif flag.default is not None:
            options |= {"type": type(flag.default)}
        if flag.choices:
            options["choices"] = flag.choices
        parser.add_argument(f"--{flag.name}", **options)  # type: ignore[arg-type]


def make_parser(script: str, description: str, flags: Iterable[Flag]) -> argparse.ArgumentParser:
    """A parser whose help shows the defaults."""
    made = argparse.ArgumentParser(
        prog=script, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add_flags(made, flags)
    return made


# --- what a flag means -----------------------------------------------------------------------------

MODEL_TYPE = Flag("model_type", ..., f"one of {', '.join(MODEL_TYPES)}")
LOWERCASE = Flag("do_lower_case", False, "lower the text; needed for an uncased bare vocab.txt", "lowercase")
NO_CACHE = DeadFlag("cache_dir", "", "nothing is downloaded")


def require_model_type(model_type: str, model: Path | None = None, config: Path | None = None) -> None:
    """Reject a --model_type that no script knows, or that is not the family of the model."""
    if model_type not in MODEL_TYPES:
        raise UsageError(f"--model_type is {model_type!r}, expected one of {', '.join(MODEL_TYPES)}")
    found = None if model is None else read_config(model, config=config).family
    if found not in (None, MODEL_TYPES[model_type]):
        raise UsageError(f"--model_type is {model_type}, but {config or model} is a {found}: correct it")


def precision_of(*, fp16: bool) -> Precision:
    """With --fp16 bfloat16 where the machine has it: emulated, a step took 13 times as long as in float32."""
    if not fp16:
        return "fp32"
    on_gpu = torch.cuda.is_available()
    cpu_has_it = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_has_it:
        logger.warning("--fp16: computed in bfloat16, not in float16")
        return "bf16"
    logger.warning("--fp16: this %s has no bfloat16, so computed in float32", "GPU" if on_gpu else "CPU")
    return "fp32"


def lowercase(do_lower_case: bool, tokenizer: Path) -> bool | None:
    """As the flag says for a bare vocab.txt; without the flag, what the files of a folder say."""
    if do_lower_case:
        return True
    if tokenizer.suffix == ".json" or any((tokenizer / f"tokenizer{part}.json").is_file() for part in ("", "_config")):
        return None
    logger.warning("%s: capitals are kept; give --do_lower_case for an uncased vocabulary", tokenizer)
    return False


# --- training --------------------------------------------------------------------------------------

TRAINING = (
    MODEL_TYPE,
    Flag("model_name_or_path", ..., "Microsoft's .bin, a model folder, or 'embedded'", "model"),
    Flag("output_dir", ..., "where everything is written", "out"),
    Flag("config_name", None, "configuration of the model (file or folder) where it is not beside it", "config"),
    Flag("tokenizer_name", None, "vocab.txt, tokenizer.json or a folder, where none is beside the model", "tokenizer"),
    LOWERCASE,
    Flag("per_gpu_train_batch_size", 8, "examples per step for each process", "train.batch_size"),
    Flag("gradient_accumulation_steps", 1, "multiplies the batch; microbatches are formed by tokens anyway"),
    Flag("learning_rate", 5e-5, "peak", "train.learning_rate"),
    Flag("adam_epsilon", 1e-8, "of AdamW", "train.adam_eps"),
    Flag("max_grad_norm", 1.0, "gradients are clipped to it", "train.max_grad_norm"),
    Flag("logging_steps", 500, "a line of metrics every N steps; 0: only evaluations", "train.log_every"),
    Flag("seed", 42, "everything random is derived from it", "seed"),
    Flag("no_cuda", False, "compute on the CPU"),
    Flag("fp16", False, "train in bfloat16 autocast where the machine has it; weights stay float32", "train.precision"),
    NO_CACHE,
    DeadFlag("fp16_opt_level", "O1", "--fp16 is bfloat16 autocast"),
    DeadFlag("server_ip", "", "there is no remote debugger"),
    DeadFlag("server_port", "", "there is no remote debugger"),
)
"""Flags of both training scripts; --weight_decay and --save_steps differ in their defaults."""


def training_parser(script: str, description: str, flags: Iterable[Flag]) -> argparse.ArgumentParser:
    """A parser that also takes what `torch.distributed.launch` gives every process."""
    made = make_parser(script, description, flags)
    made.add_argument("--local_rank", "--local-rank", default=-1, type=int, help="set by torch.distributed.launch")
    return made


def training_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse; warnings come from the first process alone, a stop from the system is a Ctrl-C.

    Raises:
        UsageError: a rank that no launcher gave, or an unknown --model_type.
    """
    if not is_first_process():
        logging.getLogger("minilm").setLevel(logging.ERROR)
    args = parser.parse_args(arguments)
    if args.local_rank != -1 and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            f"--local_rank is {args.local_rank}, but WORLD_SIZE is not set: leave the flag to "
            "`python -m torch.distributed.launch`, or start with torchrun"
        )
    require_model_type(args.model_type)
    if args.no_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    keep_freed_memory()
    return args


@contextmanager
def processes() -> Iterator[Ranks]:
    """The processes that share the run."""
    with process_group() as ranks:
        if ranks.world_size == 1 and torch.cuda.device_count() > 1:
            logger.warning("one of %d GPUs is used: start with torchrun to use all", torch.cuda.device_count())
        yield ranks


def training_recipe(
    args: argparse.Namespace,
    flags: Sequence[Flag],
    ranks: Ranks,
    *,
    longest: int,
    steps: int,
    changes: Mapping[str, object],
) -> Loaded[FinetuneRecipe]:
    """The flags as a recipe whose run folder is `run` in --output_dir.

    Args:
        args: the parsed flags.
        flags: their table.
        ranks: of this process.
        longest: max tokens of an example.
        steps: of training; 0 or less for epochs.
        changes: further keys, and those whose value is not that of their flag.

    Raises:
        UsageError: a value is not allowed; the message names the flag.
    """
    flag_of = {flag.key: flag.name for flag in flags if flag.key}
    model = model_path(args.model_name_or_path)
    values: dict[str, object] = {key: getattr(args, name) for key, name in flag_of.items()}
    values |= {
        "kind": "finetune",
        "out": str(Path(args.output_dir, "run")),
        "config": args.config_name or None,
        "tokenizer": args.tokenizer_name or None,
        "lowercase": lowercase(args.do_lower_case, tokenizer_path(args.tokenizer_name, model)),
        "train.steps": steps if steps > 0 else None,
        "train.batch_size": args.per_gpu_train_batch_size * ranks.world_size * args.gradient_accumulation_steps,
        "train.tokens_per_batch": max(TrainingSection.tokens_per_batch, longest),
        "train.precision": precision_of(fp16=args.fp16),
        "train.log_every": every(args.logging_steps),
        "train.checkpoint_every": every(args.save_steps),
    }
    nested: dict[str, dict[str, object]] = {"": {}, "task": {}, "train": {}}
    for key, value in {**values, **changes}.items():
        section, _, name = key.rpartition(".")
        nested[section][name] = value
    try:
        recipe = FinetuneRecipe.model_validate({**nested.pop(""), **nested})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"] if part != changes["task.kind"])
        if key not in flag_of:
            raise UsageError(f"the flags do not go together: {problem['msg'].removeprefix('Value error, ')}") from None
        raise UsageError(f"--{flag_of[key]} is {problem['input']!r}: {problem['msg']}") from None
    origins = {key: f"--{flag_of[key]}" if key in flag_of else f"{recipe.name}.py" for key in flat_values(recipe)}
    return Loaded(recipe=recipe, origins=origins)


def every(steps: int) -> int:
    """As in the original, 0 or less means never."""
    return steps if steps > 0 else 10**9
