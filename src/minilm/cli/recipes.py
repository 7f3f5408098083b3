"""`minilm recipes`: list, show and copy the recipes that ship with the package.

In: a recipe name. Out: names or YAML on stdout, or a file to edit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minilm.cli import completion
from minilm.cli.table import aligned

app = typer.Typer(name="recipes", help="List, show and copy the shipped recipes.", no_args_is_help=True)

_Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="For example tiny-embedded; see `minilm recipes list`.",
        autocompletion=completion.recipe_names,
    ),
]


@app.command("list")
def list_recipes() -> None:
    """List the shipped recipes with their first comment lines.

    Examples:
      minilm recipes list
      minilm recipes list | grep v2
    """
    from minilm.recipe import recipe_names, recipe_text

    firsts = [(name, recipe_text(name).partition("\n")[0]) for name in recipe_names()]
    rows = [(name, first.removeprefix("#").strip() if first.startswith("#") else "") for name, first in firsts]
    typer.echo(aligned(rows, "<"))


@app.command()
def show(name: _Name) -> None:
    """Print a shipped recipe, comments included.

    Examples:
      minilm recipes show tiny-embedded
      minilm recipes show distill/tiny-embedded > my.yaml
    """
    from minilm.recipe import recipe_text

    typer.echo(recipe_text(name), nl=False)


@app.command()
def copy(
    name: _Name,
    dest: Annotated[
        Path | None,
        typer.Argument(metavar="DEST", help="File or folder to write.", show_default="./NAME.yaml"),
    ] = None,
) -> None:
    """Copy a shipped recipe to a new file, to edit it.

    Examples:
      minilm recipes copy tiny-embedded
      minilm recipes copy tiny-embedded recipes/mine.yaml
    """
    from minilm.errors import UsageError
    from minilm.recipe import load_recipe, recipe_text

    text = recipe_text(name)
    file_name = name.removesuffix(".yaml").rpartition("/")[2] + ".yaml"
    path = Path(file_name) if dest is None else dest / file_name if dest.is_dir() else dest
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} already exists: choose another name, or remove it first") from None
    except FileNotFoundError:
        raise UsageError(f"the folder {path.parent} does not exist: create it first") from None
    typer.echo(f"wrote {path}; run it with: minilm {load_recipe(path).recipe.kind} {path}")
