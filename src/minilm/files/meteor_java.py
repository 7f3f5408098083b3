"""Run METEOR 1.5, a Java program that ships with pycocoevalcap, on texts and references.

In: K items, each a text with its references. Out: the program's counts for each, `[K, C]`; `minilm.score.generation`
computes the score from these counts.
Each call starts one process, which ends with the call, even on timeout.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm.errors import SystemProblem

_START_SECONDS = 300.0  # Java reads 60 MB of paraphrases first
_SECONDS_PER_ITEM = 0.1
_INSTALL = "install it with: pip install 'minilm[meteor]'"
_Item = tuple[str, Sequence[str]]
_Counts = NDArray[np.float64]


def meteor_counts(items: Sequence[_Item], *, num_counts: int, timeout: float | None = None) -> _Counts:
    """Align every text with each of its references and return the counts of the best alignment.

    Args:
        items: K texts, each with its references.
        num_counts: C, the number of counts that the program must return for each item.
        timeout: seconds after which the program is killed; by default five minutes plus a tenth of a second per item.

    Returns:
        `[K, C]`.

    Raises:
        SystemProblem: Java or the package is missing, or the program fails or takes too long.
    """
    command = ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar"]
    jar = _jar()
    if shutil.which(command[0]) is None:
        raise SystemProblem("METEOR needs Java, which was not found; install a Java runtime (8 or newer)")
    seconds = _START_SECONDS + _SECONDS_PER_ITEM * len(items) if timeout is None else timeout
    try:
        done = subprocess.run(
            [*command, jar.name, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=jar.parent,
            input="".join(map(_line, items)).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SystemProblem(
            f"METEOR did not finish {len(items):,} items in {seconds:g} seconds and was stopped; score fewer at a time"
        ) from None
    except OSError as error:
        raise SystemProblem(f"METEOR could not be started ({error.strerror}); check that java runs") from error
    return _parsed(done, len(items), num_counts)


def _jar() -> Path:
    spec = find_spec("pycocoevalcap")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        jar = Path(folder, "meteor", "meteor-1.5.jar")
        if jar.is_file():
            return jar
    raise SystemProblem(f"METEOR is part of the package pycocoevalcap, which is not installed; {_INSTALL}")


def _line(item: _Item) -> str:
    """Format one request; the separator between the parts cannot occur in a text."""
    text, references = item
    parts = [" ".join(part.replace("|||", "").split()) for part in (*references, text)]
    return f"SCORE ||| {' ||| '.join(parts)}\n"


def _parsed(done: subprocess.CompletedProcess[bytes], num_items: int, num_counts: int) -> _Counts:
    lines = done.stdout.decode(errors="replace").splitlines()
    try:
        if len(lines) == num_items:
            return np.array([line.split() for line in lines], dtype=np.float64).reshape(num_items, num_counts)
        found = f"{len(lines):,} answers"
    except ValueError:
        found = "malformed answers"
    said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing on its error output"]
    raise SystemProblem(
        f"METEOR gave {found} for {num_items:,} items (exit code {done.returncode}; it said: {said[0]:.200}); "
        f"check that java -version works and that 2 GB of memory are free"
    )
