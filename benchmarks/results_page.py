"""Write docs/results.md, the page of what was measured, from the stored numbers.

In: `benchmarks/results/glue/TASK.json`, `squad/VERSION.json` and `generation/TASK.json`, as `benchmarks/glue.py`,
`squad.py` and `generation.py` store them; the files that `distill_tables.py`, `embedding_tables.py` and
`speed_tables.py` read. Files and runs may be missing.
Out: a list of the sections that have numbers, then these. Of fine-tuning one table per task with minilm, transformers
on the same weights where measured, and the paper's model of that size; generated texts next to their references.

    python benchmarks/results_page.py
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from distill_tables import distill_sections, quickstart_section
from embedding_tables import PICTURE, draw_family, embedding_sections, embedding_speed_sections
from speed_tables import speed_sections

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"

_Run = Mapping[str, object]
_SETTING = ("epochs", "learning_rate", "batch_size", "precision")
_SIDES = {"ours": "minilm", "transformers": "transformers"}
_HEAD = """# Results

<!-- written by benchmarks/results_page.py from benchmarks/results: edit those, not this page -->

What was measured, with the machine below each table. Processors named `AMD EPYC` differ: kernels for `avx2` ran on
cores with AVX2 alone, those for `avx512_bf16` on cores with AVX-512 and bfloat16. All numbers are in
`benchmarks/results/`; `benchmarks/results_page.py` writes this page from them.
"""
_GLUE = """\
Dev set results of models fine-tuned with `minilm finetune`, compared with the transformers Trainer. Weights, rows and
settings are the same, with one exception: transformers also applies dropout (0.1) to attention probabilities, which
minilm does only with `train.attention_dropout`. Each run counts with its best epoch on the dev set. The tables show the
mean and sample standard deviation over seeds. To halve its running time, the Trainer computes each batch in four parts
of similar length: less padding and, apart from dropout masks, the same gradient. The first seeds of CoLA, RTE and MRPC
ran without this split. A difference below two standard errors may be chance. STS-B was measured with three seeds per
side first, where minilm was lower, then with two more.
Measured with `benchmarks/glue.py`.

**These are not the weights of the paper.** Both sides start from the embedded sentence model, all-MiniLM-L6-v2: a
MiniLM of twelve layers with every second one dropped, then trained for sentence similarity. The paper's L6-H384 was
distilled with six layers through a teacher assistant, and its numbers are means over 4 runs with the best setting of a
grid. Compare minilm with the transformers row; the paper's row shows what a model of this size can reach.
"""
_SQUAD = """\
Weights and sides are those of [GLUE](#glue). Each run trains one model on SQuAD 2.0 settings, and its last weights
answer both dev sets; on 1.1 the model must give an answer. Only 348 of the 16,596 questions of the available part of
2.0's training set have no answer, so the models nearly always answer: that of minilm has an F1 of 67.9 on questions
with an answer and of 1.0 on those without, and 53.0 with the best threshold on dev (transformers 51.9). One seed per
side: the difference may be chance.
Measured with `benchmarks/squad.py`.
"""
_GENERATION = """\
Questions and summaries of test sets, by the embedded model after fine-tuning with `minilm finetune` on far fewer
examples and epochs than the paper's. One seed. The texts show that the pipeline works with so little training, not what
the method reaches: most are not usable.
Measured with `benchmarks/generation.py`.
"""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task as the page describes it: title, metric, training set, the paper's number."""

    title: str
    metric: str
    trained_on: str
    paper: float | None


def _official(examples: int) -> str:
    return f"{examples:,} training examples, the official set"


def _squad(official: str) -> str:
    return (
        "16,596 training questions: the test split of Du et al., and for 10 of its articles the questions of SQuAD 2.0 "
        f"once more, with 348 that have no answer (the official set has {official})"
    )


# File name -> task. Paper: arXiv 2002.10957v2, MiniLM-L6xH384 of the in-house teacher.
GLUE: Mapping[str, Task] = {
    "glue/sst-2": Task(title="SST-2", metric="accuracy", trained_on=_official(67_349), paper=91.5),
    "glue/cola": Task(title="CoLA", metric="Matthews correlation times 100", trained_on=_official(8_551), paper=47.5),
    "glue/rte": Task(title="RTE", metric="accuracy", trained_on=_official(2_490), paper=68.8),
    "glue/mrpc": Task(title="MRPC", metric="accuracy", trained_on=_official(3_668), paper=88.9),
    "glue/sts-b": Task(
        title="STS-B", metric="mean of Pearson and Spearman, times 100", trained_on=_official(5_749), paper=None
    ),
}  # fmt: skip
SQUAD: Mapping[str, Task] = {
    "squad/1.1": Task(
        title="SQuAD 1.1", metric="F1 on the full dev set", paper=None,
        trained_on=_squad("87,599 questions, all with an answer"),
    ),
    "squad/2.0": Task(
        title="SQuAD 2.0", metric="F1 on the full dev set", paper=75.6,
        trained_on=_squad("130,319 questions, 43,498 of them without an answer"),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Generated:
    """A generation task: metrics, size of the official training set, the paper's numbers in the order of `metrics`."""

    title: str
    metrics: Mapping[str, str]
    official: int
    paper: tuple[float, ...]
    paper_epochs: int


_QG_METRICS = {"Bleu_4": "BLEU-4", "METEOR": "METEOR", "ROUGE_L": "ROUGE-L"}
_SUMMARY_METRICS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeLsum": "ROUGE-L"}
# File name -> task. Paper: the same, MiniLM-L6xH384 through the teacher assistant.
GENERATED: Mapping[str, Generated] = {
    "generation/qg": Generated(
        title="Question generation, the split of Du et al.", metrics=_QG_METRICS, official=75_722,
        paper=(20.31, 23.43, 48.21), paper_epochs=25,
    ),
    "generation/xsum": Generated(
        title="XSum", metrics=_SUMMARY_METRICS, official=204_045, paper=(38.79, 16.39, 31.10), paper_epochs=50
    ),
    "generation/cnndm": Generated(
        title="CNN/DailyMail", metrics=_SUMMARY_METRICS, official=287_227, paper=(41.57, 19.21, 38.64), paper_epochs=25
    ),
}  # fmt: skip
_SHOWN = 5  # examples on the page; the stored file holds more


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(RESULTS), encoding="utf-8")
    PAGE.with_name(PICTURE).write_bytes(draw_family(_stored(RESULTS, "embedding_students/family")))
    print(f"wrote {PAGE}")


def page(results: Path) -> str:
    """The page for the files in `results`, any of which may be missing."""
    sections = [
        quickstart_section(results),
        *embedding_sections(results),
        *distill_sections(results),
        *speed_sections(results),
        *embedding_speed_sections(results),
        _chapter("GLUE", _GLUE, [_section(task, _stored(results, name)) for name, task in GLUE.items()]),
        _chapter("SQuAD", _SQUAD, [_section(task, _stored(results, name)) for name, task in SQUAD.items()]),
        _chapter(
            "Generation", _GENERATION, [_generated(task, _stored(results, name)) for name, task in GENERATED.items()]
        ),
    ]
    measured = [section for section in sections if section]
    return "\n".join([_HEAD, *([_contents(measured)] if measured else []), *measured])


def _contents(sections: Sequence[str]) -> str:
    """A list of links to sections, by the headings that they begin with."""
    titles = [section.partition("\n")[0].removeprefix("## ") for section in sections]
    return "".join(f"- [{title}](#{title.lower().replace(' ', '-')})\n" for title in titles)


def _chapter(title: str, text: str, sections: Sequence[str]) -> str:
    """The sections that have numbers, below a common heading and text; empty if none has."""
    measured = [section for section in sections if section]
    return "\n".join([f"## {title}\n", text, *measured]) if measured else ""


def _stored(results: Path, name: str) -> dict[str, Any]:
    file = results / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def _generated(task: Generated, stored: Mapping[str, Any]) -> str:
    """The scores, the paper's and some texts; empty without numbers."""
    if not stored:
        return ""
    names = [*task.metrics.values(), "training examples", "epochs"]
    paper = [*(f"{value:.2f}" for value in task.paper), f"{task.official:,}", str(task.paper_epochs)]
    found = [stored["scores"][key] for key in task.metrics]  # METEOR is null if Java was missing
    scores = ["not measured" if score is None else f"{score:.2f}" for score in found]
    lines = [
        f"### {task.title}\n",
        _cells(["", *names]),
        "|---|" + "---:|" * len(names),
        _cells(["minilm", *scores, f"{stored['training examples']:,}", f"{stored['epochs']:g}"]),
        _cells(["MiniLM-L6xH384, the paper's weights and training set", *paper]),
        "",
        *_how_generated(stored),
    ]
    return "\n".join(lines) + "\n"


def _how_generated(stored: Mapping[str, Any]) -> list[str]:
    """The conditions, then generated texts next to their references."""
    examples = stored["examples"]
    shown = examples[:: max(1, len(examples) // _SHOWN)][:_SHOWN]
    rows = [_cells([one["reference"], one["prediction"]]) for one in shown]
    return [
        f"{stored['test examples']:,} test examples; `minilm generate {stored['decoding']}`. "
        f"Measured on {_machine(stored['machine'])}, {stored['precision']}.\n",
        "| reference | generated |",
        "|---|---|",
        *rows,
    ]


def _cells(texts: Sequence[str]) -> str:
    """A table row; pipes are escaped and newlines become spaces."""
    cells = [" ".join(text.replace("|", "\\|").split()) for text in texts]
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


def _section(task: Task, stored: Mapping[str, object]) -> str:
    """The table of a task, empty without runs."""
    runs = stored.get("runs") or []
    assert isinstance(runs, list)
    if not runs:
        return ""
    paper = "" if task.paper is None else _row("MiniLM-L6xH384, the paper's weights", f"{task.paper:.1f}", seeds="4")
    lines = [
        f"### {task.title}\n",
        f"{task.metric[0].upper()}{task.metric[1:]}; {task.trained_on}.\n",
        "| | mean | deviation | seeds | epochs | learning rate | batch | precision |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
        *(row for setting in _settings(runs) for row in _rows(setting, runs)),
        *([paper] if paper else []),
        *(line for setting in _settings(runs) for line in _difference(setting, runs)),
        *_conditions(stored, runs),
    ]
    return "\n".join(lines) + "\n"


def _settings(runs: Sequence[_Run]) -> list[tuple[object, ...]]:
    """The distinct settings, in the order they were measured."""
    return list(dict.fromkeys(tuple(run[key] for key in _SETTING) for run in runs))


def _rows(setting: tuple[object, ...], runs: Sequence[_Run]) -> list[str]:
    """One row per side that was measured with a setting."""
    rows = []
    for side, name in _SIDES.items():
        scores = _scores(setting, runs, side)
        if not scores:
            continue
        shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in setting]
        mean = _number(statistics.fmean(scores))
        deviation = _number(statistics.stdev(scores)) if len(scores) > 1 and math.isfinite(sum(scores)) else ""
        rows.append(_row(name, mean, deviation=deviation, seeds=str(len(scores)), setting=shown))
    return rows


def _scores(setting: tuple[object, ...], runs: Sequence[_Run], side: str) -> list[float]:
    """The numbers of one side's seeds."""
    return [_main(run) for run in runs if run["side"] == side and tuple(run[key] for key in _SETTING) == setting]


def _difference(setting: tuple[object, ...], runs: Sequence[_Run]) -> list[str]:
    """The difference of the two means and its standard error, if both sides have several seeds."""
    ours, theirs = (_scores(setting, runs, side) for side in _SIDES)
    if min(len(ours), len(theirs)) < 2 or not all(map(math.isfinite, (*ours, *theirs))):
        return []
    error = math.sqrt(statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs))
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    where = f" ({setting[0]:g} epochs, {setting[1]:g})" if len(_settings(runs)) > 1 else ""
    return [f"\nminilm - transformers{where}: {round(difference, 1) + 0:+.1f}, standard error {error:.1f}."]


def _main(run: _Run) -> float:
    best = run["best"]
    assert isinstance(best, dict)
    return float(best["main"])


def _number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "undefined"


def _row(name: str, mean: str, *, deviation: str = "", seeds: str = "", setting: Sequence[str] = ("",) * 4) -> str:
    return _cells([name, mean, deviation, seeds, *setting])


def _conditions(stored: Mapping[str, Any], runs: Sequence[_Run]) -> list[str]:
    """The machines and the checksums of the data."""
    machines = dict.fromkeys(_machine(run["machine"]) for run in runs)
    hashes = [f"{part} file `{sha}`" for part in ("train", "dev") for sha in stored.get(f"{part} sha256", [])]
    return ["", f"Measured on {'; '.join(machines)}. SHA-256: {', '.join(hashes)}."]


def _machine(facts: object) -> str:
    assert isinstance(facts, dict)
    threads = facts["threads"]
    return f"{facts['cpu']}, {threads} thread{'' if threads == 1 else 's'}, torch {facts['torch']}"


if __name__ == "__main__":
    main()
