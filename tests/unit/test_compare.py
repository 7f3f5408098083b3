"""Runs of both kinds beside each other: numbers, what differs in the recipes, curves; also of unfinished runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minilm.cli import app
from minilm.compare import number_rows, read_runs, recipe_rows, unfinished_sweeps
from minilm.errors import UsageError
from minilm.recipe import load_recipe, resolved_yaml


def cells(rows, first: str) -> list[str]:
    [row] = [row for row in rows if row[0] == first]
    return list(row[1:])


def write_run(
    folder: Path, recipe: Path, rows: list[dict[str, float | None]], *overrides: str, done: bool = True
) -> Path:
    """A run folder as a run leaves it: the recipe, the metrics, the model or the result."""
    folder.mkdir(parents=True)
    loaded = load_recipe(recipe, [*overrides, f"out={folder}"])
    (folder / "recipe.resolved.yaml").write_text(resolved_yaml(loaded))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if done and loaded.recipe.kind == "distill":
        (folder / "model").mkdir()
    elif done:
        (folder / "result.json").write_text("{}")
    return folder


LINES = [
    {"step": step, "loss": loss, "student.heldout_loss": heldout, "learning_rate": 0.1, "tokens": 100, "seconds": 2.0}
    for step, loss, heldout in ((10, 3.0, 2.5), (20, 2.0, 1.5), (30, 1.0, None))
]


@pytest.fixture
def two(tiny) -> list[Path]:
    """A finished distillation, and one that is at step 20, with another rate and another name of its student."""
    recipe = tiny.recipe()
    other = [{key.replace("student.", "other."): value for key, value in row.items()} for row in LINES[:2]]
    first = write_run(tiny.folder / "runs" / "a", recipe, LINES)
    changed = ["train.learning_rate=0.5", "students.0.name=other", "loss.relation_heads=null"]
    return [first, write_run(tiny.folder / "runs" / "b", recipe, other, *changed, done=False)]


def test_numbers_are_the_last_and_the_best(two):
    rows = number_rows(read_runs(two))
    assert list(rows[0]) == ["", "a", "b"]
    assert cells(rows, "state") == ["finished, step 30 of 30", "unfinished, step 20 of 30"]
    assert cells(rows, "tokens") == ["300", "200"]
    assert cells(rows, "time in steps") == ["6 s", "4 s"]
    assert cells(rows, "loss, last") == ["1", "2"]
    assert cells(rows, "heldout_loss, last") == ["1.5", "1.5"], "the only student is not in the name; null is no number"
    assert cells(rows, "heldout_loss, best") == ["1.5 at step 20", "1.5 at step 20"]
    assert not any(row[0].startswith("learning_rate") for row in rows)


def test_losses_of_training_have_no_best_value_and_single_heads_are_left_out(tiny):
    """Of a divergence the lowest is the best, of an agreement the highest."""
    losses = ("query-query", "hidden", "mlm")
    parts = (*losses, "query-query.kl", "query-query.agreement", "query-query.head1.kl")
    rows = [
        {"step": step, "loss": 1.0, **{f"student.{name}": value for name in parts}}
        for step, value in ((10, 0.5), (20, 0.7))
    ]
    twins = [write_run(tiny.folder / "runs" / name, tiny.recipe(), rows) for name in ("c", "d")]
    found = number_rows(read_runs(twins))
    assert cells(found, "query-query, last") == ["0.7", "0.7"]
    assert cells(found, "query-query.kl, best") == ["0.5 at step 10"] * 2
    assert cells(found, "query-query.agreement, best") == ["0.7 at step 20"] * 2
    assert not [row for row in found if row[0] in {f"{name}, best" for name in losses} or "head" in row[0]]


def test_only_differing_keys_are_shown_with_all_values(two):
    assert [list(row) for row in recipe_rows(read_runs(two))] == [
        ["", "a", "b"],
        ["students.0.name", "student", "other"],
        ["loss.relation_heads", "12", "not set"],
        ["train.learning_rate", "0.002", "0.5"],
    ]


def test_scores_are_better_when_higher_and_kinds_may_differ(two, tiny_task):
    rows = [{"step": step, "loss": 1.0, "accuracy": value} for step, value in ((6, 50.0), (12, 70.0), (18, 60.0))]
    tuned = write_run(two[0].parent / "tuned", tiny_task.recipe(), rows)
    found = read_runs([two[0], tuned])
    assert cells(number_rows(found), "accuracy, last") == ["-", "60"]
    assert cells(number_rows(found), "accuracy, best") == ["-", "70 at step 12"]
    assert cells(number_rows(found), "state")[1] == "finished, step 18 of 24"
    assert cells(recipe_rows(found), "kind") == ["distill", "finetune"]


def test_a_chain_is_its_stages_and_a_sweep_its_runs(tiny, tiny_task):
    """Stages that have not begun are shown; runs of a sweep that have not are counted out."""
    chain = write_run(tiny.folder / "chain", tiny.chain(), [], done=False)
    write_run(chain / "stages" / "1", tiny.recipe(), [{"step": 30, "assistant.heldout_loss": 0.5}])
    runs = read_runs([chain])
    assert [run.label for run in runs] == ["chain stage 1", "chain stage 2"]
    assert [run.state for run in runs] == ["finished, step 30 of 30", "unfinished, nothing logged"]
    assert cells(number_rows(runs), "heldout_loss, last") == ["0.5", "-"]
    assert cells(recipe_rows(runs), "train.batch_size") == ["8", "4"]
    sweep = write_run(tiny.folder / "sweep", tiny_task.recipe(sweep={"seeds": [1, 2, 3]}), [], done=False)
    with pytest.raises(UsageError, match="sweep: none of the runs of this sweep has begun; compare it when one has"):
        read_runs([sweep])
    for seed in (1, 2):
        write_run(sweep / "runs" / f"seed{seed}", tiny_task.recipe(), [], f"seed={seed}", done=False)
    runs = read_runs([sweep])
    assert [run.label for run in runs] == ["seed1", "seed2"]
    assert cells(recipe_rows(runs), "seed") == ["1", "2"]
    assert unfinished_sweeps([chain, sweep]) == [
        f"{sweep}: this sweep has not finished; runs that have not begun are not shown"
    ]


def test_the_command_prints_both_tables_and_writes_a_page(two, capsys, tmp_path):
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as caught:
        app.main(["compare", *map(str, two), "--output", str(page)])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "unfinished, step 20 of 30" in out
    assert "what differs in the recipes:" in out
    assert out.endswith(f"wrote {page}\n")
    text = page.read_text()
    assert "<title>a and b</title>" in text
    assert "What differs in the recipes" in text
    assert "heldout_loss, logarithmic" in text or "No curves" in text


def test_equal_recipes(two, capsys, tiny):
    twin = write_run(tiny.folder / "runs" / "twin", tiny.recipe(), LINES)
    with pytest.raises(SystemExit):
        app.main(["compare", str(two[0]), str(twin)])
    assert "the recipes are the same, except for names and folders" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/gone", "{}/runs/a"], "/gone: no such folder; expected the out folder of minilm distill or minilm fine"),
        (["{}/runs", "{}/runs/a"], "/runs: not a run folder, it has no recipe.resolved.yaml; expected the out folder"),
        (["{}/runs/a"], "found one run, "),
        (["{}/runs/a", "{}/runs/../runs/a"], " is named more than once: name each run once"),
        (["{}/runs/a", "{}/runs/b", "--output", "page.pdf"], "--output page.pdf: expected the name of a file that end"),
        (["{}/runs/a", "{}/runs/b", "--output", "{}/no/page.html"], "/no does not exist: create it first"),
        (["{}/bad", "{}/runs/a"], "recipe.resolved.yaml:1: the key"),
    ],
)
def test_mistakes_are_one_line(two, tiny, capsys, arguments, message):
    bad = tiny.folder / "bad"
    bad.mkdir()
    (bad / "recipe.resolved.yaml").write_text("kind: distill\n")
    with pytest.raises(SystemExit) as caught:
        app.main(["compare", *(argument.format(tiny.folder) for argument in arguments)])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
