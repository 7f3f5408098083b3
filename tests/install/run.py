"""Install the shipped packages in new environments, once with the lowest versions that `pyproject.toml` allows.

In: this checkout and a package index. Out: exit status 0 if the wheel without extras, the sdist, and the lower bounds
of all dependencies work, and an older sentence-transformers reads what minilm writes; otherwise the failed command.
`make test-install` runs it; it takes a few minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SECONDS = 1200  # per command
UNTESTED = {"openvino", "nncf", "onnxruntime", "onnx", "ctranslate2"}  # engines of other houses, for benchmarks
TESTED_BOUNDS_OF_DEV = ("pytest", "pytest-xdist", "pytest-timeout", "hypothesis", "scikit-learn", "scipy")
LAST_RELEASE_5 = "sentence-transformers>=5,<6"  # the tests have the locked release, a later one
SMOKE_TESTS = ("tests/unit/text", "tests/unit/score", "tests/unit/report", "tests/unit/files", "tests/unit/model")


def main() -> None:
    """Run all three checks in a folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(sys.executable, "-m", "hatchling", "build", "-d", work / "dist", cwd=ROOT)
        (wheel,), (sdist,) = (work / "dist").glob("*.whl"), (work / "dist").glob("*.tar.gz")
        python = new_environment(work / "core")
        install(python, "--constraint", ROOT / "requirements.lock", wheel)
        use(python, work)
        run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "minilm", cwd=work)
        install(python, "--no-deps", sdist)
        use(python, work)
        install(python, LAST_RELEASE_5)
        run(python, ROOT / "tests" / "install" / "sentence_folders.py", cwd=work)
        python = new_environment(work / "lowest")
        install(python, *lowest_versions(), wheel)
        use(python, work)
        run(python, "-m", "pytest", "-q", "-m", "not slow and not gpu", *SMOKE_TESTS, cwd=ROOT)
    print("wheel, sdist, sentence-transformers 5 and lowest versions: all work")


def use(python: Path, work: Path) -> None:
    """Do what a user does first, in a folder without this checkout."""
    minilm = python.with_name("minilm")
    run(python, "-c", "import minilm, sys; assert 'torch' not in sys.modules; print(minilm.__version__)", cwd=work)
    run(minilm, "--help", cwd=work)
    facts = run(minilm, "doctor", cwd=work)
    if os.environ.get("MINILM_KERNELS") == "require" and "libminilm_kernels.so" not in facts:
        raise SystemExit(f"minilm doctor: expected the compiled kernels, found:\n{facts}")
    shipped = len(list((ROOT / "recipes").rglob("*.yaml")))
    listed = run(minilm, "recipes", "list", cwd=work)
    if listed.count("\n") < shipped:
        raise SystemExit(f"minilm recipes list shows fewer than the {shipped} recipes of the checkout:\n{listed}")
    labels = '{"id": "a", "label": 1, "prediction": 1}\n{"id": "b", "label": 0, "prediction": 1}\n'
    (work / "rows.jsonl").write_text(labels, encoding="utf-8")
    both = ("--predictions", "rows.jsonl", "--references", "rows.jsonl")
    score = run(minilm, "score", "glue", "--task", "mrpc", *both, cwd=work)
    if "accuracy  50.0000" not in score:
        raise SystemExit(f"minilm score glue: expected an accuracy of 50, found:\n{score}")


def lowest_versions() -> list[str]:
    """Lower bounds of all dependencies and extras as pinned versions; of `dev` only those that run the tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = dict(project["optional-dependencies"])
    dev = [bound for bound in extras.pop("dev") if name_of(bound) in TESTED_BOUNDS_OF_DEV]
    optional = [bound for extra in extras.values() for bound in extra if name_of(bound) not in UNTESTED]
    bounds = [*project["dependencies"], *optional, *dev]
    return [bound.replace(">=", "==") for bound in bounds]


def name_of(bound: str) -> str:
    return re.split(r"[<>=!~ ]", bound)[0]


def new_environment(folder: Path) -> Path:
    """The interpreter of a new virtual environment."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def install(python: Path, *what: object) -> None:
    run(python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *what, cwd=python.parent)


def run(*command: object, cwd: Path) -> str:
    """Return the output of a command; exit if it fails."""
    words = [str(word) for word in command]
    print("+", " ".join(words), flush=True)
    done = subprocess.run(words, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS)
    if done.returncode:
        raise SystemExit(f"exit status {done.returncode} of {' '.join(words)}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
