"""The checks for a GPU run from the first part to the last on a CPU too, and lose nothing where a part fails."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu"


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(GPU.parent)
    monkeypatch.syspath_prepend(GPU)
    return importlib.import_module("checks")


def run(checks, monkeypatch, file):
    monkeypatch.setattr("sys.argv", ["checks.py", "--json", str(file), "--device", "cpu", "--tiny"])
    code = checks.main()
    return code, json.loads(file.read_text())


@pytest.mark.slow
def test_all_parts_run_on_a_cpu(checks, monkeypatch, tmp_path):
    code, found = run(checks, monkeypatch, tmp_path / "tiny.json")
    assert code == 0, found["errors"]
    assert {row["part"] for row in found["rows"]} == {*checks.PARTS}
    assert (found["device"], found["size"]) == ("cpu", "tiny")
    assert all(row["holds"] for row in found["rows"] if "check" in row)
    engines = {row["check"]: row["by"] for row in found["rows"] if "by" in row}
    assert engines["teacher, padded, fp32"] == "transformers, padded"
    assert all(row["tokens/s"] > 0 for row in found["rows"] if "tokens/s" in row)


def test_rows_are_kept_and_later_parts_run_where_one_fails(checks, monkeypatch, tmp_path):
    def fails(cases):
        yield {"check": "a", "difference": float("nan"), "holds": False}
        raise RuntimeError("no such kernel")

    def works(cases):
        assert json.loads((tmp_path / "tiny.json").read_text())["errors"]  # written after each part
        yield {"check": "b", "holds": False}

    monkeypatch.setattr(checks, "PARTS", {"first": fails, "second": works})
    code, found = run(checks, monkeypatch, tmp_path / "tiny.json")
    assert code == 1
    assert [row["part"] for row in found["rows"]] == ["first", "second"]
    assert found["rows"][0]["difference"] is None
    assert found["errors"] == {"first": "RuntimeError: no such kernel"}
    monkeypatch.setattr(checks, "LIMIT", -1.0)
    code, found = run(checks, monkeypatch, tmp_path / "tiny.json")
    assert (code, found["left out"], found["rows"]) == (1, ["first", "second"], [])


def test_a_difference_or_a_number_that_is_none_breaks_its_bound(checks):
    parity = importlib.import_module("parity")
    ones = torch.ones(3)
    for found, holds in ((ones, True), (ones + 1e-6, True), (ones + 1e-3, False), (ones * torch.nan, False)):
        assert parity.compared("x", [ones], [found], 1e-5)["holds"] is holds
