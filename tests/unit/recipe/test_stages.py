"""What a recipe says once is part of every stage, under what a stage says itself; nothing is without effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from minilm.errors import UsageError
from minilm.recipe import ChainRecipe, DistillRecipe, load_recipe, resolved_yaml

CHAIN = """\
kind: distill
name: chain
out: run
data: {inputs: [a.txt], max_tokens: 32}
teacher: {model: t}
loss: {version: v1}
train:
  steps: 9
  learning_rate: 1e-3
stages:
  - students: [{name: assistant}]
    train: {batch_size: 8}
  - students: [{name: small}]
    train:
      batch_size: 4
      steps: 7
"""


@pytest.fixture
def chain(tmp_path) -> Path:
    file = tmp_path / "chain.yaml"
    file.write_text(CHAIN)
    return file


def test_common_values_are_under_those_of_a_stage_with_their_origin(chain):
    loaded = load_recipe(chain, ["train.learning_rate=2e-3", "stages.0.loss.version=v2"])
    assert isinstance(loaded.recipe, ChainRecipe)
    first, second = loaded.recipe.stages
    assert [(one.train.steps, one.train.batch_size, one.train.learning_rate) for one in (first, second)] == [
        (9, 8, 2e-3), (7, 4, 2e-3),
    ]  # fmt: skip
    assert (first.loss.version, second.loss.version) == ("v2", "v1")
    origins = {key.removeprefix("stages."): origin for key, origin in loaded.origins.items()}
    assert origins["0.train.steps"] == "chain.yaml:8"
    assert origins["1.train.steps"] == "chain.yaml:16"
    assert origins["1.train.learning_rate"] == origins["0.loss.version"] == "--set"
    assert origins["1.loss.version"] == "chain.yaml:6"
    assert origins["1.train.weight_decay"] == "default"


def test_the_resolved_recipe_is_the_same_recipe(chain, tmp_path):
    loaded = load_recipe(chain)
    again = tmp_path / "resolved.yaml"
    again.write_text(resolved_yaml(loaded))
    assert load_recipe(again).recipe == loaded.recipe
    with pytest.raises(UsageError, match=r"^--set: train\.steps has no effect, because every stage has its own"):
        load_recipe(again, ["train.steps=1"])


def test_overrides_may_replace_a_common_value_in_every_stage(chain):
    recipe = load_recipe(chain, ["stages.0.train.learning_rate=1", "stages.1.train.learning_rate=2"]).recipe
    assert [stage.train.learning_rate for stage in recipe.stages] == [1, 2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.batch_size=2"],
            "--set: train.batch_size has no effect, because every stage has its own: remove it, or",
        ),
        (["train.stepps=2"], "--set: unknown key 'stages.0.train.stepps': did you mean 'stages.0.train.steps'?"),
        (["train=2"], "--set: train: found 2, expected a section (key: value lines)"),
        (["train.steps=two"], "--set: stages.0.train.steps: found the text 'two', expected an integer"),
        (
            ["students=[{}]"],
            "--set: found both students and stages, expected one of them: give each stage its students",
        ),
        (["stages=[]"], "--set: stages: found a list of 0, expected 1 or more"),
        (["stages=2"], "--set: stages: found 2, expected a list"),
        (["stages.0.loss=2"], "--set: stages.0.loss: found 2, expected a section (key: value lines)"),
        (["stages.1.students.0.name=assistant"], "students: found the name 'assistant' more than once"),
        (["stages.0.students=[{name: a}, {name: b}]"], "stages.0.students: found 2 students, expected one: it is the"),
        (
            ["train.tokens_per_batch=16"],
            "stages.0.train.tokens_per_batch is 16, expected at least data.max_tokens (32)",
        ),
    ],
)
def test_mistakes_are_one_line(chain, overrides, message):
    with pytest.raises(UsageError) as caught:
        load_recipe(chain, overrides)
    assert message in str(caught.value)


def test_a_line_of_a_common_value_is_named(chain):
    chain.write_text(CHAIN.replace("steps: 9", "steps: many"))
    with pytest.raises(UsageError) as caught:
        load_recipe(chain)
    assert str(caught.value) == f"{chain}:8: stages.0.train.steps: found the text 'many', expected an integer"


def test_a_recipe_with_stages_is_none_of_a_single_run(chain):
    with pytest.raises(UsageError, match="unknown key 'stages'"):
        load_recipe(chain, kind=DistillRecipe)
