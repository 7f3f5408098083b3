"""Training rows and held-out pairs of text vectors as tokens.

In: rows of files, a tokenizer, the prompts of the roles. Out: `EncodedRows`, one array of all tokens.

N tokens of one text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from minilm.errors import DataError, UsageError
from minilm.infer.batching import TEXTS_PER_CHUNK, chunked
from minilm.model.embedding import EmbeddingSettings
from minilm.model.packed_ids import Int32s
from minilm.model.packing import Packed, pack
from minilm.model.token_budget import microbatches
from minilm.model.vector_modules import Dense, Normalize, VectorModule
from minilm.tally import Tally, reporting_tally
from minilm.tasks.embed.rows import EmbedRow
from minilm.tasks.embed.settings import EmbedSettings, RowKind
from minilm.text.tokenizer import Tokenizer

Int64s = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What is put before the texts of a row: before plain texts and scored pairs, queries, documents."""

    plain: str
    query: str
    document: str

    @classmethod
    def of(cls, settings: EmbedSettings, model: EmbeddingSettings) -> Prompts:
        """The prompts of a task, which has the model's where it gives none itself."""
        return cls(
            plain=model.prompt_of(prompt=None, role=settings.role),
            query=model.prompt_of(prompt=None, role="query"),
            document=model.prompt_of(prompt=None, role="document"),
        )

    def put_before(self, row: EmbedRow, kind: RowKind) -> list[str]:
        """The texts of a row with their prompts."""
        if kind in ("texts", "scored pairs"):
            return [self.plain + text for text in row.texts]
        return [self.query + row.texts[0], *(self.document + text for text in row.texts[1:])]


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """n rows with their texts as tokens.

    Attributes:
        token_ids: of all texts, one after the other, int32.
        starts: where each text begins in them, and their end, int64.
        firsts: the first text of each row, and their number, `[n + 1]` int64.
        scores: of all rows, one after the other, float32.
        score_firsts: the first score of each row, and their number, `[n + 1]` int64.
        identities: for each text a number that equal texts share, int64.
        location: of the first row, for messages.
    """

    token_ids: Int32s
    starts: Int64s
    firsts: Int64s
    scores: NDArray[np.float32]
    score_firsts: Int64s
    identities: Int64s
    location: str

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.firsts) - 1

    @property
    def lengths(self) -> Int64s:
        """Tokens of each text."""
        lengths: Int64s = np.diff(self.starts)
        return lengths

    def text(self, number: int) -> Int32s:
        """The tokens of a text, `[N]`."""
        return self.token_ids[self.starts[number] : self.starts[number + 1]]

    def batches(self, texts: Int64s, *, token_budget: int) -> Iterator[tuple[Int64s, Packed]]:
        """Some texts in packed batches of similar lengths, each with their numbers."""
        for part in microbatches(self.lengths[texts], token_budget=token_budget):
            yield texts[part], pack([self.text(text) for text in texts[part]])

    def texts_of(self, row: int) -> range:
        """The texts of a row."""
        return range(int(self.firsts[row]), int(self.firsts[row + 1]))

    def scores_of(self, row: int) -> NDArray[np.float32]:
        """The scores of a row."""
        return self.scores[self.score_firsts[row] : self.score_firsts[row + 1]]


def encode_rows(
    rows: Iterable[EmbedRow], tokenizer: Tokenizer, *, prompts: Prompts, kind: RowKind, max_tokens: int
) -> EncodedRows:
    """Tokenize rows; texts that are cut are counted and reported."""
    parts: list[Int32s] = []
    lengths: list[int] = []
    counts, scores, score_counts = [0], list[float](), [0]
    numbers: dict[str, int] = {}
    identities: list[int] = []
    location = ""
    with reporting_tally() as tally:
        for chunk in chunked(rows, TEXTS_PER_CHUNK):
            location = location or chunk[0].location
            texts = [prompts.put_before(row, kind) for row in chunk]
            encoded = _encoded(tokenizer, texts, [row.location for row in chunk], max_tokens, tally)
            parts.append(np.concatenate(encoded))
            lengths += [len(ids) for ids in encoded]
            counts += [len(row) for row in texts]
            for row in chunk:
                scores += row.scores
                score_counts.append(len(row.scores))
            if kind == "pairs":
                identities += [numbers.setdefault(text, len(numbers)) for row in chunk for text in row.texts]
    return EncodedRows(
        token_ids=np.concatenate([np.zeros(0, dtype=np.int32), *parts]),
        starts=np.cumsum([0, *lengths], dtype=np.int64),
        firsts=np.cumsum(counts, dtype=np.int64),
        scores=np.array(scores, dtype=np.float32),
        score_firsts=np.cumsum(score_counts, dtype=np.int64),
        identities=np.array(identities, dtype=np.int64),
        location=location,
    )


def with_scores(rows: EncodedRows, scores: NDArray[np.float32]) -> EncodedRows:
    """The rows of lists with one score for each text after the query."""
    return replace(rows, scores=scores, score_firsts=rows.firsts - np.arange(len(rows.firsts)))


def _encoded(
    tokenizer: Tokenizer, texts: Sequence[Sequence[str]], locations: Sequence[str], max_tokens: int, tally: Tally
) -> list[Int32s]:
    """The texts of some rows; `tally` counts those that are cut."""
    flat = [text for row in texts for text in row]
    places = [place for row, place in zip(texts, locations, strict=True) for _ in row]
    truncated: list[int] = []
    found = tokenizer.encode(flat, max_length=max_tokens, truncated=truncated)
    tally.add_truncated(truncated, places, max_tokens=max_tokens)
    return found


def trained_embedding(
    settings: EmbedSettings, own: EmbeddingSettings, *, teacher: EmbeddingSettings | None, where: str
) -> tuple[EmbeddingSettings, Dense | None]:
    """How the trained model makes vectors, without modules, and the linear map after pooling that it starts with.

    Args:
        settings: of the task.
        own: of the model that is trained.
        teacher: of the teacher, if there is one.
        where: the model, for messages.

    Raises:
        UsageError: the model has a step that is not trained here.
    """
    pooling = own.pooling if settings.pooling is None else (settings.pooling,)
    maps = [module for module in own.modules if not isinstance(module, Normalize)]
    found = next(
        text
        for is_so, text in (
            (not own.include_prompt, "its pooling leaves out the prompt (include_prompt is false)"),
            (len(pooling) > 1, f"it concatenates the poolings {', '.join(pooling)}; set task.pooling"),
            (len(maps) > 1 or not all(map(_is_linear, maps)), "it has modules besides one Dense without activation"),
            (bool(maps) and isinstance(own.modules[0], Normalize), "it has Normalize before Dense"),
            (own.truncate_dim is not None, "it cuts its vectors (truncate_dim)"),
            (True, ""),
        )
        if is_so
    )
    if found:
        raise UsageError(f"{where}: {found}, which is not trained here; start from another model")
    given = {"query": settings.query_prompt, "document": settings.document_prompt}
    prompts = {**own.prompts, **{role: prompt for role, prompt in given.items() if prompt is not None}}
    dense = next((module for module in maps if isinstance(module, Dense)), None)
    embedding = replace(
        own,
        pooling=pooling,
        modules=(),
        prompts=prompts,
        max_tokens=settings.max_tokens or own.max_tokens,
        similarity=_similarity(settings, teacher),
    )
    return embedding, dense


def _similarity(settings: EmbedSettings, teacher: EmbeddingSettings | None) -> str:
    """What the trained vectors are compared by: that of the loss, or of a teacher whose vectors keep their length."""
    if settings.normalize:
        return "cosine"
    if settings.rows == "scored lists":
        return "dot"
    of_teacher = None if teacher is None or settings.distance == "cosine" else teacher.similarity
    return of_teacher or "cosine"


def _is_linear(module: VectorModule) -> bool:
    return isinstance(module, Dense) and module.activation == "Identity" and module.residual is None


def positives_of(rows: EncodedRows) -> dict[int, set[int]]:
    """The identities of all positives of each query, by the identity of the query."""
    found: dict[int, set[int]] = {}
    for first in rows.firsts[:-1].tolist():
        found.setdefault(int(rows.identities[first]), set()).add(int(rows.identities[first + 1]))
    return found


def require_negatives(rows: EncodedRows, positives: Mapping[int, set[int]]) -> None:
    """Require that some document is a negative of some query.

    Args:
        rows: pairs, maybe with negatives.
        positives: of `positives_of`.

    Raises:
        DataError: no document is, so that nothing can be learned; names the first row.
    """
    is_document = np.ones(len(rows.identities), dtype=bool)
    is_document[rows.firsts[:-1]] = False
    documents = np.unique(rows.identities[is_document])
    for query, own in positives.items():
        if len(documents) > len(own) + (query not in own and query in documents):
            return
    if positives:
        raise DataError(
            f"{rows.location}: no text of the training files is a negative of any query, expected two different "
            "positives or a column of negatives with loss infonce (this is the first row)"
        )
