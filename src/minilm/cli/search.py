"""`minilm search`: the documents of an index that are closest to a query, and the scores of such a search.

In: an index folder; a query, a file of queries, or judgments. Out: the best documents as lines or as a run that
`minilm score retrieval` reads; with `--evaluate` a table of scores for each size and precision of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm.cli.index import TextColumns
from minilm.cli.options import EngineOption, IdColumn, PrecisionOption, ThreadsOption, load_reranker
from minilm.cli.score_options import AsJson
from minilm.cli.score_retrieval import GainsOption
from minilm.cli.streams import output_file, reject_columns, reject_same_file, writing_output
from minilm.errors import UsageError
from minilm.files.row_writer import ROW_SUFFIXES
from minilm.files.source import suffix_of

if TYPE_CHECKING:
    from minilm.infer.api import LoadedModel
    from minilm.infer.bulk.embed import TextToEmbed
    from minilm.retrieval.index import Index, Searcher
    from minilm.retrieval.search import Hits
    from minilm.tally import Tally

_SHOWN_CHARACTERS = 100
_DEFAULT_TOP_K, _DEFAULT_CANDIDATES = 10, 50
_Folder = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder that minilm index wrote.")]
_Query = Annotated[str | None, typer.Argument(metavar="QUERY", help="One query.")]
_Source = Annotated[
    Path | None,
    typer.Option("--input", metavar="FILE", help="Many queries, in a file as for minilm index.", show_default="none"),
]
_Output = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Run to write: .jsonl, .csv, .tsv or .parquet with query, document and score; - for JSON lines.",
        show_default="lines to read",
    ),
]
_TopK = Annotated[
    int | None, typer.Option(metavar="K", min=1, help="Documents of each query.", show_default=str(_DEFAULT_TOP_K))
]
_Rerank = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Sort the candidates by this model's scores of pairs.", show_default="none"),
]
_NumCandidates = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="How many of the best are sorted again.", show_default=f"{_DEFAULT_CANDIDATES}, or K"
    ),
]
_Evaluate = Annotated[
    Path | None,
    typer.Option(
        metavar="QRELS",
        help="Score the search instead: judgments as for minilm score retrieval, or a folder in BEIR's layout, which "
        "also has the queries.",
        show_default="none",
    ),
]
_Metric = Annotated[str | None, typer.Option(metavar="NAME@K", help="The score.", show_default="ndcg@10")]
_Dimensions = Annotated[
    str | None, typer.Option(metavar="D,...", help="Sizes to score.", show_default="that of the index")
]
_Vectors = Annotated[
    str | None, typer.Option(metavar="PRECISION,...", help="Precisions to score.", show_default="that of the index")
]
_Model = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="The model of the index, if it has moved.", show_default="as indexed"),
]


def search(
    folder: _Folder,
    query: _Query = None,
    *,
    source: _Source = None,
    output: _Output = None,
    top_k: _TopK = None,
    rerank: _Rerank = None,
    candidates: _NumCandidates = None,
    evaluate: _Evaluate = None,
    gains: GainsOption = None,
    metric: _Metric = None,
    dimensions: _Dimensions = None,
    vectors: _Vectors = None,
    text: TextColumns = None,
    id_column: IdColumn = None,
    model: _Model = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    as_json: AsJson = False,
) -> None:
    """Search an index exactly, or score such a search on judged queries.

    Examples:
      minilm search my-index "how do wings produce lift" --rerank runs/rerank/model
      minilm search my-index --input queries.jsonl --output run.jsonl --top-k 100
      minilm search my-index --evaluate beir/scifact --dimensions 384,256,128 --vectors fp32,int8,binary
    """
    from minilm.infer.api import load
    from minilm.retrieval.index import Index, Searcher

    of_evaluation = {"--gains": gains, "--metric": metric, "--dimensions": dimensions, "--vectors": vectors}
    _check(query, source, output, top_k, evaluate, {**of_evaluation, "--json": as_json or None})
    target = None if output is None else _run_file(folder, source, output)
    if candidates is not None and rerank is None:
        raise UsageError("--candidates belongs to --rerank; add that, or remove it")
    top_k = top_k or _DEFAULT_TOP_K
    candidates = _candidates(candidates, None if evaluate is not None else top_k)
    opened = Index(folder)
    reranker = load_reranker(rerank, engine, precision, threads)
    named = model or _model_of(opened)
    searcher = Searcher(opened, load(named, engine=engine, precision=precision, threads=threads))
    queries = _queries(query, source or evaluate, text or (), id_column)
    if evaluate is None:
        _Answers(searcher=searcher, reranker=reranker, top_k=top_k, candidates=candidates).write(
            queries, output, target
        )
        return
    from minilm.cli.search_evaluation import Asked, evaluated, show_evaluation

    asked = Asked(judgments=evaluate, gains=gains, metric=metric, dimensions=dimensions, vectors=vectors)
    rows = evaluated(searcher, queries, asked, reranker=reranker, candidates=candidates)
    show_evaluation(rows, asked, as_json=as_json)


def _check(
    query: str | None,
    source: Path | None,
    output: str | None,
    top_k: int | None,
    evaluate: Path | None,
    of_evaluation: Mapping[str, object],
) -> None:
    """Raise UsageError for arguments that do not fit together."""
    if evaluate is not None:
        if query is not None or output is not None or top_k is not None:
            raise UsageError("--evaluate scores the queries of a file; remove QUERY, --output and --top-k")
        if source is None and not evaluate.is_dir():
            raise UsageError(f"--evaluate {evaluate} has no queries; name a file with --input, or a folder of BEIR")
        return
    given = [name for name, value in of_evaluation.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} belongs to --evaluate; add that, or remove it")
    if (query is None) == (source is None):
        raise UsageError("expected one of QUERY, --input FILE and --evaluate QRELS")


def _run_file(folder: Path, source: Path | None, output: str) -> Path | None:
    """The file of a run, or None for standard output; raises UsageError for one of the queries or in the index."""
    from minilm.retrieval.texts import source_of_texts

    file = output_file(output, ROW_SUFFIXES)
    if file is not None and source is not None:
        reject_same_file(source_of_texts(source, "queries"), file)
    if file is not None and folder.resolve() in file.resolve().parents:
        raise UsageError(f"--output {output} is in the index {folder}; name a file elsewhere")
    return file


def _candidates(given: int | None, top_k: int | None) -> int:
    """How many documents are sorted again; `top_k` is None for an evaluation."""
    if given is None:
        return max(_DEFAULT_CANDIDATES, top_k or 0)
    if top_k is not None and given < top_k:
        raise UsageError(
            f"--candidates {given} is less than the {top_k} documents of each query; raise it, or lower --top-k"
        )
    return given


def _model_of(index: Index) -> str:
    """The model of the index, by its name; raises UsageError if it was a folder that is not there any more."""
    name = index.facts.model
    if Path(name).is_absolute() and not Path(name).exists():
        raise UsageError(f"{index.folder} was built with {name}, which is not there any more; name it with --model")
    return name


def _queries(
    query: str | None, source: Path | None, columns: Sequence[str], id_column: str | None
) -> Iterator[TextToEmbed]:
    from minilm.infer.bulk.embed import TextToEmbed
    from minilm.retrieval.texts import read_unique_texts

    if query is not None:
        if not query.strip():
            raise UsageError("the query is empty; expected a text")
        return iter([TextToEmbed(id="0", text=query, location="the query")])
    assert source is not None
    if suffix_of(source) == ".txt":
        reject_columns(source, {"--text": columns[0] if columns else None, "--id": id_column})
    return read_unique_texts(source, "queries", columns=columns, id_column=id_column)


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """A search, and where its results go."""

    searcher: Searcher
    reranker: LoadedModel | None
    top_k: int
    candidates: int

    def write(self, queries: Iterable[TextToEmbed], output: str | None, file: Path | None) -> None:
        """Search part by part, and write the rows of each part to the `file` of the output; print them without one."""
        from minilm.infer.bulk.embed import chunks_of
        from minilm.tally import reporting_tally

        with reporting_tally() as tally, reporting_tally() as of_pairs:
            found = ((part, self._hits(part, tally, of_pairs)) for part in chunks_of(queries))
            if output is None:
                for part, hits in found:
                    self._print(part, hits)
                return
            count = 0
            with writing_output(file) as write:
                for part, hits in found:
                    write(rows := self._rows(part, hits))
                    count += len(rows)
        if file is not None:
            typer.echo(f"{count:,} results are in {output}")

    def _hits(self, queries: Sequence[TextToEmbed], tally: Tally, of_pairs: Tally) -> Hits:
        from minilm.retrieval.rerank import reranked
        from minilm.retrieval.search import Hits

        vectors = self.searcher.encode(queries, tally)
        if self.reranker is None:
            return self.searcher.search(vectors, k=self.top_k)
        found = self.searcher.search(vectors, k=self.candidates)
        best = reranked(self.reranker, [one.text for one in queries], found, self.searcher.index.texts, of_pairs)
        return Hits(scores_QK=best.scores_QK[:, : self.top_k], rows_QK=best.rows_QK[:, : self.top_k])

    def _rows(self, queries: Sequence[TextToEmbed], hits: Hits) -> list[dict[str, object]]:
        ids = self.searcher.index.texts.ids
        return [
            {"query": query.id, "document": ids[row], "score": score}
            for query, rows, scores in zip(queries, hits.rows_QK.tolist(), hits.scores_QK.tolist(), strict=True)
            for row, score in zip(rows, scores, strict=True)
        ]

    def _print(self, queries: Sequence[TextToEmbed], hits: Hits) -> None:
        from minilm.cli.table import aligned
        from minilm.errors import one_line
        from minilm.infer.predictions import shown_scores

        texts = self.searcher.index.texts
        shown_QK = hits.scores_QK if self.reranker is None else shown_scores(hits.scores_QK, self.reranker.activation)
        for number, query in enumerate(queries):
            rows, scores = hits.rows_QK[number].tolist(), shown_QK[number].tolist()
            cells = [
                (f"{score:.4f}", texts.ids[row], one_line(texts.text(row), max_chars=_SHOWN_CHARACTERS))
                for row, score in zip(rows, scores, strict=True)
            ]
            typer.echo(f"{one_line(query.text)}\n{aligned(cells, '><')}\n")
