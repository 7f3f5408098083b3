"""The rerank task: a score for each pair of a query and a text, and the rankings of held-out lists.

In: lists of texts, each of one query. Out: a `Task` whose examples are single texts, or where the loss compares them
the lists, which stay together in a step.

B pairs of a query and a text, T packed tokens, L texts of a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minilm.errors import DataError
from minilm.finetune.ranking_losses import RankingLoss, ranking_loss
from minilm.finetune.sequences import Array, PackedTask, Sequences
from minilm.finetune.task import NUM_EXAMPLES, Analysis, IndependentParts, StepRows
from minilm.model.heads import Model
from minilm.model.metadata import HeadName, ProblemType
from minilm.model.packing import Packed
from minilm.model.token_budget import microbatches
from minilm.score.retrieval import RetrievalScores, parse_metric, ranked, retrieval_scores
from minilm.tally import reporting_tally
from minilm.tasks.rerank.rows import RankedList
from minilm.tasks.rerank.settings import FROM_SCORES, RerankSettings
from minilm.tasks.rerank.targets import ranked_relevance, require_different, targets
from minilm.text.tokenizer import Tokenizer

METRICS = ("ndcg@10", "mrr@10", "map")
SELECTABLE = (*METRICS, "heldout_loss")
"""Numbers that `task.metric` may name; without it the first one selects the best weights."""


@dataclass(frozen=True, kw_only=True)
class ListBatch:
    """Lists whose texts are computed together, or one list that is longer than a batch.

    Attributes:
        chunks: the packed pairs; several only of a longer list: they are computed again in the backward pass, with the
            same dropout, so that memory holds the activations of one chunk.
        places: the place of each pair of the lists in the chunks, `[B]` int64.
        targets: what the loss learns of each pair, `[B]`, in the order of the lists.
        sizes: L of each list; for a loss of single texts the pairs are one list.
        ranking_loss: the loss.
        num_terms: the number of its terms in the full step.
    """

    chunks: Sequence[Packed]
    places: Tensor
    targets: Tensor
    sizes: Sequence[int]
    ranking_loss: RankingLoss
    num_terms: int

    @property
    def num_tokens(self) -> int:
        """T."""
        return sum(chunk.num_tokens for chunk in self.chunks)

    def tensors(self) -> dict[str, Tensor]:
        """The pairs of each chunk as `index.name`, and the targets."""
        pairs = {f"{i}.{name}": one for i, chunk in enumerate(self.chunks) for name, one in chunk.tensors().items()}
        return {**pairs, "places": self.places, "targets": self.targets}

    def to(self, device: torch.device) -> ListBatch:
        """The same batch on `device`."""
        chunks = [chunk.to(device) for chunk in self.chunks]
        return replace(self, chunks=chunks, places=self.places.to(device), targets=self.targets.to(device))

    def loss(self, model: Model) -> Tensor:
        """Sum of the terms of all lists, divided by the number of terms in the step."""
        scores_B = _scores(model, self.chunks)[self.places]
        sizes, targets_B = list(self.sizes), self.targets.to(scores_B.dtype)
        lists = zip(scores_B.split(sizes), targets_B.split(sizes), strict=True)
        return torch.stack([self.ranking_loss.total(*one) for one in lists]).sum() / self.num_terms


def _scores(model: Model, chunks: Sequence[Packed]) -> Tensor:
    """Scores of all pairs, `[B]`, at least in single precision."""
    if len(chunks) == 1:
        found_B1 = model(chunks[0])
    else:
        found_B1 = torch.cat([cast("Tensor", checkpoint(model, chunk, use_reentrant=False)) for chunk in chunks])
    scores_B: Tensor = (found_B1 if found_B1.dtype == torch.float64 else found_B1.float()).squeeze(-1)
    return scores_B


class RerankTask(PackedTask):
    """A head with one score; labels of 0 or more say how relevant the texts of held-out lists are."""

    head: HeadName = "classification"
    labels: Sequence[str] = ()
    problem: ProblemType | None = "regression"

    def __init__(
        self,
        train: Sequence[RankedList],
        dev: Mapping[str, Sequence[RankedList]],
        tokenizer: Tokenizer,
        *,
        settings: RerankSettings,
    ) -> None:
        """Tokenize all pairs.

        Raises:
            DataError: a list does not have what the loss needs, a held-out list cannot be ranked, or all targets are
                equal.
        """
        self.main_metric = settings.metric or SELECTABLE[0]
        self._settings, self._tokenizer, self._loss = settings, tokenizer, ranking_loss(settings)
        self._lists, self._gains = {**dev}, {name: [*map(ranked_relevance, lists)] for name, lists in dev.items()}
        self._heldout = {name: self._heldout_targets(lists) for name, lists in dev.items()}
        found = [targets(one, settings.loss) for one in train]
        self._num_texts = sum(map(len, found))
        self._targets = np.array([value for part in found for value in part], dtype=np.float32)
        if not self._loss.over_lists and train:
            require_different(self._targets.tolist(), settings.loss, train[0])
        sizes = [len(part) for part in found] if self._loss.over_lists else [1] * self._num_texts
        self._starts = np.array([0, *accumulate(sizes)], dtype=np.int64)
        _report_unused(train, settings)
        super().__init__(
            self._encoded(train),
            {name: self._encoded(lists) for name, lists in dev.items()},
            max_tokens=settings.max_tokens,
        )
        ends = np.cumsum([0, *map(len, self.train.token_ids)])
        self._tokens = np.diff(ends[self._starts])
        self._terms = np.array([self._loss.num_terms(self._targets[a:b]) for a, b in pairwise(self._starts)])

    def _encoded(self, lists: Sequence[RankedList]) -> Sequences:
        pairs = [(one.query, text, one.location) for one in lists for text in one.texts]
        queries, texts, locations = ([pair[part] for pair in pairs] for part in range(3))
        truncated: list[int] = []
        limit = self._settings.max_tokens
        encoded = self._tokenizer.encode_pairs(queries, texts, max_length=limit, truncated=truncated)
        with reporting_tally() as tally:
            tally.add_truncated(truncated, locations, max_tokens=limit)
        return Sequences(token_ids=[ids for ids, _ in encoded], segment_ids=[segments for _, segments in encoded])

    @property
    def num_examples(self) -> int:
        """Number of training lists; of texts if the loss takes each alone."""
        return len(self._starts) - 1

    def contents(self) -> dict[str, str]:
        """The number of lists of each set, and of their texts."""
        unit = f"lists, {self._num_texts:,} texts" if self._loss.over_lists else "texts"
        found = {"training": f"{self.num_examples:,} {unit}"}
        for name, lists in self._lists.items():
            found[name] = f"{len(lists):,} lists, {sum(len(one.texts) for one in lists):,} texts"
        return found

    def batch(self, chosen: StepRows, *, token_budget: int) -> IndependentParts:
        """This process's lists of a step; those that fit into a batch are computed together."""
        num_terms = max(1, int(self._terms[chosen.rows].sum()))
        own = chosen.rows[chosen.own]
        groups = microbatches(self._tokens[own], token_budget=token_budget)
        return IndependentParts(parts=[self._part(own[group], token_budget, num_terms) for group in groups])

    def _part(self, lists: NDArray[np.int64], token_budget: int, num_terms: int) -> ListBatch:
        ranges = [np.arange(self._starts[one], self._starts[one + 1]) for one in lists]
        rows = np.concatenate(ranges)
        batches = list(self.train.batches(rows, token_budget=token_budget))
        order = np.concatenate([chunk for chunk, _ in batches])
        place = {row: number for number, row in enumerate(order.tolist())}
        return ListBatch(
            chunks=[packed for _, packed in batches],
            places=torch.tensor([place[row] for row in rows.tolist()]),
            targets=torch.from_numpy(self._targets[rows]),
            sizes=[len(one) for one in ranges] if self._loss.over_lists else [len(rows)],
            ranking_loss=self._loss,
            num_terms=num_terms,
        )

    def outputs(self, scores: Tensor, packed: Packed) -> list[Array]:
        """The score of each pair, `[1]`."""
        return list(scores.cpu().numpy())

    def metrics(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        """The numbers of `minilm score retrieval`, 0 to 1, and the held-out loss if the lists have its targets."""
        return {**self._retrieval(dev_set, outputs).means(), **self._heldout_loss(dev_set, outputs)}

    def analyse(self, dev_set: str, outputs: Sequence[Array]) -> Analysis:
        """Lists with the lowest nDCG, and a run with the grades beside it."""
        lists, gains, scores = self._lists[dev_set], self._gains[dev_set], self._of_lists(dev_set, outputs)
        values = self._retrieval(dev_set, outputs).values_QM[:, 0]
        worst = [index for index in np.argsort(values, kind="stable")[:NUM_EXAMPLES] if values[index] < 1]
        return Analysis(
            tables={"Held-out lists": [{"lists": len(lists), **self.metrics(dev_set, outputs)}]},
            curves={},
            examples=[_example(lists[index], gains[index], scores[index]) for index in worst],
            predictions=[
                {"query": one.id, "doc": doc, "score": score, "grade": gain}
                for one, found, own in zip(lists, scores, gains, strict=True)
                for doc, score, gain in zip(one.doc_ids, found, own, strict=True)
            ],
        )

    def _of_lists(self, dev_set: str, outputs: Sequence[Array]) -> list[list[float]]:
        """The scores of the texts of each list."""
        flat = iter(float(score[0]) for score in outputs)
        return [[next(flat) for _ in one.texts] for one in self._lists[dev_set]]

    def _retrieval(self, dev_set: str, outputs: Sequence[Array]) -> RetrievalScores:
        """The numbers of each list; lists count by their number, because ids may repeat."""
        lists, scores = self._lists[dev_set], self._of_lists(dev_set, outputs)
        run = {str(i): dict(zip(one.doc_ids, scores[i], strict=True)) for i, one in enumerate(lists)}
        gains = {str(i): dict(zip(one.doc_ids, self._gains[dev_set][i], strict=True)) for i, one in enumerate(lists)}
        return retrieval_scores(run, gains, [parse_metric(name) for name in METRICS])

    def _heldout_targets(self, lists: Sequence[RankedList]) -> list[Array]:
        """What the loss would learn from held-out lists; nothing if they do not have it.

        Raises:
            DataError: they do not, and this loss selects the best weights.
        """
        try:
            return [np.array(targets(one, self._settings.loss), dtype=np.float32) for one in lists]
        except DataError:
            if self.main_metric == "heldout_loss":
                raise
            return []

    def _heldout_loss(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        wanted = self._heldout[dev_set]
        if not wanted:
            return {}
        found = [torch.tensor(part, dtype=torch.float64) for part in self._of_lists(dev_set, outputs)]
        pairs = zip(found, wanted, strict=True)
        totals = [float(self._loss.total(found_L, torch.from_numpy(wanted_L).double())) for found_L, wanted_L in pairs]
        return {"heldout_loss": sum(totals) / max(1, sum(map(self._loss.num_terms, wanted)))}


def _example(one: RankedList, gains: Sequence[float], scores: Sequence[float]) -> dict[str, str]:
    order = [int(name) for name in ranked({str(number): score for number, score in enumerate(scores)})]
    best = max(order, key=lambda number: gains[number])
    return {
        "query": one.query,
        "ranked first": one.texts[order[0]],
        "its score": f"{scores[order[0]]:.3f}",
        "most relevant": one.texts[best],
        "its rank": str(order.index(best) + 1),
        "its own score": f"{scores[best]:.3f}",
        "location": one.location,
    }


def _report_unused(lists: Sequence[RankedList], settings: RerankSettings) -> None:
    """Report scores that the loss does not learn from."""
    if settings.loss in FROM_SCORES:
        return
    with reporting_tally() as tally:
        unused = [one.location for one in lists if one.labels is not None and one.scores is not None]
        what = f"lists have scores, which loss {settings.loss} does not use: it learns labels"
        tally.add(what, unused, of=len(lists))
