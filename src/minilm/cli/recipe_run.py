"""Shared by the commands that run a recipe: arguments, interruption, advice on another run's folder.

In: the command line of `minilm distill` and `minilm finetune`. Out: typed parameters; an interruption as one error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from minilm.cli import completion

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file, or the name of a shipped recipe.",
        autocompletion=completion.recipe_names,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value; may be repeated.",
        show_default="none",
        autocompletion=completion.recipe_keys,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print every value with its origin, check the files that the recipe names, and stop; distill also loads "
        "the teacher and measures a step.",
    ),
]
Resume = Annotated[
    Literal["auto", "never"],
    typer.Option(help="auto resumes from the newest checkpoint; never first removes the results in the run folder."),
]


def show_dry_run(resolved: str, check: Callable[[], Iterable[tuple[str, str]]]) -> None:
    """Print the resolved recipe on standard output, and on standard error what `check` finds, as it is found."""
    typer.echo(resolved, nl=False)
    with _saying_what_to_lower():
        for label, sentence in check():
            typer.echo(f"{label}: {sentence}", err=True)


@contextmanager
def _saying_what_to_lower() -> Iterator[None]:
    """Turn the lack of memory into an error that names the setting which decides what a step needs."""
    from minilm.errors import SystemProblem, is_out_of_memory

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = "out of memory: lower train.tokens_per_batch, use fewer texts, or a machine with more memory"
        raise SystemProblem(message) from error


@contextmanager
def running(advice: str | None = "start over with --resume never") -> Iterator[None]:
    """Turn a stop that comes too early, or twice, and the lack of memory into errors that say how to resume.

    Memory that a step frees is kept for the next one; see `train/allocator.py`.
    The error for a folder of another run ends with `advice` on how to start over.
    """
    from minilm.errors import Interrupted
    from minilm.train.allocator import keep_freed_memory
    from minilm.train.state import AnotherRunError

    keep_freed_memory()
    try:
        with _saying_what_to_lower():
            yield
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped immediately; run the same command to resume from the last checkpoint, if there is one"
        ) from None
    except AnotherRunError as error:
        raise AnotherRunError(f"{error}, or {advice}" if advice else str(error)) from None
