"""Shells are offered recipe names, keys of the command's kind of recipe, and tasks."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from minilm.cli.app import build_app


def offered(*words: str) -> list[str]:
    """What bash is offered for the last of `words`."""
    environment = {
        "_MINILM_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["minilm", *words]),
        "COMP_CWORD": str(len(words)),
    }
    found = CliRunner().invoke(build_app(), [], prog_name="minilm", env=environment)
    assert found.exit_code == 0
    return found.stdout.split()


@pytest.mark.parametrize("command", [("distill",), ("finetune",), ("recipes", "show"), ("recipes", "copy")])
def test_recipe_names_that_the_command_runs(command):
    """`distill` and `finetune` are offered their own, the others all."""
    assert offered(*command, "tiny-emb") == ([] if command == ("finetune",) else ["tiny-embedded"])
    assert ("glue/rte-bert-base" in offered(*command, "glue/")) == (command != ("distill",))


def test_keys_of_the_kind_of_recipe_that_the_command_runs():
    assert offered("distill", "x.yaml", "--set", "teacher.") == ["teacher.layer=", "teacher.model="]
    assert offered("finetune", "x.yaml", "--set", "teacher.") == []
    assert {"task.stride=", "task.text_pair=", "task.beam_size="} <= set(
        offered("finetune", "x.yaml", "--set", "task.")
    )


def test_tasks():
    assert offered("score", "glue", "--task", "s") == ["sst-2", "sts-b"]
    assert offered("predict", "model", "--task", "s") == ["squad", "sst-2", "sts-b"]
