"""Shipped GLUE and SQuAD recipes: every published row has one, with the paper's grid and number."""

from __future__ import annotations

import pytest

from minilm.errors import UsageError
from minilm.recipe import (
    FinetuneRecipe,
    FinetuneTrainSection,
    SquadSection,
    find_recipe,
    load_recipe,
    recipe_names,
    recipe_text,
)
from minilm.tasks.text.glue import GLUE

NAMES = [name for name in recipe_names() if name.startswith(("glue/", "squad/"))]
RATES = [2e-5, 3e-5, 4e-5, 5e-5]
LONG = ("cola", "mrpc", "rte")  # up to 10 epochs with the in-house teacher
PUBLISHED = {  # of L6-H768 (BERT-base), L12-H384 and L6-H384 (in-house): spec 3.1
    **{"mnli": ("84.0", "85.7", "83.3"), "sst-2": ("92.0", "93.0", "91.5"), "qnli": ("91.0", "91.5", "90.5")},
    **{"cola": ("49.2", "58.5", "47.5"), "rte": ("71.5", "73.3", "68.8"), "mrpc": ("88.4", "89.5", "88.9")},
    **{"qqp": ("91.0", "91.3", "90.6")},
}


def recipe(name: str) -> FinetuneRecipe:
    return load_recipe(find_recipe(name), kind=FinetuneRecipe).recipe


def grid(name: str) -> tuple[object, ...]:
    sweep = recipe(name).sweep
    assert sweep is not None
    return sweep.seeds, sweep.learning_rate, sweep.epochs, sweep.batch_size


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_and_where_its_numbers_come_from(name):
    first, _, comment = recipe_text(name).partition("\n\n")[0].partition("\n")
    assert first.startswith("# ")
    assert "# Source: arXiv 2002.10957v2" in comment or "# Not in the paper" in comment or "README" in comment
    found = recipe(name)
    assert found.name == name.partition("/")[2]
    assert found.out == f"runs/{found.name}"
    assert (found.sweep.seeds if found.sweep else None) == [1, 2, 3, 4]


def test_each_glue_task_has_recipes_of_both_kinds():
    assert {recipe(name).task.name for name in NAMES} == {*GLUE, "squad1", "squad2"}
    for task in GLUE:
        assert f"glue/{task}-bert-base" in NAMES
        assert {f"glue/{task}-in-house-l12", f"glue/{task}-in-house-l6"} <= set(NAMES)


@pytest.mark.parametrize("task", GLUE)
def test_glue_grids_are_the_papers(task):
    assert grid(f"{task}-bert-base") == ([1, 2, 3, 4], RATES, [3, 4, 5], None)
    assert recipe(f"{task}-bert-base").train.batch_size == 32
    assert recipe(f"{task}-bert-base").task.max_tokens == 128
    if task in LONG:
        assert grid(f"{task}-in-house-l12") == ([1, 2, 3, 4], [1.5e-5], [3, 4, 5, 10], [32, 48])
        assert grid(f"{task}-in-house-l6") == ([1, 2, 3, 4], RATES, [3, 4, 5, 10], [32, 48])
    else:
        assert grid(f"{task}-in-house-l12") == ([1, 2, 3, 4], RATES, [3, 4, 5], [32, 48])
        assert grid(f"{task}-in-house-l6") == ([1, 2, 3, 4], RATES, [3, 4, 5], [32, 48])


@pytest.mark.parametrize("task", GLUE)
def test_the_published_numbers_are_in_the_comment(task):
    kinds = ("bert-base", "in-house-l12", "in-house-l6")
    if task not in PUBLISHED:
        assert all("# Not in the paper" in recipe_text(f"{task}-{kind}") for kind in kinds)
        return
    bert_base, deep, shallow = PUBLISHED[task]
    assert f" {bert_base} (L6-H768" in recipe_text(f"{task}-bert-base")
    assert f" {deep} (L12-H384)" in recipe_text(f"{task}-in-house-l12")
    assert f" {shallow} (L6-H384" in recipe_text(f"{task}-in-house-l6")


@pytest.mark.parametrize("name", [name for name in NAMES if "-in-house-" in name])
def test_a_students_recipe_starts_from_the_student_it_names(name):
    six = name.endswith("-l6")
    start = "runs/v1-l12-h384-to-l6-h384/model" if six else "models/minilm-l12-h384-uncased"
    assert recipe(name).model == start
    assert f"{'L6' if six else 'L12'}-H384 of the in-house teacher" in recipe_text(name).splitlines()[0]


@pytest.mark.parametrize(
    ("name", "version", "batch", "rate", "epochs", "published"),
    [
        ("squad2-in-house-l12", "2.0", 48, 4e-5, 3, "81.7"),
        ("squad2-in-house-l12-readme", "2.0", 48, 4e-5, 4, "81.7"),
        ("squad2-in-house-l6", "2.0", 32, 6e-5, 3, "75.6"),
        ("squad2-bert-base", "2.0", 32, 6e-5, 3, "76.4"),
        ("squad1-in-house-l12", "1.1", 48, 4e-5, 3, "Not in the paper"),
        ("squad1-in-house-l6", "1.1", 32, 6e-5, 3, "Not in the paper"),
        ("squad1-bert-base", "1.1", 32, 6e-5, 3, "Not in the paper"),
    ],
)
def test_squad_settings_are_the_papers_or_the_readmes(name, version, batch, rate, epochs, published):
    found = recipe(name)
    assert (found.task.version, found.task.max_tokens, found.task.stride) == (version, 384, 128)
    assert (found.train.batch_size, found.train.learning_rate, found.train.epochs) == (batch, rate, epochs)
    assert published in recipe_text(name)


def test_the_readme_variant_has_the_defaults_of_run_squad():
    train = recipe("squad2-in-house-l12-readme").train
    assert (train.warmup_fraction, train.weight_decay) == (0, 0)


def test_mnli_scores_both_dev_files_and_selects_by_the_matched_one():
    assert recipe("mnli-bert-base").task.dev == ("glue/MNLI/dev_matched.tsv", "glue/MNLI/dev_mismatched.tsv")


def test_warmup_is_a_share_of_the_steps_or_a_number_of_them():
    assert FinetuneTrainSection().num_warmup_steps(205) == 20
    assert FinetuneTrainSection(warmup_fraction=0.0).num_warmup_steps(205) == 0
    assert FinetuneTrainSection(warmup_steps=7).num_warmup_steps(205) == 7
    with pytest.raises(ValueError, match="found both warmup_steps and warmup_fraction, expected only one"):
        FinetuneTrainSection(warmup_steps=7, warmup_fraction=0.2)


def test_only_squad_has_a_way_to_find_the_text_of_an_answer():
    assert SquadSection(name="squad2", train=["t.json"], postprocess="classic").postprocess == "classic"
    for value in ("classic", "exact"):  # the default is rejected too
        with pytest.raises(UsageError, match=r"unknown key 'task\.postprocess'"):
            load_recipe(find_recipe("rte-bert-base"), [f"task.postprocess={value}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["task={name: x, train: [t]}"],
            "the key 'task.kind' is missing: expected one of text, tokens, squad, seq2seq, embed, rerank",
        ),
        (
            ["task.kind=sqad"],
            "task.kind: found the text 'sqad', expected one of text, tokens, squad, seq2seq, embed, rerank: did you ",
        ),
        (["task.metrics=f1"], "unknown key 'task.metrics': did you mean 'task.metric'?"),
        (["task.max_token=9"], "unknown key 'task.max_token': did you mean 'task.max_tokens'?"),
        (["task.max_tokens=4"], "task.max_tokens: found 4, expected 8 or more"),
        (["task.max_tokens=many"], "task.max_tokens: found the text 'many', expected an integer"),
        (["task.labels=low"], "task.labels: found the text 'low', expected a list"),
        (["task.train=[]"], "task.train: found a list of 0, expected 1 or more"),
        (["task.regression=true", "task.labels=[a, b]"], "task: found labels with regression true"),
        (["task=3"], "task: found 3, expected a section"),
    ],
)
def test_mistakes_in_a_task_are_named(overrides, message):
    with pytest.raises(UsageError) as caught:
        load_recipe(find_recipe("rte-bert-base"), overrides)
    assert message in str(caught.value)
    assert str(caught.value).startswith(("--set", str(find_recipe("rte-bert-base"))))


def test_a_version_without_quotes_is_a_number():
    with pytest.raises(UsageError) as caught:
        load_recipe(find_recipe("squad2-bert-base"), ["task.version=2.0"])
    assert "task.version: found 2.0, expected '1.1' or '2.0' (quote it to make it text: \"2.0\")" in str(caught.value)
