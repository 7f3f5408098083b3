"""Sections of docs/results.md about speed, from the stored numbers.

In: the folder of results, with `encode/MACHINE.json`, `encode_peers/MACHINE.json`, `shapes/MACHINE.json`,
`relation_loss/MACHINE.json` and `distill_step/MACHINE.json`.
Out: Markdown, a table per machine; nothing where nothing is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Table = Callable[[Mapping[str, Any]], list[str]]
_ENCODE = """\
Real weights (all-MiniLM-L6-v2), texts in, vectors out, paragraphs of Python's manual. Tokens a second, latencies in
milliseconds; `of peak`: the share of the measured peak arithmetic rate of the processor, on all texts in one call.
`least cosine`: the lowest cosine of a text's vector with that of torch in fp32. `p50`: the median latency of one
call. The workloads and the method are in the [reference](reference.md#speed-on-this-machine).
"""
_PEERS = """\
The same texts and workloads. Each of the other engines gets the tokenization and the sorting by length of minilm, and
counts with its best batch size of 8, 16 and 32 and its best number of streams for each workload. sentence-transformers
computes in fp32, as shipped and tuned: with its best batch size for each workload, and with freed memory kept.
"""
_SHAPES = """\
Random weights in fp32, token ids in, pooled vectors out: milliseconds of a call and, in brackets, the speed relative
to BERT-Base. `128 x 8`: 8 sequences of 128 tokens. `published`: the speedup that the MiniLM papers report, on their
hardware.
"""
_RELATION_LOSS = """Queries, keys and values of a teacher of width 768 and a student of width 384, 48 relation heads, \
loss and gradients:
milliseconds, and MiB of memory in addition. `of peak`: the share of the measured peak arithmetic rate of the processor,
for the products that the loss needs; exponentials are not counted.
"""
_STEP = """\
A teacher of BERT-Base's shape into L6-H384, v2 with 48 relation heads: tokens a second of a whole step, and ratios to
a padded implementation, as in public trainers (every layer, all attentions returned, a loss for each sequence).
`loss`: the difference between the losses of the two in the same step; in bf16 they round at different places. `of
peak`: the share of the measured peak arithmetic rate of the processor, for the matrix products that a step needs.
`two students`: the time of a step of two students that share their teacher, as a share of two steps. `limit`: the
ratio of a step that does only these products, at the peak; the possible gain depends on the lengths in a batch.
"""


def speed_sections(results: Path) -> list[str]:
    """The sections, in the order of the page."""
    return [
        _section("Speed of encoding", "encode", "minilm bench encode", _ENCODE, _encode_table, results),
        _section(
            "Speed beside other engines", "encode_peers", "benchmarks/encode_peers.py", _PEERS, _encode_table, results
        ),
        _section("Speed of the published shapes", "shapes", "minilm bench model", _SHAPES, _shapes_table, results),
        _section(
            "Speed of the relation loss",
            "relation_loss",
            "benchmarks/relation_loss.py",
            _RELATION_LOSS,
            _relation_loss_table,
            results,
        ),
        _section(
            "Speed of a distillation step", "distill_step", "benchmarks/distill_step.py", _STEP, _step_table, results
        ),
    ]


def _section(title: str, name: str, command: str, text: str, lines: Table, results: Path) -> str:
    """A section with a table for each file in the folder `name`; empty without any."""
    files = sorted((results / name).glob("*.json"))
    parts = [f"## {title}\n", f"{text}Measured with `{command}`.\n"]
    for file in files:
        stored: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        parts += [*lines(stored), "", f"{_where(stored)}\n"]
    return "\n".join(parts) if files else ""


def _encode_table(stored: Mapping[str, Any]) -> list[str]:
    """A line per side, a column per workload."""
    workloads = [one["name"] for one in stored["workloads"]]
    rows = {(row["side"], row["workload"]): row for row in stored["rows"]}
    lines = [["", *workloads, "of peak", "least cosine"]]
    for side in stored["sides"]:
        own = [rows[side["name"], workload] for workload in workloads]
        share = own[0]["share"]
        speeds = [
            f"{row['tokens_per_second']:,.0f}" if row["p50_ms"] is None else f"{row['p50_ms']:.2f}" for row in own
        ]
        cells = ["" if share is None else f"{share:.0%}", f"{side['least_cosine']:.6f}"]
        lines.append([side["name"], *speeds, *cells])
    return table(lines)


def _shapes_table(stored: Mapping[str, Any]) -> list[str]:
    """A line per shape, a column per engine and batch."""
    columns = list(dict.fromkeys((row["engine"], row["tokens"], row["sequences"]) for row in stored["rows"]))
    lines = [["", "published", *(f"{engine} {tokens} x {count}" for engine, tokens, count in columns)]]
    for shape, published in stored["published"].items():
        own = {(r["engine"], r["tokens"], r["sequences"]): r for r in stored["rows"] if r["shape"] == shape}
        cells = [f"{1e3 * own[one]['seconds']:,.1f} ({own[one]['ratio']:.1f}x)" for one in columns]
        lines.append([shape, f"{published:.1f}x", *cells])
    return table(lines)


def _relation_loss_table(stored: Mapping[str, Any]) -> list[str]:
    """A line per precision and batch, columns for both sides."""
    lines = [["", "torch", "compiled", "ratio", "of peak", "memory in torch", "memory compiled"]]
    rows = {(r["precision"], r["tokens"], r["sequences"], r["side"]): r for r in stored["rows"]}
    for precision, tokens, sequences in dict.fromkeys(key[:3] for key in rows):
        ours, twin = (rows[precision, tokens, sequences, side] for side in ("compiled", "torch"))
        speeds = [f"{1e3 * row['seconds']:,.0f}" for row in (twin, ours)]
        cells = [
            f"{ours['ratio']:.1f}x",
            f"{ours['share']:.0%}",
            *(f"{row['memory_mib']:,.0f}" for row in (twin, ours)),
        ]
        lines.append([f"{precision}, {sequences} x {tokens} tokens", *speeds, *cells])
    return table(lines)


def _step_table(stored: Mapping[str, Any]) -> list[str]:
    """A line per length and precision."""
    head = ["documents", "not padding", "tokens/s", "to padded", "limit", "to padded fp32", "loss", "of peak"]
    lines = [[*head, "two students"]]
    for row in stored["rows"]:
        share = row["share of peak"]
        lines.append(
            [
                f"at most {row['max tokens']} tokens, {row['precision']}",
                f"{row['real share']:.0%}",
                f"{row['tokens/s']:,.0f}",
                f"{row['ratio to padded same']:.1f}x",
                "" if share is None else f"{row['ratio to padded same'] / share:.1f}x",
                f"{row['ratio to padded fp32']:.1f}x",
                f"{row['loss difference']:.1g}",
                "" if share is None else f"{share:.0%}",
                f"{row['two students to two runs']:.2f}x",
            ]
        )
    return table(lines)


def table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Markdown of rows of cells, the first of which is the head."""
    head, *rows = ["|" + "".join(f" {cell} |" if cell else " |" for cell in cells) for cells in lines]
    return [head, "|---|" + "---:|" * (len(lines[0]) - 1), *rows]


def _where(stored: Mapping[str, Any]) -> str:
    """The machine, its peaks and what may have disturbed the numbers."""
    threads = stored["threads"]
    peaks = ", ".join(f"{name} {value:,.0f}" for name, value in stored["peaks"].items())
    versions = ", ".join(f"{name} {version}" for name, version in stored["machine"]["versions"].items())
    used = [one.get("used by others") or 0.0 for one in stored.get("workloads", [])]
    others = f" Other processes used at most {max(used):.0%} of the processors." if used else ""
    return (
        f"{stored['machine']['cpu']}, {threads} thread{'' if threads == 1 else 's'}, kernels for "
        f"{stored['instruction set']}; measured peak in 10^9 operations a second: {peaks}; {versions}.{others}"
    )
