"""`minilm corpus build`: text files to token shards.

In: the command line. Out: a corpus folder, progress on stderr (a live bar on a terminal, a plain line every
few seconds in a pipe), and a small table on stdout. The work is done by `minilm.corpus.build`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minilm.cli.streams import InputFormatOption, sources_of
from minilm.cli.table import aligned
from minilm.corpus.settings import CorpusSettings
from minilm.embedded import model_path

if TYPE_CHECKING:
    from minilm.corpus.shards import ShardManifest
    from minilm.tally import Tally

app = typer.Typer(name="corpus", help="Turn text files into a corpus of token shards.", no_args_is_help=True)


_Files = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILE",
        help="Text file: .txt (one text per line), .jsonl, .json, .csv or .tsv, each optionally .gz, or .parquet; - is "
        "standard input. Required, here or as --input.",
        show_default=False,
    ),
]
_Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="FILE", help="The same as FILE; may be repeated.", show_default=False),
]


@app.callback()
def corpus() -> None:
    """Turn text files into a corpus of token shards."""


@app.command()
def build(
    files: _Files = None,
    *,
    inputs: _Inputs = None,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="Model folder, tokenizer.json, vocab.txt or sentencepiece.bpe.model of the teacher, or 'embedded'."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Corpus folder to create; must not exist.")],
    field: Annotated[str, typer.Option(help="Column that holds the text (not used for .txt).")] = CorpusSettings.field,
    max_tokens: Annotated[
        int, typer.Option(help="Max tokens per document, special tokens included; longer texts are split.")
    ] = CorpusSettings.max_tokens,
    workers: Annotated[
        int,
        typer.Option(help="Processes that tokenize; 1 uses threads on all cores. The result is the same."),
    ] = CorpusSettings.workers,
    input_format: InputFormatOption = None,
    max_bad_rows: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Max share of all rows that may be bad; with more, nothing is written."),
    ] = CorpusSettings.max_bad_rows,
) -> None:
    """Tokenize text files once, so that training only reads token ids.

    Bad rows are skipped and counted, unless there are too many. The corpus folder appears only when it is complete.

    Examples:
      minilm corpus build data/*.jsonl.gz --tokenizer teacher/ --out corpus/

      minilm corpus build reviews.csv --field body --tokenizer vocab.txt --out corpus/ --workers 4
    """
    from minilm.corpus.build import build_shards
    from minilm.corpus.display import build_display
    from minilm.tally import Tally

    named = [*(("--input", name) for name in inputs or []), *(("FILE", name) for name in files or [])]
    sources = sources_of(named, input_format)
    tally, started = Tally(), time.monotonic()
    with build_display() as show:
        manifest = build_shards(
            sources,
            tokenizer=model_path(tokenizer),
            out=out,
            max_tokens=max_tokens,
            field=field,
            workers=workers,
            max_bad_rows=max_bad_rows,
            tally=tally,
            on_progress=show,
        )
    seconds = max(time.monotonic() - started, 1e-9)
    _print_summary(manifest, tally=tally, num_files=len(sources), out=out, seconds=seconds)


def _print_summary(manifest: ShardManifest, *, tally: Tally, num_files: int, out: Path, seconds: float) -> None:
    from minilm.files.texts import BAD_ROWS

    rows = [
        ("files", f"{num_files:,}"),
        ("texts", f"{manifest.texts:,}"),
        ("documents", f"{manifest.documents:,} of at most {manifest.max_tokens} tokens"),
        ("tokens", f"{manifest.tokens:,} ({manifest.tokens / seconds:,.0f} per second)"),
        ("mean", f"{manifest.tokens / manifest.documents:.1f} tokens per document"),
        ("shards", f"{len(manifest.shards):,}"),
        ("bad rows", f"{manifest.bad_rows:,} skipped"),
        *(("", example) for example in tally[BAD_ROWS].first),
        ("empty texts", f"{manifest.empty_texts:,} skipped"),
        ("corpus", str(out)),
    ]
    typer.echo(aligned(rows, "<"))
