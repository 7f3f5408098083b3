"""Proves the loss of every objective, and its gradient, against a plain twin.

The twin is transformers' BERT for teacher and student, one sequence at a time without padding, with the formulas of the
papers written out here; gradients are compared weight by weight.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from minilm.corpus.build import build_shards
from minilm.corpus.shards import Shards
from minilm.distill.criteria import make_criterion
from minilm.distill.criterion import Criterion, DistillBatch
from minilm.distill.objective import DistillObjective
from minilm.distill.plan import plan_distillation
from minilm.distill.run import load_models, make_objective
from minilm.model.checkpoint import write_model
from minilm.model.encoder import Encoder
from minilm.model.heads import Model
from minilm.model.packing import unpack
from minilm.model.tensor_names import to_hf
from minilm.recipe import DistillRecipe, LossSection, load_recipe
from minilm.train.distributed import Ranks

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'minilm[hf]'")

PROJECTIONS = ("query", "key", "value")
NINE = {f"{a}-{b}": 0.5 + index for index, (a, b) in enumerate((a, b) for a in PROJECTIONS for b in PROJECTIONS)}
LOSSES = {
    "v1": {"version": "v1", "relation_heads": None},
    "v1 attention": {"version": "v1", "relation_heads": None, "pairs": {"query-key": 1}},
    "v1 values": {"version": "v1", "relation_heads": None, "pairs": {"value-value": 0.5}},
    "v1 all layers": {"version": "v1", "relation_heads": None, "layers": "all"},
    "v2 nine pairs": {"pairs": NINE, "normalization": "token"},
    "v2 all layers": {"layers": "all", "normalization": "token"},
    "v2 named layers": {"layers": [3, 1]},
    "v2 masked text": {"mask_tokens": 0.4},
    "hidden": {"objective": "hidden", "relation_heads": None},
    "hidden, token mean": {"objective": "hidden", "relation_heads": None, "normalization": "token"},
    "hidden, all layers": {"objective": "hidden", "relation_heads": None, "layers": "all"},
    "mlm": {"objective": "mlm", "relation_heads": None},
    "mlm, token mean": {"objective": "mlm", "relation_heads": None, "normalization": "token"},
    "mlm, soft labels": {"objective": "mlm", "relation_heads": None, "labels": "soft"},
    "mlm, soft labels, token mean": {
        **{"objective": "mlm", "relation_heads": None, "labels": "soft"},
        **{"normalization": "token", "mask_tokens": 0.5},
    },
}
COMPARED = {"all": ((1, 2), (2, 3)), "last": ((2, 3),)}  # layers of a student of 2 and a teacher of 3


@dataclass(frozen=True)
class Setup:
    """An objective with its students made nonlinear, and where teacher and student are as folders."""

    recipe: DistillRecipe
    criterion: Criterion
    objective: DistillObjective
    folders: tuple[Path, Path]  # teacher, student

    @property
    def student(self) -> Encoder:
        return self.criterion.students["student"]


def set_up(tiny, loss: dict, **train: object) -> Setup:
    path = tiny.recipe(**train)
    recipe = load_recipe(path, [f"loss={json.dumps(loss)}"]).recipe
    plan = plan_distillation(recipe, tokenizer=tiny.teacher)
    teacher, students, plan = load_models(recipe, plan, "cpu")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in students["student"].parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    criterion = make_criterion(recipe, plan, teacher, students)
    shards = tiny.folder / "shards"
    if not shards.is_dir():
        build_shards([tiny.text], tokenizer=tiny.teacher, out=shards, max_tokens=32)
    objective = make_objective(recipe, plan, criterion, Shards.open(shards), device="cpu")
    objective.module.eval()  # no dropout
    folder = tiny.folder / "student"
    folder.mkdir(exist_ok=True)
    head = criterion.head("student")
    write_model(Model(students["student"], head), folder, head=head and "mlm")
    return Setup(recipe, criterion, objective, (tiny.teacher, folder))


# --- the twin ------------------------------------------------------------------------------------


class Twin:
    """A BERT of transformers that remembers what its layers project."""

    def __init__(self, folder: Path, *, has_head: bool) -> None:
        kind = transformers.BertForMaskedLM if has_head else transformers.BertModel
        self.model = kind.from_pretrained(folder, attn_implementation="eager").eval()
        base = self.model.bert if has_head else self.model
        self._seen: dict[tuple[int, str], torch.Tensor] = {}
        for number, layer in enumerate(base.encoder.layer, start=1):
            for name in PROJECTIONS:
                module = getattr(layer.attention.self, name)
                module.register_forward_hook(lambda _, __, out, key=(number, name): self._seen.__setitem__(key, out[0]))

    def run(self, ids):
        """Hidden rows after each layer, projections by layer and name, scores of tokens."""
        self._seen = {}
        output = self.model(input_ids=ids[None], output_hidden_states=True)
        rows = [states[0] for states in output.hidden_states]
        return rows, dict(self._seen), output.logits[0] if "logits" in output else None


def log_relation(a, b, heads):
    a, b = (rows.reshape(len(rows), heads, -1).permute(1, 0, 2) for rows in (a, b))
    return torch.log_softmax(a @ b.transpose(1, 2) / math.sqrt(a.shape[-1]), dim=-1)


def relation_rows(loss: LossSection, layers, student, teacher):
    """Loss of each row: divergences, mean over heads, summed over pairs, mean over layers."""
    version = ("query-key", "value-value") if loss.version == "v1" else ("query-query", "key-key", "value-value")
    pairs, heads = loss.pairs or dict.fromkeys(version, 1.0), loss.relation_heads or 6
    total = 0
    for own, theirs in layers:
        for pair, weight in pairs.items():
            a, b = pair.split("-")
            target = log_relation(teacher[theirs, a], teacher[theirs, b], heads).detach()
            found = log_relation(student[own, a], student[own, b], heads)
            total = total + weight * (target.exp() * (target - found)).sum(-1).mean(0) / len(layers)
    return total


def hidden_rows(layers, matrices, student, teacher):
    errors = [((student[own] @ matrices[own].T - teacher[theirs].detach()) ** 2).mean(-1) for own, theirs in layers]
    return sum(errors) / len(layers)


def token_rows(loss, places, labels, student, teacher):
    if loss.labels == "hard":
        return functional.cross_entropy(student[places], labels, reduction="none")
    target = teacher[places].detach().softmax(-1)
    return functional.kl_div(student[places].log_softmax(-1), target, reduction="none").sum(-1)


def documents(batch: DistillBatch):
    """Each document: its ids, the places that are masked in it, what was there."""
    ids = list(unpack(batch.packed.token_ids, batch.packed))
    if batch.masked is None:
        return [(one, None, None) for one in ids]
    starts = batch.packed.cu_seqlens[:-1].tolist()
    parts = [part.split(list(batch.masked.counts)) for part in (batch.masked.rows, batch.masked.labels)]
    return [(one, rows - start, labels) for one, start, rows, labels in zip(ids, starts, *parts, strict=True)]


def twin_loss(setup: Setup, twins, matrices, parts):
    loss = setup.recipe.loss
    layers = COMPARED.get(loss.layers) if isinstance(loss.layers, str) else tuple(enumerate(loss.layers, start=1))
    sums, counts = [], []
    for ids, places, labels in (document for batch in parts for document in documents(batch)):
        their_rows, their_projected, their_scores = twins[0].run(ids)
        rows, projected, scores = twins[1].run(ids)
        if loss.objective == "relations":
            found = relation_rows(loss, layers, projected, their_projected)
        elif loss.objective == "hidden":
            found = hidden_rows(layers, matrices, rows, their_rows)
        else:
            found = token_rows(loss, places, labels, scores, their_scores)
        sums.append(found.sum())
        counts.append(len(found))
    if loss.normalization == "token":
        return sum(sums) / sum(counts)
    return sum(one / count for one, count in zip(sums, counts, strict=True)) / len(sums)


# --- the tests -----------------------------------------------------------------------------------


def compare(found: torch.Tensor, expected: torch.Tensor, name: str, *, least: float) -> None:
    """To 1e-5 of the largest entry, or of `least`: the gradient of a key's bias is zero but for rounding."""
    scale = max(float(expected.abs().max()), least)
    assert float((found - expected).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_the_plain_twin(tiny, name):
    loss = {"relation_heads": 12, **LOSSES[name]}
    if loss.get("labels") == "soft":
        tiny.give_head()
    setup = set_up(tiny, loss)
    has_head = setup.recipe.loss.objective == "mlm"
    parts = setup.objective.batch(2).parts
    assert len(parts) > 1, "a step of several microbatches"
    total = 0.0
    for batch in parts:
        value = setup.objective.loss(batch).value
        value.backward()
        total += float(value.detach())
    soft = setup.recipe.loss.labels == "soft"
    twins = [Twin(folder, has_head=head) for folder, head in zip(setup.folders, (soft, has_head), strict=True)]
    projections = dict(getattr(setup.criterion, "_projections", {"student": {}})["student"].items())
    matrices = {int(own): made.weight.detach().clone().requires_grad_() for own, made in projections.items()}
    expected = twin_loss(setup, twins, matrices, parts)
    expected.backward()
    assert total == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    theirs = {key: weight.grad for key, weight in twins[1].model.named_parameters() if weight.grad is not None}
    ours = {f"encoder.{key}": weight.grad for key, weight in setup.student.named_parameters()}
    if (head := setup.criterion.head("student")) is not None:
        ours |= {f"head.{key}": weight.grad for key, weight in head.named_parameters()}
    found = {key: grad for key, grad in ours.items() if grad is not None}
    found = to_hf(found, family="bert", head="mlm" if has_head else None)
    unused = set(found) - set(theirs)  # query, key and value are one weight here, also where a pair has not all
    assert all(".attention.self." in key and not found[key].any() for key in unused)
    assert set(theirs) <= set(found)
    least = max(float(gradient.abs().max()) for gradient in theirs.values()) / 10
    for key, gradient in theirs.items():
        compare(found[key], gradient, key, least=least)
    for own, matrix in matrices.items():
        compare(projections[str(own)].weight.grad, matrix.grad, f"matrix of layer {own}", least=least)
    trained = {id(weight) for weight in setup.objective.parameters.values()}
    learning = {id(weight) for weight in setup.objective.module.parameters() if weight.grad is not None}
    assert trained == learning, "the parameters of the objective are exactly those that learn"


@pytest.mark.parametrize("loss", [{"mask_tokens": 0.3}, {"objective": "mlm", "normalization": "token"}], ids=str)
def test_neither_the_cut_nor_the_number_of_processes_changes_what_is_masked(tiny, loss):
    """The masked documents of a step are the same, and so is the loss."""
    if loss.get("objective") is None:
        loss = {**loss, "relation_heads": 12}
    setup = set_up(tiny, loss)

    def shown(batches) -> list[object]:
        found = [document for batch in batches for document in documents(batch)]
        return sorted((ids.tolist(), labels.tolist()) for ids, _, labels in found)

    def seen(budget: int, world_size: int) -> tuple[list[object], float]:
        batches, total = [], 0.0
        settings = replace(setup.objective._settings, tokens_per_batch=budget)
        for rank in range(world_size):
            ranks = Ranks(rank=rank, world_size=world_size)
            part = DistillObjective(setup.criterion, setup.objective._shards, settings, ranks)
            part.module.eval()
            batches += part.batch(5).parts
            total += sum(float(part.loss(batch).value.detach()) for batch in part.batch(5).parts)
        return shown(batches), total

    first, value = seen(10_000, 1)
    for budget, world_size in ((64, 1), (10_000, 2), (40, 4)):
        again, other = seen(budget, world_size)
        assert again == first
        assert other == pytest.approx(value, rel=1e-5)
    assert shown(setup.objective.batch(5).parts) == first != shown(setup.objective.batch(6).parts)


def test_heldout_documents_are_masked_in_the_same_places_each_time(tiny):
    setup = set_up(tiny, {"objective": "mlm"})
    assert setup.objective.evaluate() == setup.objective.evaluate()
