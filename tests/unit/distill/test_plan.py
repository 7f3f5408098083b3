"""A distillation that cannot work is rejected before its first text is read; a check says what it found."""

from __future__ import annotations

import json
import shutil
from functools import partial

import pytest
from tests.conftest import checked

from minilm.cli import app
from minilm.corpus.build import build_shards
from minilm.distill.chain import run_distillation
from minilm.distill.run import distill
from minilm.errors import DataError, MinilmError, UsageError
from minilm.model.checkpoint import read_model
from minilm.recipe import Distillation, load_recipe


def check(recipe, *overrides: str) -> list[str]:
    return checked(load_recipe(recipe, overrides, kind=Distillation))


def test_checking_says_what_it_found_and_writes_nothing(tiny):
    recipe = tiny.recipe()
    before = sorted(tiny.folder.rglob("*"))
    assert check(recipe) == [
        f"teacher {tiny.teacher}: 3 layers, width 48, 6 heads, feed-forward 96; layer 3 is distilled",
        "student 'student': 2 layers, width 24, 6 heads, feed-forward 48, 14,376 parameters; starts at random",
        "loss v2: 12 relation heads; normalized per sequence",
        "30 steps of 8 documents",
        f"data: the beginning of {tiny.text}; documents of at most 32 tokens",
        "no assistant is advised for student 'student', by the rule of the MiniLM paper: it has 2 of 3 layers and "
        "width 24 of 48, and the rule is at most half of both",
    ]
    assert sorted(tiny.folder.rglob("*")) == before


def test_checking_reads_no_weights(tiny):
    from minilm.files.tensors import write_safetensors

    torch = pytest.importorskip("torch")
    write_safetensors(tiny.teacher / "model.safetensors", {"none": torch.zeros(1)})
    found = check(tiny.recipe(), "loss.version=v1", "loss.relation_heads=null", "loss.normalization=token")
    assert found[2] == "loss v1: 6 attention heads; normalized per token"


def test_a_dry_run_prints_the_recipe_on_standard_output_and_its_findings_on_standard_error(tiny, capsys):
    with pytest.raises(SystemExit) as caught:
        app.main(["distill", str(tiny.recipe()), "--dry-run", "--set", "teacher.layer=4"])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert "  layer: 4  # from --set\n" in out
    assert err == f"error: teacher.layer is 4; {tiny.teacher} has layers 1 to 3\n"


def test_checking_opens_a_built_corpus(tiny):
    build_shards([tiny.text], tokenizer=tiny.teacher, out=tiny.folder / "shards", max_tokens=32)
    corpus = [f"data.corpus={tiny.folder / 'shards'}", "data.inputs=[]"]
    assert "200 documents, " in check(tiny.recipe(), *corpus)[4]
    with pytest.raises(DataError, match="the corpus has 200 documents and data"):
        check(tiny.recipe(), *corpus, "data.heldout_documents=200")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.model=gone"], "gone: no such model folder"),
        (["teacher.layer=4"], "teacher.layer is 4; "),
        (["loss.relation_heads=7"], "7 relation heads do not divide 48, the width of the teacher; 6 and 8 do"),
        (["students.0.num_heads=7"], "7 attention heads do not divide hidden_size 24; 6 and 8 do"),
        (["data.max_tokens=65", "train.tokens_per_batch=65"], "positions for 64 tokens; set it to at most 64"),
        (["students.0.init=layers"], "requires the teacher's widths; found hidden_size 24 (teacher 48)"),
        (["students.0.init=layer"], "init is 'layer'; expected random, layers, or a model folder"),
        (["data.inputs=[gone.txt]"], "gone.txt: no such file"),
        (["data.inputs=[{}/rows.csv]"], "rows.csv:1: expected one column named 'text'"),
        (["data.inputs=[{}/rows.csv]", "data.field=body"], ""),
        (["data.inputs=[{}/rows.jsonl]"], "only bad rows (first: "),
        (["data.inputs=[{}/rows.bin]"], "rows.bin: unknown kind of file; expected .txt"),
        (["data.inputs=[{}/empty.txt]"], "data.inputs: no text in "),
        (["out={}/rows.csv/run"], "rows.csv is not a folder; choose another out folder"),
        (["out={}/user"], "/user contains model but no recipe.resolved.yaml, so it is not a run folder"),
    ],
)
def test_what_does_not_fit_is_rejected_by_a_check_and_by_a_run_before_the_texts_are_read(tiny, overrides, message):
    (tiny.folder / "rows.csv").write_text("id,body\n" + "1,word1\n" * 9)
    (tiny.folder / "rows.jsonl").write_text('{"body": "word1"}\n' * 3)
    (tiny.folder / "rows.bin").write_text("x")
    (tiny.folder / "empty.txt").write_text("\n\n")
    (tiny.folder / "user" / "model").mkdir(parents=True)
    recipe = tiny.recipe()
    overrides = [one.format(tiny.folder) for one in overrides]
    if not message:
        assert check(recipe, *overrides)
        return
    for start in (lambda: check(recipe, *overrides), lambda: distill(load_recipe(recipe, overrides))):
        with pytest.raises(MinilmError) as caught:
            start()
        assert message in str(caught.value)
    assert not (tiny.folder / "run" / "corpus").exists()


def test_layers_of_a_teacher_of_another_family_are_not_copied(tiny):
    file = tiny.teacher / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "ernie"}))
    with pytest.raises(UsageError) as caught:
        check(tiny.recipe(), 'students=[{"init": "layers"}]')
    assert str(caught.value) == (
        "student 'student': init 'layers' copies weights, which works for "
        "bert, roberta, xlm-roberta, camembert, distilbert, electra; the model_type of "
        f"{tiny.teacher} is 'ernie': use init: random"
    )


@pytest.fixture
def student(tiny):
    """The student of a short run."""
    return distill(load_recipe(tiny.recipe("first"), ["train.steps=3"])).folders["student"]


@pytest.mark.slow
def test_a_student_is_continued(tiny, student):
    """Its shape may be omitted; with a learning rate of almost zero it stays what it was."""
    recipe = tiny.recipe(warmup_steps=0)
    overrides = [f'students=[{{"init": "{student}"}}]', "train.steps=3", "train.learning_rate=1e-30"]
    assert check(recipe, *overrides)[1].endswith(f"14,376 parameters; continues {student}")
    found = read_model(distill(load_recipe(recipe, overrides)).folders["student"]).encoder.state_dict()
    expected = read_model(student).encoder.state_dict()
    assert all(value.allclose(expected[name], atol=1e-9) for name, value in found.items())


@pytest.mark.slow
def test_a_student_of_another_shape_is_not_continued(tiny, student):
    with pytest.raises(UsageError) as caught:
        check(tiny.recipe(), f"students.0.init={student}", "students.0.num_layers=1")
    assert str(caught.value) == (
        f"student 'student': the shape of {student} is num_layers 2, hidden_size 24, num_heads 6, intermediate_size "
        "48, that of the recipe num_layers 1, hidden_size 24, num_heads 6, intermediate_size 48: omit the sizes, or "
        "use init: random"
    )


@pytest.mark.slow
def test_a_student_of_another_vocabulary_is_not_continued(tiny, student):
    tiny.write_teacher(words=(*tiny.words[:-1], "another"))
    with pytest.raises(DataError, match="has another tokenizer than the teacher"):
        check(tiny.recipe(), f"students.0.init={student}")
    tiny.write_teacher(words=(*tiny.words, "another"))
    with pytest.raises(UsageError, match=r"has vocab_size 100, students of this teacher have vocab_size 101: continue"):
        check(tiny.recipe(), f"students.0.init={student}")


@pytest.mark.slow
def test_the_student_of_a_run_folder_is_not_continued_into_it(tiny, student):
    with pytest.raises(UsageError, match=r"is inside the run folder .*, or raise train\.steps to extend that run"):
        check(tiny.recipe("first"), f"students.0.init={student}")


@pytest.mark.parametrize(
    ("kind", "key", "inside"),
    [
        ("recipe", "teacher.model", "runs/lr1-seed2/model"),
        ("recipe", "students.0.init", "model"),
        ("recipe", "cache.folder", "checkpoints/cache"),
        ("recipe", "data.inputs", "corpus/text.txt"),
        ("chain", "teacher.model", "model"),
        ("chain", "stages.1.students.0.init", "stages/1/model"),
    ],
)
def test_what_a_run_reads_is_not_removed_by_it(tiny, kind, key, inside):
    """Here in the folder of a sweep, which has no checkpoints that tell it from that of the run."""
    out = tiny.folder / "run"
    place = out / inside
    place.parent.mkdir(parents=True)
    (out / "recipe.resolved.yaml").write_text("")
    tiny.teacher.rename(place) if key == "teacher.model" else place.touch()
    override = {"cache.folder": f"cache={{folder: {place}}}", "data.inputs": f"data.inputs=[{place}]"}
    loaded = load_recipe(getattr(tiny, kind)(), [override.get(key, f"{key}={place}")], kind=Distillation)
    for start in (checked, partial(run_distillation, resume="auto"), partial(run_distillation, resume="never")):
        with pytest.raises(UsageError) as caught:
            start(loaded)
        assert str(caught.value) == (
            f"{key}: {place} is inside the run folder {out}, among the results that a run replaces; choose another "
            "out folder, or raise train.steps to extend that run"
        )
        assert place.exists()


def test_other_files_in_a_run_folder_may_be_read(tiny):
    """Such as the corpus that an earlier run has built there, which is replaced only if the recipe builds one."""
    corpus = tiny.folder / "run" / "corpus" / "shards"
    build_shards([tiny.text], tokenizer=tiny.teacher, out=corpus, max_tokens=32)
    (tiny.folder / "run" / "recipe.resolved.yaml").write_text("")
    shutil.copytree(tiny.teacher, tiny.folder / "run" / "given")
    given = [f"teacher.model={tiny.folder / 'run' / 'given'}", f"data.corpus={corpus}", "data.inputs=[]"]
    assert "200 documents, " in check(tiny.recipe(), *given)[4]


@pytest.mark.slow
def test_another_model_to_continue_is_another_run(tiny, student):
    """The model is compared by its contents, not by its path."""
    recipe, moved = tiny.recipe(steps=3), tiny.folder / "moved"
    distill(load_recipe(recipe, [f"students.0.init={student}"]))
    student.rename(moved)
    distill(load_recipe(recipe, [f"students.0.init={moved}"]))
    other = distill(load_recipe(tiny.recipe("other", name="other.yaml"), ["train.steps=4"])).folders["student"]
    with pytest.raises(UsageError, match=r"students\.0\.init weights was '\w{64}', is '\w{64}'\. Restore"):
        distill(load_recipe(recipe, [f"students.0.init={other}"]))


@pytest.mark.slow
def test_a_folder_of_several_models_names_them(tiny):
    """Such as the `model/` of a distillation of several students, or its run folder."""
    students = [{"name": name, "num_layers": 1, "hidden_size": 24} for name in ("b", "a")]
    recipe = tiny.recipe("several", steps=2, warmup_steps=0)
    folder = tiny.folder / "several" / "model"
    distill(load_recipe(recipe, [f"students={json.dumps(students)}"]))
    for given in (folder, folder.parent):
        with pytest.raises(DataError) as caught:
            check(tiny.recipe(), f"teacher.model={given}")
        assert str(caught.value) == (
            f"{given}: no configuration; expected {given}/config.json; pick one of: {folder}/a, {folder}/b"
        )
    assert check(tiny.recipe(), f"teacher.model={folder}/a", "loss.relation_heads=6")
