"""A distillation as an objective of the training loop: what is learned is a criterion's, the documents are found here.

In: a criterion with its students, token shards. Out: the batches of each step and their loss; the held-out loss.

B sequences, T packed tokens, M masked tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from minilm.corpus.order import rank_share, step_documents
from minilm.corpus.shards import Shards
from minilm.distill.agreement import MAX_DOCUMENTS
from minilm.distill.criterion import Criterion, DistillBatch, MaskedRows
from minilm.distill.masking import MaskedDocument, Masking
from minilm.distill.relation_loss import Normalization
from minilm.errors import DataError
from minilm.model.packing import on_device, pack
from minilm.model.token_budget import microbatches
from minilm.randomness import derived_seed
from minilm.train.accumulate import Backward, Microbatches, PartLoss, StepLoss, accumulate
from minilm.train.distributed import ALONE, Ranks, sum_over_ranks


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """Averaging of rows, and how documents are read."""

    normalization: Normalization
    batch_size: int
    tokens_per_batch: int
    num_heldout: int
    seed: int
    masking: Masking | None = None
    device: str = "cpu"


def num_trained_documents(shards: Shards, num_heldout: int) -> int:
    """Number of documents that are not held out; raises DataError if there is none."""
    if len(shards) <= num_heldout:
        raise DataError(
            f"the corpus has {len(shards)} documents and data.heldout_documents is {num_heldout}; "
            f"expected at least one more document to train on"
        )
    return len(shards) - num_heldout


class DistillObjective:
    """Sum of the losses of all students; their weights are disjoint, so each trains as if alone."""

    def __init__(self, criterion: Criterion, shards: Shards, settings: ObjectiveSettings, ranks: Ranks = ALONE) -> None:
        """Hold out the last `num_heldout` documents of the corpus; the processes share each step's documents.

        Raises:
            DataError: no document is left to train on.
            UsageError: the processes cannot share the batch evenly.
        """
        rank_share(np.arange(settings.batch_size), rank=ranks.rank, world_size=ranks.world_size)
        self._ranks = ranks
        self._criterion, self._shards, self._settings = criterion, shards, settings
        modules: dict[str, nn.Module] = {str(index): one for index, one in enumerate(criterion.students.values())}
        self._module = nn.ModuleDict({**modules, **criterion.modules})
        self._num_documents = num_trained_documents(shards, settings.num_heldout)

    @property
    def module(self) -> nn.Module:
        """All students by their index in the recipe, and what is trained with them."""
        return self._module

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The parameters that the loss depends on; the others never run."""
        trained = {parameter for group in self.clip_groups for parameter in group}
        return {name: parameter for name, parameter in self._module.named_parameters() if parameter in trained}

    @property
    def clip_groups(self) -> Sequence[Sequence[nn.Parameter]]:
        """One group per student."""
        return [self._criterion.parameters(name) for name in self._criterion.students]

    def batch(self, step: int) -> Microbatches[DistillBatch]:
        """This process's share of the documents of `step`, sorted by length and split by the token budget."""
        documents = step_documents(
            num_documents=self._num_documents,
            batch_size=self._settings.batch_size,
            seed=self._settings.seed,
            step=step,
        )
        rank, world_size = self._ranks.rank, self._ranks.world_size
        own = rank_share(documents, rank=rank, world_size=world_size)
        places = [("step", step, index) for index in range(rank, len(documents), world_size)]
        return Microbatches(parts=list(self._batches(own, places, of=documents, step=step)))

    def accumulate(self, batch: Microbatches[DistillBatch], backward: Backward) -> StepLoss:
        """The loss of a step, microbatch by microbatch."""
        return accumulate(map(self.loss, batch.parts), backward)

    def loss(self, batch: DistillBatch) -> PartLoss:
        """Sum over students and parts of their loss, the batch's share of the step's, with one teacher pass for all.

        The teacher runs in the precision of its weights, as where it is evaluated or stored, whatever students run in.
        """
        with torch.autocast(batch.packed.token_ids.device.type, enabled=False):
            losses = self._criterion.prepare(batch)
        parts: dict[str, Tensor] = {}
        own = [self._ranks.rank] if self._ranks.rank else []
        for name in self._criterion.students:
            torch.manual_seed(derived_seed(self._settings.seed, "dropout", name, *batch.position, *own))
            parts |= {f"{name}.{part}": value for part, value in losses(name).items()}
        return PartLoss(value=torch.stack(list(parts.values())).sum(), parts=parts)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out loss of each student, `{name}.heldout_loss`, without dropout and with float32 students.

        And how far its relations agree with the teacher's, see `agreement_numbers`. Empty if no document is held out.
        """
        documents = np.arange(self._num_documents, len(self._shards))
        if not len(documents):
            return {}  # before the processes meet: with a probe, the first one alone has numbers and does not ask
        found: dict[str, list[Tensor]] = {name: [] for name in self._criterion.students}
        self._module.eval()
        own = documents[self._ranks.rank :: self._ranks.world_size]
        places = [("heldout", int(document)) for document in own]
        for batch in self._batches(own, places, of=documents, step=0):
            losses = self._criterion.prepare(batch)
            for name, values in found.items():
                values.append(torch.stack(list(losses(name).values())).sum())
        device = torch.device(self._settings.device)
        own_totals = [sum(torch.stack(values).tolist()) if values else 0.0 for values in found.values()]
        totals = dict(zip(found, sum_over_ranks(own_totals, self._ranks, device), strict=True))
        numbers = {f"{name}.heldout_loss": total for name, total in totals.items()}
        return {**numbers, **self._agreement(documents[:: -(-len(documents) // MAX_DOCUMENTS)])}

    def _agreement(self, documents: np.ndarray) -> dict[str, float]:
        """How far each student's relations agree with the teacher's, as a mean over documents; empty without any."""
        own = documents[self._ranks.rank :: self._ranks.world_size]
        places = [("heldout", int(document)) for document in own]
        sums = self._criterion.agreement(self._batches(own, places, of=documents, step=0))
        if not sums:
            return {}
        totals = sum_over_ranks(list(sums.values()), self._ranks, torch.device(self._settings.device))
        return {name: total / len(documents) for name, total in zip(sums, totals, strict=True)}

    def _batches(
        self, documents: np.ndarray, places: Sequence[tuple[str | int, ...]], *, of: np.ndarray, step: int
    ) -> Iterator[DistillBatch]:
        """Microbatches of `documents`, shares of the mean over all documents `of`; `places` decide what is masked."""
        settings, lengths = self._settings, self._shards.lengths[documents]
        counted = self._criterion.counted_rows(self._shards.lengths[of])
        total = len(of) if settings.normalization == "sequence" else int(counted.sum())
        for number, part in enumerate(microbatches(lengths, token_budget=settings.tokens_per_batch)):
            sequences: list[np.ndarray] = [self._shards[int(document)] for document in documents[part]]
            masked = None
            if settings.masking is not None:
                chosen = [settings.masking.masked(ids, *places[one]) for ids, one in zip(sequences, part, strict=True)]
                sequences, masked = [one.token_ids for one in chosen], _masked_rows(chosen, settings.device)
            packed = pack(sequences).to(settings.device)
            yield DistillBatch(
                packed=packed, documents=documents[part], total=total, position=(step, number), masked=masked
            )


def _masked_rows(documents: Sequence[MaskedDocument], device: str) -> MaskedRows:
    """The chosen tokens of documents as rows of their batch."""
    starts = np.cumsum([0, *(len(one.token_ids) for one in documents)])
    rows = np.concatenate([one.places + start for one, start in zip(documents, starts, strict=False)])
    labels = np.concatenate([one.labels for one in documents])
    return MaskedRows(
        rows=on_device(torch.from_numpy(rows), device),
        labels=on_device(torch.from_numpy(labels), device),
        counts=tuple(len(one.places) for one in documents),
    )
