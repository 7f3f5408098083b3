"""How many small changes of the source the tests notice: `python tests/mutants/run.py [--jobs 2]`.

In: a seeded sample of mutants over the rooms whose numbers matter. Out: `benchmarks/results/mutants.json` with each
mutant, whether a test failed, and the survivors, whose `reason` is filled in by hand and kept. A run that was stopped
is resumed. Not part of `make test`: 60 mutants take an hour.

Each mutant lies in its own copy of the source. The tests that mirror or import its file run first, then those that
import a module which imports it; slow tests do not run. A failed test, an error and a run past the time limit count as
caught. Tests that fail without any mutant are left out and named.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from mutate import Mutant, mutant, places

REPO = Path(__file__).resolve().parents[2]
SRC = REPO / "src"
ROOMS = ("decode", "infer", "model", "score", "tasks")
RESULT = REPO / "benchmarks" / "results" / "mutants.json"
SUITES = ("unit", "parity", "property", "security")
SECONDS = 600  # of one pytest run; the tests without a mutant take a fraction


def sample(count: int, seed: int) -> list[tuple[Path, Mutant]]:
    """`count` mutants drawn from all of the rooms."""
    files = [path for room in ROOMS for path in sorted((SRC / "minilm" / room).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    found = [(path, *place) for path in files for place in places(texts[path])]
    chosen = random.Random(seed).sample(found, min(count, len(found)))
    return [(path, mutant(texts[path], number, kind)) for path, number, kind in chosen]


def module_of(path: Path) -> str:
    """`minilm.decode.beam` of its file."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """Everything that a file imports, `from a import b` as `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update((node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)))
    return names


def tests_for(path: Path, imported: dict[Path, set[str]]) -> list[list[str]]:
    """Test files in the order they run: those that mirror or import the file, then those one import further away."""
    module = module_of(path)
    own = REPO / "tests" / "unit" / path.relative_to(SRC / "minilm").with_name(f"test_{path.name}")
    users = {module_of(file) for file in (SRC / "minilm").rglob("*.py") if module in imported[file]}
    tests = [file for file in imported if file.name.startswith("test_")]
    near = {file for file in tests if module in imported[file]} | ({own} if own.is_file() else set())
    far = {file for file in tests if users & imported[file]} - near
    return [sorted(str(file.relative_to(REPO)) for file in group) for group in (near, far)]


def pytest_run(source: Path, files: Sequence[str]) -> tuple[bool, str]:
    """Whether all tests pass with the package at `source`, and the first that does not."""
    options = ["-q", "-x", "--numprocesses=0", "-p", "no:cacheprovider", "-m", "not slow", "-o", f"pythonpath={source}"]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *options, *files]
    try:
        done = subprocess.run(
            command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"not finished in {SECONDS} seconds"
    if done.returncode in (0, 5):  # 5: every test is deselected
        return True, ""
    failed = [line for line in done.stdout.split("\n") if line.startswith(("FAILED ", "ERROR "))]
    return False, (failed or done.stdout.strip().split("\n"))[-1].removeprefix("FAILED ").partition(" - ")[0]


def copied(folder: str) -> Path:
    """A copy of the source below `folder`, with the recipes beside it."""
    shutil.copytree(SRC, Path(folder) / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "recipes", Path(folder) / "recipes")
    return Path(folder) / "src"


def judged(path: Path, change: Mutant, groups: Sequence[Sequence[str]]) -> dict[str, object]:
    """Run the tests on one mutant."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        source = copied(folder)
        (source / path.relative_to(SRC)).write_text(change.text, encoding="utf-8")
        caught_by = ""
        for files in groups:
            passed, caught_by = pytest_run(source, files) if files else (True, "")
            if not passed:
                break
    return {
        **key_of(path, change),
        "caught": bool(caught_by),
        "caught_by": caught_by,
        "seconds": round(time.monotonic() - started, 1),
    }


def key_of(path: Path, change: Mutant) -> dict[str, object]:
    """What makes two mutants of two runs the same."""
    file = path.relative_to(REPO).as_posix()
    return {"file": file, "line": change.line, "kind": change.kind, "before": change.before, "after": change.after}


def failing(groups: Sequence[Sequence[str]]) -> list[str]:
    """Test files that fail without any mutant."""
    with tempfile.TemporaryDirectory() as folder:
        source = copied(folder)
        left, found = sorted({file for group in groups for file in group}), []
        while left:
            passed, first = pytest_run(source, left)
            if passed:
                break
            bad = next((file for file in left if first.removeprefix("ERROR ").startswith(file)), None)
            if bad is None:
                raise SystemExit(f"error: the tests do not run without a mutant: {first}")
            found.append(bad)
            left.remove(bad)
    return found


def write(result: dict[str, object]) -> None:
    """Store the result, whole or not at all."""
    rows = result["mutants"]
    assert isinstance(rows, list)
    caught = sum(row["caught"] for row in rows)
    result |= {"judged": len(rows), "caught": caught, "rate": round(caught / max(1, len(rows)), 3)}
    aside = RESULT.with_suffix(".tmp")
    aside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(RESULT)


def main() -> int:
    """Judge the sample; 1 when less than 90% are caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="mutants in the sample (default 60)")
    parser.add_argument("--seed", type=int, default=13, help="of the sample (default 13)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants judged at a time (default 1)")
    parser.add_argument("--limit", type=int, default=None, help="judge at most so many in this run")
    arguments = parser.parse_args()
    chosen = sample(arguments.count, arguments.seed)
    old = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"mutants": []}
    key = tuple(key_of(*chosen[0]))
    known = {tuple(row[name] for name in key): row for row in old["mutants"]}
    rows = [known[place] for one in chosen if (place := tuple(key_of(*one).values())) in known]
    todo = [one for one in chosen if tuple(key_of(*one).values()) not in known][: arguments.limit]
    sources = [path for path in (SRC / "minilm").rglob("*.py")]
    tests = [path for suite in SUITES for path in (REPO / "tests" / suite).rglob("test_*.py")]
    imported = {path: imports_of(path) for path in (*sources, *tests)}
    groups = {path: tests_for(path, imported) for path, _ in todo}
    broken = failing([group for found in groups.values() for group in found]) if todo else old.get("left_out", [])
    result = {"machine": _machine(), "seed": arguments.seed, "sample": len(chosen), "left_out": broken, "mutants": rows}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        usable = {path: [[one for one in group if one not in broken] for group in groups[path]] for path in groups}
        for row in pool.map(lambda one: judged(*one, usable[one[0]]), todo):
            rows.append(row if row["caught"] else {**row, "reason": ""})
            write(result)
            say(
                f"{len(rows):3} {'caught  ' if row['caught'] else 'SURVIVED'} {row['file']}:{row['line']} {row['kind']}"
            )
    write(result)
    survivors = [row for row in rows if not row["caught"]]
    say(f"{len(rows) - len(survivors)} of {len(rows)} caught; {RESULT.relative_to(REPO)}")
    return int(len(survivors) > 0.1 * len(rows))


def say(line: str) -> None:
    """Print, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _machine() -> dict[str, object]:
    return {
        "name": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
