"""Training of text vectors: gradients that do not depend on the cut, stored teachers, folders, verdicts."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from tests.conftest import TinyFinetune
from tests.host_reads import HostReads

import minilm
from minilm.corpus.order import rank_share
from minilm.errors import DataError, UsageError
from minilm.files.json import read_json
from minilm.finetune import embed_batch, embed_objectives, teacher_store, teacher_vectors
from minilm.finetune.embed import EmbedTask
from minilm.finetune.embed_losses import Excluded
from minilm.finetune.embed_objectives import targets_of
from minilm.finetune.keyed_dropout import KeyedDropout, TextKeys
from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.result import RunResult, verdict
from minilm.finetune.run import finetune_once
from minilm.finetune.start import start_model
from minilm.finetune.sweep import check_recipe
from minilm.finetune.task import StepRows
from minilm.finetune.vector_encoder import VectorEncoder
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.heads import Model
from minilm.model.metadata import read_config
from minilm.model.packing import pack
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.score.glue import compute_metrics
from minilm.tasks.embed.settings import EmbedSettings
from minilm.train.distributed import ALONE, Ranks
from minilm.train.loop import accumulate_in
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


def gradients(
    task: EmbedTask, model: Model, *, token_budget: int, step: int = 0, ranks: Ranks = ALONE
) -> tuple[float, torch.Tensor]:
    rows = np.arange(16, dtype=np.int64)
    own = rank_share(rows, rank=ranks.rank, world_size=ranks.world_size)
    batch = task.batch(StepRows(rows=rows, own=own, step=step, seed=5, ranks=ranks), token_budget=token_budget)
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


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_does_not_depend_on_the_number_of_processes(loss, tiny_task, monkeypatch):
    """Two, here threads, which exchange their vectors; with dropout and in parts, in float64."""
    task, model = made(tiny_task.embed_recipe(loss))
    value, whole = gradients(task, model, token_budget=10**6)
    vectors: list[torch.Tensor] = [torch.empty(0)] * 2
    meeting = Barrier(2)

    def gathered_rows(own: torch.Tensor, ranks: Ranks) -> tuple[torch.Tensor, int]:
        vectors[ranks.rank] = own
        meeting.wait(timeout=60)
        return torch.cat(vectors), ranks.rank * len(vectors[0])

    def half(rank: int, model: Model) -> tuple[float, torch.Tensor]:
        return gradients(task, model, token_budget=100, ranks=Ranks(rank=rank, world_size=2))

    monkeypatch.setattr(embed_batch, "gathered_rows", gathered_rows)
    with ThreadPoolExecutor(2) as processes:
        halves = list(processes.map(half, range(2), [copy.deepcopy(model) for _ in range(2)]))
    assert sum(one[0] for one in halves) == pytest.approx(value, rel=1e-10)
    torch.testing.assert_close(halves[0][1] + halves[1][1], whole, rtol=0, atol=1e-10 * whole.abs().max().item())


def test_no_known_positive_and_no_query_itself_is_a_negative(tiny_task):
    rows = [
        ("word1", "word2", ["word3", "word6"]),
        ("word1", "word4", []),  # not in the batch, but known
        ("word5", "word2", ["word5", "word4"]),
        ("word6", "word7", ["word4", "word3", "word2"]),
        ("word1", "word2", []),
    ]
    file = tiny_task.folder / "pairs.jsonl"
    lines = [json.dumps({"query": query, "positive": text, "negatives": others}) for query, text, others in rows]
    file.write_text("\n".join(lines))
    task, _ = made(tiny_task.embed_recipe("infonce", task={"train": [str(file)]}))
    chosen = [3, 0, 2, 4]
    targets = targets_of(task._settings, task._rows, np.array(chosen), positives=task._positives)
    excluded = Excluded(
        rows=targets["query texts"],
        columns=targets["document texts"],
        pairs=targets["excluded"],
        num_texts=sum(2 + len(rows[number][2]) for number in chosen),
    )
    known = {(query, text) for query, text, _ in rows}
    documents = [rows[number][1] for number in chosen] + [text for number in chosen for text in rows[number][2]]
    expected = [
        [((query, text) in known or text == query) and place != row for place, text in enumerate(documents)]
        for row, query in enumerate(rows[number][0] for number in chosen)
    ]
    assert excluded.of_rows(0, 4).tolist() == expected
    assert torch.cat([excluded.of_rows(0, 3), excluded.of_rows(3, 6)]).tolist() == expected
    columns = torch.tensor(expected)[:, :4].T
    assert torch.equal(excluded.transposed().of_rows(0, 4), columns)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("budget", [100, 10**6])
def test_in_bf16_the_loss_is_that_of_float32_of_the_same_vectors(loss, budget, tiny_task, monkeypatch):
    """So is the gradient of all vectors of a batch."""
    task, model = made(tiny_task.embed_recipe(loss), dtype=torch.float32)
    plain, seen, gradients = embed_objectives._loss, [], []

    def kept(settings: EmbedSettings, vectors: torch.Tensor, *more: object) -> torch.Tensor:
        if vectors.is_leaf:
            vectors.register_hook(gradients.append)
        value = plain(settings, vectors, *more)
        seen.append(((settings, vectors.detach().clone().requires_grad_(), *more), value.item(), vectors.is_leaf))
        return value

    monkeypatch.setattr(embed_objectives, "_loss", kept)
    objective = FinetuneObjective(model, task, batch_size=16, tokens_per_batch=budget, seed=5)
    accumulate_in("bf16", objective, objective.batch(0))
    assert len(gradients) == (loss in ("similarities", "infonce", "cosent") and budget == 100)
    for (settings, vectors, *more), value, is_leaf in seen:
        assert vectors.dtype == torch.float32
        expected = plain(settings, vectors, *more)
        assert value == pytest.approx(expected.item(), rel=1e-6)
        if is_leaf:
            torch.testing.assert_close(gradients[0], torch.autograd.grad(expected, vectors)[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("loss", ["infonce", "similarities"])
def test_in_bf16_the_gradient_does_not_depend_on_the_cut(loss, tiny_task):
    """The pass without a graph leaves no weights in autocast's cache that pass no gradient on."""
    task, model = made(tiny_task.embed_recipe(loss), dtype=torch.float32)
    found = []
    for parts in (1, 2):
        whole = FinetuneObjective(model, task, batch_size=16, tokens_per_batch=10**6, seed=5)
        budget = whole.batch(0).num_tokens // parts + 20
        objective = FinetuneObjective(model, task, batch_size=16, tokens_per_batch=budget, seed=5)
        assert len(objective.batch(0).parts) == parts
        model.zero_grad()
        accumulate_in("bf16", objective, objective.batch(0))
        found.append({name: weight.grad for name, weight in objective.parameters.items() if weight.grad is not None})
    for name, one in found[0].items():
        assert (found[1][name] - one).norm() < 0.1 * one.norm() + 1e-6, name


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


@pytest.mark.parametrize("loss", ["margin_mse", "kl"])
def test_vectors_that_learn_dot_products_are_scored_and_written_so(loss, tiny_task):
    library = pytest.importorskip("sentence_transformers", reason="the reference: pip install 'minilm[dev]'")
    result = run(tiny_task.embed_recipe(loss, task={"normalize": False}))
    model = minilm.load(result.folder / "model")
    rows = [json.loads(line) for line in (tiny_task.folder / "vectors-dev.jsonl").open()]
    sides = [model.encode([row[side] for row in rows]) for side in ("sentence1", "sentence2")]
    dots = (sides[0] * sides[1]).sum(1)
    lines = (result.folder / "predictions" / "vectors-dev.jsonl").open()
    assert dots == pytest.approx([json.loads(line)["prediction"] for line in lines], rel=1e-4)
    numbers = compute_metrics(("spearmanr",), [row["score"] for row in rows], dots.tolist())
    assert result.main == pytest.approx(numbers["spearmanr"], abs=0.5)  # ranks that a rounding exchanges
    assert model.embedding.similarity == "dot"
    assert np.diag(model.similarity(*sides)) == pytest.approx(dots, rel=1e-5)
    assert library.SentenceTransformer(str(model.folder), device="cpu").similarity_fn_name == "dot"


@pytest.mark.parametrize(
    ("loss", "task", "expected"),
    [
        ("margin_mse", {}, "cosine"),
        ("cosent", {"normalize": False}, "cosine"),
        ("vectors", {"normalize": False}, "cosine"),
        ("vectors", {"normalize": False, "distance": "l2"}, "dot"),  # those of the teacher, with their length
        ("vectors", {"distance": "l2"}, "cosine"),
    ],
)
def test_the_similarity_is_what_vectors_were_trained_for_not_what_the_base_model_has(loss, task, expected, tiny_task):
    base = with_settings(tiny_task, EmbeddingSettings(similarity="dot"))
    recipe = tiny_task.embed_recipe(loss, task=task | ({"teacher": str(base)} if loss == "vectors" else {}))
    folder = run(recipe, f"model={base}", "train.steps=1").folder / "model"
    assert minilm.load(folder).embedding.similarity == expected


def with_settings(tiny: TinyFinetune, settings: EmbeddingSettings) -> Path:
    """A copy of the model that makes vectors so."""
    folder = tiny.folder / "base"
    shutil.copytree(tiny.model, folder)
    write_embedding(folder, settings, hidden_size=read_config(folder).hidden_size)
    return folder


def test_the_base_model_is_scored_as_it_was_not_as_it_becomes(tiny_task):
    """With its own pooling, modules, prompt, max length and similarity."""
    own = EmbeddingSettings(
        pooling=("cls", "mean"),
        max_tokens=6,
        prompts={"document": "word3 word4 "},
        default_prompt_name="document",
        similarity="dot",
    )
    base = with_settings(tiny_task, own)
    recipe = tiny_task.embed_recipe("cosent", task={"pooling": "mean"})
    result = run(recipe, f"model={base}", "train.steps=1")
    model, rows = minilm.load(base), [json.loads(line) for line in (tiny_task.folder / "vectors-dev.jsonl").open()]
    sides = [model.encode([row[side] for row in rows]) for side in ("sentence1", "sentence2")]
    scores, dots = [row["score"] for row in rows], (sides[0] * sides[1]).sum(1).tolist()
    assert result.references["base"] == pytest.approx(compute_metrics(("spearmanr", "pearson"), scores, dots), abs=0.5)


def test_the_max_length_is_that_of_the_model_unless_it_is_set_which_is_reported(tiny_task, caplog):
    caplog.set_level(logging.INFO)
    base = with_settings(tiny_task, EmbeddingSettings(max_tokens=10))
    recipe = tiny_task.embed_recipe("cosent", task={"max_tokens": None}, steps=1)
    folder = run(recipe, f"model={base}").folder / "model"
    assert minilm.load(folder).embedding.max_tokens == 10
    assert "texts were longer than 10 tokens and were truncated" in caplog.text
    assert "task.max_tokens is" not in caplog.text
    many = minilm.load(base).config.max_tokens + 1
    for number, limit in enumerate((8, many)):
        caplog.clear()
        out = tiny_task.folder / str(number)
        run(recipe, f"model={base}", f"out={out}", f"task.max_tokens={limit}", "train.tokens_per_batch=128")
        folder = out / "model"
        assert minilm.load(folder).embedding.max_tokens == min(limit, many - 1)
        said = f"task.max_tokens is {limit}; without it texts have up to 10 tokens, as for {base}"
        assert caplog.text.count(said) == 1
        written = read_json(folder / "sentence_bert_config.json")["max_seq_length"]
        assert written == min(limit, many - 1), "never more than the model has positions for"


def test_dimensions_that_leave_values_untrained_are_reported(tiny_task, caplog):
    recipe = tiny_task.embed_recipe("cosent", task={"dimensions": [16, 8]}, steps=1)
    run(recipe)
    said = "task.dimensions: only the first 16 of the 48 values of a vector are trained; add 48 to train all"
    assert caplog.text.count(said) == 1
    caplog.clear()
    run(recipe, "task.dimensions=[48,8]", f"out={tiny_task.folder / 'whole'}")
    assert "task.dimensions" not in caplog.text


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
    ("metric", "base", "main", "expected"),
    [
        ("spearmanr", 80.0, 81.0, "better than the base model by 1.00 (spearmanr 81.00, base 80.00)"),
        ("spearmanr", 80.0, 80.05, "equal to the base model within 0.1 (spearmanr 80.05, base 80.00)"),
        ("spearmanr", 80.0, 78.5, "worse than the base model by 1.50 (spearmanr 78.50, base 80.00)"),
        ("heldout_loss", 0.12, 0.04, "better than the base model by 0.08 (heldout_loss 0.04, base 0.12)"),
        ("heldout_loss", 0.0312, 0.0313, "equal to the base model within 1% (heldout_loss 0.0313, base 0.0312)"),
        ("heldout_loss", 20.0, 20.5, "worse than the base model by 0.5 (heldout_loss 20.5, base 20)"),
    ],
)
def test_the_verdict(metric, base, main, expected, tmp_path):
    values = {"seed": 1, "learning_rate": 0.1, "epochs": 1, "batch_size": 1, "best_step": 1, "steps": 1}
    result = RunResult(
        folder=tmp_path,
        main_metric=metric,
        numbers={metric: main},
        train_examples=1,
        parameters=1,
        seconds=1,
        references={"base": {metric: base}},
        **values,
    )
    assert verdict(result) == f"verdict: {expected}"
    assert verdict(replace(result, references={})) == ""


# --- stored vectors of the teacher ---------------------------------------------------------------------------------


@pytest.fixture
def stored(tiny_task, monkeypatch) -> tuple[TinyFinetune, EmbedTask]:
    """A task whose teacher's vectors are in files of 25 texts."""
    monkeypatch.setattr(teacher_store, "ITEMS_PER_FILE", 25)
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


def test_empty_texts_are_reported_once(tiny_task, caplog):
    """Not again when the teacher reads the files."""
    recipe = tiny_task.embed_recipe("vectors")
    with (tiny_task.folder / "vectors-train.jsonl").open("a") as file:
        file.write('{"text": " "}\n')
    made(recipe)
    assert caplog.text.count("empty texts were skipped") == 1


def test_a_pass_that_was_killed_goes_on_and_other_texts_have_another_folder(stored, monkeypatch):
    tiny, task = stored
    whole = {file.name: file.read_bytes() for file in task.teacher.folder.iterdir()}
    manifest = json.loads(whole["manifest.json"])
    (task.teacher.folder / "manifest.json").write_text(json.dumps({**manifest, "files": manifest["files"][:1]}))
    encoded: list[int] = []
    encode = VectorEncoder.encode

    def counted(self: VectorEncoder, texts: list[str], locations: list[str], *, prompt: str) -> np.ndarray:
        encoded.append(len(texts))
        return encode(self, texts, locations, prompt=prompt)

    monkeypatch.setattr(VectorEncoder, "encode", counted)
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
    recipe = tiny_task.embed_recipe("vectors")
    for files in (f"[{empty}]", f"[{tiny_task.folder}/vectors-train.jsonl, {empty}]"):
        with pytest.raises(DataError, match=r"empty\.jsonl: found no text, expected at least one"):
            run(recipe, f"task.train={files}")
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
