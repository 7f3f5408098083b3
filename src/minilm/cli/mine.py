"""`minilm mine`: hard negatives for pairs of a query and a positive.

In: pairs, texts, and a model or BM25. Out: JSON lines that `minilm finetune` reads. After a kill the same command
resumes the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minilm.cli.index import TextColumns
from minilm.cli.options import EngineOption, IdColumn, PrecisionOption, ThreadsOption, load_reranker, with_flags
from minilm.errors import UsageError
from minilm.files.checked import from_options
from minilm.retrieval.settings import MiningSettings

_BM25 = "bm25"


_Finder = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help=f"What finds candidates: a model as in minilm embed, or {_BM25} for shared words."
    ),
]
_Pairs = Annotated[
    Path, typer.Option("--input", metavar="FILE", help="Pairs: .jsonl, .csv or .tsv, each optionally .gz; or .parquet.")
]
_Output = Annotated[Path, typer.Option(metavar="FILE", help="File to write, .jsonl; appears only when it is complete.")]
_Corpus = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Texts among which negatives are looked for, as for minilm index.",
        show_default="the positives",
    ),
]
_Query = Annotated[str, typer.Option(metavar="COLUMN", help="Column of the query.")]
_Positive = Annotated[str, typer.Option(metavar="COLUMN", help="Column of the positive.")]
_Rerank = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A model whose scores of query and text replace those of the search, also in margins and limits.",
        show_default="none",
    ),
]
_NoScores = Annotated[
    bool, typer.Option("--no-scores", help="Write no scores, so that the teacher of a recipe may score the rows.")
]


@with_flags(MiningSettings)
def mine(
    model: _Finder,
    *,
    source: _Pairs,
    output: _Output,
    corpus: _Corpus = None,
    query: _Query = "query",
    positive: _Positive = "positive",
    text: TextColumns = None,
    id_column: IdColumn = None,
    rerank: _Rerank = None,
    no_scores: _NoScores = False,
    engine: EngineOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    **options: object,
) -> None:
    """Find texts that look like the positive of a query and are not; the same command resumes after a stop.

    Examples:
      minilm mine bm25 --input pairs.jsonl --corpus passages.txt --output hard.jsonl --negatives 5
      minilm mine embedded --input pairs.jsonl --output hard.jsonl --range-min 10 --relative-margin 0.05
    """
    from minilm.files.row_writer import require_suffix
    from minilm.infer.api import load
    from minilm.retrieval.mine import MiningJob
    from minilm.retrieval.mine import mine as mine_negatives
    from minilm.retrieval.pairs import PairColumns, read_mining_texts
    from minilm.retrieval.texts import read_unique_texts, source_of_texts

    settings = from_options(MiningSettings, options)
    require_suffix(output, (".jsonl",), option="--output")
    if corpus is None and (text or id_column):
        raise UsageError("--text and --id name columns of --corpus; give that, or remove them")
    read = [source] if corpus is None else [source, source_of_texts(corpus, "documents")]
    if output.resolve() in {path.resolve() for path in read}:
        raise UsageError(f"--output {output} is also an input; use another file")
    finder = None if model == _BM25 else load(model, engine=engine, precision=precision, threads=threads)
    reranker = load_reranker(rerank, engine, precision, threads)
    documents = (
        None if corpus is None else read_unique_texts(corpus, "documents", columns=text or (), id_column=id_column)
    )
    texts = read_mining_texts(source, documents, PairColumns(query=query, positive=positive))
    job = MiningJob(output=output, settings=settings, reranker=reranker, precision=precision, scores=not no_scores)
    written = mine_negatives(texts, finder, job)
    typer.echo(f"{written:,} pairs with negatives are in {output}")
