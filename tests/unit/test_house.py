"""The walls and rules of the house, checked on the source itself."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SRC = REPO / "src" / "minilm"
FILES = sorted(SRC.rglob("*.py"))
PYTHON_FILES = sorted(
    path for folder in ("src", "tests", "benchmarks", "examples") for path in (REPO / folder).rglob("*.py")
)
SHIPPED = [*FILES, *sorted((REPO / "examples").rglob("*.py"))]
IO_MODULES = {
    "io",
    "os",
    "pathlib",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "urllib",
    "http",
    "json",
    "pickle",
}
BINARY_READERS = {
    *("bz2", "gzip", "lzma", "marshal", "mmap", "pickle", "pickletools", "pyarrow"),
    *("safetensors", "shelve", "struct", "tarfile", "zipfile", "zlib"),
}
MAY_READ = {
    "storage.py": {"safetensors"},
    "legacy_bin.py": {"mmap", "pickletools", "struct", "zipfile"},
    "corpus/readers.py": {"gzip", "zlib", "pyarrow"},  # text files: .gz and .parquet
}


def imports_of(path: Path) -> set[str]:
    """Full names of everything a file imports anywhere, `from a import b` as `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def rooms_of(path: Path) -> set[str]:
    """The rooms of minilm a file imports from, such as `model` or `storage`."""
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("minilm.")}


def roots_of(path: Path) -> set[str]:
    return roots(imports_of(path))


def in_room(room: str) -> list[Path]:
    return [path for path in FILES if path.relative_to(SRC).parts[0] == room]


def modules_of(room: str) -> list[str]:
    parts = (path.relative_to(SRC).with_suffix("").parts for path in in_room(room))
    return [".".join(("minilm", *part)).removesuffix(".__init__") for part in parts]


def rooms_loaded(*modules: str) -> set[str]:
    """The rooms that a fresh Python has loaded after importing these modules."""
    loaded = loaded_after(f"import {', '.join(modules)}")
    return {module.split(".")[1] for module in loaded if module.startswith("minilm.")}


def name(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


@pytest.mark.parametrize("path", in_room("model"), ids=name)
def test_model_imports_nothing_above_it(path):
    assert rooms_of(path) <= {"model", "errors", "storage"}


def test_model_loads_nothing_above_it():
    assert rooms_loaded(*modules_of("model")) == {"model", "errors", "storage", "atomic", "legacy_bin"}


@pytest.mark.parametrize("path", [*in_room("text"), *in_room("corpus")], ids=name)
def test_lower_rooms_know_nothing_of_training(path):
    assert not rooms_of(path) & {"distill", "train", "tasks", "infer", "quickstart", "recipe", "cli"}


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in FILES
        if path.relative_to(SRC).as_posix() in ("distill/relations.py", "decode/constraints.py")
        or (path.parent.name == "score" and path.name not in ("report.py", "curves.py"))
    ],
    ids=name,
)
def test_pure_files_do_no_io(path):
    """`score/report.py` writes the report and `score/curves.py` draws into memory; metrics are pure."""
    assert not roots_of(path) & IO_MODULES
    assert not rooms_of(path) & {"storage", "corpus", "train", "cli"}


@pytest.mark.parametrize("path", in_room("decode"), ids=name)
def test_decoding_knows_models_and_text_only(path):
    assert rooms_of(path) <= {"decode", "model", "text", "errors", "storage"}


@pytest.mark.parametrize("path", in_room("infer"), ids=name)
def test_inference_never_imports_training(path):
    assert not rooms_of(path) & {"train", "distill"}
    assert "transformers" not in roots_of(path)


def test_inference_loads_no_training():
    """What a user of a finished model waits for and needs installed: also through other rooms, nothing of these."""
    loaded = loaded_after(f"import {', '.join(modules_of('infer'))}")
    assert "minilm.infer.api" in loaded
    assert not roots(loaded) & {"transformers", "pydantic", "typer"}
    assert not {module.split(".")[1] for module in loaded if module.startswith("minilm.")} & {
        *("train", "distill", "quickstart", "recipe", "cli")
    }


@pytest.mark.parametrize("path", FILES, ids=name)
def test_names_are_imported_from_where_they_are_defined(path):
    """`from minilm import load` inside the package would reach another room around its wall."""
    rooms = {entry.name.removesuffix(".py") for entry in SRC.iterdir()}
    assert rooms_of(path) <= {*rooms, "__version__"} or path == SRC / "__init__.py"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_transformers_is_imported_in_one_place(path):
    assert "transformers" not in roots_of(path) or name(path) == "src/minilm/distill/teacher.py"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_foreign_bytes_are_read_in_one_place(path):
    """Model files in `storage.py` and `legacy_bin.py`; compressed text and parquet in `corpus/readers.py`."""
    file, text = path.relative_to(SRC).as_posix(), path.read_text(encoding="utf-8")
    assert roots_of(path) & BINARY_READERS <= MAY_READ.get(file, set())
    assert not re.search(r"\btorch\.(load|save)\(|\bnp\.(load|fromfile)\(", text)
    assert file == "storage.py" or "np.memmap(" not in text


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_files_stay_under_500_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_files_say_what_they_are_and_have_a_real_name(path):
    assert path.name not in ("utils.py", "misc.py", "helpers.py", "common.py")
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_functions_stay_small(path):
    """Under 60 lines and at most 6 positional parameters (a command's parameters are its flags)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            own = names[1:] if names[:1] in (["self"], ["cls"]) else names
            assert path.parent.name == "cli" or len(own) <= 6, f"{node.name}: parameters"


@pytest.mark.parametrize("path", SHIPPED, ids=name)
def test_random_numbers_have_a_seed(path):
    """No global generator: nothing may depend on what ran before."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\bnp\.random\.(?!Generator|default_rng|PCG64|Philox|SeedSequence|BitGenerator)\w+", text)
    assert "random" not in imports_of(path)


def roots(modules: Iterable[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def loaded_after(code: str) -> set[str]:
    """Full names of all modules in a fresh Python after `code`."""
    env = {**os.environ, "PYTHONPATH": str(REPO / "src")}
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["minilm", "minilm.errors", "minilm.recipe", "minilm.cli.app"])
def test_light_modules_import_no_torch(module):
    assert not roots(loaded_after(f"import {module}")) & {"torch", "transformers"}


@pytest.mark.parametrize("path", [*in_room("text"), *in_room("corpus"), *in_room("cli")], ids=name)
def test_text_and_corpus_import_no_torch_at_the_top(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert not {one.partition(".")[0] for one in names} & {"torch", "transformers"}


def test_public_names_come_from_where_they_are_defined():
    import minilm

    for public in minilm.__all__:
        home = minilm._HOME.get(public)
        if home is None or not (SRC / (home.removeprefix("minilm.").replace(".", "/") + ".py")).is_file():
            continue
        assert getattr(minilm, public).__name__ == public
    assert set(minilm.__all__) <= set(dir(minilm))
    with pytest.raises(AttributeError, match="module 'minilm' has no attribute 'nothing'"):
        _ = minilm.nothing


def test_importing_a_room_hides_no_public_name():
    """A public name that is also a subpackage would be one or the other, depending on what ran before."""
    import minilm

    assert not set(minilm.__all__) & {path.name for path in SRC.iterdir()}


def test_the_version_is_the_same_everywhere():
    import minilm

    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{minilm.__version__}"\n' in text
    assert f"## {minilm.__version__}" in (REPO / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_lock_holds_every_dependency_and_extra():
    """A name in pyproject.toml that the lock lacks would be missing after `make venv`."""
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    lists = text[text.index("\ndependencies = [") : text.index("[project.scripts]")]
    wanted = {match.lower().replace("_", "-") for match in re.findall(r'"([A-Za-z0-9_.-]+)>=', lists)}
    lock = (REPO / "requirements.lock").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, flags=re.MULTILINE))
    assert wanted | {"hatchling", "editables"} <= pinned
