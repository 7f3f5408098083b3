"""`minilm finetune --dry-run` reads configuration and data, says what it found, and fails where a run would fail."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from minilm.cli import app
from minilm.errors import MinilmError, UsageError
from minilm.finetune.sweep import check_recipe, finetune
from minilm.recipe import FinetuneRecipe, Loaded, find_recipe, load_recipe, recipe_names
from minilm.tasks.text.glue import GLUE

NAMES = [name for name in recipe_names() if not name.startswith(("distill/", "embed/"))]


def loaded(recipe: Path, *overrides: str) -> Loaded[FinetuneRecipe]:
    return load_recipe(recipe, overrides, kind=FinetuneRecipe)


@pytest.fixture(scope="module")
def shared_task(new_tiny_task, tmp_path_factory):
    """A task that no test changes."""
    return new_tiny_task(tmp_path_factory.mktemp("task"))


def counted(file: Path) -> str:
    counts = Counter(json.loads(line)["label"] for line in file.read_text().splitlines())
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def test_it_says_what_it_found_and_writes_nothing(shared_task):
    recipe = shared_task.recipe(steps=15)
    before = sorted(shared_task.folder.rglob("*"))
    assert check_recipe(loaded(recipe)) == [
        f"model {shared_task.model}: 3 layers, width 48",
        f"training: 60 rows: {counted(shared_task.folder / 'train.jsonl')}",
        f"dev: 30 rows: {counted(shared_task.folder / 'dev.jsonl')}",
        f"15 steps of 8, 2 epochs, scored every 6, into {shared_task.folder / 'run'}",
    ]
    assert sorted(shared_task.folder.rglob("*")) == before


@pytest.mark.parametrize("sweep", ["null", "{seeds: [1]}"])
@pytest.mark.parametrize(("key", "inside"), [("model", "model"), ("task.train", "predictions/dev.jsonl")])
def test_what_a_run_reads_is_not_removed_by_it(tiny_task, key, inside, sweep):
    """Here in the folder of a sweep, which has no checkpoints that tell it from that of the run."""
    out = tiny_task.folder / "run"
    place = out / inside
    place.parent.mkdir(parents=True)
    (out / "recipe.resolved.yaml").write_text("")
    place.touch() if key == "task.train" else tiny_task.model.rename(place)
    value = f"[{place}]" if key == "task.train" else place
    recipe = loaded(tiny_task.recipe(steps=1), f"{key}={value}", f"sweep={sweep}")
    for start in (check_recipe, finetune, partial(finetune, resume="never")):
        with pytest.raises(UsageError) as caught:
            start(recipe)
        assert str(caught.value) == (
            f"{key}: {place} is inside the run folder {out}, among the results that a run replaces; choose another "
            "out folder, or raise train.steps to extend that run"
        )
        assert place.exists()


def test_a_teacher_is_not_removed_by_the_run_that_learns_from_it(tiny_task):
    teacher = tiny_task.folder / "run" / "model"
    task = f"task={{name: vectors, kind: embed, train: [texts.txt], loss: vectors, teacher: {teacher}}}"
    with pytest.raises(UsageError, match=r"^task\.teacher: .* is inside the run folder "):
        check_recipe(loaded(tiny_task.recipe(), task))


def test_epochs_become_steps_and_a_sweep_runs(shared_task):
    found = check_recipe(loaded(shared_task.recipe(steps=None, epochs=2, eval_every=0), "sweep={seeds: [1, 2, 3]}"))
    assert found[-2].startswith("15 steps of 8, 2 epochs, scored every 8, into ")
    assert found[-1] == "3 runs; this is the first of them"


def test_a_head_whose_labels_have_another_order_is_named(tiny_task):
    folder = tiny_task.write_classifier("classifier", seed=1, labels=("mid", "low", "high"))
    recipe = loaded(tiny_task.recipe(), f"model={folder}")
    order = "its labels mid, low, high are put in the order of the task: high, low, mid"
    assert check_recipe(recipe)[0].endswith(f"; its head is kept, {order}")


def test_a_head_that_would_be_replaced_is_named(tiny_task):
    folder = tiny_task.write_classifier("classifier", seed=1, labels=("a", "b"))
    assert (
        "; its head is replaced by a new one: its labels are a, b, those of the task high, low, mid"
        in check_recipe(loaded(tiny_task.recipe(), f"model={folder}"))[0]
    )


def test_the_recipe_goes_to_standard_output_and_findings_to_standard_error(shared_task, capsys):
    with pytest.raises(SystemExit) as caught:
        app.main(["finetune", str(shared_task.recipe()), "--dry-run"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert out.startswith("kind: finetune  # from finetune.yaml:2\n")
    assert "checked: training: 60 rows: " in err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=nowhere"], "nowhere: no such model"),
        (["task.train.0=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["task.dev.0=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["task.text=body"], "'body'"),
        (["task.labels=[low, mid]"], "'high'"),
        (["task.metric=f1"], "task.metric is 'f1'; task 'parity' has accuracy, matthews_correlation"),
        (["task.head=keep"], "has no classification head"),
        (["task.max_tokens=80", "train.tokens_per_batch=80", "task.train=[{}/long.jsonl]"], "positions for 64 tokens"),
    ],
)
def test_it_fails_where_a_run_would(shared_task, overrides, message):
    long = [{"text": " ".join(["word1"] * 99), "label": label} for label in ("high", "low", "mid")]
    (shared_task.folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    recipe = loaded(shared_task.recipe("never"), *[one.format(shared_task.folder) for one in overrides])
    for start in (check_recipe, finetune):
        with pytest.raises(MinilmError) as caught:
            start(recipe)
        assert message in str(caught.value)


@pytest.mark.slow
def test_the_folder_of_another_run_is_rejected(tiny_task):
    recipe = tiny_task.recipe(steps=2)
    finetune(loaded(recipe))
    check_recipe(loaded(recipe))
    with pytest.raises(UsageError, match=r"belongs to a different run: seed was 42, is 7\."):
        check_recipe(loaded(recipe, "seed=7"))
    assert check_recipe(loaded(recipe, "seed=7"), resume="never")


@pytest.mark.slow
def test_a_sweep_can_start_over_with_other_data(tiny_task):
    recipe = tiny_task.recipe(steps=2, sweep={"seeds": [1]})
    finetune(loaded(recipe))
    tiny_task.write_rows("train.jsonl", 50, seed=5)
    with pytest.raises(UsageError, match="belongs to a different run: train file"):
        finetune(loaded(recipe))
    finetune(loaded(recipe), resume="never")


def data_for(task: object, folder: Path) -> list[str]:
    """Overrides that replace the files of a shipped recipe by small ones with its columns."""
    if task.kind == "squad":
        question = {"question": "word3", "context": "word1 word2", "answers": [{"text": "word1", "answer_start": 0}]}
        rows = [{"id": str(n), **question} for n in range(4)]
    elif task.kind == "seq2seq":
        rows = [{**dict.fromkeys(task.source, "word1 word2"), task.target: "word3"}] * 4
    elif task.kind == "rerank":
        found = {"text": ["word2", "word3"], "label": [1, 0]}
        if task.loss == "margin_mse":
            found = {"positive": "word2", "negatives": ["word3"]}
        scores = {} if task.teacher else {"score": [0.9, 0.1]}
        rows = [{"query": "word1", **scores, **found}] * 4
    elif task.kind == "tokens":
        rows = [{"tokens": ["word1", "word2"], "ner_tags": ["B-PER", "O"]}] * 4
    else:
        spec = GLUE.get(task.name)
        names = (spec.columns.text, spec.columns.text_pair, spec.columns.label) if spec else ("text", None, "label")
        labels = (spec.labels or (1.5, 2.5)) if spec else task.labels or ("a", "b")
        columns = [name for name in names[:2] if name]
        rows = [{**dict.fromkeys(columns, "word1"), names[2]: labels[n % len(labels)]} for n in range(6)]
    for name in ("some", "others"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"task.train=[{folder / 'some.jsonl'}]", f"task.dev=[{folder / 'others.jsonl'}]"]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_recipe_passes_a_dry_run(name, shared_task, tmp_path):
    recipe = load_recipe(find_recipe(name), kind=FinetuneRecipe).recipe
    student = ["student.teacher_layers=[1, 3]"] if recipe.student else []
    teacher = [f"task.teacher={shared_task.model}"] if getattr(recipe.task, "teacher", None) else []
    data = data_for(recipe.task, tmp_path)
    given = loaded(find_recipe(name), f"model={shared_task.model}", *data, *student, *teacher)
    found = check_recipe(given)
    assert any(f" steps of {given.recipe.train.batch_size}, " in sentence for sentence in found)


@pytest.mark.parametrize("sweep", ["sweep=null", "sweep={seeds: [1, 2]}"])
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("train.jsonl", "train.jsonl is not a folder; choose another out folder"),
        ("train.jsonl/below/run", "train.jsonl is not a folder; choose another out folder"),
        ("gone", "gone is not a folder; choose another out folder"),
        ("user", "contains model but no recipe.resolved.yaml, so it is not a run folder"),
    ],
)
def test_a_folder_that_a_run_could_not_use_is_rejected_by_both(tiny_task, out, message, sweep):
    (tiny_task.folder / "user" / "model").mkdir(parents=True)
    (tiny_task.folder / "gone").symlink_to(tiny_task.folder / "nothing")
    recipe = loaded(tiny_task.recipe(out), sweep)
    for start in (check_recipe, finetune):
        with pytest.raises(UsageError) as caught:
            start(recipe)
        assert message in str(caught.value)
    assert (tiny_task.folder / "train.jsonl").is_file()
