"""Sections of docs/results.md about what distillation teaches, from the stored numbers.

In: the folder of results, with `quickstart/MACHINE.json`, `ablation/MACHINE.json`, `bigger_teacher/MACHINE.json` and
`teacher_cache/MACHINE.json`.
Out: Markdown, a table per machine; nothing where nothing is stored.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speed_tables import table

_QUICKSTART = """`minilm quickstart`, accuracy on 360 held-out paragraphs, mean and sample standard deviation over \
seeds.
Both students start as layers 2, 4 and 6 of the teacher, and are fine-tuned like it.
"""
_ABLATION = """\
What 200 steps (12,800 documents) of each objective teach small students of all-MiniLM-L6-v2: the main metric of
fine-tuning, times 100. All fine-tuning has one setting (learning rate 1e-4, 3 epochs, of SST-2 0.3 of one) and counts
with its best epoch on dev, so scores are lower than in [GLUE](#glue). `none` is the student before its first step.
The budget is far too small for students that start at random. With one seed, differences of a few points are noise
and do not rank the objectives. Beyond that is STS-B of the students that start as layers of the teacher: relations 79
to 82, nothing 69, masked tokens alone 52, the order of the papers.
"""
_BIGGER = """all-mpnet-base-v2 (12 layers, width 768) into L6-H384, which starts at random and has the teacher's \
tokenizer; with and
without an assistant L12-H384. After some tokens: the held-out loss, and the accuracy of a copy that was fine-tuned on a
part of SST-2.
"""
_CACHE = """\
Seconds of an epoch that computes the teacher, and of one that reads its relations from a cache. `limit` is the ratio
if the teacher cost nothing, estimated from its share of a step; a measured ratio may exceed it by a few percent.
Filling the cache is not included: it takes about as long as running the teacher once over the corpus, so the gain
begins with the second epoch.
"""


def quickstart_section(results: Path) -> str:
    """The section that comes first."""
    return section("The quickstart", "quickstart", _QUICKSTART, _quickstart, results)


def distill_sections(results: Path) -> list[str]:
    """The sections, in the order of the page."""
    return [
        section("Objectives of distillation", "ablation", _ABLATION, _ablation, results),
        section("A bigger teacher", "bigger_teacher", _BIGGER, _bigger, results),
        section("Reuse of the teacher", "teacher_cache", _CACHE, _cache, results),
    ]


def section(
    title: str,
    name: str,
    text: str,
    lines: Callable[[Mapping[str, Any]], Sequence[Sequence[str]]],
    results: Path,
    *,
    note: Callable[[Mapping[str, Any]], str] | None = None,
    pictures: Mapping[str, str] | None = None,
) -> str:
    """A section with a table for each file in the folder `name`, empty without any.

    `note` is a line below each table; `pictures` come after the tables of some files.
    """
    parts = [f"## {title}\n", f"{text}Measured with `benchmarks/{name}.py`.\n"]
    files = sorted((results / name).glob("*.json"))
    for file in files:
        stored: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        picture = (pictures or {}).get(file.stem)
        below = [*([note(stored)] if note else []), *([f"![{title}]({picture})"] if picture else [])]
        parts += [
            *table(lines(stored)),
            "",
            *(line for one in below for line in (one, "")),
            _where(stored, f"{name}/{file.name}"),
        ]
    return "\n".join(parts) if files else ""


def _where(stored: Mapping[str, Any], file: str) -> str:
    """The machine, and a link to the numbers, whose name says more of it."""
    facts, link = stored["machine"], f"[{file}](../benchmarks/results/{file})"
    if "versions" in facts:  # of minilm.environment.machine
        return f"{facts['cpu']}, {facts['cores']} cores, torch {facts['versions']['torch']}; {link}.\n"
    threads = f"{facts['threads']} thread{'s' * (facts['threads'] != 1)}"
    return f"{facts['cpu']}, {threads}, torch {facts['torch']}; {link}.\n"


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def _quickstart(stored: Mapping[str, Any]) -> list[list[str]]:
    """A line per model."""
    lines = [["", "accuracy", "of the teacher's", "held-out loss", "seeds"]]
    by_model = list(zip(*stored["seeds"].values(), strict=True))
    best = statistics.mean(row["accuracy"] for row in by_model[0])
    for rows in by_model:
        accuracies = [100 * row["accuracy"] for row in rows]
        share = statistics.mean(accuracies) / best
        loss = abs(statistics.mean(row["heldout_loss"] for row in rows))
        lines.append([rows[0]["name"], _spread(accuracies), f"{share:.1f}%", f"{loss:.3f}", str(len(rows))])
    return lines


def _ablation(stored: Mapping[str, Any]) -> list[list[str]]:
    """A line per student and objective, a column per task."""
    scores: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in stored["scores"]:
        scores[row["student"], row["objective"]][row["task"]].append(100 * row["score"])
    tasks = list(dict.fromkeys(row["task"] for row in stored["scores"]))
    lines = [["student, objective", "million tokens", *tasks, "seeds"]]
    for (student, objective), found in sorted(scores.items(), key=lambda item: item[0][0]):
        cells = [_spread(found[task]) if found[task] else "" for task in tasks]
        tokens = stored["distilled"].get(objective, {"tokens": 0})["tokens"]
        name = student if student == objective else f"{student}, {objective}"  # the teacher
        lines.append([name, f"{tokens / 1e6:.1f}", *cells, str(max(map(len, found.values())))])
    return lines


def _bigger(stored: Mapping[str, Any]) -> list[list[str]]:
    """A line per way, student and point of its curve."""
    lines = [["way, student", "million tokens", "held-out loss", "SST-2"]]
    for way, students in stored["distilled"].items():
        for student, found in students.items():
            for point in found["curve"]:
                [accuracy] = [f"{value:.1f}" for key, value in point.items() if key.startswith("sst-2.")] or [""]
                tokens, loss = f"{point['tokens'] / 1e6:.2f}", f"{point['heldout_loss']:.3f}"
                lines.append([f"{way}, {student}", tokens, loss, accuracy])
    return lines


def _cache(stored: Mapping[str, Any]) -> list[list[str]]:
    """A line per teacher and cache."""
    lines = [["teacher, cache", "seconds", "ratio", "limit", "share of the teacher", "relative error of the loss"]]
    for row in stored["rows"]:
        lines.append(
            [
                f"{row['teacher']}, {row['precision']}, {row['cache']}",
                f"{row['seconds']:.1f}",
                f"{row['ratio']:.2f}x",
                f"{row['limit']:.2f}x",
                f"{row['share']:.0%}",
                f"{row['loss_difference']:.1g}",
            ]
        )
    return lines
