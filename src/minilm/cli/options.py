"""Options that several commands share, and flags generated from settings.

In: a group of settings. Out: annotated types, one per option; a command with a flag for each field.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field, fields
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
from annotated_types import Ge

from minilm.decode.settings import Flag
from minilm.files.checked import Settings
from minilm.infer.engine_names import EngineName
from minilm.model.precision import Precision

if TYPE_CHECKING:
    from minilm.infer.api import LoadedModel

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of a model, `embedded`, or a name in Hugging Face's cache.")
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="bf16 is faster, and rejected on a processor that does not have it (torch emulates it, which is slow); "
        "int8 needs a folder that minilm quantize wrote."
    ),
]
EngineOption = Annotated[
    EngineName, typer.Option(help="native: the compiled kernels; auto: native where it can run the model, else torch.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Threads that compute.", show_default="all that may be used")
]

FieldOption = Annotated[str, typer.Option(metavar="NAME", help="Name of the text in formats with names.")]
IdColumn = Annotated[
    str | None,
    typer.Option("--id", metavar="COLUMN", help="Column of the id.", show_default="id, idx, index or row number"),
]


def load_reranker(
    name: str | None, engine: EngineName, precision: Precision, threads: int | None
) -> LoadedModel | None:
    """The model of `--rerank`, None without one; raises as `minilm.load`, or UsageError if it does not score pairs."""
    from minilm.infer.api import load
    from minilm.infer.predictions import require_one_score

    if name is None:
        return None
    model = load(name, engine=engine, precision=precision, threads=threads)
    require_one_score(model)
    return model


def with_flags(settings: type[Settings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command whose last parameter is `**options` a flag for each field of `settings`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        kept = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        hints = get_type_hints(settings, include_extras=True)
        flags = [flag for field in fields(settings) if (flag := _parameter(field, hints[field.name]))]
        command.__signature__ = own.replace(parameters=[*kept, *flags])  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in (*kept, *flags)}
        return command

    return decorate


def _parameter(field: Field[Any], hint: object) -> inspect.Parameter | None:
    """The keyword parameter of a field, as typer reads it; None for a field that is not a flag."""
    rules = list(getattr(hint, "__metadata__", ()))
    flag = next((rule for rule in rules if isinstance(rule, Flag)), None)
    if flag is None:
        return None
    kind: Any = get_args(hint)[0]
    if get_origin(kind) in (Union, UnionType):  # with None
        kind = get_args(kind)[0]
        rules += getattr(kind, "__metadata__", ())
        kind = getattr(kind, "__origin__", kind)
    option = typer.Option(
        *((f"--{field.name}",) if kind is bool else ()),
        help=flag.help,
        metavar=flag.metavar,
        min=next((rule.ge for rule in rules if isinstance(rule, Ge)), None) if kind is int else None,  # type: ignore[arg-type]
        show_default=flag.shown or not (field.default is False or field.default == ""),
    )
    annotation: Any = Annotated[kind if field.default is not None else kind | None, option]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
