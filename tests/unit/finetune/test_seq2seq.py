"""Proves that seq2seq runs learn, keep their best weights, resume exactly, and do not depend on split or processes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.errors import DataError, UsageError
from minilm.files.tensors import read_safetensors
from minilm.finetune import run as run_module
from minilm.finetune import seq2seq_generation as seq2seq_generate
from minilm.finetune.make import make_task
from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.run import finetune_once
from minilm.finetune.seq2seq import Seq2SeqTask, batch_of
from minilm.finetune.seq2seq_generation import generation_numbers
from minilm.finetune.start import start_model
from minilm.finetune.sweep import finetune
from minilm.infer.api import load
from minilm.model.checkpoint import read_model
from minilm.model.heads import Model
from minilm.model.metadata import read_config, saved_head
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.tasks.saved import read_task
from minilm.tasks.seq2seq.masking import Symbols, training_view
from minilm.tasks.seq2seq.rows import Pairs, load_nlg_tokenizer
from minilm.tasks.seq2seq.settings import MaskingSettings
from minilm.train.distributed import ALONE, Ranks
from minilm.train.loop import Event, train
from minilm.train.metrics import read_metrics


class TinySeq2Seq:
    """A model of 3 layers, pairs whose target is the first word of the source, and recipes for them."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.train, self.dev = self.write("pairs.jsonl", 80, 1), self.write("held.jsonl", 20, 2)

    def write(self, name: str, count: int, seed: int) -> Path:
        """Sources of 3 to 12 words from a set of five, so that training is quick."""
        draw = random.Random(seed)
        lines = []
        for _ in range(count):
            words = [f"word{draw.randrange(5)}" for _ in range(draw.randint(3, 12))]
            lines.append(json.dumps({"src": " ".join(words), "tgt": words[0]}) + "\n")
        path = self.folder / name
        path.write_text("".join(lines))
        return path

    def recipe(self, *, name: str = "s2s.json", out: str = "run", task=None, **train: object) -> Path:
        """A recipe for 24 steps, evaluated and saved every 6."""
        values = {
            "kind": "finetune",
            "name": "tiny-seq2seq",
            "out": str(self.folder / out),
            "model": str(self.model),
            "task": {
                "kind": "seq2seq",
                "name": "seq2seq",
                "train": [str(self.train)],
                "dev": [str(self.dev)],
                "max_source_tokens": 20,
                "max_target_tokens": 6,
                **(task or {}),
            },
            "train": {
                **{"steps": 24, "batch_size": 8, "tokens_per_batch": 64, "learning_rate": 0.003},
                **{"eval_every": 6, "checkpoint_every": 6, "log_every": 2, **train},
            },
        }
        path = self.folder / name
        path.write_text(json.dumps(values))
        return path

    def load(self, path: Path) -> FinetuneRecipe:
        return load_recipe(path, kind=FinetuneRecipe).recipe

    def task(self, **changes: object) -> Seq2SeqTask:
        task = make_task(self.load(self.recipe(task=changes)).task, load_nlg_tokenizer(self.model))
        assert isinstance(task, Seq2SeqTask)
        return task

    def prepared(self, **changes: object) -> tuple[Seq2SeqTask, Model]:
        task = self.task(**changes)
        model = start_model(self.model, task, seed=5).eval()
        task.prepare(model)
        return task, model

    def objective(self, *, ranks: Ranks = ALONE, tokens_per_batch: int = 64, **changes: object) -> FinetuneObjective:
        task, model = self.prepared(**changes)
        return FinetuneObjective(model, task, batch_size=8, tokens_per_batch=tokens_per_batch, seed=5, ranks=ranks)


@pytest.fixture
def pairs(tiny_task) -> TinySeq2Seq:
    tiny_task.distillation.write_teacher(words=("[unused1]", *tiny_task.distillation.words[:-1]))
    return TinySeq2Seq(tiny_task.folder, tiny_task.model)


def run(recipe: Path):
    [point] = finetune(load_recipe(recipe, kind=FinetuneRecipe))
    return point.runs[0]


def step_loss(objective: FinetuneObjective, step: int) -> float:
    return float(objective.accumulate(objective.batch(step), torch.Tensor.detach).value)


@pytest.mark.slow
def test_a_run_learns_and_leaves_a_model_that_decodes(pairs, caplog):
    quick = {"steps": 120, "batch_size": 16, "tokens_per_batch": 1024, "learning_rate": 0.006}
    result = run(pairs.recipe(task={"label_smoothing": 0.0}, eval_every=40, checkpoint_every=40, **quick))
    assert "has no trained mlm head" in caplog.text
    out = pairs.folder / "run"
    measured = {row["step"]: row["heldout_loss"] for row in read_metrics(out) if "heldout_loss" in row}
    assert list(measured) == [40, 80, 120]
    assert result.main_metric == "heldout_loss"
    assert result.main == min(measured.values()) == measured[result.best_step]  # lower is better
    assert result.main < 0.65  # guessing among five words costs 0.8 per token, as half of the tokens are ends
    assert result.numbers["token_accuracy"] > 65
    model = read_model(out / "model", head="mlm")
    assert saved_head(out / "model") == "mlm"
    assert json.loads((out / "model" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    task = read_task(out / "model")
    assert task.source == ("src",)
    assert (task.name, task.max_source_tokens, task.max_target_tokens, task.mask_way) == ("seq2seq", 20, 6, "v2")
    assert load_nlg_tokenizer(out / "model").token_to_id("[X_SEP]") == 5
    assert "Held-out pairs" in (out / "report.html").read_text()
    rows = [json.loads(line) for line in (out / "predictions" / "held.jsonl").read_text().split("\n") if line]
    assert len(rows) == 20
    total, tokens = sum(row["loss"] for row in rows), sum(row["tokens"] for row in rows)
    assert total / tokens == pytest.approx(result.main, rel=1e-4)
    assert isinstance(model.head.bias, torch.nn.Parameter)


def dying_at(event: Event, updates: int) -> Callable[[Event, int], None]:
    """An `on_event` that raises at one event."""

    def on_event(*seen: object) -> None:
        if seen == (event, updates):
            raise RuntimeError("killed")

    return on_event


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bits(pairs, monkeypatch):
    """Masking, dropout and order are functions of the step: nothing is stored, nothing is lost."""
    noisy = {"source_mask_prob": 0.2, "target_mask_prob": 0.3}
    run(pairs.recipe(out="whole", task=noisy))
    recipe = pairs.recipe(out="broken", name="broken.json", task=noisy)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", partial(train, on_event=dying_at("batch", 15)))
        with pytest.raises(RuntimeError, match="killed"):
            run(recipe)
    run(recipe)
    whole, broken = ((pairs.folder / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken
    dropped = ("tokens_per_second", "seconds", "memory_gib")
    curves = [
        [{key: value for key, value in row.items() if key not in dropped} for row in read_metrics(pairs.folder / name)]
        for name in ("whole", "broken")
    ]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_models_of_checkpoints_are_written_once_each(pairs):
    recipe = pairs.load(pairs.recipe(steps=10, checkpoint_every=4, eval_every=0, task={"dev": []}))
    for _ in range(2):  # the second call finds the run finished
        finetune_once(recipe, resolved="", models=pairs.folder / "models")
    folders = sorted(path.name for path in (pairs.folder / "models").iterdir())
    assert folders == ["ckpt-10", "ckpt-4", "ckpt-8"]
    last = read_safetensors(pairs.folder / "models" / "ckpt-10" / "model.safetensors")
    final = read_safetensors(pairs.folder / "run" / "model" / "model.safetensors")
    assert all(torch.equal(last[name], final[name]) for name in final)
    assert read_task(pairs.folder / "models" / "ckpt-4").max_source_tokens == 20


@pytest.mark.slow
def test_a_model_that_a_kill_prevented_is_written_when_the_run_resumes(pairs, monkeypatch):
    recipe = pairs.load(pairs.recipe(steps=8, checkpoint_every=4, eval_every=0, task={"dev": []}))
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", partial(train, on_event=dying_at("saved", 4)))
        with pytest.raises(RuntimeError, match="killed"):
            finetune_once(recipe, resolved="", models=pairs.folder / "models")
    assert not (pairs.folder / "models").exists()
    finetune_once(recipe, resolved="", models=pairs.folder / "models")
    assert {path.name for path in (pairs.folder / "models").iterdir()} == {"ckpt-4", "ckpt-8"}


@pytest.mark.parametrize("changes", [{}, {"mask_way": "v1", "target_mask_prob": 0.6}, {"mask_way": "v0"}], ids=str)
def test_the_split_into_microbatches_changes_nothing(pairs, changes):
    small, large = (pairs.objective(tokens_per_batch=size, **changes) for size in (30, 4096))
    assert len(small.batch(3).parts) > len(large.batch(3).parts) == 1
    assert step_loss(small, 3) == pytest.approx(step_loss(large, 3), rel=1e-6)


@pytest.mark.slow
def test_processes_share_the_pairs_and_see_the_same_masks(pairs):
    alone = pairs.objective(target_mask_prob=0.5)
    shares = [pairs.objective(ranks=Ranks(rank=rank, world_size=2), target_mask_prob=0.5) for rank in range(2)]
    assert sum(step_loss(share, 2) for share in shares) == pytest.approx(step_loss(alone, 2), rel=1e-6)
    tokens = [one.batch(2).num_tokens for one in (alone, *shares)]
    assert tokens[0] == tokens[1] + tokens[2]


def test_masks_are_drawn_anew_each_epoch_and_order_only_when_requested(pairs):
    """10 steps are an epoch of 80 pairs; step 10 begins the next."""

    def sources(step, **changes):
        [batch] = pairs.objective(tokens_per_batch=4096, **changes).batch(step).parts
        token_ids = batch.seq2seq.packed.token_ids
        return token_ids[batch.seq2seq.source_rows].tolist(), token_ids.tolist()

    first, first_all = sources(0, shuffle="once")
    again, again_all = sources(10, shuffle="once")
    assert first == again
    assert first_all != again_all  # other pseudo tokens
    assert sources(0)[0] == first
    assert sources(10)[0] != first


@pytest.mark.slow
def test_held_out_loss_is_that_of_masked_pseudo_tokens_without_smoothing(pairs):
    objective = pairs.objective(label_smoothing=0.3, target_mask_prob=0.9)
    other = pairs.objective(label_smoothing=0.0)
    assert objective.evaluate() == other.evaluate()
    assert set(objective.evaluate()) == {"heldout_loss", "token_accuracy"}


def test_held_out_sets_after_the_first_have_their_names_before_them(pairs):
    second = pairs.write("second.jsonl", 5, 9)
    numbers = pairs.objective(dev=[str(pairs.dev), str(second)]).evaluate()
    assert set(numbers) == {"heldout_loss", "token_accuracy", "second.heldout_loss", "second.token_accuracy"}


@pytest.mark.slow
def test_held_out_targets_are_generated_scored_and_shown(pairs):
    """What is scored is what `generate` of the saved model returns, and it can decide the best checkpoint."""
    quick = {"steps": 60, "batch_size": 16, "tokens_per_batch": 1024, "learning_rate": 0.01, "eval_every": 30}
    wanted = {"label_smoothing": 0.0, "dev_generated": 8, "metric": "rouge1"}
    result = run(pairs.recipe(task=wanted, **quick))
    measured = {row["step"]: row["rouge1"] for row in read_metrics(result.folder) if "rouge1" in row}
    assert result.main == max(measured.values()) > 10
    assert {"heldout_loss", "rouge2", "rougeL", "rougeLsum", "Bleu_4"} <= result.numbers.keys()
    rows = [json.loads(line) for line in (result.folder / "predictions" / "held.jsonl").read_text().split("\n") if line]
    generated = {int(row["id"]): row["prediction"] for row in rows if "prediction" in row}
    assert list(generated) == [number * 20 // 8 for number in range(8)]
    sources = [json.loads(line) for line in pairs.dev.read_text().split("\n") if line]
    again = load(result.folder / "model").generate([sources[row]["src"] for row in generated], beam_size=1)
    assert again == list(generated.values())
    right = [sources[row]["tgt"] == text for row, text in generated.items()]
    assert result.main == pytest.approx(100 * sum(right) / 8)  # one word each
    examples = json.loads((result.folder / "analysis.json").read_text())["held"]["examples"]
    assert [example["generated"] for example in examples] == list(generated.values())


def test_processes_share_the_pairs_that_are_generated(pairs, monkeypatch):
    """More processes than pairs, too: those without work still join the gathering."""
    wanted = {"dev_generated": 2, "beam_size": 2}
    everyone: list[dict[int, str]] = []

    def pretend(value, ranks):
        everyone.append(value)
        return [value]

    task, model = pairs.prepared(**wanted)
    alone = task._generated(model, "held", ALONE)
    assert list(alone) == [0, 10]
    monkeypatch.setattr(seq2seq_generate, "gathered", pretend)
    for rank in range(3):
        with pytest.raises(KeyError):  # the pretended gathering leaves out what the others found
            task._generated(model, "held", Ranks(rank=rank, world_size=4))
    assert everyone[0] | everyone[1] == alone
    assert everyone[2] == {}


@pytest.mark.parametrize("mark", ["\n", " [X_SEP] "])
def test_scores_of_generated_texts_are_those_of_minilm_score(pairs, mark):
    """A sentence break counts as a line for ROUGE-Lsum; BLEU-4 compares with the model's own tokens."""
    task = pairs.task()
    held = Pairs(
        sources=[np.array([6], dtype=np.int32)] * 2,
        targets=[np.array([6, 7, 8, 9], dtype=np.int32)] * 2,
        references=[f"word0 word1{mark}word2 word3", "word0 word1 word2 word3"],
        locations=["a:1", "a:2"],
    )
    same = {0: "word0 word1 [X_SEP] word2 word3 [X_SEP]", 1: "word0 word1 word2 word3"}
    found = generation_numbers(same, held, task.tokenizer)
    assert (found["rouge1"], found["rougeLsum"]) == (100, 100)
    assert found["Bleu_4"] < 100  # the [X_SEP] is a word there
    assert generation_numbers({1: same[1]}, held, task.tokenizer)["Bleu_4"] == pytest.approx(100, abs=0.1)


def test_a_model_trained_with_position_shift_generates_with_it(pairs):
    task, model = pairs.prepared(mask_way="v0", dev_generated=1)
    assert set(task._generated(model, "held", ALONE)) == {0}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            {"metric": "rouge1"},
            "expected one of heldout_loss, token_accuracy, or with task.dev_generated one of rouge1",
        ),
        ({"metric": "f1", "dev_generated": 3}, "'f1', expected one of heldout_loss, token_accuracy, rouge1, rouge2"),
    ],
)
def test_a_metric_that_is_not_measured_is_rejected(pairs, task, message):
    with pytest.raises(UsageError) as caught:
        pairs.task(**task)
    assert message in str(caught.value)


@pytest.mark.slow
def test_frozen_words_stay_and_the_rest_learns(pairs):
    result = run(pairs.recipe(task={"freeze_words": True}))
    before = read_model(pairs.model).encoder
    after = read_model(result.folder / "model", head="mlm").encoder
    assert torch.equal(before.embeddings.word.weight, after.embeddings.word.weight)
    assert not torch.equal(before.embeddings.position.weight, after.embeddings.position.weight)


def test_a_pooler_is_carried_along_untrained(pairs):
    """The loss does not depend on it: no weight decay may touch it, whatever the number of processes."""
    assert not any("pooler" in name for name in pairs.objective().parameters)


@pytest.mark.slow
def test_a_table_too_short_for_the_longest_pair_is_grown(pairs, caplog):
    result = run(
        pairs.recipe(
            task={"max_source_tokens": 60, "max_target_tokens": 10}, steps=2, eval_every=2, tokens_per_batch=128
        )
    )
    assert "the position table was extended from 64 to 70 tokens" in caplog.text
    assert read_config(result.folder / "model").max_tokens == 70


@pytest.mark.slow
def test_training_continues_from_a_seq2seq_model(pairs, caplog):
    """The second run uses the head of the first: nothing is randomly initialized."""
    first = run(pairs.recipe(out="first", steps=6))
    caplog.clear()
    recipe = pairs.recipe(out="second", name="second.json", steps=6)
    recipe.write_text(recipe.read_text().replace(str(pairs.model), str(first.folder / "model")))
    second = run(recipe)
    assert "no trained" not in caplog.text
    assert second.main < first.main


def test_nothing_to_train_on_and_an_uneven_share_are_rejected(pairs):
    task, model = pairs.task(), start_model(pairs.model, pairs.task(), seed=0)
    empty = Pairs(sources=[], targets=[], references=[], locations=[])
    nothing = Seq2SeqTask(
        train=empty,
        dev={},
        tokenizer=task.tokenizer,
        settings=task.settings,
    )
    with pytest.raises(DataError, match=r"no training examples left; check task\.train"):
        FinetuneObjective(model, nothing, batch_size=8, tokens_per_batch=64, seed=0)
    with pytest.raises(UsageError, match="a batch of 8 documents cannot be shared evenly by 3 processes"):
        FinetuneObjective(model, task, batch_size=8, tokens_per_batch=64, seed=0, ranks=Ranks(rank=0, world_size=3))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"max_tokens": 64}, "unknown key 'task.max_tokens': did you mean"),
        ({"stride": 64}, "unknown key 'task.stride'"),
        ({"label": "tgt"}, "unknown key 'task.label'"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"random_prob": 0.7, "keep_prob": 0.7}, "random_prob + keep_prob is 1.4, expected at most 1"),
        ({"mask_way": "v1"}, "mask_way v1 requires a target_mask_prob above 0"),
        ({"max_masked_tokens": 3}, "max_masked_tokens applies only to mask_way v1"),
        ({"source": []}, "source"),
        ({"max_source_tokens": 60}, "the max source, target and pseudo tokens (72): an example must fit"),
    ],
)
def test_recipes_that_make_no_sense_are_rejected(pairs, task, message):
    with pytest.raises(UsageError) as caught:
        load_recipe(pairs.recipe(task=task))
    assert message in str(caught.value)


def test_keys_of_seq2seq_are_rejected_for_other_tasks(tiny_task):
    with pytest.raises(UsageError, match=r"unknown key 'task\.shuffle'"):
        load_recipe(tiny_task.recipe(), ["task.shuffle=once"])


def test_the_random_head_depends_only_on_the_seed(pairs):
    task = pairs.task()
    first, again, other = (start_model(pairs.model, task, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.head.dense.weight, again.head.dense.weight)
    assert not torch.equal(first.head.dense.weight, other.head.dense.weight)
    assert float(np.abs(first.head.bias.detach().numpy()).max()) == 0


def test_a_batch_holds_the_pairs_end_to_end():
    symbols = Symbols(cls_id=1, sep_id=2, mask_id=3, vocab_size=1000)
    source, target = np.arange(100, 110, dtype=np.int32), np.arange(200, 204, dtype=np.int32)
    views = [
        training_view(source, target[:length], MaskingSettings(), symbols, np.random.default_rng(0))
        for length in (4, 1)
    ]
    batch = batch_of(views, pad_id=0, scale=0.5)
    assert batch.seq2seq.packed.lengths == (22, 16)
    assert batch.labels.tolist() == [*target, 2, target[0], 2]
    assert batch.num_tokens == 38
    assert set(batch.tensors()) == {"token_ids", "segment_ids", "cu_seqlens", "labels"}
    single = batch_of(views[:1], pad_id=0, target_segment=0)  # a model without segments
    assert single.seq2seq.packed.segment_ids.max() == 0


def test_references_that_rouge_cannot_count_are_reported_where_it_chooses_the_weights(pairs, caplog):
    rows = pairs.dev.read_text().splitlines()
    rows[3] = json.dumps({"src": "word1", "tgt": "Привет мир"})
    pairs.dev.write_text("\n".join(rows) + "\n")
    pairs.task()
    assert "ROUGE" not in caplog.text
    pairs.task(dev_generated=4, metric="rouge1")
    assert "1 of 20 held-out pairs of held have a side without a word that ROUGE counts" in caplog.text
