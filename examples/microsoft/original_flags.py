"""What Microsoft's command lines share: tables of flags, what a flag means on this machine, recipes made of flags.

In: rows of `Flag`, parsed arguments. Out: parsers; the processes of a run; a `FinetuneRecipe` whose errors name the
flag.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from minilm.cli.recipe_run import running
from minilm.embedded import model_path
from minilm.errors import UsageError
from minilm.finetune.run import tokenizer_path
from minilm.model.config import FAMILIES
from minilm.model.metadata import read_config
from minilm.model.precision import FloatPrecision, has_bf16
from minilm.recipe import FinetuneRecipe, Loaded, flat_values
from minilm.recipe.problems import without_kind
from minilm.train.distributed import Ranks, is_first_process, process_group

logger = logging.getLogger("minilm.examples")

MODEL_TYPES = {name: "bert" for name in ("minilm", "unilm", "electra")} | {family: family for family in FAMILIES}
"""Names of --model_type and the family each belongs to."""


class Flag(NamedTuple):
    """A flag. Its default is False for a switch, ... if it is required, a type for an optional value of that type."""

    name: str
    default: object
    help: str
    key: str = ""
    """The key of the recipe that it sets."""
    value: Callable[[Any], object] = lambda given: given
    """What that key becomes, given the value of the flag."""
    choices: tuple[str, ...] | None = None
    alias: str | None = None


class DeadFlag(Flag):
    """A flag of the original that changes nothing here, which is reported where it is given; `help` says why."""


class _Warn(argparse.Action):
    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: object, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, True if self.nargs == 0 else values)
        logger.warning("%s has no effect: %s", option_string, (self.help or "").removeprefix("no effect: "))


def make_parser(script: str, description: str, flags: Iterable[Flag]) -> argparse.ArgumentParser:
    """A parser of a table of flags, whose help shows the defaults."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    made = argparse.ArgumentParser(prog=script, description=description, formatter_class=formatter)
    for flag in flags:
        options: dict[str, Any] = {"help": flag.help, "default": flag.default}
        if isinstance(flag, DeadFlag):
            options |= {"action": _Warn, "help": f"no effect: {flag.help}"}
        if flag.default is False:
            options |= {"nargs": 0} if isinstance(flag, DeadFlag) else {"action": "store_true"}
        elif flag.default is ...:
            options |= {"required": True, "default": None}
        elif isinstance(flag.default, type):
            options |= {"type": flag.default, "default": None}
        else:
            options["type"] = type(flag.default)
        if flag.choices:
            options["choices"] = flag.choices
        made.add_argument(*(f"--{name}" for name in (flag.name, flag.alias) if name), **options)
    return made


# --- what a flag means -----------------------------------------------------------------------------


def require_model_type(model_type: str, model: Path | None = None, config: Path | None = None) -> None:
    """Reject an unknown --model_type, and one that is not the family of the model."""
    if model_type not in MODEL_TYPES:
        raise UsageError(f"--model_type is {model_type!r}, expected one of {', '.join(MODEL_TYPES)}")
    found = None if model is None else read_config(model, config=config).family
    if found not in (None, MODEL_TYPES[model_type]):
        raise UsageError(f"--model_type is {model_type}, but {config or model} is a {found}: correct it")


def precision_of(fp16: bool) -> FloatPrecision:
    """With --fp16 bfloat16 where the machine has it: emulated, a step took 13 times as long as in float32."""
    if not fp16:
        return "fp32"
    on_gpu = torch.cuda.is_available()
    if has_bf16("cuda" if on_gpu else "cpu"):
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


def every(steps: int) -> int:
    """As in the original, 0 or less means never."""
    return steps if steps > 0 else 10**9


def if_positive(steps: int) -> int | None:
    """As in the original, 0 or less means that epochs count."""
    return steps if steps > 0 else None


COMMON = (
    Flag("model_type", ..., f"one of {', '.join(MODEL_TYPES)}"),
    Flag("do_lower_case", False, "lower the text; needed for an uncased bare vocab.txt", "lowercase"),
    Flag("fp16", False, "compute in bfloat16 where the machine has it", "train.precision", precision_of),
    Flag("no_cuda", False, "compute on the CPU"),
    DeadFlag("cache_dir", "", "nothing is downloaded"),
)
"""Flags of all scripts that run a model."""

# --- training --------------------------------------------------------------------------------------

TRAINING = (
    *COMMON,
    Flag("model_name_or_path", ..., "Microsoft's .bin, a model folder, or 'embedded'", "model"),
    Flag("output_dir", ..., "where everything is written", "out"),
    Flag("config_name", str, "configuration of the model (file or folder) where it is not beside it", "config"),
    Flag("tokenizer_name", str, "vocab.txt, tokenizer.json or a folder, where none is beside the model", "tokenizer"),
    Flag("per_gpu_train_batch_size", 8, "examples per step for each process", "train.batch_size"),
    Flag("gradient_accumulation_steps", 1, "multiplies the batch; microbatches are formed by tokens anyway"),
    Flag("learning_rate", 5e-5, "peak", "train.learning_rate"),
    Flag("adam_epsilon", 1e-8, "of AdamW", "train.adam_eps"),
    Flag("max_grad_norm", 1.0, "gradients are clipped to it", "train.max_grad_norm"),
    Flag("logging_steps", 500, "a line of metrics every N steps; 0: only evaluations", "train.log_every", every),
    Flag("seed", 42, "everything random is derived from it", "seed"),
    Flag("local_rank", -1, "set by torch.distributed.launch", alias="local-rank"),
    DeadFlag("fp16_opt_level", "O1", "--fp16 is bfloat16 autocast; weights stay float32"),
    DeadFlag("server_ip", "", "there is no remote debugger"),
    DeadFlag("server_port", "", "there is no remote debugger"),
)
"""Flags of both training scripts; --weight_decay and --save_steps differ in their defaults."""


@contextmanager
def training(
    parser: argparse.ArgumentParser, arguments: Sequence[str], *, advice: str | None = None
) -> Iterator[tuple[argparse.Namespace, Ranks]]:
    """Parse the flags and join the processes of the run, of which only the first logs warnings.

    `advice` says how to start afresh in the folder of another run.
    """
    if not is_first_process():
        logging.getLogger("minilm").setLevel(logging.ERROR)
    args = parser.parse_args(arguments)
    if args.local_rank != -1 and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            f"--local_rank is {args.local_rank}, but WORLD_SIZE is not set: leave the flag to "
            "`python -m torch.distributed.launch`, or start with torchrun"
        )
    if args.no_cuda:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    config = Path(args.config_name) if args.config_name else None
    require_model_type(args.model_type, model_path(args.model_name_or_path), config)
    with running(advice), process_group() as ranks:
        if ranks.world_size == 1 and torch.cuda.device_count() > 1:
            logger.warning("one of %d GPUs is used: start with torchrun to use all", torch.cuda.device_count())
        yield args, ranks


def training_recipe(
    args: argparse.Namespace, flags: Iterable[Flag], ranks: Ranks, *, kind: str, changes: Mapping[str, object]
) -> Loaded[FinetuneRecipe]:
    """The recipe of the flags of a table, for a kind of task.

    `changes` are keys without a flag, and those that depend on several flags.

    Raises:
        UsageError: a value is not allowed; the message names the flag.
    """
    flag_of = {flag.key: flag for flag in flags if flag.key}
    own = {key: flag for key, flag in flag_of.items() if key not in changes}  # only these report their effect
    values: dict[str, object] = {key: flag.value(getattr(args, flag.name)) for key, flag in own.items()}
    tokenizer = tokenizer_path(args.tokenizer_name, model_path(args.model_name_or_path))
    values |= {
        "kind": "finetune",
        "name": f"run_{kind}",
        "task.kind": kind,
        "task.name": kind,
        "out": str(Path(args.output_dir, "run")),
        "config": args.config_name or None,
        "tokenizer": args.tokenizer_name or None,
        "lowercase": lowercase(args.do_lower_case, tokenizer),
        "train.batch_size": args.per_gpu_train_batch_size * ranks.world_size * args.gradient_accumulation_steps,
        **changes,
    }
    sections: dict[str, dict[str, object]] = {"": {}, "task": {}, "train": {}}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        sections[section][name] = value
    try:
        recipe = FinetuneRecipe.model_validate({**sections.pop(""), **sections})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        flag = flag_of.get(".".join(map(str, without_kind(problem["loc"]))))
        if flag is None:
            raise UsageError(f"the flags do not go together: {problem['msg'].removeprefix('Value error, ')}") from None
        raise UsageError(f"--{flag.name} is {problem['input']!r}: {problem['msg']}") from None
    names = {key: f"--{flag.name}" for key, flag in flag_of.items()}
    return Loaded(recipe=recipe, origins={key: names.get(key, f"{recipe.name}.py") for key in flat_values(recipe)})
