# ruff: noqa: E501 - one message per line
"""Recipes: YAML means what it says, every value has an origin, every mistake names its location."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.recipe.conftest import RECIPE

from minilm.errors import UsageError
from minilm.model.config import PRESETS
from minilm.recipe import (
    StudentSection,
    find_recipe,
    input_names,
    load_recipe,
    recipe_names,
    recipe_text,
    resolved_yaml,
)
from minilm.recipe.distill import SIZES
from minilm.recipe.strict_yaml import dump_scalar, parse_document, parse_value


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "r.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problem(path: Path, *overrides: str) -> str:
    """The one-line message of a rejected recipe, without the folder."""
    with pytest.raises(UsageError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


def test_values_defaults_and_origins_are_known(write):
    loaded = load_recipe(write(RECIPE), ["train.warmup_steps=3"])
    assert loaded.recipe.train.learning_rate == 1e-4
    assert loaded.recipe.train.adam_betas == (0.9, 0.999)
    assert loaded.recipe.seed == 42
    assert loaded.recipe.loss.version == "v2"
    assert loaded.origins["train.steps"] == "r.yaml:11"
    assert loaded.origins["students.0.preset"] == "r.yaml:9"
    assert loaded.origins["students.0.name"] == "default"
    assert loaded.origins["train.warmup_steps"] == "--set"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5E-5", 5e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("007", 7),
        ("true", True),
        ("TRUE", True),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("2020-01-01", "2020-01-01"),
        ("12:30:45", "12:30:45"),
        ("~", None),
        ("", None),
        ('"1e-4"', "1e-4"),
        ("'true'", "true"),
        ("<<", "<<"),
        ("[1, two, 3.0]", [1, "two", 3.0]),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    found = parse_value(text, source="x")
    assert found == value
    assert type(found) is type(value)


@given(st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_written_scalar_reads_back_equal(value):
    """Any text, even with control characters or YAML 1.1 booleans, survives writing and reading."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return
    found = parse_document(f"key: {dump_scalar(value)}  # from x", source="x").value["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.slow
@given(name=st.text(min_size=1), seed=st.integers(0, 2**63 - 1), rate=st.floats(1e-12, 1e3))
def test_the_resolved_recipe_is_the_same_recipe(tmp_path_factory, name, seed, rate):
    folder = tmp_path_factory.mktemp("recipe")
    first = folder / "a.yaml"
    first.write_text(RECIPE)
    loaded = load_recipe(first, [f"name={dump_scalar(name)}", f"seed={seed}", f"train.learning_rate={rate!r}"])
    again = folder / "b.yaml"
    again.write_text(resolved_yaml(loaded), encoding="utf-8")
    assert load_recipe(again).recipe == loaded.recipe
    assert loaded.recipe.name == name


def test_a_pointer_of_git_lfs_is_named(write):
    path = write("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 412\n")
    with pytest.raises(UsageError) as caught:
        load_recipe(path)
    assert (
        str(caught.value)
        == f"{path} is a Git LFS pointer to a file of 412 bytes, not the file: run 'git lfs pull' in its repository, or download the file again"
    )


def test_the_resolved_recipe_says_where_each_value_comes_from(write):
    text = resolved_yaml(load_recipe(write(RECIPE), ["out=runs/b"]))
    assert "name: small  # from r.yaml:2\n" in text
    assert "out: runs/b  # from --set\n" in text
    assert "seed: 42  # from default\n" in text
    assert "  - name: student  # from default\n    preset: L6-H384  # from r.yaml:9\n" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 10", "stepz: 10", "r.yaml:11: unknown key 'train.stepz': did you mean 'train.steps'? (and 1 more problem)"),
        ("name: small", "name: small\nlearning_rate: 1", "r.yaml:3: unknown key 'learning_rate': did you mean 'train.learning_rate'?"),
        ("name: small", "name: small\nzzz: 1", "r.yaml:3: unknown key 'zzz': expected one of kind, name, seed, out, data, teacher, cache, students, loss, train, probe"),
        ("steps: 10", "steps: ten", "r.yaml:11: train.steps: found the text 'ten', expected an integer"),
        ("steps: 10", "steps: 10.5", "r.yaml:11: train.steps: found 10.5, expected an integer"),
        ("steps: 10", "steps: true", "r.yaml:11: train.steps: found true, expected an integer"),
        ("steps: 10", "steps: 0", "r.yaml:11: train.steps: found 0, expected 1 or more"),
        ("1e-4", "no", "r.yaml:13: train.learning_rate: found the text 'no', expected a number (yes, no, on and off are text; booleans are true and false)"),
        ("1e-4", "'1e-4'", "r.yaml:13: train.learning_rate: found the text '1e-4', expected a number"),
        ("1e-4", ".nan", "r.yaml:13: train.learning_rate: found nan, expected a finite number"),
        ("name: small", "name: 5", "r.yaml:2: name: found 5, expected text (quote it to make it text: \"5\")"),
        ("model: embedded", "model: embedded\n  layer: first", "r.yaml:8: teacher.layer: found the text 'first', expected an integer or 'last'"),
        ("[a.txt]", "a.txt", "r.yaml:5: data.inputs: found the text 'a.txt', expected a list"),
        ("[a.txt]", "[a.txt, 3]", "r.yaml:5: data.inputs.1: found 3, expected text (quote it to make it text: \"3\")"),
        ("L6-H384", "L7", "r.yaml:9: students.0.preset: found the text 'L7', expected 'L12-H384', 'L6-H384', 'L6-H768' or 'BERT-Base'"),
        ("kind: distill", "kind: glue", "r.yaml:1: kind: found the text 'glue', expected 'distill' or 'finetune'"),
        ("  steps: 10\n", "", "r.yaml:10: the key 'train.steps' is missing"),
        ("out: runs/small\n", "", "r.yaml:1: the key 'out' is missing"),
        ("train:", "loss: v1\ntrain:", "r.yaml:10: loss: found the text 'v1', expected a section (key: value lines)"),
        ("steps: 10", "steps: 10\n  adam_betas: [0.9]", "r.yaml:12: train.adam_betas: found a list of 1, expected 2 or more"),
        ("steps: 10", "steps: 10\n  warmup_steps: 11", "r.yaml:10: train: warmup_steps is 11, expected at most steps (10)"),
    ],
)  # fmt: skip
def test_each_mistake_names_its_line(write, old, new, message):
    assert problem(write(RECIPE.replace(old, new))) == message


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("{preset: L6-H384, num_layers: 3}", "found both preset and num_layers, expected only one of them"),
        ("{preset: L6-H384, init: layers, teacher_layers: [1]}", "found 1 teacher_layers, expected one for each of 6 layers"),
        ("{preset: L6-H384, teacher_layers: [1]}", "found teacher_layers with init random: set init to layers, or remove teacher_layers"),
    ],
)  # fmt: skip
def test_the_keys_of_a_student_must_agree(write, student, message):
    assert message in problem(write(RECIPE.replace("preset: L6-H384", student)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.corpus=c"], "r.yaml:4 with --set: data: found both corpus and inputs, expected one: set the other to null or []"),
        (["data.inputs=[]"], "r.yaml:4 with --set: data: found neither corpus nor inputs: set one to a corpus folder or a list of text files"),
        (["data.corpus=c", "data.inputs=[]", "data.field=body", "data.workers=2"], "data: found field, workers with a corpus, whose texts are tokenized already: remove it"),
        (["loss.version=v1", "loss.relation_heads=48"], "found relation_heads with version v1"),
        (["train.tokens_per_batch=100"], "train.tokens_per_batch is 100, expected at least data.max_tokens (512)"),
        (["students=[{preset: L6-H384}, {preset: L6-H768}]"], "found the name 'student' more than once"),
    ],
)  # fmt: skip
def test_sections_must_agree(write, overrides, message):
    assert message in problem(write(RECIPE), *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=1", "--set: unknown key 'train.stepz': did you mean 'train.steps'?"),
        ("trian.steps=1", "--set: unknown key 'trian': did you mean 'train'?"),
        ("steps=1", "--set: unknown key 'steps': did you mean 'train.steps'?"),
        ("students.0.initt=layers", "--set: unknown key 'students.0.initt': did you mean 'students.0.init'?"),
        ("students.1.name=x", "--set students.1.name=x: '1' is not an index of a list of 1: indices start at 0"),
        ("students.x=1", "--set students.x=1: 'x' is not an index of a list of 1: indices start at 0"),
        ("train.steps.x=1", "--set train.steps.x=1: the parent of 'x' is 10, expected a section or a list"),
        ("train.steps", "--set train.steps: expected KEY=VALUE with a dotted key, such as train.learning_rate=3e-4"),
        ("train..steps=1", "--set train..steps=1: expected KEY=VALUE with a dotted key, such as train.learning_rate=3e-4"),
        ("train.steps=no", "--set: train.steps: found the text 'no', expected an integer (yes, no, on and off are text; booleans are true and false)"),
        ("train.steps=[", "--set train.steps=[: expected the node content, but found '<stream end>'"),
        ("seed=1e3", "--set: seed: found 1000.0, expected an integer"),
        ("train.precision=int8", "--set: train.precision: found the text 'int8', expected 'fp32' or 'bf16'"),
        ("kind=x", "--set: kind: found the text 'x', expected 'distill' or 'finetune'"),
        ("train.tokens_per_batch=3", "--set: train.tokens_per_batch is 3, expected at least data.max_tokens (512): a document must fit into a batch"),
        ("data.max_tokens=99999", "--set: train.tokens_per_batch is 16384, expected at least data.max_tokens (99999): a document must fit into a batch"),
    ],
)  # fmt: skip
def test_each_bad_override_says_so(write, override, message):
    assert problem(write(RECIPE), override) == message


def test_what_the_file_has_wrong_is_not_blamed_on_another_override(write):
    text = RECIPE + "  tokens_per_batch: 3\n"
    message = (
        "r.yaml:1: train.tokens_per_batch is 3, expected at least data.max_tokens (512): a document must fit into a"
    )
    assert problem(write(text), "out=batch").startswith(message)
    assert problem(write(text), "train.steps=20").startswith(message)


def test_overrides_reach_lists_missing_sections_and_null(write):
    recipe = load_recipe(
        write(RECIPE),
        [
            "students.0.name=a",
            "data.inputs.0=b.txt",
            "loss.normalization=token",
            "data.corpus=null",
            "teacher.layer=5",
            "name=",
            "name=x=y",
        ],
    ).recipe
    assert recipe.students[0].name == "a"
    assert recipe.data.inputs == ["b.txt"]
    assert recipe.loss.normalization == "token"
    assert recipe.teacher.layer == 5
    assert recipe.name == "x=y"


def test_equal_keys_name_both_lines(write):
    text = RECIPE + "  steps: 20\n"
    assert problem(write(text)) == "r.yaml:14: duplicate key 'train.steps', first on line 11: keep one of them"


def test_a_missing_file_is_one_line(tmp_path):
    assert problem(tmp_path / "none.yaml") == "cannot read none.yaml: No such file or directory"


def test_presets_are_those_of_the_model():
    """The schema lists presets for its error text; the encoder defines them."""
    for preset, config in PRESETS.items():
        assert StudentSection(preset=preset).sizes == {name: getattr(config, name) for name in SIZES}  # type: ignore[arg-type]


def test_shipped_recipes_are_found_by_name_and_by_path(write):
    assert "distill/tiny-embedded" in recipe_names()
    assert recipe_text("tiny-embedded") == recipe_text("distill/tiny-embedded.yaml")
    assert find_recipe("tiny-embedded").name == "tiny-embedded.yaml"
    path = write(RECIPE)
    assert find_recipe(str(path)) == path


@pytest.mark.parametrize("name", ["../pyproject", "distill/../distill/tiny-embedded", "/etc/passwd", ""])
def test_a_recipe_name_is_never_a_path(name):
    with pytest.raises(UsageError, match="neither a file nor a shipped recipe"):
        recipe_text(name)


def test_a_misspelt_recipe_gets_a_suggestion():
    with pytest.raises(UsageError, match=r"'tiny-embeded' is neither .* did you mean 'distill/tiny-embedded'\?"):
        find_recipe("tiny-embeded")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.learning_rates=[1e-4]", "unknown key 'sweep.learning_rates': did you mean 'sweep.learning_rate'?"),
        ("sweep.seed=[1]", "unknown key 'sweep.seed': did you mean 'sweep.seeds'?"),
        ("task.version=2.0", "unknown key 'task.version': expected one of kind, name, train, dev, max_tokens"),
        ("task.labels=[0, 1]", 'task.labels.0: found 0, expected text (quote it to make it text: "0")'),
    ],
)
def test_mistakes_in_a_fine_tuning_recipe_are_named(override, message):
    with pytest.raises(UsageError) as caught:
        load_recipe(find_recipe("glue/rte-in-house-l6"), [override])
    assert message in str(caught.value)


def test_the_beginning_of_names_lists_them():
    """What a user types first: the name of the task."""
    with pytest.raises(
        UsageError, match=r"'rte' is neither .*; similar shipped recipes: glue/rte-bert-base, glue/rte-in-house-l12,"
    ):
        find_recipe("rte")


def test_what_a_distillation_reads_is_marked_in_its_sections(write):
    """The init of a student names a model unless it is one of two words."""
    path = write(RECIPE)
    probe = ["probe.task=rte", "probe.train=t.jsonl", "probe.dev=d.jsonl", "probe.every=5"]
    found = input_names(load_recipe(path, ["students.0.init=runs/a/model", "cache.folder=c", *probe]).recipe)
    assert {key for key in found if not key.startswith("data.")} == {
        *("teacher.model", "cache.folder", "students.0.init", "probe.train", "probe.dev")
    }
    assert (found["students.0.init"], found["probe.dev"], found["data.inputs"]) == (
        ["runs/a/model"],
        ["d.jsonl"],
        ["a.txt"],
    )
    assert not {"students.0.init", "cache.folder"} & input_names(load_recipe(path).recipe).keys()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("glue/rte-in-house-l6", ()),
        ("embed/tiny-leaf", ("task.teacher", "task.cache")),
        ("rerank/tiny-rerank", ("task.teacher", "task.cache")),
    ],
)
def test_what_a_fine_tuning_run_reads_is_marked_in_its_sections(name, more):
    found = input_names(load_recipe(find_recipe(name), ["task.dev=[a.jsonl,b.jsonl]"]).recipe)
    assert found.keys() == {"model", "config", "tokenizer", "task.train", "task.dev", *more}
    assert (found["task.dev"], found["config"]) == (["a.jsonl", "b.jsonl"], [])
