"""A chain: each stage is a run, its student the teacher of the next one; what has finished is not run again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.conftest import checked

from minilm.distill.chain import run_distillation
from minilm.distill.run import DistillResult, distill
from minilm.distill.stages import planned
from minilm.errors import UsageError
from minilm.recipe import Distillation, load_recipe
from minilm.recipe.distill import OF_INPUTS
from minilm.run_recipe import run as run_recipe

SELF_PAIRS = ("query-query", "key-key", "value-value")


def run(recipe: Path, *overrides: str, **options) -> DistillResult:
    return run_distillation(load_recipe(recipe, overrides, kind=Distillation), **options)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def figures(folder: Path) -> dict[str, str]:
    """What the report in a folder draws, by caption."""
    page = (folder / "report.html").read_text()
    return dict(re.findall(r"<figcaption>(.*?)</figcaption>\n(.*?)</figure>", page, re.DOTALL))


def advice(tiny, *overrides: str, recipe: Path | None = None) -> list[str]:
    lines = checked(load_recipe(recipe or tiny.chain(), overrides, kind=Distillation))
    return [line for line in lines if "advised" in line or line.startswith("note: ")]


@pytest.mark.slow
def test_the_folder_of_a_chain(tiny):
    """The second stage learns from the student of the first; its model is that of the chain; a report shows both."""
    result = run(tiny.chain(steps=3))
    out = tiny.folder / "run"
    assert sorted(path.name for path in out.iterdir()) == [
        "corpus", "env.json", "log.txt", "model", "recipe.resolved.yaml", "report.html", "stages",
    ]  # fmt: skip
    assert sorted(path.name for path in (out / "stages" / "1").iterdir()) == [
        "checkpoints", "env.json", "log.txt", "metrics.jsonl", "model", "recipe.resolved.yaml", "report.html",
        "result.json",
    ]  # fmt: skip
    assert result.folders == {"assistant": out / "stages" / "1" / "model", "small": out / "model"}
    assert weights(out / "model") == weights(out / "stages" / "2" / "model")
    names = ("assistant.heldout_loss", "assistant.agreement", "small.heldout_loss", "small.agreement")
    assert set(result.metrics) == set(names)
    card = (out / "model" / "README.md").read_text()
    assert "from `assistant` (layer 3), itself distilled from `teacher`, for 3 steps of 4 documents" in card
    assert 'base_model: "teacher"' in card
    page = (out / "report.html").read_text()
    assert "stage 2.loss" in page or "No curves" in page
    assert f"teacher {out}/stages/1/model, 3 layers; layer 3 is distilled; student small starts at random." in page
    stage = load_recipe(out / "stages" / "2" / "recipe.resolved.yaml").recipe
    assert (stage.teacher.model, stage.teacher.layer) == (str(out / "stages" / "1" / "model"), "last")


@pytest.mark.slow
def test_the_report_of_a_chain_shows_what_those_of_its_stages_show(tiny):
    """The same charts, with the stage in their titles, and the same heat maps of agreement by head."""
    run(tiny.chain(steps=2, warmup_steps=0, eval_every=1))
    out = tiny.folder / "run"
    shown = figures(out)
    for number, student in ((1, "assistant"), (2, "small")):
        own = figures(out / "stages" / str(number))
        maps = {caption: svg for caption, svg in own.items() if caption.startswith(f"{student}.")}
        assert [caption.partition(":")[0] for caption in maps] == [f"{student}.{pair}" for pair in SELF_PAIRS]
        assert maps.items() <= shown.items()
        for title, more in (("Loss of each relation", ", logarithmic"), ("Agreement with the teacher", "")):
            assert all(f"{student}.{pair}" in own[f"{title}{more}"] for pair in SELF_PAIRS)
            assert shown[f"{title}, stage {number}{more}"] == own[f"{title}{more}"]


@pytest.mark.slow
def test_a_stage_that_has_finished_is_not_run_again(tiny, monkeypatch):
    """Also where the rest is new: a third stage is added. A stage whose model is damaged is run again, to its end."""
    recipe = tiny.chain(steps=3)
    first = run(recipe)
    trained: list[str] = []

    def watched(objective, settings, **options):
        trained.append(settings.label)
        return train(objective, settings, **options)

    from minilm.distill.run import train

    monkeypatch.setattr("minilm.distill.run.train", watched)
    assert run(recipe).metrics == first.metrics
    assert trained == []
    before = weights(tiny.folder / "run" / "stages" / "1" / "model")
    (tiny.folder / "run" / "stages" / "1" / "model" / "model.safetensors").write_bytes(before[:100])
    values = json.loads(recipe.read_text())
    values["stages"].append({"students": [{"name": "last", "num_layers": 1}]})
    recipe.write_text(json.dumps(values))
    result = run(recipe)
    assert trained == ["stage 1 of 3", "stage 2 of 3", "stage 3 of 3"]
    assert weights(tiny.folder / "run" / "stages" / "1" / "model") == before
    assert list(result.folders) == ["assistant", "small", "last"]
    assert weights(tiny.folder / "run" / "model") == weights(tiny.folder / "run" / "stages" / "3" / "model")


@pytest.mark.slow
def test_another_recipe_is_another_run(tiny):
    recipe = tiny.chain(steps=2, warmup_steps=0)
    run_recipe(load_recipe(recipe))
    resolved = (tiny.folder / "run" / "recipe.resolved.yaml").read_text()
    other = tiny.folder / "other.txt"
    other.write_text("word1 word2\n" * 30)
    shards = tiny.folder / "run" / "corpus" / "shards" / "manifest.json"
    before = shards.read_bytes()
    for overrides, message in [
        ([f"data.inputs=[{other}]"], "stages/1/checkpoints/step-00000002 belongs to a different run: dataset was"),
        (["stages.0.train.learning_rate=0.1"], "stages/1/checkpoints/step-00000002 belongs to a different run: train"),
        (["stages.1.loss.relation_heads=6"], "stages/2/checkpoints/step-00000002 belongs to a different run: loss"),
        (["stages=[{students: [{}]}]"], "it had 2 stages, the recipe has 1. Restore them or"),
    ]:
        with pytest.raises(UsageError, match=message):
            run(recipe, *overrides)
        assert shards.read_bytes() == before
    assert (tiny.folder / "run" / "recipe.resolved.yaml").read_text() == resolved
    plain = load_recipe(tiny.recipe(steps=2, warmup_steps=0))
    with pytest.raises(UsageError, match="belongs to a different run, one with stages"):
        distill(plain)
    distill(plain, resume="never")
    with pytest.raises(UsageError, match="belongs to a different run, one without stages"):
        run(recipe)
    assert list(run(recipe, "stages=[{students: [{}]}]", resume="never").folders) == ["student"]
    assert not (tiny.folder / "run" / "stages" / "2").exists()


@pytest.mark.slow
def test_an_early_stage_is_not_extended_once_a_later_one_has_learned_from_it(tiny):
    """Found before the first step: the later stage could not go on, and its teacher would be gone."""
    recipe = tiny.chain(steps=2, warmup_steps=0)
    first = run(recipe)
    stages = tiny.folder / "run" / "stages"
    before = weights(stages / "1" / "model")
    with pytest.raises(UsageError) as caught:
        run(recipe, "stages.0.train.steps=4")
    assert str(caught.value) == (
        f"stage 1 of 2 has done 2 of 4 steps, but stage 2 has checkpoints already ({stages}/2/checkpoints): it has "
        "learned from an earlier student of that stage. Restore stages.0.train.steps, choose another out folder, or "
        f"remove {stages}/2, which is then trained again"
    )
    assert weights(stages / "1" / "model") == before
    assert run(recipe).metrics == first.metrics
    shutil.rmtree(stages / "2")
    run(recipe, "stages.0.train.steps=4")
    assert weights(stages / "1" / "model") != before
    run(recipe, "stages.0.train.steps=4", "stages.1.train.steps=3")  # the last stage may be extended


@pytest.mark.slow
def test_several_students_at_the_end(tiny):
    students = [{"name": name, "num_layers": 1, "hidden_size": 24} for name in ("a", "b")]
    result = run(tiny.chain(steps=1, warmup_steps=0), f"stages.1.students={json.dumps(students)}")
    assert {name: folder.relative_to(tiny.folder).as_posix() for name, folder in result.folders.items()} == {
        "assistant": "run/stages/1/model", "a": "run/model/a", "b": "run/model/b",
    }  # fmt: skip
    assert all(weights(folder) for folder in result.folders.values())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.0.loss.relation_heads=7"], "stage 1: loss.relation_heads: 7 relation heads do not divide 48, "),
        (["stages.1.students.0.init=layers", "stages.1.students.0.hidden_size=48"],
         "stage 2: student 'small': init 'layers' copies weights and requires the teacher's widths; found hidden_size "
         "48 (teacher 24); omit"),
        (["stages.1.students.0.num_heads=4", "stages.1.loss.version=v1", "stages.1.loss.relation_heads=null"],
         "stage 2: loss.version v1 compares attention heads one by one, but the teacher has 6 and student"),
        (["teacher.layer=4"], "stage 1: teacher.layer is 4; "),
    ],
)  # fmt: skip
def test_what_does_not_fit_in_any_stage_is_rejected_before_the_first(tiny, overrides, message):
    recipe = tiny.chain()
    for start in (
        lambda: checked(load_recipe(recipe, overrides, kind=Distillation)),
        lambda: run(recipe, *overrides),
    ):
        with pytest.raises(UsageError) as caught:
            start()
        assert str(caught.value).startswith(message)
    assert not (tiny.folder / "run" / "corpus").exists()


@pytest.mark.parametrize(
    ("first", "second", "untrained", "trained", "allowed"),
    [
        ("{}", "{objective: hidden}", "hidden rows", "query, key, value", "stages.0.loss={objective: hidden}"),
        ("{}", "{objective: hidden, layers: all}", "hidden rows", "query, key, value", "stages.1.loss.layers=[2]"),
        ("{version: v1, pairs: {value-value: 1}}", "{}", "query, key", "value", "stages.0.loss={layers: all}"),
    ],
)
def test_what_an_assistant_has_not_learned_is_not_taught(tiny, first, second, untrained, trained, allowed):
    """Relations train the last layer up to the projections that they read; what follows is as initialized."""
    overrides = ["loss=null", f"stages.0.loss={first}", f"stages.1.loss={second}"]
    with pytest.raises(UsageError) as caught:
        run(tiny.chain(), *overrides)
    assert str(caught.value) == (
        f"stage 2: the loss reads {untrained} of layer 3 of {tiny.folder}/run/stages/1/model, but stage 1 trains only "
        f"{trained} there, and all else stays as it was initialized: change the loss of one of the two stages"
    )
    assert checked(load_recipe(tiny.chain(), [*overrides, allowed], kind=Distillation))
    for start in ("layers", tiny.teacher):  # nothing of it is random
        student = f"stages.0.students.0={{name: assistant, init: {start}}}"
        assert checked(load_recipe(tiny.chain(), [*overrides, student], kind=Distillation))


def test_what_the_chain_sets_in_the_recipe_of_a_stage_is_not_said_to_be_of_the_file(tiny):
    recipe = load_recipe(tiny.chain(), ["data.workers=2", "data.max_bad_rows=0.5"], kind=Distillation)
    with planned(recipe) as stages:
        read = [stage.reading(tiny.folder / "corpus").loaded for stage in stages]
    for stage in read:
        data = stage.recipe.data
        assert {key: getattr(data, key) for key in OF_INPUTS} == OF_INPUTS
        keys = ("corpus", "inputs", "field", "workers", "max_bad_rows")
        assert {stage.origins[f"data.{key}"] for key in keys} == {"the chain"}


def test_the_rule_for_an_assistant(tiny):
    """The student: at most half of the layers and of the width; the assistant: the teacher's layers, that width."""
    rule = "by the rule of the MiniLM paper: it has 1 of 3 layers and width 24 of 48"
    yes = (
        f"an assistant is advised for student 'small', {rule}, at most half of both; "
        "sizes of the assistant: 3 layers, width 24"
    )
    assert advice(tiny) == [yes]
    assert advice(tiny, "stages.0.students.0.num_layers=2") == [
        yes,
        "note: this chain differs from the rule: before its last stage it trains 2 layers, width 24",
    ]
    wide = advice(tiny, "stages.1.students.0.hidden_size=36")
    assert wide[0].startswith("no assistant is advised for student 'small', ")
    assert wide[1].startswith("note: this chain differs from the rule")
    [plain] = advice(tiny, recipe=tiny.recipe())
    assert plain.endswith("it has 2 of 3 layers and width 24 of 48, and the rule is at most half of both")
    assert advice(tiny, "students.0.num_layers=1", recipe=tiny.recipe())[0].startswith("an assistant is advised")
