"""What a shell offers when it completes a command: recipe names, keys of recipes, tasks.

In: the word typed so far. Out: the words that it may become. Set up with `minilm --install-completion`.
"""

from __future__ import annotations

from collections.abc import Iterable

import typer

from minilm.errors import MinilmError


def recipe_names(context: typer.Context, incomplete: str) -> list[str]:
    """Shipped recipes that the command runs, by full name or by the name without its folder."""
    from minilm.recipe.shipped import recipe_names

    try:
        names = recipe_names()
    except MinilmError:  # an incomplete installation
        return []
    if context.info_name in ("distill", "finetune"):
        names = [name for name in names if name.startswith("distill/") == (context.info_name == "distill")]
    return _beginning_with(incomplete, [*names, *(name.rpartition("/")[2] for name in names)])


def recipe_keys(context: typer.Context, incomplete: str) -> list[str]:
    """Keys of the command's kind of recipe, each followed by `=`; index 0 stands for any item of a list."""
    from minilm.recipe import ChainRecipe, DistillRecipe, FinetuneRecipe
    from minilm.recipe.problems import dotted_keys

    schemas = [DistillRecipe, ChainRecipe] if context.info_name == "distill" else [FinetuneRecipe]
    return _beginning_with(incomplete, [f"{key}=" for schema in schemas for key in dotted_keys(schema)])


def glue_tasks(incomplete: str) -> list[str]:
    """Names of the GLUE tasks."""
    from minilm.score.glue import GLUE_TASKS

    return _beginning_with(incomplete, GLUE_TASKS)


def tasks(incomplete: str) -> list[str]:
    """What `minilm predict` knows: GLUE tasks, `squad`, `tokens`, `rerank` and `text`."""
    return _beginning_with(incomplete, [*glue_tasks(""), "squad", "tokens", "rerank", "text"])


def _beginning_with(start: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(start)})
