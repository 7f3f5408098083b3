"""A step of a distillation, measured on this machine: how long it takes, what memory it needs, whether it learns.

In: a recipe and its plan; the corpus, or the beginning of its text files. Out: `Measured`. Nothing is written.
"""

from __future__ import annotations

import itertools
import math
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from minilm.corpus.shards import ShardInfo, ShardManifest, Shards
from minilm.corpus.tokenizing import tokenize_here
from minilm.distill.costs import Lengths, text_bytes
from minilm.distill.criteria import make_criterion
from minilm.distill.criterion import Criterion, DistillBatch, LossesOf, RowCounts
from minilm.distill.objective import DistillObjective
from minilm.distill.plan import DistillPlan, open_corpus
from minilm.distill.run import load_models, make_objective, this_device
from minilm.distill.teacher_base import ComputedBy
from minilm.errors import DataError
from minilm.files.texts import read_texts
from minilm.model.encoder import Encoder
from minilm.model.heads import MaskedLanguageHead, Model
from minilm.progress import Progress
from minilm.recipe import DistillRecipe, Objective
from minilm.tally import Tally
from minilm.train.accumulate import Microbatches
from minilm.train.distributed import kept_generators
from minilm.train.loop import accumulate_in
from minilm.train.optim import make_optimizer

UPDATES = 20
"""At most, on one batch; fewer where its loss soon is small enough."""
LEARNS: Mapping[Objective, float] = {"relations": 0.5, "hidden": 0.9, "mlm": 0.9}
"""The share of its loss that a batch has at most after the updates; matrices and heads start at random and are slow."""
_SAMPLED_TEXTS = 200  # of each text file
_SAMPLED_DOCUMENTS = 256
_CHECKED_TOKENS = 2048
_SECONDS = 20.0  # for the speed, and again for the updates, of each stage
_MARGIN = 0.1  # of the first loss: updates have dropout, with which the loss is seldom less than without
_GOLDEN = 0.6180339887


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Documents that stand for the corpus, and what is known of all of them."""

    shards: Shards
    lengths: Lengths


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens computed, the seconds that took, of these the teacher's, and the seconds of the optimizer per step."""

    tokens: int
    seconds: float
    teacher_seconds: float
    update_seconds: float

    def of_step(self, tokens: float, *, cached: bool = False) -> float:
        """Seconds that a step of this many tokens takes; `cached`: without the teacher."""
        seconds = self.seconds - (self.teacher_seconds if cached else 0.0)
        return tokens * seconds / self.tokens + self.update_seconds

    def of_teacher(self, tokens: float) -> float:
        """Seconds that the teacher takes for this many tokens."""
        return tokens * self.teacher_seconds / self.tokens

    @property
    def teacher_share(self) -> float:
        """The share of the teacher in a step, without the update."""
        return self.teacher_seconds / self.seconds


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured.

    Attributes:
        computed_by: what computed the teacher, if there is one.
        speed: of a step.
        peak_gib: of memory.
        updates: made on one batch.
        batch: its documents and tokens.
        first_loss: of that batch before the updates, without dropout.
        last_loss: after them.
        enough: share of the first loss below which the student learns.
        students: after the updates, with their heads.
    """

    computed_by: ComputedBy | None
    speed: Speed
    peak_gib: float
    updates: int
    batch: tuple[int, int]
    first_loss: float
    last_loss: float
    enough: float
    students: Mapping[str, Model]

    @property
    def learns(self) -> bool:
        """Whether the updates lowered the loss enough."""
        return self.last_loss <= self.enough * self.first_loss


def sample_corpus(recipe: DistillRecipe, plan: DistillPlan) -> Sample:
    """The corpus, if it is built, else documents from the beginning of each text file.

    Raises:
        DataError: the files hold no text, or the corpus does not fit.
    """
    data = recipe.data
    if data.corpus is not None:
        shards = open_corpus(recipe, Path(data.corpus), plan, verify=False)
        known = Lengths.of(shards.lengths, documents=len(shards), source="counted in the corpus")
        return Sample(shards=shards, lengths=known)
    files = [Path(name) for name in data.inputs]
    texts = [text for file in files for text in _beginning(file, data.field)]
    if not texts:
        raise DataError(f"data.inputs: no text in {', '.join(data.inputs)}; check the files")
    found = tokenize_here(plan.tokenizer, texts, max_tokens=data.max_tokens)
    lengths, tokens = found.lengths, int(found.lengths.sum())
    per_byte = len(lengths) / sum(len(text.encode()) + 1 for text in texts)
    known = Lengths.of(
        lengths,
        documents=per_byte * text_bytes(files),
        source=f"estimated from {len(lengths):,} documents at the beginning of the data",
    )
    part = ShardInfo(file="", documents=len(lengths), tokens=tokens, sha256="")
    manifest = ShardManifest(
        tokenizer=plan.tokenizer.fingerprint,
        vocab_size=plan.tokenizer.vocab_size,
        dtype="uint32",
        max_tokens=data.max_tokens,
        texts=len(texts),
        documents=len(lengths),
        tokens=tokens,
        bad_rows=0,
        empty_texts=0,
        shards=(part,),
    )
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Sample(shards=Shards(manifest, token_ids=[found.token_ids], offsets=[offsets]), lengths=known)


def _beginning(file: Path, field: str) -> list[str]:
    texts = read_texts([file], field=field, max_bad_rows=1, tally=Tally())
    return list(itertools.islice(texts, _SAMPLED_TEXTS))


def measure(recipe: DistillRecipe, plan: DistillPlan, shards: Shards, *, label: str) -> Measured:
    """Load teacher and students, time microbatches of a step, then train on one small batch.

    Raises:
        DataError, SystemProblem: the teacher cannot be loaded; as for `load_teacher`.
    """
    device = this_device()
    teacher, students, plan = load_models(recipe, plan, device)
    with kept_generators(), Progress(label) as progress:
        size = min(recipe.train.batch_size, _SAMPLED_DOCUMENTS, len(shards))
        criterion = make_criterion(recipe, plan, teacher, students)
        clocked = Clocked(criterion)
        objective = _objective(recipe, plan, clocked, shards, size)
        parts = objective.batch(0).parts
        optimizer = make_optimizer(objective.parameters, recipe.train)
        progress.begin(len(parts) + UPDATES)
        speed = _timed(objective, clocked, recipe, parts, optimizer, progress)
        batch_size = _fitting(shards.lengths[: len(shards)], recipe)
        small = _objective(recipe, plan, _Remembering(criterion), shards, batch_size)
        optimizer = make_optimizer(small.parameters, recipe.train)
        batch = small.batch(0)
        first, enough = _loss(small, batch), LEARNS[recipe.loss.objective] - _MARGIN
        updates = _updates(small, recipe, batch, optimizer, progress, enough=enough * first)
        last = _loss(small, batch)
    return Measured(
        computed_by=None if teacher is None else teacher.computed_by,
        speed=speed,
        peak_gib=_peak_gib(device),
        updates=updates,
        batch=(batch_size, batch.num_tokens),
        first_loss=first,
        last_loss=last,
        enough=LEARNS[recipe.loss.objective],
        students={name: Model(student, criterion.head(name)) for name, student in students.items()},
    )


def measure_speed(recipe: DistillRecipe, plan: DistillPlan, shards: Shards, *, label: str) -> Speed:
    """Load teacher and students, and time microbatches alone; raises as `measure`."""
    teacher, students, plan = load_models(recipe, plan, this_device())
    with kept_generators(), Progress(label) as progress:
        criterion = make_criterion(recipe, plan, teacher, students)
        clocked = Clocked(criterion)
        objective = _objective(recipe, plan, clocked, shards, min(_SAMPLED_DOCUMENTS, len(shards)))
        parts = objective.batch(0).parts
        progress.begin(len(parts))
        return _timed(objective, clocked, recipe, parts, make_optimizer(objective.parameters, recipe.train), progress)


class _Wrapped:
    """A criterion inside another one."""

    def __init__(self, criterion: Criterion) -> None:
        self._criterion = criterion

    @property
    def students(self) -> Mapping[str, Encoder]:
        """Those of the criterion."""
        return self._criterion.students

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Those of the criterion."""
        return self._criterion.modules

    def parameters(self, name: str) -> list[nn.Parameter]:
        """Those of the criterion."""
        return self._criterion.parameters(name)

    def head(self, name: str) -> MaskedLanguageHead | None:
        """That of the criterion."""
        return self._criterion.head(name)

    def counted_rows(self, lengths: RowCounts) -> RowCounts:
        """Those of the criterion."""
        return self._criterion.counted_rows(lengths)

    def agreement(self, batches: Iterable[DistillBatch]) -> dict[str, float]:
        """That of the criterion."""
        return self._criterion.agreement(batches)

    def prepare(self, batch: DistillBatch) -> LossesOf:
        """What the criterion prepares."""
        return self._criterion.prepare(batch)


class _Remembering(_Wrapped):
    """A criterion whose teacher computes each batch once."""

    def __init__(self, criterion: Criterion) -> None:
        super().__init__(criterion)
        self._known: dict[int, LossesOf] = {}

    def prepare(self, batch: DistillBatch) -> LossesOf:
        """What the criterion prepared before."""
        if id(batch) not in self._known:
            self._known[id(batch)] = super().prepare(batch)
        return self._known[id(batch)]


class Clocked(_Wrapped):
    """A criterion with a clock for its teacher."""

    def __init__(self, criterion: Criterion) -> None:
        """Start at 0 seconds."""
        super().__init__(criterion)
        self.seconds = 0.0

    def prepare(self, batch: DistillBatch) -> LossesOf:
        """What the criterion prepares."""
        _wait_for_device()
        started = time.perf_counter()
        found = super().prepare(batch)
        _wait_for_device()
        self.seconds += time.perf_counter() - started
        return found


def _wait_for_device() -> None:
    """Wait until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _objective(
    recipe: DistillRecipe, plan: DistillPlan, criterion: Criterion, shards: Shards, batch_size: int
) -> DistillObjective:
    """The objective of the recipe with another batch size and nothing held out."""
    changed = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"heldout_documents": 0}),
            "train": replace(recipe.train, batch_size=batch_size),
        }
    )
    return make_objective(changed, plan, criterion, shards, device=this_device())


def _timed(
    objective: DistillObjective,
    clocked: Clocked,
    recipe: DistillRecipe,
    parts: Sequence[DistillBatch],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> Speed:
    """The speed of microbatches, those of other lengths in turn, until the time is up; one is not timed."""
    order = sorted(range(len(parts)), key=lambda number: number * _GOLDEN % 1, reverse=True)
    _accumulate(objective, recipe, parts[-1:])  # the longest documents: sets the peak, and warms up
    tokens, seconds, before = 0, 0.0, clocked.seconds
    for number in order:
        started = time.perf_counter()
        _accumulate(objective, recipe, [parts[number]])
        seconds += time.perf_counter() - started
        tokens += parts[number].num_tokens
        progress.advance(status=f"{tokens / seconds:,.0f} tokens/s")
        if seconds > _SECONDS:
            break
    return Speed(
        tokens=tokens,
        seconds=seconds,
        teacher_seconds=clocked.seconds - before,
        update_seconds=_timed_update(optimizer),
    )


def _accumulate(objective: DistillObjective, recipe: DistillRecipe, parts: Sequence[DistillBatch]) -> None:
    accumulate_in(recipe.train.precision, objective, Microbatches(parts=parts))
    _wait_for_device()


def _timed_update(optimizer: torch.optim.Optimizer) -> float:
    """Seconds of an update after the first, which creates the state; its learning rate is 0."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    _wait_for_device()
    started = time.perf_counter()
    optimizer.step()
    _wait_for_device()
    seconds = time.perf_counter() - started
    optimizer.zero_grad(set_to_none=True)
    return seconds


def _fitting(lengths: np.ndarray, recipe: DistillRecipe) -> int:
    """How many documents make a batch that twenty updates can be made on in seconds."""
    longest = int(lengths.max())
    budget = min(_CHECKED_TOKENS, recipe.train.tokens_per_batch)
    return max(1, min(recipe.train.batch_size, len(lengths), budget // longest))


def _updates(
    objective: DistillObjective,
    recipe: DistillRecipe,
    batch: Microbatches[DistillBatch],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    enough: float,
) -> int:
    """Train on one batch at the peak learning rate until its loss is `enough` or time is up; returns the updates."""
    started = time.perf_counter()
    for number in range(UPDATES):
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(number)
        loss = float(accumulate_in(recipe.train.precision, objective, batch).value)
        for group in objective.clip_groups:
            nn.utils.clip_grad_norm_(group, recipe.train.max_grad_norm or math.inf)
        if math.isfinite(loss):
            optimizer.step()
        is_last = number + 1 == UPDATES or loss <= enough or time.perf_counter() - started > _SECONDS
        progress.advance(UPDATES - number if is_last else 1, status=f"loss {loss:.4f}")
        if is_last:
            break
    return number + 1


@torch.no_grad()
def _loss(objective: DistillObjective, batch: Microbatches[DistillBatch]) -> float:
    """The loss of a batch without dropout."""
    objective.module.eval()
    return sum(float(objective.loss(part).value) for part in batch.parts)


def _peak_gib(device: str) -> float:
    """Most memory that this process, or its GPU, has held."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
