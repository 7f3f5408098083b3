"""Distillations of random models: each criterion, and each way to a teacher's relations.

In: `Cases`. Out: teachers that run packed or padded or were stored, objectives of the training loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from cases import Cases, Documents

from minilm.distill.cache_filling import Filling
from minilm.distill.criterion import Criterion, RelationCriterion, RelationTeacher
from minilm.distill.hidden_states import HiddenCriterion
from minilm.distill.masked_language import MaskedLanguageCriterion
from minilm.distill.masking import Masking
from minilm.distill.objective import DistillObjective, ObjectiveSettings
from minilm.distill.relation_loss import V2_PAIRS
from minilm.distill.room import Room
from minilm.distill.shapes import LayerPairs
from minilm.distill.teacher import load_teacher
from minilm.distill.teacher_base import Teacher, Wanted
from minilm.distill.teacher_cache import CachedTeacher, CacheKey, StoragePrecision
from minilm.model.checkpoint import write_model
from minilm.model.encoder import Encoder
from minilm.model.heads import Model
from minilm.model.precision import FloatPrecision, torch_dtype
from minilm.recipe import CacheSection
from minilm.train.distributed import ALONE, kept_generators

Way = Literal["packed", "padded"]
"""How a teacher runs: a BERT packed, an MPNet padded, with hooks on its projections."""
_SEED = 1


def objective(
    cases: Cases,
    lengths: Sequence[int],
    *,
    place: torch.device,
    precision: FloatPrecision,
    batch: int,
    tokens: int,
    learns: str = "relations",
) -> DistillObjective:
    """Steps of `batch` documents of these lengths, from which the student learns what `CRITERIA` has by this name."""
    documents = cases.documents(lengths)
    students = {"student": cases.encoder().to(place)}
    settings = ObjectiveSettings(
        normalization="sequence",
        batch_size=batch,
        tokens_per_batch=tokens,
        num_heldout=0,
        seed=_SEED,
        masking=_masking(cases) if learns == "masked tokens" else None,
        device=str(place),
    )
    given = _Given(cases=cases, students=students, documents=documents, place=place, precision=precision)
    return DistillObjective(CRITERIA[learns](given), documents, settings)


def teacher(
    cases: Cases, way: Way, place: torch.device, precision: FloatPrecision, wanted: Wanted | None = None
) -> Teacher:
    """A teacher that computes on a device, by torch alone."""
    folder = cases.folder / way
    if not folder.exists():
        folder.mkdir()
        {"packed": _write_bert, "padded": _write_mpnet}[way](cases, folder)
    return load_teacher(folder, device=str(place), precision=torch_dtype(precision), native=False, wanted=wanted)


def _write_bert(cases: Cases, folder: Path) -> None:
    write_model(Model(cases.encoder(cases.size.teacher)), folder)


def _write_mpnet(cases: Cases, folder: Path) -> None:
    from transformers import MPNetConfig, MPNetModel

    size = cases.size.teacher
    config = MPNetConfig(
        vocab_size=size.vocab_size,
        hidden_size=size.hidden_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        intermediate_size=size.intermediate_size,
        max_position_embeddings=size.max_positions + 2,  # the first position is 2
        initializer_range=size.initializer_range,
    )
    with kept_generators():
        torch.manual_seed(_SEED)
        MPNetModel(config).save_pretrained(folder)


def stored(cases: Cases, documents: Documents, precision: StoragePrecision) -> CachedTeacher:
    """The relations of the packed teacher, which the first call computes on the device of the cases and stores."""
    computing = teacher(cases, "packed", cases.device, "fp32")
    key = CacheKey(
        teacher_config="random",
        teacher_weights="random",
        layer=computing.layer,
        engine=computing.engine,
        versions=computing.versions,
        device=str(cases.device),
        computed_in="fp32",
        corpus="random",
        precision=precision,
    )
    found = CachedTeacher(cases.folder / f"stored-{precision}", key, documents.lengths)
    filling = Filling(found, computing, documents, name="random", device=str(cases.device), ranks=ALONE)
    filling.run(CacheSection(precision=precision), Room())
    return found


# --- criteria -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What a criterion is made from."""

    cases: Cases
    students: dict[str, Encoder]
    documents: Documents
    place: torch.device
    precision: FloatPrecision

    @property
    def last(self) -> LayerPairs:
        """The last layers are compared."""
        return ((self.cases.size.student.num_layers, self.cases.size.teacher.num_layers),)

    @property
    def all(self) -> LayerPairs:
        """All layers of the student are, at even distances."""
        ((count, of_teacher),) = self.last
        return tuple((number, number * of_teacher // count) for number in range(1, count + 1))

    def teacher(self, way: Way, layers: LayerPairs, *, hidden: bool = False) -> Teacher:
        wanted = Wanted(layers=tuple(theirs for _, theirs in layers), hidden=hidden)
        return teacher(self.cases, way, self.place, self.precision, wanted)


def _relations(given: _Given, known: RelationTeacher, layers: LayerPairs) -> Criterion:
    return RelationCriterion(
        teacher=known,
        students=given.students,
        layers=dict.fromkeys(given.students, layers),
        pairs=dict.fromkeys(V2_PAIRS, 1.0),
        num_relation_heads=given.cases.size.relation_heads,
    )


def _hidden_states(given: _Given) -> Criterion:
    return HiddenCriterion(
        given.teacher("packed", given.all, hidden=True),
        given.students,
        layers=dict.fromkeys(given.students, given.all),
        width=given.cases.size.teacher.hidden_size,
        normalization="sequence",
        seed=_SEED,
    )


def _masked_tokens(given: _Given) -> Criterion:
    heads = {name: given.cases.model("mlm").head.to(given.place) for name in given.students}
    return MaskedLanguageCriterion(given.students, heads, masking=_masking(given.cases), normalization="sequence")


def _masking(cases: Cases) -> Masking:
    return Masking.of(cases.tokenizer, 0.15, seed=_SEED)


CRITERIA: dict[str, Callable[[_Given], Criterion]] = {
    "relations": lambda given: _relations(given, given.teacher("packed", given.last), given.last),
    "relations of a padded teacher": lambda given: _relations(given, given.teacher("padded", given.last), given.last),
    "stored relations": lambda given: _relations(given, stored(given.cases, given.documents, "bf16"), given.last),
    "relations layer to layer": lambda given: _relations(given, given.teacher("packed", given.all), given.all),
    "hidden states": _hidden_states,
    "masked tokens": _masked_tokens,
}
