"""From the task section of a recipe to a task: reads the files, tokenizes them, keeps them in memory.

In: the section, a tokenizer. Out: a `Task`, and what a saved model must remember of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from minilm.decode.decoder import pos_shift_of, source_frame
from minilm.errors import UsageError
from minilm.finetune.seq2seq import HELDOUT_METRICS, Seq2SeqTask
from minilm.finetune.seq2seq_generation import GENERATED_METRICS, DevGeneration
from minilm.finetune.squad import SpanTask, WindowSettings
from minilm.finetune.task import Task
from minilm.finetune.text import ClassificationTask
from minilm.recipe import TaskSection
from minilm.recipe.finetune import SEQ2SEQ, SQUAD
from minilm.tasks.saved import SavedTask
from minilm.tasks.seq2seq.masking import Masking
from minilm.tasks.seq2seq.rows import PairColumns, PairLimits, load_nlg_tokenizer, read_pairs
from minilm.tasks.squad.answers import AnswerSettings
from minilm.tasks.squad.read import read_squad
from minilm.tasks.text.glue import COMBINED, GLUE, find_glue_task
from minilm.tasks.text.rows import TextColumns, TextTask, infer_labels, read_text_rows
from minilm.text.tokenizer import Tokenizer

_CLASSIFICATION = ("accuracy", "f1", "matthews_correlation")  # the last two for two labels
_REGRESSION = ("pearson", "spearmanr")


def task_tokenizer(section: TaskSection, path: Path, *, lowercase: bool | None) -> Tokenizer:
    """The tokenizer at `path` as the task wants it; raises DataError when it cannot be read."""
    load = load_nlg_tokenizer if section.name == SEQ2SEQ else Tokenizer.load
    return load(path, lowercase=lowercase)


def make_task(section: TaskSection, tokenizer: Tokenizer) -> Task:
    """Read and tokenize what a recipe names.

    Raises:
        UsageError: an unknown task, or two held-out files of one name.
        DataError: a file is missing, damaged, or holds nothing to learn from.
    """
    if section.name == SQUAD:
        return _squad(section, tokenizer)
    if section.name == SEQ2SEQ:
        return _seq2seq(section, tokenizer)
    spec = text_task(section)
    return ClassificationTask(
        spec,
        [row for name in section.train for row in read_text_rows(name, spec)],
        {name: read_text_rows(file, spec) for name, file in dev_files(section.dev).items()},
        tokenizer,
        max_tokens=section.max_tokens,
    )


def saved_task(section: TaskSection) -> SavedTask:
    """What prediction must know of the task: columns, lengths, how answers are chosen."""
    if section.name == SEQ2SEQ:
        return SavedTask(
            name=SEQ2SEQ,
            source=tuple(section.source),
            max_source_tokens=section.max_source_tokens,
            max_target_tokens=section.max_target_tokens,
            mask_way=section.mask_way,
        )
    if section.name != SQUAD:
        columns = _columns(section)
        return SavedTask(
            name=section.name,
            max_tokens=section.max_tokens,
            text=columns.text,
            text_pair=columns.text_pair,
            id=columns.id,
        )
    return SavedTask(
        name=SQUAD,
        max_tokens=section.max_tokens,
        allow_no_answer=section.version == "2.0",
        stride=section.stride,
        max_question_tokens=section.max_question_tokens,
        max_answer_tokens=section.max_answer_tokens,
        n_best=section.n_best,
        null_threshold=section.null_threshold,
        postprocess=section.postprocess,
    )


def text_task(section: TaskSection) -> TextTask:
    """The GLUE task of that name, or the user's own: its labels are those of the training files if none are listed.

    Raises:
        UsageError: a name that is almost that of a GLUE task, or a metric the task does not have.
        DataError: the labels of the training files cannot be read.
    """
    known = find_glue_task(section.name)
    if known is not None:
        task = replace(known, columns=_columns(section), labels=tuple(section.labels) or known.labels)
    else:
        _refuse_misspelt(section)
        metrics = _REGRESSION if section.regression else _CLASSIFICATION
        task = TextTask(name=section.name, columns=_columns(section), labels=(), metrics=metrics, main=metrics[0])
        if not section.regression:
            labels = tuple(section.labels) or infer_labels(section.train, task)
            task = replace(task, labels=labels, metrics=metrics if len(labels) == 2 else metrics[:1])
    has = (*task.metrics, *((COMBINED,) if len(task.metrics) == 2 else ()))
    if section.metric is not None and section.metric not in has:
        raise UsageError(f"task.metric is {section.metric!r}; task {task.name!r} has {', '.join(has)}")
    return replace(task, main=section.metric or task.main)


def _columns(section: TaskSection) -> TextColumns:
    """The columns the recipe names, else those of the GLUE task, else `text` and `label`."""
    known = find_glue_task(section.name)
    base = known.columns if known is not None else TextColumns(text="text", label="label")
    return TextColumns(
        text=section.text or base.text,
        label=section.label or base.label,
        text_pair=section.text_pair or base.text_pair,
        id=section.id or base.id,
    )


def _refuse_misspelt(section: TaskSection) -> None:
    close = get_close_matches(section.name.lower(), [SQUAD, SEQ2SEQ, *GLUE], n=1, cutoff=0.75)
    if close and section.text is None and section.label is None:
        raise UsageError(
            f"task.name is {section.name!r}: did you mean {close[0]!r}? For texts of your own under that name, name "
            f"their columns: task.text and task.label"
        )


def _squad(section: TaskSection, tokenizer: Tokenizer) -> Task:
    return SpanTask(
        [question for name in section.train for question in read_squad(Path(name))],
        {name: read_squad(Path(file)) for name, file in dev_files(section.dev).items()},
        tokenizer,
        windows=WindowSettings(
            max_tokens=section.max_tokens, stride=section.stride, max_question_tokens=section.max_question_tokens
        ),
        answers=AnswerSettings(
            allow_no_answer=section.version == "2.0",
            n_best=section.n_best,
            max_answer_tokens=section.max_answer_tokens,
            null_threshold=section.null_threshold,
            postprocess=section.postprocess,
        ),
    )


def _seq2seq(section: TaskSection, tokenizer: Tokenizer) -> Seq2SeqTask:
    scores = (*HELDOUT_METRICS, *(GENERATED_METRICS if section.dev_generated else ()))
    if section.metric is not None and section.metric not in scores:
        more = "" if section.dev_generated else "; with task.dev_generated also of " + ", ".join(GENERATED_METRICS)
        raise UsageError(f"task.metric is {section.metric!r}, expected one of {', '.join(scores)}{more}")
    if section.dev_generated and section.beam_size > tokenizer.vocab_size:
        raise UsageError(
            f"task.beam_size is {section.beam_size}, but the vocabulary has {tokenizer.vocab_size} tokens; use fewer"
        )
    columns = PairColumns(source=tuple(section.source), target=section.target)
    special = source_frame(pos_shift_of(section.mask_way))
    limits = PairLimits(source=section.max_source_tokens - special, target=section.max_target_tokens - 1)
    return Seq2SeqTask(
        train=read_pairs(section.train, tokenizer, columns, limits=limits),
        dev={
            name: read_pairs([file], tokenizer, columns, limits=limits) for name, file in dev_files(section.dev).items()
        },
        tokenizer=tokenizer,
        masking=Masking(
            way=section.mask_way,
            source_prob=section.source_mask_prob,
            target_prob=section.target_mask_prob,
            random_prob=section.random_prob,
            keep_prob=section.keep_prob,
            most_masked=section.max_masked_tokens,
        ),
        label_smoothing=section.label_smoothing,
        max_target_tokens=section.max_target_tokens,
        max_positions=section.max_source_tokens + section.max_target_tokens,
        main_metric=section.metric or HELDOUT_METRICS[0],
        generation=DevGeneration(pairs=section.dev_generated, beam_size=section.beam_size),
        reshuffles=section.shuffle == "epoch",
        freeze_words=section.freeze_words,
    )


def dev_files(names: Sequence[str]) -> dict[str, str]:
    """Held-out files by what the report calls them: the file's name without its endings.

    Raises:
        UsageError: two files would be called the same.
    """
    files: dict[str, str] = {}
    for name in names:
        last = name.rpartition("/")[2]
        short = last.removesuffix(".gz").rpartition(".")[0] or last
        if short in files:
            raise UsageError(f"task.dev: {files[short]} and {name} would both be called {short!r}; rename one of them")
        files[short] = name
    return files
