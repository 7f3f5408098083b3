"""Shared by the commands that run a recipe: arguments, interruption, advice on a folder of another run.

In: the command line of `minilm distill` and `minilm finetune`. Out: typed parameters; an interruption as one error.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value; may be repeated.", show_default="none"),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check the recipe, print every value with its origin, and stop.")
]
Resume = Annotated[
    Literal["auto", "never"],
    typer.Option(help="auto continues from the newest checkpoint; never removes the run folder's results first."),
]


@contextmanager
def running() -> Iterator[None]:
    """Make a stop from the system a Ctrl-C, and one that came too early or twice an error that says what is kept.

    Memory that a step frees is kept for the next one, see `train/allocator.py`.
    A folder that belongs to another run is refused with the flag that would start afresh.
    """
    from minilm.errors import Interrupted
    from minilm.train.allocator import keep_freed_memory
    from minilm.train.state import AnotherRunError

    keep_freed_memory()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped immediately; run the same command to resume from the last checkpoint, if there is one"
        ) from None
    except AnotherRunError as error:
        raise AnotherRunError(f"{error}, or start afresh with --resume never") from None
