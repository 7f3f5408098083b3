"""The house rules, checked on the source itself; each test lists everything that breaks its rule."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from minilm import environment

REPO = Path(__file__).resolve().parents[2]
SRC = REPO / "src" / "minilm"
BINARY_READERS = {
    *("bz2", "gzip", "lzma", "marshal", "mmap", "pickle", "pickletools", "pyarrow"),
    *("safetensors", "shelve", "struct", "tarfile", "zipfile", "zlib"),
}
MAY_READ = {
    "files/tensors.py": {"safetensors", "mmap"},
    "files/torch_bin.py": {"mmap", "pickletools", "struct", "zipfile"},
    "files/sentencepiece.py": {"struct"},
    "files/formats.py": {"gzip", "zlib", "pyarrow"},  # text files: .gz and .parquet
    "files/row_writer.py": {"pyarrow"},  # writes .parquet
    "files/text_store.py": {"pyarrow"},  # writes .parquet, and reads it again
    "files/vector_writer.py": {"pyarrow"},  # and numbers as text
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOSE_RANDOM = re.compile(r"\bnp\.random\.(?!Generator|default_rng|PCG64|Philox|SeedSequence|BitGenerator)\w+")


def test_foreign_bytes_are_read_in_one_place(package):
    """Model and tokenizer files in three modules of `files/`; compressed text and parquet in `files/formats.py`."""
    wrong = [
        f"{file.module}: {name}"
        for file in package
        for name in sorted(file.roots & BINARY_READERS - MAY_READ.get(file.module, set()))
    ]
    calls = re.compile(r"\btorch\.(?:load|save)\(|\bnp\.(?:load|fromfile|memmap)\(")
    wrong += [
        f"{file.module}: {call}"
        for file in package
        for call in calls.findall(file.text)
        if (file.module, call) != ("files/tensors.py", "np.memmap(")
    ]
    assert not wrong, wrong


def test_files_stay_under_500_lines(everything):
    wrong = [file.name for file in everything if len(file.text.splitlines()) > 500]
    assert not wrong, wrong


def test_files_have_a_docstring_and_a_specific_name(shipped):
    vague = ("utils.py", "misc.py", "helpers.py", "common.py")
    wrong = [file.name for file in shipped if file.path.name in vague or not ast.get_docstring(file.tree)]
    assert not wrong, wrong


def test_functions_stay_small(shipped):
    """Under 60 lines and at most 6 positional parameters; but for commands and Triton code."""
    wrong = []
    for file in shipped:
        for node in ast.walk(file.tree):
            if not isinstance(node, FUNCTIONS):
                continue
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            own = names[1:] if names[:1] in (["self"], ["cls"]) else names
            if (node.end_lineno or 0) - node.lineno >= 60:
                wrong.append(f"{file.name}: {node.name} is too long")
            if file.path.parent.name != "cli" and "triton" not in file.roots and len(own) > 6:
                wrong.append(f"{file.name}: {node.name} has {len(own)} positional parameters")
    assert not wrong, wrong


def test_random_numbers_have_a_seed(shipped):
    """No global generator: nothing may depend on what ran before."""
    wrong = [file.name for file in shipped if LOOSE_RANDOM.search(file.text) or "random" in file.imports]
    assert not wrong, wrong


def test_json_lines_are_split_at_line_feeds(everything):
    """`splitlines()` also splits at U+2028 and eight other characters that a JSON string may contain."""
    lines = re.compile(r"loads\(\w+\) for \w+ in .*\.splitlines\(\)")
    wrong = [file.name for file in everything if lines.search(file.text)]
    assert not wrong, wrong


def test_unit_tests_start_no_process(tests):
    """Tests that do are in `process/`, `invariants/`, `faults/` and `resume/`."""
    starters = {"subprocess", "multiprocessing"}
    wrong = [file.name for file in tests if file.name.startswith("tests/unit/") and file.roots & starters]
    assert not wrong, wrong


def test_processes_started_by_tests_have_a_deadline(everything):
    """`subprocess.run`, `communicate` and `wait` have a timeout: a stuck child is a failure, not a hang."""
    wrong = []
    for file in everything:
        if not file.name.startswith("tests/"):
            continue
        for node in ast.walk(file.tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            waits = node.func.attr in ("communicate", "wait") or (
                owner == "subprocess" and node.func.attr in ("run", "call", "check_call", "check_output")
            )
            if waits and not any(keyword.arg in ("timeout", None) for keyword in node.keywords):
                wrong.append(f"{file.name}:{node.lineno}: {ast.unparse(node.func)}")
    assert not wrong, wrong


def test_public_names_come_from_where_they_are_defined():
    import minilm

    values = {name: getattr(minilm, name) for name in minilm._HOME}
    homes = {name: getattr(value, "__module__", minilm._HOME[name]) for name, value in values.items()}
    assert homes == minilm._HOME
    for name, value in values.items():
        assert getattr(value, "__name__", name) == name
    assert set(minilm.__all__) <= set(dir(minilm))
    with pytest.raises(AttributeError, match="module 'minilm' has no attribute 'nothing'"):
        _ = minilm.nothing


def test_type_checkers_see_the_public_names_that_exist_at_run_time():
    tree = ast.parse((SRC / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    import minilm

    assert seen == minilm._HOME


def test_importing_a_room_hides_no_public_name():
    """A public name that is also a subpackage would be one or the other, depending on earlier imports."""
    import minilm

    assert not set(minilm.__all__) & {path.stem for path in SRC.iterdir()}


def test_the_version_is_the_same_everywhere():
    import minilm

    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{minilm.__version__}"\n' in text
    assert f"## {minilm.__version__}" in (REPO / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_lock_lists_every_dependency_and_extra():
    """A name in pyproject.toml that the lock lacks would be missing after `make venv`."""
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    lists = text[text.index("\ndependencies = [") : text.index("[project.scripts]")]
    wanted = {match.lower().replace("_", "-") for match in re.findall(r'"([A-Za-z0-9_.-]+)>=', lists)}
    lock = (REPO / "requirements.lock").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, flags=re.MULTILINE))
    assert (wanted - {*environment._PEERS}) | {"cmake", "editables", "hatchling", "ninja"} <= pinned
