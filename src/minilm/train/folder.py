"""The run folder: written by one run at a time, and never a folder that holds other files.

In: the folder of a run and its resolved recipe. Out: a folder with `recipe.resolved.yaml`, `env.json` and
`log.txt`, locked for the duration of the run.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

from minilm.environment import examine
from minilm.errors import MinilmError, SystemProblem, UsageError
from minilm.files.atomic import atomic_write, make_folder, reporting_writes
from minilm.files.json import write_json
from minilm.files.lock import lock_file
from minilm.recipe import RunRecipe, input_names

logger = logging.getLogger(__name__)

RECIPE = "recipe.resolved.yaml"
MODELS = "models"  # checkpoints exported as Hugging Face folders
STAGES = "stages"  # the run folders of a chain, 1/, 2/ and so on
_RESULTS = (
    "checkpoints",
    "best",
    "metrics.jsonl",
    "tensorboard",
    "report.html",
    "model",
    "result.json",
    "results.json",
    "analysis.json",
    "predictions",
    "runs",
    MODELS,
    STAGES,
)


@contextlib.contextmanager
def run_folder(out: Path, *, recipe: str) -> Iterator[None]:
    """Lock `out` for one run and copy the library's log to `out/log.txt`.

    Raises:
        UsageError: another process uses the folder, or as for `require_run_folder`.
        SystemProblem: the folder cannot be written.
    """
    require_run_folder(out)
    make_folder(out)
    if not (out / RECIPE).is_file():
        atomic_write(out / RECIPE, recipe)
    with _logging_to(out / "log.txt") as log:
        try:
            write_json(out / "env.json", cast("Mapping[str, object]", examine()))
            yield
        except BaseException as error:
            with contextlib.suppress(SystemProblem):  # the log itself may be unwritable
                _log_end(log, error)
            raise


def require_run_folder(out: Path) -> None:
    """Check that `out` is or can become a run folder; user files and folders are never replaced. Write nothing.

    Raises:
        UsageError: it is a file or below one, or it holds results that no run wrote.
        SystemProblem: the path cannot be looked up.
    """
    with reporting_writes(out):
        existing = next(path for path in (out, *out.parents) if path.exists() or path.is_symlink())
        if not existing.is_dir():
            raise UsageError(f"out is {out}, but {existing} is not a folder; choose another out folder")
        if (out / RECIPE).is_file():
            return
        found = [name for name in (*_RESULTS, "corpus") if (out / name).exists()]
    if found:
        raise UsageError(
            f"{out} contains {', '.join(found)} but no {RECIPE}, so it is not a run folder; choose another out folder"
        )


def require_outside(recipe: RunRecipe, *, builds_corpus: bool = False) -> None:
    """Require that nothing that a run reads is among the results in its folder, which it removes or replaces.

    Args:
        recipe: the recipe.
        builds_corpus: the corpus in the folder is replaced, too.

    Raises:
        UsageError: something is.
    """
    out = Path(recipe.out)
    replaced = [(out / name).resolve() for name in (*_RESULTS, *(["corpus"] if builds_corpus else []))]
    for key, names in input_names(recipe).items():
        for name in names:
            if any(Path(name).resolve().is_relative_to(folder) for folder in replaced):
                raise UsageError(
                    f"{key}: {name} is inside the run folder {out}, among the results that a run replaces; choose "
                    "another out folder, or raise train.steps to extend that run"
                )


def remove_results(out: Path) -> None:
    """Remove the results of an earlier run from `out`, so that none can be mistaken for this run's.

    Raises:
        SystemProblem: the folder cannot be written.
    """
    found = [out / name for name in _RESULTS if (out / name).exists()]
    for path in found:
        with reporting_writes(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if found:
        logger.warning("starting from scratch: removed %s from %s", ", ".join(path.name for path in found), out)


def _log_end(log: logging.Handler, error: BaseException) -> None:
    """Write why the run ended to `log.txt` only; the caller gets the error itself."""
    values = {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR"}
    trace = None if isinstance(error, MinilmError) else (type(error), error, error.__traceback__)
    message = f"ended by {type(error).__name__}: {error}"
    log.handle(logging.makeLogRecord({**values, "msg": message, "exc_info": trace}))


@contextlib.contextmanager
def _logging_to(file: Path) -> Iterator[logging.Handler]:
    """Copy everything the library logs to `file`, which is locked against a second run."""
    with reporting_writes(file):
        handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.handleError = lambda record: _report_failed_line(file)  # type: ignore[method-assign]
    root = logging.getLogger("minilm")
    level = root.level
    try:
        assert handler.stream is not None, "the handler opens its file on creation"
        lock_file(handler.stream, file, busy=f"running in {file.parent}", instead="another out folder")
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        yield handler
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk has been reported already
            handler.close()


def _report_failed_line(file: Path) -> None:
    """End the run with an error if a log line cannot be written, rather than continue without a log."""
    error = sys.exc_info()[1]
    assert error is not None, "logging calls this while it handles an error"
    with reporting_writes(file):
        raise error
