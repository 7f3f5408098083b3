"""`minilm index`: a folder with the vectors and texts of documents, which `minilm search` searches.

In: a model folder and a file of documents, or a folder in BEIR's layout. Out: the index folder. After a kill the same
command resumes the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minilm.cli.options import EngineOption, IdColumn, ModelArgument, PrecisionOption, ThreadsOption
from minilm.cli.streams import reject_columns
from minilm.files.source import suffix_of
from minilm.model.precision import VectorPrecision

TextColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="COLUMN",
        help="Column of the text; repeat it for columns to be joined by a space.",
        show_default="text; title and text of BEIR",
    ),
]


def index(
    model: ModelArgument,
    *,
    source: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            help=".jsonl, .csv, .tsv or .txt with one text per line, each optionally .gz; .parquet; or a folder in "
            "BEIR's layout.",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    text: TextColumns = None,
    id_column: IdColumn = None,
    dimensions: Annotated[
        int | None,
        typer.Option(metavar="D", min=1, help="Keep the first D values of each vector.", show_default="all"),
    ] = None,
    vectors: Annotated[
        VectorPrecision,
        typer.Option(help="Precision of the stored vectors; with fp32 a search can try all others."),
    ] = "fp32",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
) -> None:
    """Encode documents into a folder that `minilm search` searches; run it again after a stop to finish it.

    Examples:
      minilm index embedded --input documents.jsonl --output my-index
      minilm index embedded --input beir/scifact --output scifact-index --vectors binary
    """
    from minilm.infer.api import load
    from minilm.retrieval.index import IndexJob, build_index
    from minilm.retrieval.texts import is_beir, read_unique_texts, source_of_texts

    file = source_of_texts(source, "documents")
    if not is_beir(source) and suffix_of(file) == ".txt":
        reject_columns(file, {"--text": text[0] if text else None, "--id": id_column})
    loaded = load(model, engine=engine, precision=precision, threads=threads)
    documents = read_unique_texts(source, "documents", columns=text or (), id_column=id_column)
    named = str(Path(model).resolve()) if loaded.folder == Path(model) else model  # a search may start elsewhere
    job = IndexJob(name=named, folder=output, dimensions=dimensions, vectors=vectors, precision=precision)
    facts = build_index(loaded, documents, job)
    typer.echo(
        f"{facts.count:,} documents with {facts.vectors} vectors of {facts.dimensions} dimensions are in {output}"
    )
