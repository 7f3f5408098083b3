"""Training of text vectors: gradients that do not depend on the cut, stored teachers, folders, verdicts."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import TinyFinetune
from tests.host_reads import HostReads

import minilm
from minilm.errors import DataError, UsageError
from minilm.files.json import read_json
from minilm.finetune import teacher_vectors
from minilm.finetune.embed import EmbedTask
from minilm.finetune.keyed_dropout import KeyedDropout, TextKeys
from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.result import RunResult, verdict
from minilm.finetune.run import finetune_once
from minilm.finetune.start import start_model
from minilm.finetune.sweep import check_recipe
from minilm.finetune.task import StepRows
from minilm.infer.api import LoadedModel
from minilm.model.heads import Model
from minilm.model.packing import pack
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.train.distributed import ALONE
from minilm.train.metrics import read_metrics

LOSSES = ("vectors", "similarities", "infonce", "cosent", "cosine", "margin_mse", "kl")


def run(recipe: Path, *overrides: str) -> RunResult:
    loaded = load_recipe(recipe, list(overrides), kind=FinetuneRecipe)
    return finetune_once(loaded.recipe, resolved="")


def made(recipe: Path, *, dtype: torch.dtype = torch.float64) -> tuple[EmbedTask, Model]:
    found = load_recipe(recipe, kind=FinetuneRecipe).recipe
    model = Path(found.model)
    task = make_task(found.task, task_tokenizer(found.task, model, lowercase=None), model=model, seed=1)
    assert isinstance(task, EmbedTask)
    task.store_teacher(ALONE)
    start = start_model(model, task, seed=1)
    task.prepare(start)
    return task, start.to(dtype).train()


def gradients(task: EmbedTask, model: Model, *, token_budget: int, step: int = 0) -> tuple[float, torch.Tensor]:
    rows = np.arange(16, dtype=np.int64)
    batch = task.batch(StepRows(rows=rows, own=np.arange(16), step=step, seed=5), token_budget=token_budget)
    model.zero_grad()

    def backward(loss: torch.Tensor) -> torch.Tensor:
        loss.backward()
        return loss.detach()

    with HostReads() as reads:
        loss = batch.accumulate(model, backward)
    assert reads.count == 0
    flat = [weight.grad.flatten() for weight in task.parameters(model).values() if weight.grad is not None]
    return float(loss.value), torch.cat(flat)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dimensions", [[], [48, 16]])
def test_the_gradient_does_not_depend_on_the_cut(loss, dimensions, tiny_task):
    """With dropout, in float64 to 1e-10, in float32 to 1e-5; another step has other masks."""
    recipe = tiny_task.embed_recipe(loss, task={"dimensions": dimensions})
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        task, model = made(recipe, dtype=dtype)
        value, whole = gradients(task, model, token_budget=10**6)
        for budget in (32, 100):
            cut, parts = gradients(task, model, token_budget=budget)
            assert cut == pytest.approx(value, rel=tolerance)
            torch.testing.assert_close(parts, whole, rtol=0, atol=tolerance * whole.abs().max().item())
    assert whole.abs().max() > 0
    assert gradients(task, model, token_budget=10**6, step=1)[0] != value


def test_dropout_has_its_rate_and_is_off_in_evaluation():
    dropout = KeyedDropout(0.25)
    packed = pack([np.zeros(50, dtype=np.int32), np.zeros(50, dtype=np.int32)])
    keys = TextKeys(seed=1, step=0, texts=[(0, 0), (1, 0)])
    rows = torch.ones(100, 64)
    with dropout.keyed(packed, keys):
        once, again = dropout(rows), dropout(rows)
    assert not torch.equal(once, again), "each module of a pass draws its own masks"
    assert once.mean().item() == pytest.approx(1, abs=0.02)
    assert once.unique().tolist() == pytest.approx([0, 4 / 3])
    with dropout.keyed(packed, replace(keys, texts=[(1, 0), (0, 0)])):
        torch.testing.assert_close(dropout(rows), once.roll(50, 0))
    assert torch.equal(dropout.eval()(rows), rows)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_falls_and_its_folder_has_the_scored_vectors(loss, tiny_task):
    result = run(tiny_task.embed_recipe(loss))
    losses = [row["loss"] for row in read_metrics(result.folder)]
    assert losses[-1] < losses[0]
    model = minilm.load(result.folder / "model")
    rows = [json.loads(line) for line in (tiny_task.folder / "vectors-dev.jsonl").open()]
    sides = [model.encode([row[side] for row in rows]) for side in ("sentence1", "sentence2")]
    predicted = [
        json.loads(line)["prediction"] for line in (result.folder / "predictions" / "vectors-dev.jsonl").open()
    ]
    assert (sides[0] * sides[1]).sum(1) == pytest.approx(predicted, abs=2e-5)
    assert model.embedding.max_tokens == 32


def test_the_folder_loads_in_sentence_transformers_with_the_same_vectors(tiny_task):
    library = pytest.importorskip("sentence_transformers", reason="the reference: pip install 'minilm[dev]'")
    prompts = {"query_prompt": "word3 word4 ", "pooling": "cls", "normalize": False}
    folder = run(tiny_task.embed_recipe("infonce", task=prompts), "train.steps=2").folder / "model"
    ours, theirs = minilm.load(folder), library.SentenceTransformer(str(folder), device="cpu")
    texts = ["word1 word2", "word5"]
    for role in ("query", "document"):
        expected = theirs.encode(texts, prompt=ours.embedding.prompt_of(prompt=None, role=role))
        np.testing.assert_allclose(ours.encode(texts, role=role), expected, atol=1e-5)
    assert ours.embedding.prompts["query"] == "word3 word4 "


def test_a_smaller_student_starts_as_layers_and_is_compared(tiny_task, caplog):
    caplog.set_level(logging.INFO)
    student = {"init": "layers", "teacher_layers": [1, 3]}
    result = run(tiny_task.embed_recipe("vectors", student=student))
    assert minilm.load(result.folder / "model").config.num_layers == 2
    assert list(result.references) == ["base", "teacher", "start"]
    assert result.references["base"]["spearmanr"] == pytest.approx(result.references["teacher"]["spearmanr"])
    assert result.references["start"] != result.references["base"]
    assert caplog.text.index("base: spearmanr") < caplog.text.index("60 examples, 24 steps")
    assert verdict(result) in caplog.text
    assert read_json(result.folder / "result.json")["references"]["base"] == result.references["base"]
    assert "verdict: " in (result.folder / "report.html").read_text()


def test_a_narrow_random_student_is_taught_through_a_map_that_is_dropped(tiny_task):
    student = {"num_layers": 2, "hidden_size": 24}
    result = run(tiny_task.embed_recipe("vectors", student=student, task={"projection": "drop", "distance": "l2"}))
    model = minilm.load(result.folder / "model")
    assert (model.config.hidden_size, model.encode("word1").shape) == (24, (24,))


def test_a_map_that_is_kept_gives_the_teachers_width_and_is_trained_further(tiny_task):
    """Its folder can be joined with the teacher, and loads in sentence-transformers."""
    library = pytest.importorskip("sentence_transformers", reason="the reference: pip install 'minilm[dev]'")
    result = run(tiny_task.embed_recipe("vectors", student={"num_layers": 1, "hidden_size": 24}))
    folder = result.folder / "model"
    texts = ["word1 word2", "word5"]
    ours = minilm.load(folder).encode(texts)
    assert ours.shape == (2, 48)
    np.testing.assert_allclose(ours, library.SentenceTransformer(str(folder), device="cpu").encode(texts), atol=1e-5)
    minilm.write_asymmetric(query=folder, document=tiny_task.model, out=tiny_task.folder / "both")
    both = minilm.load(tiny_task.folder / "both")
    np.testing.assert_allclose(both.encode(texts, role="query"), ours, atol=1e-6)
    further = tiny_task.embed_recipe("infonce", out="further", name="further.yaml", steps=1)
    found = run(further, f"model={folder}")
    assert found.references["base"] == pytest.approx(result.numbers, abs=0.01)
    assert minilm.load(found.folder / "model").encode(texts).shape == (2, 48)


@pytest.mark.parametrize(
    ("main", "expected"),
    [
        (81.0, "better than the base model by 1.00"),
        (80.05, "equal to the base model within 0.1"),
        (78.5, "worse than the base model by 1.50"),
    ],
)
def test_the_verdict(main, expected, tmp_path):
    values = {"seed": 1, "learning_rate": 0.1, "epochs": 1, "batch_size": 1, "best_step": 1, "steps": 1}
    result = RunResult(
        folder=tmp_path,
        main_metric="spearmanr",
        numbers={"spearmanr": main},
        train_examples=1,
        parameters=1,
        seconds=1,
        references={"base": {"spearmanr": 80.0}},
        **values,
    )
    assert verdict(result) == f"verdict: {expected} (spearmanr {main:.2f}, base 80.00)"
    assert verdict(replace(result, references={})) == ""


@pytest.mark.parametrize("projection", ["keep", "drop"])
def test_int8_vectors_have_a_fixed_symmetric_range_from_the_folder(tiny_task, projection):
    """It is that of the training texts as the folder encodes them, so none of them is outside of it."""
    recipe = tiny_task.embed_recipe("vectors", task={"projection": projection})
    folder = run(recipe, "train.steps=2").folder / "model"
    texts = [json.loads(line)["text"] for line in (tiny_task.folder / "vectors-train.jsonl").open()]
    model = minilm.load(folder)
    vectors = model.encode(texts)
    values = read_json(folder / "vector_ranges.json")
    assert values["low"] == -values["high"]
    assert values["high"] == pytest.approx(np.abs(vectors).max(), rel=1e-4)
    middles = (model.encode(texts, vectors="int8") + 1.0) / 127.5 * values["high"]  # of the 255 steps
    assert np.abs(middles - vectors).max() < values["high"] / 250


# --- stored vectors of the teacher ---------------------------------------------------------------------------------


@pytest.fixture
def stored(tiny_task, monkeypatch) -> tuple[TinyFinetune, EmbedTask]:
    """A task whose teacher's vectors are in files of 25 texts."""
    monkeypatch.setattr(teacher_vectors, "TEXTS_PER_FILE", 25)
    task, _ = made(tiny_task.embed_recipe("vectors"))
    return tiny_task, task


def test_stored_vectors_are_those_of_the_teacher(stored):
    tiny, task = stored
    texts = [json.loads(line)["text"] for line in (tiny.folder / "vectors-train.jsonl").open()]
    expected = minilm.load(tiny.model).encode(texts)
    found = task.teacher.rows(np.arange(60)[::-1].copy())[::-1]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    manifest = read_json(task.teacher.folder / "manifest.json")
    assert [one["texts"] for one in manifest["files"]] == [25, 25, 10]
    assert all(0 < one["change"] < 1e-3 for one in manifest["files"])
    assert task.teacher.folder.parent == tiny.folder / "vectors-train.jsonl.teacher"


def test_a_pass_that_was_killed_goes_on_and_other_texts_have_another_folder(stored, monkeypatch):
    tiny, task = stored
    whole = {file.name: file.read_bytes() for file in task.teacher.folder.iterdir()}
    manifest = json.loads(whole["manifest.json"])
    (task.teacher.folder / "manifest.json").write_text(json.dumps({**manifest, "files": manifest["files"][:1]}))
    encoded: list[int] = []
    encode = LoadedModel.encode

    def counted(self: LoadedModel, texts: list[str], **more: str) -> np.ndarray:
        encoded.append(len(texts))
        return encode(self, texts, **more)

    monkeypatch.setattr(LoadedModel, "encode", counted)
    made(tiny.folder / "embed.yaml")
    assert encoded == [25, 10]
    assert {file.name: file.read_bytes() for file in task.teacher.folder.iterdir()} == whole
    made(tiny.folder / "embed.yaml")
    assert encoded == [25, 10], "a complete folder needs no teacher"
    more = json.dumps({"text": "word1"}) + "\n"
    (tiny.folder / "vectors-train.jsonl").write_text((tiny.folder / "vectors-train.jsonl").read_text() + more)
    assert made(tiny.folder / "embed.yaml")[0].teacher.folder != task.teacher.folder


def test_vectors_that_half_precision_would_change_are_stored_whole():
    vectors = np.array([[1e6, 1.0], [1.0, 1e-7]], dtype=np.float32)
    stored, change = teacher_vectors._packed(vectors)
    assert (stored.dtype, change) == (np.float32, 0.0)


def test_damage_is_named(stored):
    tiny, task = stored
    file = task.teacher.folder / "vectors-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"vectors-00001.safetensors: missing or damaged.*the run fills it again"):
        made(tiny.folder / "embed.yaml")


# --- refusals ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused(tiny_task):
    empty = tiny_task.folder / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl: no training examples left; check task.train"):
        run(tiny_task.embed_recipe("vectors"), f"task.train=[{empty}]")
    with pytest.raises(UsageError, match=r"task.dimensions has 64, but vectors have width 48; leave it out"):
        run(tiny_task.embed_recipe("cosent", task={"dimensions": [64]}))
    with pytest.raises(UsageError, match=r"found train.attention_dropout with task kind embed"):
        run(tiny_task.embed_recipe("cosent", attention_dropout=0.1))
    with pytest.raises(UsageError, match=r"student.init is 'elsewhere', expected random or layers"):
        run(tiny_task.embed_recipe("cosent", student={"init": "elsewhere"}))


def test_a_dry_run_says_what_would_be_read_and_writes_nothing(tiny_task):
    loaded = load_recipe(tiny_task.embed_recipe("vectors", student={"init": "layers"}), kind=FinetuneRecipe)
    before = set(tiny_task.folder.iterdir())
    said = "\n".join(check_recipe(loaded))
    assert "student: 2 layers, width 48, starts as layers 1, 3" in said
    assert "training: 60 texts, " in said
    assert "vectors-dev: 20 scored pairs" in said
    assert "0 of 60 texts are stored" in said
    assert set(tiny_task.folder.iterdir()) == before
