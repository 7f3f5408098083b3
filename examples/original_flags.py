"""What the shims of Microsoft's command lines share: flags with their defaults, dead ones, and a recipe made of them.

In: tables of flags, parsed arguments. Out: a parser; a checked `FinetuneRecipe` whose errors name the flag.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError

from minilm.errors import UsageError
from minilm.model.config import FAMILIES
from minilm.model.precision import Precision
from minilm.recipe import FinetuneRecipe, Loaded, flat_values

logger = logging.getLogger("minilm.examples")

NEVER = 10**9
MODEL_TYPES: Mapping[str, str] = {
    **dict.fromkeys(("minilm", "unilm", "electra"), "bert"),
    **dict(zip(FAMILIES, FAMILIES, strict=True)),
}
"""Names of --model_type and the family each belongs to."""


class DeadFlag(argparse.Action):
    """A flag of the original that changes nothing here: said when it is given."""

    def __init__(self, *, reason: str, **options: object) -> None:
        """Keep why it is dead."""
        super().__init__(**options)  # type: ignore[arg-type]
        self.reason = reason

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Keep the value and warn."""
        setattr(namespace, self.dest, True if self.nargs == 0 else values)
        logger.warning("%s has no effect: %s", option_string, self.reason)


def add_flags(
    parser: argparse.ArgumentParser,
    *,
    texts: Mapping[str, str],
    numbers: Mapping[str, tuple[float, str]],
    switches: Mapping[str, str],
    dead: Mapping[str, tuple[int | str | bool, str]],
) -> None:
    """Add flags: texts that may be left out, numbers with defaults, switches, and dead ones with why they are dead."""
    for name, text in texts.items():
        parser.add_argument(f"--{name}", default=None, help=text)
    for name, (number, text) in numbers.items():
        parser.add_argument(f"--{name}", default=number, type=type(number), help=text)
    for name, text in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    for name, (value, text) in dead.items():
        said = f"no effect: {text}"
        if value is False:
            parser.add_argument(f"--{name}", action=DeadFlag, default=False, nargs=0, help=said, reason=text)
        else:
            parser.add_argument(f"--{name}", action=DeadFlag, default=value, type=type(value), help=said, reason=text)


def add_local_rank(parser: argparse.ArgumentParser) -> None:
    """Add what `torch.distributed.launch` gives every process."""
    parser.add_argument("--local_rank", "--local-rank", default=-1, type=int, help="set by torch.distributed.launch")


def require_model_type(model_type: str) -> None:
    """Refuse a --model_type that no script knows."""
    if model_type not in MODEL_TYPES:
        raise UsageError(f"--model_type is {model_type!r}, expected one of {', '.join(MODEL_TYPES)}")


def require_family(model_type: str, found: str, where: str | Path) -> None:
    """Refuse a model of another family than --model_type says."""
    if found != MODEL_TYPES[model_type]:
        raise UsageError(f"--model_type is {model_type}, but {where} is a {found}: correct it")


def require_launcher(local_rank: int) -> None:
    """Refuse a rank that no launcher gave."""
    if local_rank != -1 and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            f"--local_rank is {local_rank}, but WORLD_SIZE is not set: leave the flag to "
            "`python -m torch.distributed.launch`, or start with torchrun"
        )


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


def recipe_of_flags(values: Mapping[str, object], flag_of: Mapping[str, str], *, script: str) -> Loaded[FinetuneRecipe]:
    """A recipe from dotted keys and their values; raises UsageError naming the flag that cannot be."""
    nested: dict[str, object] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        place = nested.setdefault(section, {}) if section else nested
        assert isinstance(place, dict)
        place[name] = value
    try:
        recipe = FinetuneRecipe.model_validate(nested)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        if key not in flag_of:
            raise UsageError(f"the flags do not go together: {problem['msg'].removeprefix('Value error, ')}") from None
        raise UsageError(f"--{flag_of[key]} is {problem['input']!r}: {problem['msg']}") from None
    origins = {key: f"--{flag_of[key]}" if key in flag_of else script for key in flat_values(recipe)}
    return Loaded(recipe=recipe, origins=origins)
