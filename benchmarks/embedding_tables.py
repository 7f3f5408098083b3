"""Sections of docs/results.md about embeddings and rerankers, from the stored numbers.

In: the folder of results, with `embedding_students/SET.json`, `rerankers/MACHINE.json`, `infonce_step/MACHINE.json`,
`embed_files/MACHINE.json` and `search_vectors/MACHINE.json`.
Out: Markdown, a table per file; nothing where nothing is stored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_tables import section

PICTURE = "embedding-family.svg"
_JUDGES = """Scores times 100. STS-B: Spearman correlation on its test set. SQuAD and Cranfield: nDCG@10 of an exact \
search by
cosine, for the questions of SQuAD 1.1 dev among its 2,067 paragraphs, and for the 225 queries of Cranfield.
"""
_STUDENTS = """\
Small models that learn from a teacher, without labels, from sentences, questions and passages of Wikipedia, books,
Quora, SQuAD's training set and STS-B's. `start`: what a student is before its first step; layers are those of
all-MiniLM-L6-v2 (`embedded`), which itself was trained on pairs of SQuAD and Quora. `minutes`: of training, measured
once. Speed: 400 passages, native engine in fp32, relative to the teacher. In brackets the share of the teacher's
score. STS-B dev during training: before the first step, after a quarter, a half and all of the tokens. One run per
student, which counts with its best checkpoint on STS-B dev: no label is used but for this choice. STS-B and SQuAD are
in-domain, as the training texts have sentences of STS-B's training set and passages of the part of SQuAD's training
set that Du et al. test on; Cranfield is not. The minutes were not measured on an idle machine: do not compare them.
With all-mpnet-base-v2 two settings were tried; the other one (20,000 shorter texts, learning rate 5e-5) gave 6 layers
82.73 on STS-B and 37.85 on Cranfield.
"""
_NAMES = {"stsb": "STS-B", "squad": "SQuAD", "cranfield": "Cranfield"}
_RERANKERS = """\
all-MiniLM-L6-v2 finds 50 texts for each query; the rerankers sort them. They were trained in one pass over 4,438
questions of a part of SQuAD's training set, with up to three mined negatives each (learning rate 1e-4, bf16, one
run). nDCG@10 times 100; `difference` is the 95% interval of the difference to the order of the embedding model.
SQuAD: 200 questions of 1.1 dev. Cranfield: 225 queries. The 6-layer reranker is better on SQuAD, its own domain, and
worse on Cranfield; the 3-layer rerankers, taught by its scores, are worse on both.
"""
_INFONCE = """A step of InfoNCE over the whole batch, of all-MiniLM-L6-v2 in fp32 with at most 64 tokens a text, beside
CachedMultipleNegativesRankingLoss of sentence-transformers: the same weights, texts and optimizer. Lengths are drawn
as those of questions, or are all 64. `loss` is how far the losses of both are apart in the same step.
"""
_FILES = """`minilm embed` from a file of texts to a parquet file, loading included, beside the engine alone on ready \
token ids;
and the peak memory of many rows with one of a MiB among them, beside the bound in the [reference](reference.md).
"""
_SEARCH = """The ten best of stored vectors by cosine: milliseconds for all queries. `semantic_search` of \
sentence-transformers
searches float32 only. The kernels read vectors as they are stored; GB/s counts that once for all queries.
"""


def embedding_sections(results: Path) -> list[str]:
    """What small models keep, and what rerankers add, in the order of the page."""
    return [
        section(
            "Small embedding models",
            "embedding_students",
            _STUDENTS + _JUDGES,
            _students,
            results,
            note=_training,
            pictures={"family": PICTURE},
        ),
        section("Rerankers", "rerankers", _RERANKERS, _rerankers, results),
    ]


def embedding_speed_sections(results: Path) -> list[str]:
    """The speed of what is done with vectors, in the order of the page."""
    return [
        section("Speed of embedding files", "embed_files", _FILES, _files, results),
        section("Speed of exact search", "search_vectors", _SEARCH, _search, results),
        section("Speed of a contrastive step", "infonce_step", _INFONCE, _infonce, results),
    ]


def _students(stored: Mapping[str, Any]) -> list[list[str]]:
    """A line per model; the first is the teacher."""
    models, speed = stored["models"], stored.get("speed", {})
    teacher = next(iter(models))
    judges = [judge for judge in _NAMES if judge in models[teacher]]
    what = ["", "start", "million tokens", "minutes", "STS-B dev during training"]
    lines = [[*what, *(_NAMES[judge] for judge in judges), *(["speed"] if speed else [])]]
    for name, found in models.items():
        first = models[teacher]
        read = found["stsb dev"]["curve"][-1]["tokens"] / 1e6 if "stsb dev" in found else None
        scores = [_kept(_score(found, judge), _score(first, judge), is_first=name == teacher) for judge in judges]
        lines.append(
            [
                f"{name}, the teacher" if name == teacher else name,
                _start(found),
                "" if read is None else f"{read:.1f}",
                f"{found['seconds'] / 60:.0f}" if "seconds" in found else "",
                _on_the_way(found),
                *scores,
                *([f"{speed[name] / speed[teacher]:.2f}x"] if speed else []),
            ]
        )
    return lines


def _training(stored: Mapping[str, Any]) -> str:
    """The number of texts and the settings of the students, which are few."""
    trained = [found for found in stored["models"].values() if "steps" in found]
    settings = [
        f"the teacher's {found['loss']}, {found['steps']:,} steps of {found['texts of a step']} texts, learning rate "
        f"{found['learning rate']:g}, {found['precision']}"
        for found in trained
    ]
    return f"Trained on {stored['texts']['count']:,} texts: {'; '.join(dict.fromkeys(settings))}."


def _on_the_way(found: Mapping[str, Any]) -> str:
    """The correlation on STS-B's dev set before the first step, and after a quarter, a half and all of the tokens."""
    if "stsb dev" not in found:
        return ""
    start, curve = found["stsb dev"]["start"], found["stsb dev"]["curve"]
    points = [
        min(curve, key=lambda point: abs(point["tokens"] / curve[-1]["tokens"] - share)) for share in (1 / 4, 1 / 2, 1)
    ]
    return ", ".join(
        f"{value:.1f}" for value in (*([] if start is None else [start]), *(point["spearmanr"] for point in points))
    )


def _start(found: Mapping[str, Any]) -> str:
    start = found.get("start")
    if not isinstance(start, dict):
        return start or ""
    layers = start.get("teacher_layers", ())
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}" if layers else "random"


def _score(found: Mapping[str, Any], judge: str) -> float:
    return float(found["stsb"]["spearman"] if judge == "stsb" else 100 * found[judge]["ndcg@10"])


def _kept(score: float, teacher: float, *, is_first: bool) -> str:
    return f"{score:.2f}" if is_first else f"{score:.2f} ({score / teacher:.1%})"


def _rerankers(stored: Mapping[str, Any]) -> list[list[str]]:
    """A line per model; the first is the embedding model."""
    lines = [["", "held-out nDCG@10 during training", "SQuAD", "difference", "Cranfield", "difference"]]
    for name, found in stored["models"].items():
        cells = [
            f"{name}, not reranked" if len(lines) == 1 else name,
            ", ".join(f"{value:.1f}" for value in list(found.get("held out", {}).values())[:4]),
        ]
        for judge in ("squad", "cranfield"):
            low_high = found[judge].get("difference", {}).get("ndcg@10")
            interval = "" if low_high is None else f"{100 * low_high[0]:+.1f} to {100 * low_high[1]:+.1f}"
            cells += [f"{_score(found, judge):.1f}", interval]
        lines.append(cells)
    return lines


def draw_family(stored: Mapping[str, Any]) -> bytes:
    """Score against speed of the teacher and its students, an SVG image; the same numbers give the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    models, speed = stored["models"], stored["speed"]
    teacher = next(iter(models))
    judges = {"stsb": "STS-B, Spearman", "squad": "SQuAD, nDCG@10", "cranfield": "Cranfield, nDCG@10"}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "family", "font.size": 9}):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        for axes, (judge, title) in zip(figure.subplots(1, len(judges)), judges.items(), strict=True):
            for name, found in models.items():
                x, y = speed[name] / speed[teacher], _score(found, judge)
                axes.plot(x, y, "o", color="#b5b5b5" if name == teacher else "#2f6f9f")
                label = {"text": name, "xytext": (5, 3)} if name != teacher else {"text": "teacher", "xytext": (-14, 7)}
                axes.annotate(xy=(x, y), textcoords="offset points", **label)
            axes.set_title(title, loc="left", fontsize=9)
            axes.set_xlabel("speed, teacher = 1")
            axes.margins(0.25)
            axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _infonce(stored: Mapping[str, Any]) -> list[list[str]]:
    """A line per kind of lengths."""
    lines = [["pairs, lengths", "not padding", "tokens/s", "to sentence-transformers", "MiB", "MiB there", "loss"]]
    for row in stored["rows"]:
        lines.append(
            [
                f"{row['pairs']:,}, {row['lengths']}",
                f"{row['real share']:.0%}",
                f"{row['tokens/s']:,.0f}",
                f"{row['ratio to sentence-transformers']:.1f}x",
                f"{row['peak MiB']:,.0f}",
                f"{row['peak MiB of sentence-transformers']:,.0f}",
                f"{row['loss difference']:.1g}",
            ]
        )
    return lines


def _files(stored: Mapping[str, Any]) -> list[list[str]]:
    """A line for the rate, a line for the memory."""
    lines = [["", "tokens/s", "engine alone", "share", "peak MiB", "bound MiB"]]
    for row in stored["rows"]:
        if row["what"] == "rate":
            speeds = [f"{row[f'{side} tokens/s']:,.0f}" for side in ("command", "engine")]
            name = f"{row['rows']:,} passages, {row['precision']}"
            lines.append([name, *speeds, f"{row['share']:.0%}", f"{row['peak MiB']:,.0f}", ""])
        else:
            name = f"{row['rows']:,} short rows and one of a MiB, one random layer"
            lines.append([name, "", "", "", f"{row['peak MiB']:,.0f}", f"{row['bound MiB']:,.0f}"])
    return lines


def _search(stored: Mapping[str, Any]) -> list[list[str]]:
    """A line per precision and number of queries."""
    lines = [["vectors, queries", "kernels", "numpy", "sentence-transformers", "GB/s", "GFLOP/s"]]
    for row in stored["rows"]:
        sides = [
            f"{row[f'{name} ms']:,.1f} ({row[f'{name} / kernels']:.1f}x)" if f"{name} ms" in row else ""
            for name in ("numpy", "sentence-transformers")
        ]
        lines.append(
            [
                f"{stored['vectors']:,} {row['vectors']}, {row['queries']}",
                f"{row['kernels ms']:,.1f}",
                *sides,
                f"{row['GB/s']:.2g}",
                f"{row['GFLOP/s']:,.0f}",
            ]
        )
    return lines
