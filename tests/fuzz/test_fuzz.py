"""A short run of all fuzzers finds no fault; a planted one is found."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from minilm.infer.api import load
from minilm.kernels.encoder import library_reason

spec = importlib.util.spec_from_file_location("fuzz_run", Path(__file__).with_name("run.py"))
assert spec is not None
assert spec.loader is not None
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)


@pytest.mark.parametrize(("name", "cases"), [("models", 300), ("inputs", 20), ("int8", 100)])
def test_damaged_files_end_in_an_own_error_or_a_result(name: str, cases: int) -> None:
    if name not in run.TARGETS:
        pytest.skip(library_reason())
    assert run.fuzz(name, seed=1, cases=cases) == (cases, [])


def test_the_files_that_are_damaged_are_good(tmp_path: Path) -> None:
    for name, (make, use) in run.TARGETS.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name)
        use(tmp_path / name)
    assert load(tmp_path / "models").labels == ("no", "yes")
    assert (tmp_path / "inputs" / "corpus2" / "manifest.json").is_file()


def test_a_fault_is_found_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(folder: Path) -> None:
        json.loads((folder / "task.json").read_text())["kind"]

    def make(folder: Path) -> None:
        for name in ("task.json", *"abc"):
            (folder / name).write_text('{"kind": 1}')

    monkeypatch.setitem(run.TARGETS, "planted", (make, use))
    number, faults = run.fuzz("planted", seed=0, cases=30)
    assert number == 30
    assert faults
    assert all(fault.startswith("case ") for fault in faults)
    assert run.fuzz("planted", seed=0, cases=30) == (30, faults)


def test_the_time_limit_ends_a_run() -> None:
    assert run.fuzz("inputs", seed=0, seconds=0) == (0, [])
