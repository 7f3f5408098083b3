"""The nine GLUE tasks as data: columns of their JSON Lines files and how the official files differ; a user's own tasks.

In: a task's name, or settings. Out: a `TextTask`; labels and metrics of GLUE are those of `score/glue.py`.
Official .tsv files are read by the names in their header, which are at the positions that transformers' GLUE processors
use (spec section 5): CoLA 3 and 1 (no header), SST-2 0 and 1, MRPC 3, 4 and 0, STS-B 7, 8 and 9, QQP 3, 4 and 5, MNLI
8, 9 and the last, QNLI, RTE and WNLI 1, 2 and 3. Rows of another width are skipped and counted, as they do for QQP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from minilm.errors import UsageError
from minilm.score.glue import GLUE_TASKS, glue_name
from minilm.score.multi_label import METRICS as MULTI_LABEL
from minilm.tasks.text.rows import OfficialLayout, TextColumns, TextTask
from minilm.tasks.text.settings import TextSettings

COMBINED = "combined"
"""The mean of a task's two metrics, as the GLUE leaderboard counts it."""
CLASSIFICATION = ("accuracy",)
"""Metric of a user's own task with one label per text; more depend on the number of labels (`score/classification`)."""
REGRESSION = ("pearson", "spearmanr")


def _pair(text: str, text_pair: str, label: str = "label") -> TextColumns:
    return TextColumns(text=text, text_pair=text_pair, label=label)


_SENTENCE = TextColumns(text="sentence", label="label")
_SENTENCES = _pair("sentence1", "sentence2")
_COLUMNS: Mapping[str, TextColumns] = {
    "cola": _SENTENCE,
    "sst-2": _SENTENCE,
    "mrpc": _SENTENCES,
    "sts-b": _pair("sentence1", "sentence2", "score"),
    "qqp": _pair("question1", "question2"),
    "mnli": _pair("premise", "hypothesis"),
    "qnli": _pair("question", "sentence"),
    "rte": _SENTENCES,
    "wnli": _SENTENCES,
}
_OFFICIAL: Mapping[str, OfficialLayout] = {
    "cola": OfficialLayout(unnamed=("source", "label", "original_judgement", "sentence")),
    "mrpc": OfficialLayout(columns=(_pair("#1 String", "#2 String", "Quality"),)),
    "sts-b": OfficialLayout(columns=(_SENTENCES,)),  # the hub calls the score a label
    "qqp": OfficialLayout(columns=(_pair("question1", "question2", "is_duplicate"),)),
    "mnli": OfficialLayout(columns=(_pair("sentence1", "sentence2", "gold_label"),)),
}
_MAIN: Mapping[str, str] = {"sts-b": COMBINED}  # the MiniLM paper reports accuracy for MRPC and QQP, and no STS-B


def _task(name: str) -> TextTask:
    scored = GLUE_TASKS[name]
    return TextTask(
        name=name,
        columns=_COLUMNS[name],
        labels=scored.labels,
        metrics=scored.metrics,
        main=_MAIN.get(name, scored.metrics[0]),
        label_range=None if scored.labels else (0.0, 5.0),
        official=_OFFICIAL.get(name, OfficialLayout()),
    )


GLUE: Mapping[str, TextTask] = {name: _task(name) for name in GLUE_TASKS}


def glue_text_task(name: str) -> TextTask:
    """Return the task with this name; `SST-2`, `sst2` and `sst-2` are the same.

    Raises:
        UsageError: there is no such task.
    """
    return GLUE[glue_name(name)]


def find_glue_task(name: str) -> TextTask | None:
    """Return the task with this name, in any spelling; None if it is not one of the nine."""
    try:
        return glue_text_task(name)
    except UsageError:
        return None


def text_columns(settings: TextSettings) -> TextColumns:
    """The columns named in the settings, else those of the GLUE task, else `text` and `label`."""
    known = find_glue_task(settings.name)
    base = known.columns if known is not None else TextColumns(text="text", label="label")
    return TextColumns(
        text=settings.text or base.text,
        label=settings.label or base.label,
        text_pair=settings.text_pair or base.text_pair,
        id=settings.id or base.id,
    )


def text_task(settings: TextSettings) -> TextTask:
    """The GLUE task of that name or a user's own, with the columns and labels of the settings.

    A user's own task may be without labels, which its files then determine; its metrics do not depend on their number.

    Raises:
        UsageError: a GLUE task has one label per text, but the settings ask for several.
    """
    task = find_glue_task(settings.name)
    if task is not None and settings.multi_label:
        raise UsageError(f"task.multi_label is true, but GLUE task {task.name!r} has one label per text; remove it")
    columns = text_columns(settings)
    if task is not None:
        return replace(task, columns=columns, labels=tuple(settings.labels) or task.labels)
    metrics = REGRESSION if settings.regression else MULTI_LABEL if settings.multi_label else CLASSIFICATION
    return TextTask(
        name=settings.name,
        columns=columns,
        labels=tuple(settings.labels),
        metrics=metrics,
        main=metrics[0],
        multi_label=settings.multi_label,
    )
