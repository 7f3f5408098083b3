"""The rerank task: a score for each pair of a query and a text, and the rankings of held-out lists.

In: lists of texts, each of one query. Out: a `Task` whose examples are single texts, or where the loss compares them
the lists, which stay together in a step.

B pairs of a query and a text, T packed tokens, L texts of a list.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minilm.errors import DataError
from minilm.finetune.embed_batch import TextPart, tensors_of
from minilm.finetune.keyed_dropout import KeyedDropout, TextKeys, key_dropout
from minilm.finetune.ranking_losses import RankingLoss, ranking_loss
from minilm.finetune.score_teacher import Pair, ScoresPairs
from minilm.finetune.sequences import Array, PackedTask, Sequences
from minilm.finetune.task import NUM_EXAMPLES, POOLER, Analysis, IndependentParts, StepRows, numbers_of_sets
from minilm.finetune.teacher_scores import TeacherScores
from minilm.finetune.vector_encoder import VectorBase
from minilm.infer.similarity import similarities
from minilm.model.checkpoint import write_model
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_scorer
from minilm.model.encoder import reset_weights
from minilm.model.heads import ClassificationHead, Model
from minilm.model.metadata import HeadName, ProblemType
from minilm.model.packing import Packed, on_device
from minilm.model.routes import ROLES
from minilm.model.token_budget import microbatches
from minilm.model.vector_head import VectorHead, dense_of, linear_of
from minilm.model.vector_modules import Dense, checksum_of
from minilm.randomness import derived_seed
from minilm.score.retrieval import RetrievalScores, parse_metric, ranked, retrieval_scores
from minilm.tally import reporting_tally
from minilm.tasks.rerank.rows import RankedList
from minilm.tasks.rerank.settings import FROM_SCORES, RerankSettings
from minilm.tasks.rerank.targets import ranked_relevance, require_comparable, require_different, targets
from minilm.tasks.scored_lists import require_differences
from minilm.text.tokenizer import Tokenizer
from minilm.train.distributed import Ranks

logger = logging.getLogger(__name__)

METRICS = ("ndcg@10", "mrr@10", "map")
SELECTABLE = (*METRICS, "heldout_loss")
"""Numbers that `task.metric` may name; without it the first one selects the best weights."""


@dataclass(frozen=True, kw_only=True)
class ListBatch:
    """Lists whose texts are computed together, or one list that is longer than a batch.

    Attributes:
        parts: the packed pairs; several only of a longer list: they are computed again in the backward pass, with the
            same dropout, so that memory holds the activations of one part.
        targets: what the loss learns of each pair, `[B]`, in the order of the lists.
        sizes: L of each list; for a loss of single texts all pairs are one.
        ranking_loss: the loss.
        num_terms: the number of its terms in the full step.
    """

    parts: Sequence[TextPart]
    targets: Tensor
    sizes: Sequence[int]
    ranking_loss: RankingLoss
    num_terms: int

    @property
    def num_tokens(self) -> int:
        """T."""
        return sum(part.packed.num_tokens for part in self.parts)

    def tensors(self) -> dict[str, Tensor]:
        """The pairs of each part as `index.name`, and the targets."""
        return {**tensors_of(self.parts), "targets": self.targets}

    def to(self, device: torch.device) -> ListBatch:
        """The same batch on `device`."""
        return replace(self, parts=[part.to(device) for part in self.parts], targets=on_device(self.targets, device))

    def loss(self, model: Model) -> Tensor:
        """Sum of the terms of all lists, divided by the number of terms in the step."""
        scores_B, sizes = self._scores(model), list(self.sizes)
        lists = zip(scores_B.split(sizes), self.targets.to(scores_B.dtype).split(sizes), strict=True)
        with torch.autocast(scores_B.device.type, enabled=False):
            return torch.stack([self.ranking_loss.total(*one) for one in lists]).sum() / self.num_terms

    def _scores(self, model: Model) -> Tensor:
        """The score of each pair, `[B]`, in the order of the lists."""
        if len(self.parts) == 1:
            found_B1 = self.parts[0].vectors(model)
        else:
            found_B1 = torch.cat([_recomputed(part, model) for part in self.parts])
        return found_B1[torch.cat([part.places for part in self.parts]).argsort()].squeeze(-1)


def _recomputed(part: TextPart, model: Model) -> Tensor:
    """Its scores, `[B, 1]`, without their activations, which the backward pass computes again."""
    return cast("Tensor", checkpoint(part.vectors, model, use_reentrant=False, preserve_rng_state=False))


@dataclass(frozen=True, kw_only=True)
class Taught:
    """The teacher of the training lists: its scores, and the pairs that it scores with their locations, read again."""

    scores: TeacherScores
    pairs: Callable[[], Iterable[tuple[Pair, str]]]


class RerankTask(PackedTask):
    """A head with one score; labels of 0 or more say how relevant the texts of held-out lists are."""

    labels: Sequence[str] = ()
    problem: ProblemType | None = "regression"

    def __init__(
        self,
        train: Sequence[RankedList],
        dev: Mapping[str, Sequence[RankedList]],
        tokenizer: Tokenizer,
        *,
        settings: RerankSettings,
        taught: Taught | None = None,
        dense: Dense | None = None,
        base: VectorBase | None = None,
        seed: int = 0,
    ) -> None:
        """Tokenize all pairs.

        Args:
            train: training lists.
            dev: held-out lists by name.
            tokenizer: of the model.
            settings: of the task.
            taught: the teacher of the training lists; None: they have scores or labels.
            dense: with mean pooling, the map from the mean to the score that the model already has, if any.
            base: the model as one of vectors, if it is that.
            seed: decides a new one.

        Raises:
            DataError: a list does not have what the loss needs, a held-out list cannot be ranked, or all targets are
                equal.
        """
        self.main_metric = settings.metric or SELECTABLE[0]
        self.head: HeadName | None = "classification" if settings.pooling == "cls" else None
        self._dense, self._base, self._seed = dense, base, seed
        self._settings, self._tokenizer, self._loss = settings, tokenizer, ranking_loss(settings)
        self._lists, self._gains = {**dev}, {name: [*map(ranked_relevance, lists)] for name, lists in dev.items()}
        self._heldout = {name: self._heldout_targets(lists) for name, lists in dev.items()}
        self._taught, self._first = taught, train[0] if train else None
        self._num_texts = sum(len(one.texts) for one in train)
        sizes = [len(one.texts) for one in train] if self._loss.over_lists else [1] * self._num_texts
        self._starts = np.array([0, *accumulate(sizes)], dtype=np.int64)
        if taught is None:
            found = [targets(one, settings.loss) for one in train]
            self._learn(np.array([value for part in found for value in part], dtype=np.float32))
        else:
            for one in train:
                require_comparable(one, settings.loss)
            self._targets = np.zeros(self._num_texts, dtype=np.float32)  # until the teacher's scores are stored
        _report_unused(train, settings, is_taught=taught is not None)
        super().__init__(
            self._encoded(train),
            {name: self._encoded(lists) for name, lists in dev.items()},
            max_tokens=settings.max_tokens,
        )
        self._lengths = np.array([len(ids) for ids in self.train.token_ids])
        ends = np.cumsum([0, *self._lengths])
        self._tokens = np.diff(ends[self._starts])
        self._terms = np.array([self._loss.num_terms(self._targets[a:b]) for a, b in pairwise(self._starts)])

    def _learn(self, found: Array) -> None:
        """Learn these targets of all texts; raises DataError if they teach the loss nothing."""
        if self._loss.over_lists and self._first is not None:
            require_differences(found, self._starts, first=self._first.location)
        elif self._first is not None:
            require_different(found.tolist(), self._settings.loss, self._first)
        self._targets = found

    def _encoded(self, lists: Sequence[RankedList]) -> Sequences:
        queries = [one.query for one in lists for _ in one.texts]
        texts, locations = _texts(lists)
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
        return found if self._taught is None else {**found, "teacher": self._taught.scores.description()}

    def identity(self) -> Mapping[str, str]:
        """The map from the mean to the score before training; what decides the scores of the teacher."""
        taught = {} if self._taught is None else self._taught.scores.identity
        return taught if self._dense is None else {"model map": checksum_of(self._dense), **taught}

    def store_teacher(self, ranks: Ranks) -> None:
        """Compute the scores of the teacher that are not stored yet; raises as `TeacherStore.fill`."""
        if self._taught is not None:
            self._taught.scores.fill(self._taught.pairs(), ranks)
            self._learn(self._taught.scores.all_scores())

    def batch(self, chosen: StepRows, *, token_budget: int) -> IndependentParts:
        """This process's lists of a step; those that fit into a batch are computed together."""
        num_terms = max(1, int(self._terms[chosen.rows].sum()))
        own = chosen.rows[chosen.own]
        groups = microbatches(self._tokens[own], token_budget=token_budget)
        return IndependentParts(
            parts=[self._part(own[one], chosen.own[one], chosen, token_budget, num_terms) for one in groups]
        )

    def _part(
        self,
        lists: NDArray[np.int64],
        places: NDArray[np.int64],
        chosen: StepRows,
        token_budget: int,
        num_terms: int,
    ) -> ListBatch:
        """Lists with their places in the global batch, which decide their dropout."""
        rows = np.concatenate([np.arange(self._starts[one], self._starts[one + 1]) for one in lists])
        sizes = (self._starts[lists + 1] - self._starts[lists]).tolist()
        texts = [(int(place), number) for place, size in zip(places, sizes, strict=True) for number in range(size)]
        parts = []
        for group in microbatches(self._lengths[rows], token_budget=token_budget):
            keys = TextKeys(seed=chosen.seed, step=chosen.step, texts=[texts[index] for index in group])
            parts.append(TextPart(packed=self.train.packed(rows[group]), places=torch.from_numpy(group), keys=keys))
        return ListBatch(
            parts=parts,
            targets=torch.from_numpy(self._targets[rows]),
            sizes=sizes if self._loss.over_lists else [len(rows)],
            ranking_loss=self._loss,
            num_terms=num_terms,
        )

    def prepare(self, model: Model) -> None:
        """Give the model its head and dropout, and reduce its word table to the rows in use."""
        encoder = model.encoder
        dropout = key_dropout(encoder, None)
        if isinstance(model.head, ClassificationHead):
            assert isinstance(model.head.dropout, nn.Dropout)
            model.head.dropout = KeyedDropout(model.head.dropout.p, beside=dropout)
        else:
            model.head = VectorHead("mean", self._map(encoder.config)).to(encoder.embeddings.word.weight.device)
        super().prepare(model)

    def parameters(self, model: Model) -> dict[str, nn.Parameter]:
        """All weights; with mean pooling without the pooler, which no score depends on."""
        unused = POOLER if self.head is None else " "
        return {name: weight for name, weight in model.named_parameters() if not name.startswith(unused)}

    def _map(self, config: EncoderConfig) -> nn.Linear:
        """From the mean to the score: that of the model if it fits, else a new one."""
        if self._dense is not None and self._dense.weight.shape == (1, config.hidden_size):
            return linear_of(self._dense)
        made = nn.Linear(config.hidden_size, 1)
        reset_weights(made, config.initializer_range, torch.Generator().manual_seed(derived_seed(self._seed, "head")))
        return made

    def references(self, base: Model, *, token_budget: int, ranks: Ranks) -> dict[str, Mapping[str, float]]:
        """Held-out numbers of the model as it is, a reranker or one whose vectors order texts, and of the teacher."""
        if not self.dev_sets:
            return {}
        is_reranker = self._dense is not None if self.head is None else not base.has_fresh_weights
        found = self._as_it_is(base, token_budget, ranks) if is_reranker else self._by_vectors(base, token_budget)
        if self._taught is not None:
            found["teacher"] = self._numbers_of_teacher(self._taught.scores.load_teacher())
        return found

    def _as_it_is(self, base: Model, token_budget: int, ranks: Ranks) -> dict[str, Mapping[str, float]]:
        """The numbers of a reranker."""
        if self.head is None:
            head = VectorHead("mean", self._map(base.encoder.config))
            base = Model(base.encoder, head.to(base.encoder.embeddings.word.weight.device))
        base.eval()
        scored = {name: self.score(base, name, token_budget=token_budget, ranks=ranks) for name in self.dev_sets}
        return {"base": numbers_of_sets({name: one.numbers() for name, one in scored.items()})}

    def _numbers_of_teacher(self, teacher: ScoresPairs) -> Mapping[str, float]:
        """The numbers of rankings by the teacher's scores."""
        found = {}
        for name, lists in self._lists.items():
            pairs = [(one.query, text) for one in lists for text in one.texts]
            scores = teacher.score(pairs, _texts(lists)[1])
            found[name] = self._rankings(name, list(scores[:, None]))
        return numbers_of_sets(found)

    def _by_vectors(self, base: Model, token_budget: int) -> dict[str, Mapping[str, float]]:
        """The numbers of rankings by the similarity of the vectors of query and text."""
        if self._base is None:
            logger.info("the base model has no numbers to compare with: it gives neither scores of pairs nor vectors")
            return {}
        model, settings = self._base.with_encoder(base.encoder, token_budget=token_budget), self._base.embedding
        prompts = [settings.prompt_of(prompt=None, role=role) for role in ROLES]
        found = {}
        for name, lists in self._lists.items():
            queries = model.encode([one.query for one in lists], [one.location for one in lists], prompt=prompts[0])
            texts = iter(model.encode(*_texts(lists), prompt=prompts[1]))
            outputs = list[Array]()
            for one, query in zip(lists, queries, strict=True):
                of_list = np.stack([next(texts) for _ in one.texts])
                outputs.extend(similarities(query, of_list, settings.similarity).T)
            found[name] = self._rankings(name, outputs)
        return {"base": numbers_of_sets(found)}

    def write(self, model: Model, folder: Path) -> None:
        """Write the model with its activation, so that other libraries compute the same scores."""
        activation, shape = self._settings.activation, model.encoder.config
        if self.head is not None:
            write_model(model, folder, head=self.head, problem="regression", activation=activation)
            return
        write_model(Model(model.encoder), folder)
        assert isinstance(model.head, VectorHead)
        assert model.head.dense is not None
        settings = EmbeddingSettings(
            pooling=("mean",),
            modules=(dense_of(model.head.dense),),
            max_tokens=min(self._settings.max_tokens, shape.max_tokens),
        )
        write_scorer(folder, settings, activation=activation, hidden_size=shape.hidden_size)

    def outputs(self, scores: Tensor, packed: Packed) -> list[Array]:
        """The score of each pair, `[1]`."""
        return list(scores.cpu().numpy())

    def metrics(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        """The numbers of `minilm score retrieval`, times 100, and the held-out loss if the lists have its targets."""
        return {**self._rankings(dev_set, outputs), **self._heldout_loss(dev_set, outputs)}

    def _rankings(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        """The numbers of `minilm score retrieval`, times 100."""
        return {name: 100 * value for name, value in self._retrieval(dev_set, outputs).means().items()}

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


def _texts(lists: Sequence[RankedList]) -> tuple[list[str], list[str]]:
    """The texts of all lists, and their locations."""
    return [text for one in lists for text in one.texts], [place for one in lists for place in one.locations]


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


def _report_unused(lists: Sequence[RankedList], settings: RerankSettings, *, is_taught: bool) -> None:
    """Report the scores that the loss does not learn, or the labels of the files; positives are no labels of theirs."""
    learns_scores = settings.loss in FROM_SCORES
    unused, learned = ("labels", "scores") if learns_scores else ("scores", "labels")
    both = [one for one in lists if one.labels is not None and (is_taught or one.scores is not None)]
    found = [one.location for one in both if not (learns_scores and one.num_positives)]
    with reporting_tally() as tally:
        what = f"lists have {unused}, which loss {settings.loss} does not use: it learns {learned}"
        tally.add(what, found, of=len(lists))
