"""Measure how many small changes to the source the tests catch: `python tests/mutants/run.py [--jobs 2]`.

In: a seeded sample of mutants over the rooms whose numbers matter. Out: `benchmarks/results/mutants.json` with each
mutant, whether a test failed, and the survivors, whose `reason` is filled in by hand and kept. A stopped run
resumes. Not part of `make test`.

Each mutant has its own copy of the source. The tests that mirror or import its file run first, then the parity and
property tests and those of its room that import a module which imports it; slow tests do not run. Each run is a fork
of one process that has imported torch and the other libraries. A failed test, an error and a run past the time limit
count as caught. Tests that fail without any mutant are left out and reported.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
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
LIBRARIES = ("numpy", "torch", "tokenizers", "transformers", "hypothesis", "pydantic", "pytest")
FORKS = multiprocessing.get_context("forkserver")


def sample(count: int, seed: int) -> list[tuple[Path, Mutant]]:
    """`count` mutants drawn from all of the rooms."""
    files = [path for room in ROOMS for path in sorted((SRC / "minilm" / room).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    found = [(path, *place) for path in files for place in places(texts[path])]
    chosen = random.Random(seed).sample(found, min(count, len(found)))
    return [(path, mutant(texts[path], number, kind)) for path, number, kind in chosen]


def module_of(path: Path) -> str:
    """The module name of a file, such as `minilm.decode.beam`."""
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


def mirrors(path: Path) -> list[Path]:
    """The unit tests of a source file, by name: `test_beam.py` or `test_beam_search.py` for `beam.py`."""
    folder = REPO / "tests" / "unit" / path.relative_to(SRC / "minilm").parent
    return sorted({*folder.glob(f"test_{path.stem}.py"), *folder.glob(f"test_{path.stem}_*.py")})


def tests_for(path: Path, imported: dict[Path, set[str]]) -> list[str]:
    """Test files, nearest first: those that mirror or import the file, then those of the modules that import it.

    The latter are the mirrors of these modules, and what imports them in its room, in parity and in properties.
    """
    module = module_of(path)
    users = {file for file in (SRC / "minilm").rglob("*.py") if module in imported[file]}
    names = {module_of(file) for file in users}
    room = REPO / "tests" / "unit" / path.relative_to(SRC / "minilm").parts[0]
    nearby = (room, REPO / "tests" / "parity", REPO / "tests" / "property")
    tests = sorted(file for file in imported if file.name.startswith("test_"))
    near = [file for file in tests if module in imported[file]]
    far = [file for file in tests if names & imported[file] and any(folder in file.parents for folder in nearby)]
    ordered = dict.fromkeys([*mirrors(path), *near, *(test for user in sorted(users) for test in mirrors(user)), *far])
    return [str(file.relative_to(REPO)) for file in ordered]


def tests_in_child(source: Path, files: Sequence[str], record: Path) -> None:
    """In a forked child that has imported the libraries, run pytest on the package at `source`; output to `record`."""
    os.setpgid(0, 0)  # one group with everything the tests start
    os.environ.update(PYTHONPATH=str(source), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(source))
    os.chdir(REPO)
    output = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    options = ["-q", "-x", "--numprocesses=0", "-p", "no:cacheprovider", "-m", "not slow", "-o", f"pythonpath={source}"]
    import pytest

    code = pytest.main([*options, *files])
    sys.stdout.flush()
    os._exit(code)


def pytest_run(source: Path, files: Sequence[str]) -> tuple[bool, str]:
    """Whether all tests pass with the package at `source`, and the first that fails."""
    record = source.parent / "output.txt"
    child = FORKS.Process(target=tests_in_child, args=(source, files, record))
    child.start()
    child.join(SECONDS)
    if child.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid or 0, signal.SIGKILL)
        child.join()
        return False, f"not finished in {SECONDS} seconds"
    if child.exitcode in (0, 5):  # 5: every test is deselected
        return True, ""
    lines = record.read_text(encoding="utf-8", errors="replace").strip().split("\n")
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return False, (failed or lines)[-1].removeprefix("FAILED ").partition(" - ")[0]


def copied(folder: str) -> Path:
    """Copy the source into `folder`, with the recipes beside it."""
    shutil.copytree(SRC, Path(folder) / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "recipes", Path(folder) / "recipes")
    return Path(folder) / "src"


def judged(path: Path, change: Mutant, files: Sequence[str]) -> dict[str, object]:
    """Run the tests on one mutant."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        source = copied(folder)
        (source / path.relative_to(SRC)).write_text(change.text, encoding="utf-8")
        _, caught_by = pytest_run(source, files) if files else (True, "")
    return {
        **key_of(path, change),
        "caught": bool(caught_by),
        "caught_by": caught_by,
        "seconds": round(time.monotonic() - started, 1),
    }


def key_of(path: Path, change: Mutant) -> dict[str, object]:
    """What identifies a mutant across runs."""
    file = path.relative_to(REPO).as_posix()
    return {"file": file, "line": change.line, "kind": change.kind, "before": change.before, "after": change.after}


def failing(files: Iterable[str]) -> list[str]:
    """Test files that fail without any mutant."""
    with tempfile.TemporaryDirectory() as folder:
        source = copied(folder)
        left, found = sorted(set(files)), []
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
    """Store the result atomically."""
    rows = result["mutants"]
    assert isinstance(rows, list)
    caught = sum(row["caught"] for row in rows)
    result |= {"judged": len(rows), "caught": caught, "rate": round(caught / max(1, len(rows)), 3)}
    aside = RESULT.with_suffix(".tmp")
    aside.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(RESULT)


def main() -> int:
    """Judge the sample; return 1 if less than 90% are caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="mutants in the sample (default 60)")
    parser.add_argument("--seed", type=int, default=13, help="of the sample (default 13)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants judged at a time (default 1)")
    parser.add_argument("--limit", type=int, default=None, help="judge at most N in this run")
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
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")  # before torch: the jobs share the cores
    FORKS.set_forkserver_preload(list(LIBRARIES))
    tests_of = {path: tests_for(path, imported) for path, _ in todo}
    broken = failing(file for files in tests_of.values() for file in files) if todo else old.get("left_out", [])
    result = {"machine": _machine(), "seed": arguments.seed, "sample": len(chosen), "left_out": broken, "mutants": rows}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        usable = {path: [file for file in files if file not in broken] for path, files in tests_of.items()}
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
    """Print and flush."""
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
