"""Hard negatives: texts that look like the answer to a query and are not, for training on pairs.

In: pairs, texts, and what finds candidates: BM25 or a model. Out: JSON lines `{query, positive, negatives, scores}`, in
the order of the pairs; the scores are those of the positive and of the negatives, of a reranker those before its
activation: what another model learns. It is chosen by those after it, as sentence-transformers does.

Finished queries are kept in a journal beside the output, and the vectors of the texts in a folder beside it, so that
after a kill nothing is repeated. Of N texts, texts are kept in memory and vectors on disk.

Q queries, N texts, K candidates, D dimensions.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from minilm.errors import Interrupted
from minilm.files.regular import sha256_text
from minilm.files.row_writer import writing_rows
from minilm.infer.api import LoadedModel
from minilm.infer.batching import chunked
from minilm.infer.bulk.embed import TextToEmbed, vector_identity
from minilm.infer.bulk.journal import Unfinished
from minilm.infer.similarity import similarities
from minilm.infer.vector_precision import Float32s
from minilm.infer.vectors import ACTIVATIONS, normalized
from minilm.model.precision import Precision
from minilm.progress import Progress
from minilm.randomness import generator
from minilm.retrieval.bm25 import WordIndex
from minilm.retrieval.index import FORMAT, INDEX, Index, IndexJob, Searcher, build_index, remove_index
from minilm.retrieval.negatives import choose
from minilm.retrieval.pairs import MiningTexts
from minilm.retrieval.rerank import raw_scores_of
from minilm.retrieval.search import Best, nearest
from minilm.retrieval.settings import MiningSettings
from minilm.retrieval.vectors import StoredRows
from minilm.tally import Tally, reporting_tally

QUERIES_PER_CHUNK = 256
_FORMAT = 2  # of the journal
_NONE, _FEW = "queries have no negative left and are not in the output", "queries have fewer negatives than asked for"


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Of one query: the rows and scores of the closest texts, best first, and the scores of its positives."""

    rows_K: Sequence[int]
    scores_K: Float32s
    positive_scores: Float32s


class Finder(Protocol):
    """Finds the texts that are closest to queries."""

    def find(self, queries: Sequence[str], positives: Sequence[Sequence[int]], k: int) -> Iterator[Candidates]:
        """The k closest texts of each query, and the scores of its positives, which are rows."""


@dataclass(frozen=True, kw_only=True)
class MiningJob:
    """Where negatives go, and how they are chosen.

    Attributes:
        output: a .jsonl file.
        settings: the choice.
        reranker: replaces the scores of candidates and positives; None for none.
        precision: of the engine.
        scores: are written; without them a teacher may score the rows.
    """

    output: Path
    settings: MiningSettings
    reranker: LoadedModel | None = None
    precision: Precision = "fp32"
    scores: bool = True


def mine(texts: MiningTexts, finder: LoadedModel | None, job: MiningJob) -> int:
    """Write the negatives of all pairs; `finder` is a model, or None for BM25.

    Returns:
        The number of rows.

    Raises:
        UsageError: finished queries of another job are in the way, or another process is writing the same output.
        DataError: a score is not finite.
        SystemProblem: writing fails, or `bm25s` is not installed.
        Interrupted: Ctrl-C; finished queries are kept.
    """
    identity = _identity(texts, finder, job)
    name = sha256_text(json.dumps([FORMAT, *(identity[one] for one in ("texts", "finder", "precision"))]))[:12]
    folder = job.output.with_name(f".{job.output.name}.index-{name}")
    try:
        with Unfinished(job.output, identity) as finished, reporting_tally() as tally, reporting_tally() as of_pairs:
            if len(finished) < len(texts.positives):
                _mine(texts, _finder(texts, finder, folder, job, tally), job, finished, of_pairs)
            count = _write(texts, job, finished, tally)
            for old in job.output.parent.glob(f".{glob.escape(job.output.name)}.index-*"):
                remove_index(old)
            finished.remove()
    except KeyboardInterrupt:
        raise Interrupted(f"stopped by the user; run the same command to finish {job.output}") from None
    return count


def _mine(texts: MiningTexts, finder: Finder, job: MiningJob, finished: Unfinished, of_pairs: Tally) -> None:
    settings = job.settings
    last_rank = settings.last_rank(max_positives=texts.max_positives, may_change=job.reranker is not None)
    queries = list(texts.positives.items())
    row_of, depth = {text: row for row, text in enumerate(texts.corpus)}, last_rank + texts.max_positives
    with Progress("mine", unit="queries") as progress:
        progress.begin(len(queries), len(finished))
        left = (number for number in range(len(queries)) if number not in finished)
        for numbers in chunked(left, QUERIES_PER_CHUNK):
            part = [queries[number] for number in numbers]
            found = finder.find([query for query, _ in part], [of for _, of in part], depth + 1)
            records = []
            for number, (query, positives), one in zip(numbers, part, found, strict=True):
                judged = one = _others(one, row_of.get(query), depth)
                if job.reranker is not None:
                    pool = [texts.corpus[row] for row in (*one.rows_K, *positives)]
                    one = _rescored(one, raw_scores_of(job.reranker, query, pool, of_pairs))
                    judged = _activated(one, ACTIVATIONS[job.reranker.activation])
                is_positive_K = np.isin(one.rows_K, positives)
                random = generator(settings.seed, "negatives", number)
                kept = choose(
                    judged.scores_K,
                    is_positive_K,
                    judged.positive_scores,
                    settings,
                    last_rank=last_rank,
                    generator=random,
                )
                negatives = {"rows": [one.rows_K[at] for at in kept], "scores": one.scores_K[kept].tolist()}
                records.append((number, {**negatives, "positives": one.positive_scores.tolist()}))
            finished.add(records)
            progress.advance(len(records))


def _write(texts: MiningTexts, job: MiningJob, finished: Unfinished, tally: Tally) -> int:
    """Write the rows of finished queries; returns their number."""
    count = 0
    with writing_rows(job.output) as write:
        for number, (query, positives) in enumerate(texts.positives.items()):
            record = finished[number]
            negatives = cast("list[int]", record["rows"])
            for what, is_so in ((_NONE, not negatives), (_FEW, 0 < len(negatives) < job.settings.negatives)):
                tally.add(what, [f"{query!r:.60}"] if is_so else [], of=1)
            if not negatives:
                continue
            scores = cast("list[float]", record["scores"])
            rows: list[Mapping[str, object]] = [
                {
                    "query": query,
                    "positive": texts.corpus[row],
                    "negatives": [texts.corpus[one] for one in negatives],
                    **({"scores": [score, *scores]} if job.scores else {}),
                }
                for row, score in zip(positives, cast("list[float]", record["positives"]), strict=True)
            ]
            write(rows)
            count += len(rows)
    return count


def _others(found: Candidates, own: int | None, depth: int) -> Candidates:
    """The first candidates but the text of the query itself, which is not a negative."""
    kept = [at for at, row in enumerate(found.rows_K) if row != own][:depth]
    return replace(found, rows_K=[found.rows_K[at] for at in kept], scores_K=found.scores_K[kept])


def _rescored(found: Candidates, scores: Float32s) -> Candidates:
    """The candidates with other scores, of them and then of the positives; best first."""
    cut = len(found.rows_K)
    order = np.argsort(-scores[:cut], kind="stable")  # which those keep that the activation makes equal
    return Candidates(rows_K=[found.rows_K[at] for at in order], scores_K=scores[order], positive_scores=scores[cut:])


def _activated(found: Candidates, activation: Callable[[Float32s], Float32s]) -> Candidates:
    return Candidates(
        rows_K=found.rows_K,
        scores_K=activation(found.scores_K),
        positive_scores=activation(found.positive_scores),
    )


def _finder(texts: MiningTexts, model: LoadedModel | None, folder: Path, job: MiningJob, tally: Tally) -> Finder:
    if model is None:
        return _Words(WordIndex(texts.corpus))
    if not (folder / INDEX).exists():
        documents = (
            TextToEmbed(id=str(row), text=text, location=f"text {text!r:.60}") for row, text in enumerate(texts.corpus)
        )
        build_index(model, documents, IndexJob(name="", folder=folder, precision=job.precision))
    return _Meanings(searcher=Searcher(Index(folder), model), tally=tally)


class _Words:
    """Finds texts by their words; one that shares none is no candidate."""

    def __init__(self, index: WordIndex) -> None:
        self._index = index

    def find(self, queries: Sequence[str], positives: Sequence[Sequence[int]], k: int) -> Iterator[Candidates]:
        for query, own in zip(queries, positives, strict=True):
            scores_N = self._index.scores(query)
            best = Best(1, min(k, len(scores_N)))
            best.add(scores_N[None], 0)
            shares_K = best.scores_QK[0] > 0
            yield Candidates(
                rows_K=best.rows_QK[0][shares_K].tolist(),
                scores_K=best.scores_QK[0][shares_K],
                positive_scores=scores_N[list(own)],
            )


@dataclass(frozen=True, kw_only=True)
class _Meanings:
    """Finds texts by their vectors, which are scaled to length 1 before they are compared."""

    searcher: Searcher
    tally: Tally

    def find(self, queries: Sequence[str], positives: Sequence[Sequence[int]], k: int) -> Iterator[Candidates]:
        rows = (TextToEmbed(id="", text=query, location=f"query {query!r:.60}") for query in queries)
        queries_QD, index = normalized(self.searcher.encode(rows, self.tally)), self.searcher.index
        kind, vectors = index.facts.similarity, _Unit(index.vectors)
        hits = nearest(queries_QD, vectors, similarity=kind, k=k)
        for number, own in enumerate(positives):
            scores = similarities(
                queries_QD[number], np.concatenate([vectors.block(slice(r, r + 1)).numbers() for r in own]), kind
            )
            yield Candidates(
                rows_K=hits.rows_QK[number].tolist(), scores_K=hits.scores_QK[number], positive_scores=scores[0]
            )


class _Unit:
    """Vectors scaled to length 1."""

    def __init__(self, vectors: StoredRows) -> None:
        self._vectors, self.dimensions = vectors, vectors.dimensions

    def __len__(self) -> int:
        return len(self._vectors)

    def block(self, which: slice) -> StoredRows:
        numbers = normalized(self._vectors.block(which).numbers())
        return StoredRows(stored_NW=numbers, dimensions=self.dimensions, precision="fp32")


def _identity(texts: MiningTexts, finder: LoadedModel | None, job: MiningJob) -> dict[str, object]:
    """JSON values by name: what the negatives depend on."""
    reranker = job.reranker
    return {
        "format": _FORMAT,
        "texts": texts.digest(),
        "finder": "bm25" if finder is None else [_model(finder.route(role), role) for role in ("document", "query")],
        "reranker": None if reranker is None else _model(reranker),
        "precision": job.precision,
        "settings": asdict(job.settings),
    }


def _model(model: LoadedModel, role: str | None = None) -> dict[str, object]:
    prompt = "" if role is None else model.embedding.prompt_of(prompt=None, role=role)
    return {**vector_identity(model, prompt), "engine": type(model.engine).__name__}
