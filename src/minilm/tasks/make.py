"""From the task section of a recipe to a task: reads the files, tokenizes them, keeps them in memory.

In: the section, a tokenizer. Out: a `Task`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minilm.errors import UsageError
from minilm.recipe import TaskSection
from minilm.recipe.finetune import SQUAD
from minilm.tasks.base import Task
from minilm.tasks.span import SpanTask, WindowSettings
from minilm.tasks.squad_answers import AnswerSettings
from minilm.tasks.squad_file import Question, read_squad
from minilm.text.tokenizer import Tokenizer


def make_task(section: TaskSection, tokenizer: Tokenizer) -> Task:
    """Read and tokenize what a recipe names.

    Raises:
        UsageError: an unknown task, or two held-out files of one name.
        DataError: a file is missing, damaged, or holds nothing to learn from.
    """
    return _squad(section, tokenizer)


def _squad(section: TaskSection, tokenizer: Tokenizer) -> Task:
    return SpanTask(
        [question for name in section.train for question in read_squad(Path(name))],
        {name: read_squad(path) for name, path in dev_files(section.dev).items()},
        tokenizer,
        windows=WindowSettings(
            max_tokens=section.max_tokens, stride=section.stride, max_question_tokens=section.max_question_tokens
        ),
        answers=AnswerSettings(
            allow_no_answer=section.version == "2.0",
            n_best=section.n_best,
            max_answer_tokens=section.max_answer_tokens,
            null_threshold=section.null_threshold,
        ),
    )


def dev_files(names: Sequence[str]) -> dict[str, Path]:
    """Held-out files by what the report calls them: the file's name without its endings.

    Raises:
        UsageError: two files would be called the same.
    """
    files: dict[str, Path] = {}
    for name in names:
        path = Path(name)
        short = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
        if short in files:
            raise UsageError(f"task.dev: {files[short]} and {path} would both be called {short!r}; rename one of them")
        files[short] = path
    return files
