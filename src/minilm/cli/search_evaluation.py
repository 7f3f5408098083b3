"""What `minilm search --evaluate` prints: the scores of a search at each size and precision of its vectors.

In: an index, queries, judgments, lists of sizes and precisions. Out: a table, or one JSON object. `search.py` has the
command.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import typer

from minilm.cli.score_options import about, read_gains
from minilm.cli.table import aligned
from minilm.errors import DataError, UsageError
from minilm.model.precision import VectorPrecision

if TYPE_CHECKING:
    from minilm.infer.api import LoadedModel
    from minilm.infer.bulk.embed import TextToEmbed
    from minilm.retrieval.evaluate import Scored, Setting
    from minilm.retrieval.index import Index, Searcher
    from minilm.score.retrieval import Judgments

logger = logging.getLogger(__name__)

_METRIC = "ndcg@10"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of an evaluation, as they were given."""

    judgments: Path
    gains: str | None
    metric: str | None
    dimensions: str | None
    vectors: str | None

    def settings(self, index: Index) -> list[Setting]:
        """Each size with each precision, those of the index where none are given."""
        from minilm.retrieval.evaluate import Setting

        sizes = [index.facts.dimensions] if self.dimensions is None else list(map(_size, self.dimensions.split(",")))
        names = [index.facts.vectors] if self.vectors is None else list(map(_precision, self.vectors.split(",")))
        return [
            Setting(dimensions=size, vectors=name) for size in dict.fromkeys(sizes) for name in dict.fromkeys(names)
        ]


def evaluated(
    searcher: Searcher,
    queries: Iterable[TextToEmbed],
    asked: Asked,
    *,
    reranker: LoadedModel | None,
    candidates: int,
) -> Iterator[Scored]:
    """Score each setting on the queries that have judgments.

    Raises:
        UsageError: an option is invalid, or the index does not hold what a setting asks for.
        DataError: a judgment names an unknown query or document; names the line.
    """
    from minilm.files.trec import judgments_file
    from minilm.retrieval.evaluate import Evaluation, require_held
    from minilm.retrieval.texts import is_beir
    from minilm.score.retrieval import parse_gains, parse_metric
    from minilm.tally import reporting_tally

    index = searcher.index
    metric, settings = parse_metric(asked.metric or _METRIC), asked.settings(index)
    require_held(index, settings)
    if reranker is not None and candidates < min(metric.k or len(index.texts), len(index.texts)):
        raise UsageError(
            f"{metric} looks at {'all' if metric.k is None else metric.k} documents of each query, but --rerank sorts "
            f"{candidates} of them; raise --candidates, or score {metric.kind}@{candidates}"
        )
    file = judgments_file(asked.judgments)
    judgments = read_gains(file, parse_gains(asked.gains))
    kept = list(queries)
    assert isinstance(file, Path)
    _require_known(file, judgments, {one.id for one in kept}, index)
    used = [one for one in kept if one.id in judgments]
    if len(used) < len(kept):
        logger.warning("%d of %d queries have no judgments and do not count", len(kept) - len(used), len(kept))
    same = [one.id for one in used if one.id in index.row_of] if is_beir(asked.judgments) else []
    if same:
        logger.warning(
            "%d queries have the id of a document, which is left out of their results, as BEIR does (first: %r)",
            len(same),
            same[0],
        )
    with reporting_tally() as tally:
        vectors = searcher.encode(used, tally)
    evaluation = Evaluation(
        searcher=searcher,
        names=[one.id for one in used],
        texts=[one.text for one in used],
        judgments=judgments,
        metric=metric,
        skip_same_id=bool(same),
    )
    with about(file):
        yield from evaluation.scored(vectors, settings, reranker, candidates)


def show_evaluation(rows: Iterable[Scored], asked: Asked, *, as_json: bool) -> None:
    """Print a line for each setting, when all are scored; or one JSON object."""
    found = list(rows)
    scores = found[0].scores
    if as_json:
        typer.echo(json.dumps({"metric": str(scores.metrics[0]), "queries": len(scores.queries), "rows": _json(found)}))
        return
    lines = [("dimensions", "vectors", "bytes", str(scores.metrics[0]), "95% interval", "difference", "95% interval")]
    for row in found:
        what = (
            f"{row.setting.vectors} + {Path(row.setting.reranker).name}"
            if row.setting.reranker
            else row.setting.vectors
        )
        low, high = row.interval
        own = (f"{row.setting.dimensions}", what, f"{row.setting.bytes_per_vector:,}", f"{row.mean:.4f}")
        apart = ("", "")
        if row.difference is not None:
            mean, least, most = row.difference
            apart = (f"{mean:+.4f}", f"{least:+.4f} to {most:+.4f}")
        lines.append((*own, f"{low:.4f} to {high:.4f}", *apart))
    typer.echo(aligned(lines, "><>"))
    typer.echo(f"\n{len(scores.queries):,} queries; differences to the first line, with paired intervals")


def _json(rows: Sequence[Scored]) -> list[dict[str, object]]:
    return [
        {
            "dimensions": row.setting.dimensions,
            "vectors": row.setting.vectors,
            "bytes": row.setting.bytes_per_vector,
            "reranker": row.setting.reranker or None,
            "score": row.mean,
            "confidence": list(row.interval),
            "difference": None if row.difference is None else row.difference[0],
            "difference_confidence": None if row.difference is None else list(row.difference[1:]),
        }
        for row in rows
    ]


def _require_known(file: Path, judgments: Judgments, queries: set[str], index: Index) -> None:
    """Raise DataError if a judgment names a query or a document that does not exist."""
    from minilm.files.trec import judgment_line

    strange = [query for query in judgments if query not in queries]
    if strange:
        line = judgment_line(file, strange[0])
        raise DataError(
            f"{file}:{line}: query {strange[0]!r:.60} is not among the queries ({len(strange):,} of {len(judgments):,} "
            "are not); name the file with all queries with --input, and its id column with --id"
        )
    known = index.row_of
    missing = [(query, one) for query, documents in judgments.items() for one in documents if one not in known]
    if missing:
        query, document = missing[0]
        raise DataError(
            f"{file}:{judgment_line(file, query, document)}: document {document!r:.60} is not in {index.folder} "
            f"({len(missing):,} judged documents are not); index the documents that the judgments are about"
        )


def _size(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise UsageError(f"--dimensions has {text!r:.40}; expected whole numbers from 1, separated by commas")
    return int(text)


def _precision(text: str) -> VectorPrecision:
    for name in get_args(VectorPrecision):
        if name == text.strip():
            found: VectorPrecision = name
            return found
    raise UsageError(
        f"--vectors has {text!r:.40}; expected {', '.join(get_args(VectorPrecision))}, separated by commas"
    )
