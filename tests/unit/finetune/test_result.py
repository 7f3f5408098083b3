"""Results of finished runs as files: what may be null in them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from minilm.finetune.report import run_rows
from minilm.finetune.result import RunResult, SettingRuns, write_result


def test_only_metrics_may_be_numbers_that_are_not_finite(tmp_path):
    """They are null in the files; any other such number is a mistake of the code, which a null would hide."""
    values = {"seed": 1, "learning_rate": 0.1, "epochs": 1, "batch_size": 1, "best_step": 1, "steps": 1}
    values |= {"train_examples": 1, "parameters": 1, "main_metric": "f1"}
    references = {"base": {"f1": math.inf}}
    result = RunResult(folder=tmp_path, numbers={"f1": math.nan}, references=references, seconds=1.0, **values)
    write_result(result, {})
    written = json.loads((tmp_path / "result.json").read_text())
    assert (written["numbers"], written["references"]) == ({"f1": None}, {"base": {"f1": None}})
    wrong = replace(result, learning_rate=math.nan)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(wrong, {})
    (row,) = run_rows([SettingRuns(runs=[replace(result, best_step=math.inf)])])
    assert (row["f1"], row["best step"]) == (None, math.inf)
