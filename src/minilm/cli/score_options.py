"""What the score commands share: options, the task of a recipe, and messages that name a file.

In: values from the command line; findings of the pure code. Out: the section of a task; warnings and errors that begin
with the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from minilm.errors import DataError, UsageError
from minilm.files.source import Source

if TYPE_CHECKING:
    from minilm.recipe import TaskSection
    from minilm.score.retrieval import Judgments

logger = logging.getLogger(__name__)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Confidence = Annotated[
    bool, typer.Option("--confidence", help="Add 95% intervals from 1,000 samples drawn with replacement.")
]
TaskRecipe = Annotated[
    str | None,
    typer.Option("--task", metavar="RECIPE", help="Recipe whose task says columns and labels.", show_default="none"),
]
_Section = TypeVar("_Section", bound="TaskSection")


def column(what: str, default: str) -> object:
    """The option that names the column of `what`; `default` says which one it is otherwise."""
    return typer.Option(metavar="NAME", help=f"Column of the {what}.", show_default=default)


def task_section(recipe: str, kind: type[_Section], flags: Mapping[str, str | bool | None]) -> _Section:
    """The task of a recipe, which the `flags` would contradict or repeat.

    Raises:
        UsageError: a flag is given too, the recipe is invalid, or its task is of another kind.
    """
    from minilm.recipe import FinetuneRecipe, find_recipe, load_recipe

    if given := [name for name, value in flags.items() if value]:
        raise UsageError(f"{given[0]} is part of the task in {recipe}: remove the flag, or --task")
    section = load_recipe(find_recipe(recipe), kind=FinetuneRecipe).recipe.task
    if not isinstance(section, kind):
        raise UsageError(f"{recipe}: task.kind is {section.kind!r}, expected {kind.kind!r}")
    return section


def listed_names(labels: str | None) -> tuple[str, ...]:
    """The names in the value of `--labels`; none without it."""
    names = () if labels is None else tuple(name.strip() for name in labels.split(","))
    if len(set(names)) < len(names) or "" in names:
        raise UsageError(f"--labels {labels}: expected different names, separated by commas")
    return names


@contextmanager
def about(path: Source) -> Iterator[None]:
    """Name the file in an error from the pure code, which knows no files."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def warn(path: Source, *findings: str) -> None:
    """Log each finding that is not empty as a warning."""
    for finding in filter(None, findings):
        logger.warning("%s: %s", path, finding)


def read_gains(path: Source, gains: Mapping[int, float]) -> Judgments:
    """The judgments of a file, their grades replaced by `gains`, if there are any; what is odd is a warning.

    Raises:
        UsageError: the path is missing.
        DataError: as for `read_judgments`, or a grade has no gain.
    """
    from functools import partial

    from minilm.files.trec import judgment_location, read_judgments
    from minilm.score.retrieval import gains_of, judgment_findings

    where = partial(judgment_location, path)
    judgments = gains_of(read_judgments(path), gains, where)
    for finding in judgment_findings(judgments, where):
        logger.warning("%s", finding)
    return judgments
