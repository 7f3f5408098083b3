"""A report says whether a run is near the stored run of its recipe, or why the two cannot be compared."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from minilm.distill import reference
from minilm.distill.reference import (
    Compared,
    compare_with_reference,
    differences,
    read_reference,
    recipe_checksum,
)
from minilm.errors import UsageError
from minilm.model.metadata import model_checksums
from minilm.recipe import DistillRecipe, curve_path, find_recipe, load_recipe, recipe_names, resolved_yaml

REPO = Path(__file__).resolve().parents[3]
STORED = [name for name in recipe_names() if name.startswith("distill/") and curve_path(name.partition("/")[2])]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("reference_curve", REPO / "benchmarks" / "reference_curve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipe(*overrides: str, name: str = "tiny-embedded") -> DistillRecipe:
    return load_recipe(find_recipe(f"distill/{name}"), overrides, kind=DistillRecipe).recipe


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A reference of `tiny-embedded`: held-out loss 0.5 at step 200, after 1.0 at step 100."""
    values = {
        "recipe_sha256": recipe_checksum(find_recipe("distill/tiny-embedded")),
        "teacher": {"config": "c", "weights": "w"},
        "seed": 42,
        "text": "ten poems",
        "machine": "a machine",
        "budget": {"steps": 200},
        "loss": [[5, 4.0], [200, 2.0]],
        "heldout_loss": [[[100, 1.0], [200, 0.5]]],
    }
    (tmp_path / "curve.json").write_text(json.dumps(values))
    monkeypatch.setattr(reference, "curve_path", lambda name: tmp_path / "curve.json")
    monkeypatch.setattr(reference, "model_checksums", lambda path: {"config": "c", "weights": path.name})


def compared(*overrides: str, loss: float | None = 0.5, teacher: str = "w", extended: bool = False) -> Compared:
    rows = [{"step": 5, "loss": 4.0}, {"step": 200, "loss": 2.0, "l3-h384.heldout_loss": loss}]
    return compare_with_reference(recipe(*overrides), rows, teacher=Path(teacher), extended=extended)


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        (0.5, "near the reference curve: it is healthy. Its held-out loss of l3-h384 at the end is 0.5, 1.00 times"),
        (0.62, "near the reference curve"),
        (0.64, "above the reference curve: it learns less than a healthy run, or its text is harder."),
        (0.39, "below the reference curve"),
    ],
)
def test_near_above_and_below(stored, loss, verdict):
    found = compared(loss=loss)
    assert found.sentence.startswith(f"This run is {verdict}")
    assert "times that of the reference, a run on ten poems, seed 42; up to 1.25 times is near." in found.sentence
    assert [curve.reference_for for curve in found.curves] == ["loss", "l3-h384.heldout_loss"]
    assert found.curves[1].values == [1.0, 0.5]


def test_what_does_not_matter_may_differ(stored):
    changed = ["seed=1", "out=x", "data.inputs=[other.txt]", "train.log_every=1", "train.precision=bf16"]
    assert compared(*changed, "train.tokens_per_batch=999", "students.0.name=l3-h384").curves
    assert differences(recipe("students.0.name=other")) == []


def test_another_length_is_drawn_over_the_share_of_the_run(stored):
    """With half the steps, everything happens at half the step; the ends are compared with each other."""
    rows = [{"step": 25, "loss": 3.0}, {"step": 100, "loss": 2.0, "l3-h384.heldout_loss": 0.6}]
    found = compare_with_reference(recipe("train.steps=100"), rows, teacher=Path("w"), extended=False)
    assert "at the end is 0.6, 1.20 times that of the reference" in found.sentence
    assert found.sentence.endswith(
        "It made 100 steps, the reference 200: the reference is drawn over the share of the run."
    )
    assert [list(curve.steps) for curve in found.curves] == [[2.5, 100], [50, 100]]


def test_without_held_out_documents_the_training_loss_is_compared(stored):
    assert "Its training loss at the end is 2, 1.00 times" in compared(loss=None).sentence


@pytest.mark.parametrize(
    ("overrides", "options", "reason"),
    [
        (["train.steps=99"], {}, "train.steps is 99, not 200."),
        (["train.steps=401"], {}, "train.steps is 401, not 200."),
        (["loss.version=v1", "loss.relation_heads=null"], {},
         "loss.version is v1, not v2; loss.relation_heads is unset, not 48."),
        (["students.0.init=random", "students.0.teacher_layers=[]"], {}, "students.0.init is random, not layers; "),
        ([], {"teacher": "other"}, "the teacher has other weights."),
        ([], {"extended": True}, "the run was extended."),
    ],
)  # fmt: skip
def test_what_matters_is_named_and_nothing_is_drawn(stored, overrides, options, reason):
    found = compared(*overrides, **options)
    assert found.sentence.startswith("Not comparable with the reference curve of tiny-embedded: ")
    assert reason in found.sentence
    assert not found.curves


def test_a_run_without_a_common_step_is_not_comparable(stored):
    rows = [{"step": 3, "loss": 1.0}]
    found = compare_with_reference(recipe(), rows, teacher=Path("w"), extended=False)
    assert "this run has no finite loss at a step that it has" in found.sentence


def test_other_recipes_have_none():
    found = compare_with_reference(recipe(name="own-teacher"), [], teacher=Path("w"), extended=False)
    assert found.sentence == (
        "No reference curve is stored for a recipe of the name 'own-teacher', so this page cannot say whether the run "
        "is healthy."
    )
    assert not found.curves
    assert curve_path("../distill/tiny-embedded") is None


@pytest.mark.parametrize("name", STORED)
def test_a_stored_curve_is_that_of_the_recipe_as_it_ships(name, real_model_dir):
    """If not, the recipe was changed: run it and store its curve again with benchmarks/reference_curve.py."""
    bare = name.partition("/")[2]
    found, now = read_reference(curve_path(bare)), recipe(name=bare)
    assert found.recipe_sha256 == recipe_checksum(find_recipe(name))
    assert found.budget["steps"] == now.train.steps == found.loss[-1][0]
    assert len(found.heldout_loss) == len(now.students)
    if now.teacher.model == "embedded":
        assert found.teacher == model_checksums(real_model_dir)


def test_the_script_stores_what_the_report_reads(script, tmp_path, real_model_dir, capsys):
    run = tmp_path / "run"
    run.mkdir()
    loaded = load_recipe(find_recipe("tiny-embedded"), [f"out={run}", "seed=7"])
    (run / "recipe.resolved.yaml").write_text(resolved_yaml(loaded))
    facts = {"cpu": {"model": "a cpu"}, "threads": {"torch threads": 2}, "devices": {"cuda": "none"}}
    (run / "env.json").write_text(json.dumps({**facts, "versions": {"minilm": "1", "torch": "2"}}))
    rows = [
        {
            "step": step,
            "loss": 1 / step,
            "tokens": 10,
            "seconds": 0.5,
            **({"l3-h384.heldout_loss": 0.5} if last else {}),
        }
        for step in range(1, 201)
        for last in [step == 200]
    ]
    metrics = run / "metrics.jsonl"
    metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:-1]))
    with pytest.raises(UsageError, match="the run has not finished"):
        script.reference_of(run, "poems")
    metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    script.main([str(run), "--text", "poems", "--out", str(tmp_path / "curves")])
    found = read_reference(tmp_path / "curves" / "tiny-embedded.json")
    assert (found.seed, found.text, found.machine) == (7, "poems", "a cpu, threads: 2, GPUs: none; minilm 1, torch 2")
    assert found.budget == {"steps": 200, "documents": 6400, "tokens": 2000, "seconds": 100}
    assert found.heldout_loss == [[[200, 0.5]]]
    assert found.loss[-1] == [200, 0.005]
    assert len(found.loss) == 200
    changed = load_recipe(find_recipe("tiny-embedded"), [f"out={run}", "train.learning_rate=0.1"])
    (run / "recipe.resolved.yaml").write_text(resolved_yaml(changed))
    with pytest.raises(UsageError, match=r"as it ships: train\.learning_rate is 0.1, not 0.0003"):
        script.reference_of(run, "poems")


def test_the_how_to_names_the_recipes_that_have_a_curve():
    names = " and ".join(f"`{name.partition('/')[2]}`" for name in STORED)
    assert f"{names} ship with the curve of a finished run" in (REPO / "docs" / "how-to.md").read_text(encoding="utf-8")
