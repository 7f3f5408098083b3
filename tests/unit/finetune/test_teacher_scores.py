"""Stored scores of a teacher: a run learns them as if the rows had them, a kill repeats nothing, mistakes are named."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from minilm.errors import DataError, UsageError
from minilm.files.json import read_json
from minilm.files.lock import locked_folder
from minilm.finetune import score_teacher, teacher_store
from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.run import check_files, finetune_once
from minilm.finetune.score_teacher import find_score_teacher
from minilm.finetune.teacher_scores import TeacherScores
from minilm.infer import predictions
from minilm.infer.api import LoadedModel, load
from minilm.model.metadata import activation_values
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.train.distributed import ALONE, Ranks


@pytest.fixture(scope="module")
def tiny(new_tiny_task, tmp_path_factory):
    return new_tiny_task(tmp_path_factory.mktemp("scores"))


@pytest.fixture(scope="module")
def scorer(tiny) -> Path:
    """A reranker whose activation is a sigmoid."""
    folder = tiny.write_classifier("scorer", seed=3, num_labels=1)
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **activation_values("Sigmoid")}))
    return folder


def recipe_of(tiny, kind: str, loss: str, *, teacher: object = None, scored: bool = False, **more: object) -> Path:
    write = {"embed": tiny.embed_recipe, "rerank": tiny.rerank_recipe}[kind]
    task = {} if teacher is None else {"teacher": str(teacher)}
    return write(loss, task={**task, **more}, scored=scored, steps=3, eval_every=3)


def run(path: Path, *changes: str):
    return finetune_once(load_recipe(path, list(changes), kind=FinetuneRecipe).recipe, resolved="")


def stored(path: Path) -> TeacherScores:
    """The scores of a recipe's teacher, computed."""
    found = load_recipe(path, kind=FinetuneRecipe).recipe
    model = Path(found.model)
    task = make_task(found.task, task_tokenizer(found.task, model, lowercase=None), model=model, seed=1)
    task.store_teacher(ALONE)
    return task._taught.scores if found.task.kind == "rerank" else task._scorer


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.open()]


def pairs_of(rows: list[dict]) -> list[tuple[str, str]]:
    return [(row["query"], text) for row in rows for text in (row["positive"], *row["negatives"])]


LOSSES = [("rerank", "mse"), ("rerank", "margin_mse"), ("rerank", "kl"), ("embed", "margin_mse"), ("embed", "kl")]


@pytest.mark.parametrize(("kind", "loss"), LOSSES)
def test_a_run_learns_them_as_if_the_rows_had_them(tiny, scorer, kind, loss):
    """Bit for bit; and they are the scores before the sigmoid."""
    out = tiny.folder / f"{kind}-{loss}"
    path = recipe_of(tiny, kind, loss, teacher=scorer)
    taught = run(path, f"out={out}-taught")
    [file] = load_recipe(path, kind=FinetuneRecipe).recipe.task.train
    rows = rows_of(Path(file))
    scores = iter(load(scorer).score_pairs(pairs_of(rows), raw_scores=True).tolist())
    with_scores = tiny.folder / "with-scores.jsonl"
    with_scores.write_text(
        "".join(json.dumps({**row, "scores": [next(scores) for _ in pairs_of([row])]}) + "\n" for row in rows)
    )
    told = run(recipe_of(tiny, kind, loss), f"out={out}-told", f"task.train=[{with_scores}]")
    ours, theirs = ((one.folder / "model" / "model.safetensors").read_bytes() for one in (taught, told))
    assert ours == theirs
    assert taught.numbers == told.numbers
    assert "teacher" in taught.references
    assert "teacher" not in told.references


def test_texts_alone_are_scored_too(tiny, scorer):
    file = tiny.folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"query": "word1", "text": f"word{n}"}) + "\n" for n in range(9)))
    path = recipe_of(tiny, "rerank", "mse", teacher=scorer, train=[str(file)])
    expected = load(scorer).score_pairs([("word1", f"word{n}") for n in range(9)], raw_scores=True)
    np.testing.assert_allclose(stored(path).all_scores(), expected, atol=1e-6)


def test_labels_beside_a_teacher_are_reported(tiny, scorer, caplog):
    file = tiny.folder / "texts.jsonl"
    rows = [{"query": "word1", "texts": ["word1", "word2"], "labels": [1, 0]}, {"query": "word2", "texts": ["word3"]}]
    file.write_text("".join(json.dumps({"labels": [0], **row}) + "\n" for row in rows))
    stored(recipe_of(tiny, "rerank", "mse", teacher=scorer, train=[str(file)]))
    assert "2 of 2 lists have labels, which loss mse does not use: it learns scores (first: " in caplog.text


def test_an_embedding_model_gives_similarities(tiny):
    path = recipe_of(tiny, "rerank", "kl", teacher=tiny.model)
    found = stored(path)
    [file] = load_recipe(path, kind=FinetuneRecipe).recipe.task.train
    pairs, model = pairs_of(rows_of(Path(file))), load(tiny.model)
    sides = [model.encode([pair[side] for pair in pairs]) for side in (0, 1)]
    sides = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in sides]
    np.testing.assert_allclose(found.all_scores(), (sides[0] * sides[1]).sum(1), atol=1e-5)
    assert ", cosine similarities; " in found.description()


def test_the_numbers_of_the_teacher_are_those_of_the_model_that_it_is(tiny, scorer):
    path = recipe_of(tiny, "rerank", "mse", teacher=scorer)
    result = run(path, f"model={scorer}", "task.head=keep", f"out={tiny.folder / 'itself'}")
    base = {name: value for name, value in result.references["base"].items() if name != "heldout_loss"}
    assert result.references["teacher"] == pytest.approx(base)
    assert set(base) == {"ndcg@10", "mrr@10", "map"}


def test_a_pass_that_was_killed_goes_on_and_all_runs_with_equal_rows_share_it(tiny, scorer, monkeypatch, tmp_path):
    monkeypatch.setattr(teacher_store, "ITEMS_PER_FILE", 50)
    path = recipe_of(tiny, "rerank", "mse", teacher=scorer, cache=str(tmp_path))
    scored: list[int] = []
    real = predictions.score_part

    def counted(model: LoadedModel, queries, *more, **named):
        scored.append(len(queries))
        return real(model, queries, *more, **named)

    monkeypatch.setattr(predictions, "score_part", counted)
    folder = stored(path).folder
    total = len(pairs_of(rows_of(tiny.folder / "lists-train.jsonl")))
    sizes = [min(50, total - first) for first in range(0, total, 50)]
    assert scored == sizes
    assert len(sizes) > 3
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    manifest = json.loads(whole["manifest.json"])
    assert [one["texts"] for one in manifest["files"]] == sizes
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": manifest["files"][:2]}))
    scored.clear()
    stored(path)
    assert scored == sizes[2:]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
    for other in (
        recipe_of(tiny, "rerank", "kl", teacher=scorer, cache=str(tmp_path), max_tokens=20),
        recipe_of(tiny, "rerank", "mse", teacher=shutil.copytree(scorer, tmp_path / "copy"), cache=str(tmp_path)),
    ):
        assert stored(other).folder == folder
    assert scored == sizes[2:], "a complete folder needs no teacher"


@pytest.mark.parametrize("kind", ["embed", "rerank"])
def test_a_file_that_changes_while_it_is_scored_leaves_no_scores(tiny, scorer, monkeypatch, tmp_path, kind):
    """It is another one when the first part is read, then itself again: that part is not taken for its own."""
    monkeypatch.setattr(teacher_store, "ITEMS_PER_FILE", 50)
    path = recipe_of(tiny, kind, "kl", teacher=scorer, cache=str(tmp_path))
    found = load_recipe(path, kind=FinetuneRecipe).recipe
    model, [file] = Path(found.model), map(Path, found.task.train)
    text, real = file.read_text(), predictions.score_part
    task = make_task(found.task, task_tokenizer(found.task, model, lowercase=None), model=model, seed=1)

    def changing(model: LoadedModel, *more, **named):
        original = tmp_path / "original"
        original.write_text(text)
        original.replace(file)  # who reads the other one goes on with it
        return real(model, *more, **named)

    monkeypatch.setattr(predictions, "score_part", changing)
    file.write_text("".join(json.dumps({**row, "positive": "word1"}) + "\n" for row in rows_of(file)))
    with pytest.raises(DataError, match=f"{tmp_path}.*: the training texts changed while the teacher read them"):
        task.store_teacher(ALONE)
    with pytest.raises(DataError, match="found scores of texts that were changed"):
        stored(path)


@pytest.mark.parametrize("of", ["scorer", "vectors"])
def test_a_score_that_is_not_finite_is_named_with_its_row(tiny, scorer, monkeypatch, tmp_path, of):
    """In the second file of scores, too."""
    monkeypatch.setattr(teacher_store, "ITEMS_PER_FILE", 3)
    teacher = shutil.copytree(scorer if of == "scorer" else tiny.model, tmp_path / "broken")
    tiny.break_word(teacher, "word94")
    file = tmp_path / "texts.jsonl"
    file.write_text(
        "".join(json.dumps({"query": "word1", "text": f"word{number}"}) + "\n" for number in (1, 2, 3, 94, 5))
    )
    path = recipe_of(tiny, "rerank", "mse", teacher=teacher, train=[str(file)], cache=str(tmp_path))
    what = "score is" if of == "scorer" else "vector has a value that is"
    with pytest.raises(DataError, match=rf"texts.jsonl:4: its {what} not finite; the weights of .*broken are damaged"):
        stored(path)


def test_a_vector_that_is_not_finite_is_named_with_its_row(tiny, monkeypatch, tmp_path):
    """In the second file of vectors, too."""
    monkeypatch.setattr(teacher_store, "ITEMS_PER_FILE", 2)
    teacher = shutil.copytree(tiny.model, tmp_path / "broken")
    tiny.break_word(teacher, "word94")
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"word{number}"}) + "\n" for number in (1, 2, 3, 94, 5)))
    path = recipe_of(tiny, "embed", "vectors", teacher=teacher, train=[str(file)], cache=str(tmp_path))
    with pytest.raises(DataError, match=r"texts.jsonl:4: its vector has a value that is not finite; the weights of "):
        stored(path)


def test_a_similarity_that_is_not_finite_is_named_with_its_row(tiny, monkeypatch, tmp_path):
    """Of vectors that are finite themselves."""
    path = recipe_of(tiny, "rerank", "mse", teacher=tiny.model, cache=str(tmp_path))
    monkeypatch.setattr(score_teacher, "pairwise_similarities", lambda *sides: np.array([1, 2, np.inf] + [0] * 215))
    with pytest.raises(DataError, match=r"lists-train.jsonl:\d: scores of task.teacher .* are not finite; choose"):
        stored(path)


def test_equal_scores_of_a_teacher_teach_nothing(tiny, scorer, tmp_path):
    teacher = shutil.copytree(scorer, tmp_path / "constant")
    tensors = load_file(teacher / "model.safetensors")
    save_file({**tensors, "classifier.weight": 0 * tensors["classifier.weight"]}, teacher / "model.safetensors")
    for kind, loss in LOSSES[1:]:
        path = recipe_of(tiny, kind, loss, teacher=teacher, cache=str(tmp_path))
        with pytest.raises(DataError, match=r"in each of the 60 training lists .* \(first: .*-train.jsonl:1\)"):
            stored(path)


def test_all_processes_wait_for_another_run_in_short_collectives(tiny, scorer, monkeypatch, tmp_path):
    """A barrier would end them after the time limit of the process group."""
    found = stored(recipe_of(tiny, "rerank", "mse", teacher=scorer, cache=str(tmp_path)))
    tries: list[bool] = []

    def gathered(value: bool, ranks: Ranks) -> list[bool]:
        tries.append(value)
        return [value, True]

    monkeypatch.setattr(teacher_store, "gathered", gathered)
    with contextlib.ExitStack() as other:
        other.enter_context(locked_folder(found.folder, busy="filling it", instead="another"))
        monkeypatch.setattr(teacher_store.time, "sleep", lambda seconds: other.close())
        with found._alone(Ranks(rank=0, world_size=2)):
            assert tries == [False, True]


def test_other_rows_and_other_teachers_have_other_folders(tiny, scorer, tmp_path):
    path = recipe_of(tiny, "rerank", "mse", teacher=scorer, cache=str(tmp_path))
    file = tiny.folder / "lists-train.jsonl"
    folders = {stored(path).folder}
    rows = rows_of(file)
    for changed in (
        [*rows[:-1], {**rows[-1], "positive": "word1"}],
        [*rows, {**rows[0], "query": "word2"}],
        rows[::-1],
    ):
        file.write_text("".join(json.dumps(row) + "\n" for row in changed))
        folders.add(stored(path).folder)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shorter = shutil.copytree(scorer, tmp_path / "shorter")
    values = read_json(shorter / "tokenizer_config.json")
    (shorter / "tokenizer_config.json").write_text(json.dumps({**values, "model_max_length": 9}))
    for teacher in (shorter, tiny.write_classifier("another", seed=4, num_labels=1), tiny.model):
        folders.add(stored(recipe_of(tiny, "rerank", "mse", teacher=teacher, cache=str(tmp_path))).folder)
    assert len(folders) == 7


def test_damage_is_named(tiny, scorer, tmp_path):
    path = recipe_of(tiny, "embed", "kl", teacher=scorer, cache=str(tmp_path))
    file = stored(path).folder / "scores-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"scores-00000.safetensors: missing or damaged.*the run fills it again"):
        stored(path)


def test_a_dry_run_says_what_is_stored_and_computes_nothing(tiny, scorer, tmp_path):
    path = recipe_of(tiny, "rerank", "mse", teacher=scorer, cache=str(tmp_path))
    said = "\n".join(check_files(load_recipe(path, kind=FinetuneRecipe).recipe, afresh=False))
    assert f"teacher: {scorer}, its scores before the activation; 0 of " in said
    assert not list(tmp_path.iterdir())


def test_a_teacher_that_scores_no_pairs_is_refused(tiny):
    several = tiny.write_classifier("several", seed=3, labels=("a", "b", "c"))
    with pytest.raises(UsageError, match=r"several has 3 labels, expected a model with one score for a pair, or an"):
        find_score_teacher(str(several))
    tags = tiny.write_classifier("tags", seed=3, of="Token", num_labels=3)
    with pytest.raises(UsageError, match=r"tags has a head for something else \(tokens\) and no modules.json"):
        find_score_teacher(str(tags))
    values = read_json(several / "config.json")
    (several / "config.json").write_text(json.dumps({**values, "model_type": "deberta-v2"}))
    with pytest.raises(DataError, match=r"several.*config.json: model_type .*deberta-v2"):
        find_score_teacher(str(several))


@pytest.mark.parametrize(
    ("kind", "loss", "more", "message"),
    [
        (
            "rerank",
            "bce",
            {},
            "found teacher with loss bce, which learns labels; it is for mse, margin_mse, kl",
        ),
        (
            "embed",
            "infonce",
            {},
            "found teacher with loss infonce; it is for vectors, similarities, margin_mse, kl",
        ),
        ("rerank", "mse", {"score": "scores"}, "found both score and teacher, expected one source of scores"),
        ("rerank", "mse", {"teacher": None, "cache": "c"}, "found cache without teacher, whose scores it would hold"),
    ],
)
def test_keys_that_do_not_fit_a_teacher_are_refused(tiny, scorer, kind, loss, more, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(recipe_of(tiny, kind, loss, **{"teacher": scorer, **more}), kind=FinetuneRecipe)


@pytest.mark.parametrize(("kind", "loss"), LOSSES[1::2])
def test_rows_with_scores_and_a_teacher_are_refused(tiny, scorer, kind, loss):
    with pytest.raises(DataError, match=r"jsonl:1: found column 'scores' and task.teacher .*set task.teacher to null"):
        run(recipe_of(tiny, kind, loss, teacher=scorer, scored=True))


def test_lists_that_a_loss_cannot_compare_are_refused_before_a_teacher_scores_them(tiny, scorer):
    file = tiny.folder / "texts.jsonl"
    file.write_text(json.dumps({"query": "word1", "texts": ["word2"]}) + "\n")
    for loss, message in (("margin_mse", "expected one positive and its negatives"), ("kl", "has a single text")):
        path = recipe_of(tiny, "rerank", loss, teacher=scorer, train=[str(file)])
        with pytest.raises(DataError, match=rf"texts.jsonl:1: .*{message}"):
            stored(path)
    path = recipe_of(tiny, "rerank", "mse", teacher=scorer, train=[str(file)])
    with pytest.raises(DataError, match=r"all 1 training texts have the score .* \(first: .*texts.jsonl:1\)"):
        stored(path)
