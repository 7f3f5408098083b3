"""`minilm bench`: measure on this machine.

In: a model, texts. Out: a table on standard output; JSON and a plot where asked. `minilm.bench` measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minilm.cli.options import FieldOption, ThreadsOption
from minilm.cli.streams import require_parent
from minilm.cli.table import aligned
from minilm.errors import UsageError

if TYPE_CHECKING:
    from minilm.bench.encode import Row

app = typer.Typer(name="bench", help="Measure speed on this machine.", no_args_is_help=True)

_Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write all numbers, with machine and versions.", show_default="none"),
]


@app.command()
def encode(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a model, `embedded`, or its name on the hub.")
    ] = "embedded",
    *,
    source: Annotated[
        Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Your own texts (.txt, .jsonl, .csv, each optionally .gz, or .parquet), at most 30,000.",
            show_default="400 paragraphs of Python's manual",
        ),
    ] = None,
    field: FieldOption = "text",
    json_file: _Json = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the numbers: .svg, .png or .pdf.", show_default="none"),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Measure texts in, vectors out: our engines and, if it is installed, sentence-transformers.

    Every side runs in a separate process; all run in turn, and rounds disturbed by other processes are dropped. Takes
    minutes on two CPU cores.

    Examples:
      minilm bench encode
      minilm bench encode runs/mine/model --input texts.txt --json bench.json --plot bench.svg
    """
    from minilm.bench.encode import Row, bench_encode
    from minilm.bench.plot import draw_rows, require_plot
    from minilm.bench.workloads import NUM_PASSAGES, paragraphs, texts_of_file
    from minilm.embedded import model_path
    from minilm.files.atomic import atomic_write
    from minilm.files.json import write_json

    _require_files({"--input": source, "--json": json_file, "--plot": plot})
    if plot is not None:
        require_plot("--plot", plot)
    folder = model_path(model)
    texts = paragraphs()[:NUM_PASSAGES] if source is None else texts_of_file(source, field=field)
    found: Any = bench_encode(folder, texts=texts, name=model, threads=threads)
    rows = [Row(**row) for row in found["rows"]]
    _echo_facts(found)
    typer.echo(encode_table(rows))
    typer.echo(sides_table(found["sides"]))
    typer.echo("speed: relative to sentence-transformers, tuned; cosine: with the first side")
    _echo_left_out(found["left_out"])
    if json_file is not None:
        write_json(json_file, found)
    if plot is not None:
        title = f"{model} on {found['machine']['cpu']}, {_threads(found['threads'])}"
        atomic_write(plot, draw_rows(rows, title=title, suffix=plot.suffix))


@app.command()
def model(*, json_file: _Json = None, threads: ThreadsOption = None) -> None:
    """Measure the published shapes with random weights: BERT-Base, L12-H384, L6-H384, L6-H768; in torch and natively.

    Examples:
      minilm bench model
      minilm bench model --json shapes.json
    """
    from minilm.bench.model import bench_model
    from minilm.files.json import write_json

    _require_files({"--json": json_file})
    found: Any = bench_model(threads=threads)
    _echo_facts(found)
    typer.echo(model_table(found["rows"], found["published"]))
    typer.echo("tokens of a sequence x sequences of a call; milliseconds of a call; speed relative to BERT-Base")
    _echo_left_out(found["left_out"])
    if json_file is not None:
        write_json(json_file, found)


def encode_table(rows: Sequence[Row]) -> str:
    """A line per side below the name of each workload."""
    lines = [["", "tokens/s", "p50 ms", "of peak", "speed"]]
    for workload in dict.fromkeys(row.workload for row in rows):
        lines.append([workload, "", "", "", ""])
        lines += [
            [
                f"  {row.side}",
                f"{row.tokens_per_second:,.0f}",
                "" if row.p50_ms is None else f"{row.p50_ms:.2f}",
                "" if row.share is None else f"{row.share:.0%}",
                "" if row.ratio is None else f"{row.ratio:.2f}x",
            ]
            for row in rows
            if row.workload == workload
        ]
    return f"\n{aligned(lines)}\n"


def sides_table(sides: Sequence[Mapping[str, Any]]) -> str:
    """What each side needs to start, and how close its vectors are."""
    lines = [["", "to the first vector", "memory", "least cosine"]]
    lines += [
        [
            side["name"],
            f"{side['start_seconds']:.2f} s",
            "" if side["memory_mb"] is None else f"{side['memory_mb']:.0f} MB",
            "not a number" if side["least_cosine"] is None else f"{side['least_cosine']:.6f}",
        ]
        for side in sides
    ]
    return f"{aligned(lines)}\n"


def model_table(rows: Sequence[Mapping[str, Any]], published: Mapping[str, float]) -> str:
    """A line per shape, a column per engine and batch."""
    columns = list(dict.fromkeys((row["engine"], row["tokens"], row["sequences"]) for row in rows))
    lines = [["", "published", *(f"{engine} {tokens} x {count}" for engine, tokens, count in columns)]]
    for shape in dict.fromkeys(row["shape"] for row in rows):
        own = {(row["engine"], row["tokens"], row["sequences"]): row for row in rows if row["shape"] == shape}
        cells = [f"{1e3 * own[column]['seconds']:,.1f} ({own[column]['ratio']:.1f}x)" for column in columns]
        lines.append([shape, f"{published[shape]:.1f}x", *cells])
    return f"\n{aligned(lines)}\n"


def _echo_facts(found: Mapping[str, Any]) -> None:
    """Where it was measured, and what the units can do there."""
    peaks = ", ".join(f"{name} {value:,.0f}" for name, value in found["peaks"].items())
    kernels = f"kernels for {found['instruction set']}" if found["instruction set"] else "no compiled kernels"
    typer.echo(f"{found['machine']['cpu']}, {_threads(found['threads'])}, {kernels}")
    typer.echo(f"peak of the units in 10^9 operations a second: {peaks or 'unknown, because there are no kernels'}")


def _echo_left_out(lines: Sequence[str]) -> None:
    for line in lines:
        typer.echo(line)


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _require_files(files: Mapping[str, Path | None]) -> None:
    """Check where results go before minutes are spent on them; raises UsageError, or SystemProblem."""
    from minilm.files.atomic import require_writable

    seen: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        if (other := seen.setdefault(path.resolve(), option)) != option:
            raise UsageError(f"{other} and {option} are the same file, {path}; use different files")
        if option == "--input":
            continue
        if path.is_dir():
            raise UsageError(f"{option} {path} is a folder; expected the name of a file")
        require_parent(option, path)
        require_writable(path)
