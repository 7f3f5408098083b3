"""The task of training text vectors.

In: plain texts with a teacher, pairs, scored pairs or scored lists; a model without a head. Out: per step, this
process's share of the batch and its loss; the correlation of similarities and scores of held-out pairs.

B sequences, E hidden width, W width of a vector, R rows of a batch, M texts of a batch, K candidates of a row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

from minilm.corpus.order import rank_share
from minilm.errors import UsageError
from minilm.files.regular import TextsDigest
from minilm.finetune.embed_batch import RowsPart, TextPart, WholeBatch
from minilm.finetune.embed_data import (
    EncodedRows,
    Int64s,
    Prompts,
    encode_rows,
    positives_of,
    require_negatives,
    with_scores,
)
from minilm.finetune.embed_objectives import loss_of, targets_of
from minilm.finetune.embed_scores import analysis_of, numbers_of, of_pairs
from minilm.finetune.embed_teacher import VectorTeacher
from minilm.finetune.keyed_dropout import TextKeys, key_dropout
from minilm.finetune.linear_map import least_squares
from minilm.finetune.score_teacher import Pair, ScoresPairs, ScoreTeacher
from minilm.finetune.sequences import Array, computed, require_positions
from minilm.finetune.task import (
    POOLER,
    IndependentParts,
    Scored,
    StepBatch,
    StepRows,
    numbers_of_sets,
)
from minilm.finetune.teacher_scores import TeacherScores
from minilm.finetune.teacher_store import cache_root
from minilm.finetune.teacher_vectors import TeacherVectors
from minilm.finetune.vector_encoder import VectorBase, VectorEncoder
from minilm.infer.batching import TOKENS_PER_BATCH
from minilm.infer.vectors import after_pooling, normalized
from minilm.model.checkpoint import write_model
from minilm.model.compact import hold_rows
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.heads import Model
from minilm.model.metadata import HeadName, ProblemType
from minilm.model.packing import Packed, pack
from minilm.model.token_budget import microbatches
from minilm.model.vector_head import VectorHead, dense_of, linear_of
from minilm.model.vector_modules import Dense, Normalize, VectorModule
from minilm.model.vector_ranges import VECTOR_RANGES, write_symmetric_range
from minilm.randomness import derived_seed
from minilm.tasks.embed.rows import EmbedRow, scored_pairs, training_rows
from minilm.tasks.embed.settings import WHOLE_BATCH, EmbedSettings
from minilm.tasks.scored_lists import require_differences
from minilm.text.tokenizer import Tokenizer
from minilm.train.distributed import ALONE, Ranks

logger = logging.getLogger(__name__)

_TEXTS_FOR_RANGE, _TEXTS_FOR_MAP = 1024, 4096


class EmbedTask:
    """Training of text vectors; `store_teacher` comes before the first step."""

    head: HeadName | None = None
    labels: Sequence[str] = ()
    problem: ProblemType | None = None
    reshuffles = True

    def __init__(
        self,
        settings: EmbedSettings,
        train: Sequence[str],
        dev: Mapping[str, str],
        tokenizer: Tokenizer,
        *,
        base: VectorBase,
        embedding: EmbeddingSettings,
        dense: Dense | None = None,
        teacher: VectorTeacher | None = None,
        scorer: ScoreTeacher | None = None,
        seed: int = 0,
    ) -> None:
        """Read and tokenize the files.

        Args:
            settings: of the task.
            train: training files.
            dev: held-out files of scored pairs, by name.
            tokenizer: of the trained model.
            base: the model that is trained, as it is.
            embedding: of the trained model, without modules.
            dense: the map after pooling that the model already has.
            teacher: of the losses of plain texts.
            scorer: of lists whose rows have no scores.
            seed: decides a new map.

        Raises:
            UsageError, DataError, SystemProblem: as for `training_rows`.
            DataError: all rows together teach nothing: lists of equal scores, pairs without any negative.
        """
        self._settings, self._files, self._base, self._embedding = settings, list(train), base, embedding
        self._start_dense, self._seed, self._ranks, self._reported = dense, seed, ALONE, set[str]()
        prompts, digest = Prompts.of(settings, embedding), TextsDigest()
        self._rows = encode_rows(
            _digested(training_rows(train, settings, self._reported), digest, pairs=scorer is not None),
            tokenizer,
            prompts=prompts,
            kind=settings.rows,
            max_tokens=embedding.max_tokens,
        )
        root = cache_root(settings.cache, train)
        self.teacher: TeacherVectors | None = None
        self._scorer: TeacherScores | None = None
        if teacher is not None:
            self.teacher = TeacherVectors(teacher, root, texts=digest.result(), max_tokens=embedding.max_tokens)
        if scorer is not None:
            self._scorer = TeacherScores(scorer, root, texts=digest.result())
        self._lengths, self._row_tokens = self._rows.lengths, np.diff(self._rows.starts[self._rows.firsts])
        self._positives = positives_of(self._rows) if settings.loss == "infonce" else {}
        if settings.loss == "infonce":
            require_negatives(self._rows, self._positives)
        if scorer is None:
            self._require_differences()
        self._pairs = {name: scored_pairs(file, settings) for name, file in dev.items()}
        self._dev = {
            name: encode_rows(rows, tokenizer, prompts=prompts, kind="scored pairs", max_tokens=embedding.max_tokens)
            for name, rows in self._pairs.items()
        }

    @property
    def main_metric(self) -> str:
        """The metric that selects the best checkpoint."""
        return self._settings.metric

    @property
    def num_examples(self) -> int:
        """Number of training rows."""
        return len(self._rows)

    @property
    def dev_sets(self) -> Sequence[str]:
        """Names of the held-out sets."""
        return list(self._dev)

    def contents(self) -> dict[str, str]:
        """The rows of each set, and the teacher."""
        training = f"{len(self._rows):,} {self._settings.rows}, {len(self._rows.token_ids):,} tokens"
        found = {"training": training, **{name: f"{len(rows):,} scored pairs" for name, rows in self._dev.items()}}
        store = self.teacher or self._scorer
        return found if store is None else {**found, "teacher": store.description()}

    def require_fit(self, config: EncoderConfig) -> None:
        """Check the texts against the position table, the dimensions against the width of a vector.

        Dimensions that leave values of a vector untrained are reported, and a map of the model that is not kept.

        Raises:
            UsageError: the model is too small.
        """
        longest = max((int(rows.lengths.max(initial=0)) for rows in (self._rows, *self._dev.values())), default=0)
        require_positions(longest, config, max_tokens=self._embedding.max_tokens)
        width = self._trained_width(config.hidden_size)
        largest = max(self._settings.dimensions, default=width)
        if largest > width:
            raise UsageError(f"task.dimensions has {largest}, but vectors have width {width}; leave it out")
        if largest < width:
            what = "task.dimensions: only the first %d of the %d values of a vector are trained; add %d to train all"
            logger.warning(what, largest, width, width)
        self._report_lost_map(width, config.hidden_size)

    def identity(self) -> Mapping[str, str]:
        """How the model makes vectors before training; what decides the vectors or scores of the teacher."""
        store = self.teacher or self._scorer
        return {"model vectors": self._base.embedding.identity(), **({} if store is None else store.identity)}

    def store_teacher(self, ranks: Ranks) -> None:
        """Compute what the teacher says that is not stored yet.

        Raises:
            DataError, SystemProblem, Interrupted: as for `TeacherStore.fill`, or no list has two different scores.
        """
        self._ranks = ranks
        rows = training_rows(self._files, self._settings, self._reported)
        if self.teacher is not None:
            self.teacher.fill(((text, row.location) for row in rows for text in row.texts), ranks)
        if self._scorer is not None:
            self._scorer.fill(((pair, row.location) for row in rows for pair in _pairs(row)), ranks)
            self._rows = with_scores(self._rows, self._scorer.all_scores())
            self._require_differences()

    def _require_differences(self) -> None:
        """Require lists that teach something; raises DataError."""
        if self._settings.rows == "scored lists" and len(self._rows):
            require_differences(self._rows.scores, self._rows.score_firsts, first=self._rows.location)

    def prepare(self, model: Model) -> None:
        """Give the model its head and dropout, and reduce its word table to the rows in use."""
        encoder, hidden_size = model.encoder, model.encoder.config.hidden_size
        device = encoder.embeddings.word.weight.device
        own = self._kept_dense(hidden_size)
        dense = self._new_dense(hidden_size) if own is None else linear_of(own)
        model.head = VectorHead(self._embedding.pooling[0], dense).to(device)
        key_dropout(encoder, self._settings.dropout)
        parts = (self._rows, *self._dev.values())
        hold_rows(encoder.embeddings, np.unique(np.concatenate([rows.token_ids for rows in parts])).astype(np.int64))
        if dense is not None and own is None and self._settings.loss == "vectors" and self.teacher is not None:
            self._fit(dense, model, self.teacher)

    def parameters(self, model: Model) -> dict[str, nn.Parameter]:
        """All weights but those of the pooler, which no vector depends on."""
        return {name: weight for name, weight in model.named_parameters() if not name.startswith(POOLER)}

    def batch(self, chosen: StepRows, *, token_budget: int) -> StepBatch:
        """This process's rows of a step with their targets."""
        make = self._whole if self._settings.loss in WHOLE_BATCH else self._row_parts
        return make(chosen, token_budget)

    def score(self, model: Model, dev_set: str, *, token_budget: int, ranks: Ranks = ALONE) -> Scored:
        """Correlations of a held-out set, times 100; the processes divide the work."""
        vectors = self._encode(model, self._dev[dev_set], token_budget, ranks, without_dense=self._is_dropped)
        rows, similarity = self._pairs[dev_set], self._embedding.similarity
        assert similarity is not None, "that of a trained model is known"
        found = of_pairs(vectors, similarity)
        return Scored(numbers=partial(numbers_of, rows, found), analyse=partial(analysis_of, rows, found, similarity))

    def references(self, base: Model, *, token_budget: int, ranks: Ranks) -> dict[str, Mapping[str, float]]:
        """Held-out numbers of the model as it is, and of the teacher; none without held-out sets.

        Each with its own prompt, pooling, max length and similarity.
        """
        if not self._pairs:
            return {}
        prompt = self._base.embedding.prompt_of(prompt=None, role=self._settings.role)
        model = self._base.with_encoder(base.encoder, token_budget=token_budget)
        numbers = {"base": self._numbers_by(model, prompt)}
        if self.teacher is not None:
            numbers["teacher"] = self._numbers_by(self.teacher.load_teacher(), self.teacher.prompt)
        if self._scorer is not None:
            numbers["teacher"] = self._numbers_of_scores(self._scorer.load_teacher())
        return numbers

    def _numbers_of_scores(self, teacher: ScoresPairs) -> Mapping[str, float]:
        """The numbers of the teacher's scores."""
        found = {}
        for name, rows in self._pairs.items():
            pairs, locations = [(row.texts[0], row.texts[1]) for row in rows], [row.location for row in rows]
            found[name] = numbers_of(rows, teacher.score(pairs, locations))
        return numbers_of_sets(found)

    def _numbers_by(self, model: VectorEncoder, prompt: str) -> Mapping[str, float]:
        """The numbers of another model, for whose prompt the texts have the role of the training texts."""
        found = {}
        for name, rows in self._pairs.items():
            texts, locations = zip(*((text, row.location) for row in rows for text in row.texts), strict=True)
            vectors = model.encode(texts, locations, prompt=prompt)
            found[name] = numbers_of(rows, of_pairs(vectors, model.embedding.similarity))
        return numbers_of_sets(found)

    def write(self, model: Model, folder: Path) -> None:
        """Write the encoder, how it makes vectors, and the range of int8 vectors."""
        settings = self.written_settings(model)
        write_model(Model(model.encoder), folder)
        write_embedding(folder, settings, hidden_size=model.encoder.config.hidden_size)
        largest = self._largest(model, settings)
        if math.isfinite(largest):  # else no vector can be used
            write_symmetric_range(folder / VECTOR_RANGES, largest)

    def _largest(self, model: Model, settings: EmbeddingSettings) -> float:
        """The largest absolute value in the vectors of up to 1,024 training texts, evenly spread over the files.

        Those of trained lengths count as `encode` cuts them: with length 1 again, they have larger values.
        """
        whole = after_pooling(self._pooled(model, self._spread(_TEXTS_FOR_RANGE), ALONE), settings)
        cuts = [whole, *(whole[:, :size] for size in self._settings.dimensions)]
        return max(float(np.abs(normalized(cut) if self._settings.normalize else cut).max()) for cut in cuts)

    def _spread(self, count: int) -> Int64s:
        """At most `count` training texts, evenly spread over the files."""
        total = len(self._lengths)
        return np.unique(np.linspace(0, total - 1, min(total, count)).astype(np.int64))

    def _pooled(self, model: Model, chosen: Int64s, ranks: Ranks) -> Array:
        """The pooled rows of training texts, without dropout."""
        was_training = model.training
        model.eval()
        pooled = self._encode(model, self._rows, TOKENS_PER_BATCH, ranks, chosen=chosen, without_dense=True)
        model.train(was_training)
        return pooled

    def written_settings(self, model: Model) -> EmbeddingSettings:
        """How the trained model makes vectors, for its folder."""
        modules: list[VectorModule] = []
        head = model.head
        if isinstance(head, VectorHead) and head.dense is not None and not self._is_dropped:
            modules.append(dense_of(head.dense))
        if self._settings.normalize:
            modules.append(Normalize())
        limit = min(self._embedding.max_tokens, model.encoder.config.max_tokens)
        return replace(self._embedding, modules=tuple(modules), max_tokens=limit)

    # --- the head ----------------------------------------------------------------------------------------------------

    @property
    def _is_dropped(self) -> bool:
        return self._settings.projection == "drop"

    def _trained_width(self, hidden_size: int) -> int:
        """W in training."""
        if self._settings.loss == "vectors" and self.teacher is not None:
            return self.teacher.width
        return hidden_size if self._start_dense is None else len(self._start_dense.weight)

    def _kept_dense(self, hidden_size: int) -> Dense | None:
        """The map that the model already has, if it is trained."""
        own = self._start_dense
        fits = own is not None and own.weight.shape == (self._trained_width(hidden_size), hidden_size)
        return own if fits else None

    def _new_dense(self, hidden_size: int) -> nn.Linear | None:
        """A new map, if a loss needs it."""
        width = self._trained_width(hidden_size)
        if not self._needs_dense(width, hidden_size):
            return None
        dense = nn.Linear(hidden_size, width)
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "projection"))
        with torch.no_grad():
            dense.weight.normal_(0.0, hidden_size**-0.5, generator=generator)
            dense.bias.zero_()
        return dense

    def _fit(self, dense: nn.Linear, model: Model, teacher: TeacherVectors) -> None:
        """Start a new map as the best one for some training texts: a random one takes long to undo."""
        chosen = self._spread(_TEXTS_FOR_MAP)
        weight_WE, bias_W = least_squares(self._pooled(model, chosen, self._ranks), teacher.rows(chosen))
        with torch.no_grad():
            dense.weight.copy_(torch.from_numpy(weight_WE))
            dense.bias.copy_(torch.from_numpy(bias_W))

    def _needs_dense(self, width: int, hidden_size: int) -> bool:
        return width != hidden_size or (self._settings.loss == "vectors" and self._settings.projection == "keep")

    def _report_lost_map(self, width: int, hidden_size: int) -> None:
        """Report that the map of the model is replaced or left out."""
        if self._start_dense is None:
            return
        folder, (found, read) = self._base.folder, self._start_dense.weight.shape
        if self._kept_dense(hidden_size) is None:
            why = f"this run makes vectors of width {width} of rows of width {hidden_size}"
            what = "a new one replaces it" if self._needs_dense(width, hidden_size) else "it is left out"
            logger.warning("the Dense of %s maps %d values to %d, but %s: %s", folder, read, found, why, what)
        elif self._is_dropped:
            logger.warning("the Dense of %s is left out after training, as task.projection says", folder)

    # --- batches -----------------------------------------------------------------------------------------------------

    def _row_parts(self, chosen: StepRows, token_budget: int) -> IndependentParts:
        sizes = np.diff(self._rows.firsts)
        own = chosen.rows[chosen.own]
        count = self._count(chosen.rows)
        tokens = self._row_tokens[own]
        parts = []
        for group in microbatches(tokens, token_budget=token_budget):
            rows, places = own[group], chosen.own[group]
            texts = [text for row in rows for text in self._rows.texts_of(row)]
            keys = [
                (int(place), number) for place, row in zip(places, rows, strict=True) for number in range(sizes[row])
            ]
            parts.append(
                RowsPart(
                    texts=self._part(np.array(texts), np.arange(len(texts)), keys, chosen),
                    targets=targets_of(self._settings, self._rows, rows, teacher=self.teacher),
                    loss_of=loss_of(self._settings, count=count),
                )
            )
        return IndependentParts(parts=parts)

    def _count(self, rows: Int64s) -> int:
        """How many terms the loss of a step is the mean of."""
        if self._settings.loss != "margin_mse":
            return len(rows)
        return int(sum(len(self._rows.texts_of(row)) - 2 for row in rows))

    def _whole(self, chosen: StepRows, token_budget: int) -> WholeBatch:
        ranks, rows = chosen.ranks, chosen.rows
        sizes = np.diff(self._rows.firsts)[rows]
        begins = np.cumsum(sizes) - sizes  # the place of the first text of each row in the global batch
        shares = [
            rank_share(np.arange(len(rows)), rank=rank, world_size=ranks.world_size) for rank in range(ranks.world_size)
        ]
        order = np.concatenate([begins[index] + np.arange(sizes[index]) for share in shares for index in share])
        own = [(int(index), number) for index in chosen.own for number in range(sizes[index])]
        texts = np.array([self._rows.firsts[rows[index]] + number for index, number in own])
        parts = []
        for group in microbatches(self._lengths[texts], token_budget=token_budget):
            parts.append(self._part(texts[group], group, [own[place] for place in group], chosen))
        return WholeBatch(
            parts=[*parts],
            order=torch.from_numpy(order),
            targets=targets_of(self._settings, self._rows, rows, teacher=self.teacher, positives=self._positives),
            loss_of=loss_of(self._settings, count=len(rows)),
            ranks=ranks,
        )

    def _part(self, texts: Int64s, places: Int64s, keys: Sequence[tuple[int, int]], chosen: StepRows) -> TextPart:
        """Texts as a part, shortest first."""
        order = np.argsort(self._lengths[texts], kind="stable")
        return TextPart(
            packed=pack([self._rows.text(texts[index]) for index in order]),
            places=torch.from_numpy(places[order]),
            keys=TextKeys(seed=chosen.seed, step=chosen.step, texts=[keys[index] for index in order]),
        )

    # --- held-out pairs ----------------------------------------------------------------------------------------------

    def _encode(
        self,
        model: Model,
        rows: EncodedRows,
        token_budget: int,
        ranks: Ranks,
        *,
        chosen: Int64s | None = None,
        without_dense: bool = False,
    ) -> Array:
        """The vectors of the chosen texts, which ascend, of all by default."""
        head, device = model.head, next(model.parameters()).device
        assert isinstance(head, VectorHead), "the task has prepared the model"

        def vectors(packed: Packed) -> Array:
            found = head.pooled(model.encoder, packed) if without_dense else model(packed)
            vectors_BW: Array = found.float().cpu().numpy()
            return vectors_BW

        texts = np.arange(len(rows.starts) - 1) if chosen is None else chosen
        return np.stack(computed(rows, texts, vectors, device=device, token_budget=token_budget, ranks=ranks))


def _digested(rows: Iterable[EmbedRow], digest: TextsDigest, *, pairs: bool) -> Iterator[EmbedRow]:
    """The rows; their texts, or those of their pairs, are added to `digest`."""
    for row in rows:
        for text in chain.from_iterable(_pairs(row)) if pairs else row.texts:
            digest.add(text)
        yield row


def _pairs(row: EmbedRow) -> list[Pair]:
    """The query of a list with each of its texts."""
    return [(row.texts[0], text) for text in row.texts[1:]]
