"""The quickstart in a few seconds: every part is real, only the number of steps is small."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from minilm.export.gate import GateFailed
from minilm.infer.engines.int8 import Int8Maps, map_names, write_int8
from minilm.model.metadata import read_config
from minilm.quickstart import run as quickstart_run
from minilm.quickstart import vectors
from minilm.quickstart.run import DISTILLED, TEACHER, UNDISTILLED, quickstart
from minilm.quickstart.text import text_of_files
from minilm.recipe import DistillRecipe, FinetuneRecipe, load_recipe, resolved_yaml


def _few(path, overrides):
    return path, [*overrides, "train.batch_size=8", "train.warmup_fraction=0"]


@pytest.fixture
def short(monkeypatch, repo_dir, tmp_path):
    def load_short(path, overrides, *, kind):
        few = {
            DistillRecipe: ["train.warmup_steps=0", "data.heldout_documents=4"],
            FinetuneRecipe: ["train.warmup_fraction=0"],
        }
        return load_recipe(path, [*overrides, *few[kind], "train.steps=4", "train.batch_size=8"], kind=kind)

    def quantize_some(folder, out):
        """The teacher does not pass; of the student, which does, no map becomes int8."""
        if (config := read_config(folder)).num_layers == 6:
            raise GateFailed("the teacher is not written in int8", [])
        shutil.copytree(folder, out)
        write_int8(out, Int8Maps(smoothing={}, kept=tuple(map_names(config))), {})

    monkeypatch.setattr(quickstart_run, "load_recipe", load_short)
    monkeypatch.setattr(vectors, "load_recipe", lambda *args, kind: load_recipe(*_few(*args), kind=kind))
    monkeypatch.setattr(vectors, "_num_steps", lambda texts, run, seed: 12)
    monkeypatch.setattr(vectors, "quantize", quantize_some)
    pages = [shutil.copy(page, tmp_path / f"{page.stem}.txt") for page in sorted((repo_dir / "docs").glob("*.md"))]
    whole = text_of_files(pages)
    return replace(whole, train=whole.train[::13], heldout=whole.heldout[::10], unlabelled=whole.unlabelled[:60])


@pytest.mark.slow
def test_three_rows_of_each_table_have_measured_numbers(real_model_dir, short, tmp_path, caplog):
    tables = quickstart(short, tmp_path / "run")
    rows = tables.rows
    assert [row.name for row in rows] == [TEACHER, DISTILLED, UNDISTILLED]
    saved = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert [set(row) for row in saved["rows"]] == [
        {"name", "parameters", "megabytes", "sentences_per_second", "heldout_loss", "accuracy"}
    ] * 3
    teacher, distilled, undistilled = rows
    assert teacher.parameters == 22_713_216
    assert distilled.parameters == undistilled.parameters == 17_389_824
    assert teacher.heldout_loss == pytest.approx(0.0, abs=1e-5)
    assert 0.0 < distilled.heldout_loss < undistilled.heldout_loss
    assert all(0.0 <= row.accuracy <= 1.0 and row.sentences_per_second > 0 for row in rows)
    for folder in ("distill", "fine-tune-teacher", "fine-tune-student-distilled", "fine-tune-student-not-distilled"):
        assert (tmp_path / "run" / folder / "metrics.jsonl").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
    assert_vectors_are_compared(tables.vectors, saved["vectors"])
    assert "the teacher is not written in int8" in caplog.text
    assert "<h2>Text vectors</h2>" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def assert_vectors_are_compared(rows, saved):
    """The distilled student agrees better with the teacher than its start; no speed is judged."""
    assert [row["name"] for row in saved] == [row.name for row in rows] == [TEACHER, DISTILLED, UNDISTILLED]
    teacher, distilled, undistilled = rows
    assert (teacher.correlation, teacher.nearest) == pytest.approx((1.0, 1.0))
    assert undistilled.correlation < distilled.correlation < 1.0
    assert undistilled.nearest < distilled.nearest < 1.0
    assert (teacher.parameters, distilled.parameters, undistilled.parameters) == (22_713_216, 17_389_824, 17_389_824)
    assert min(teacher.fp32, distilled.fp32, distilled.int8) > 0
    assert teacher.int8 is None
    assert {row.sentence_transformers is None for row in (teacher, distilled)} == {find_spec(vectors._LIBRARY) is None}
    assert (undistilled.fp32, undistilled.int8, undistilled.sentence_transformers) == (None, None, None)


def test_steps_fit_the_time_until_the_run_has_begun(real_model_dir, monkeypatch, tmp_path):
    monkeypatch.setattr(vectors, "load_recipe", lambda *args, kind: load_recipe(*_few(*args), kind=kind))
    monkeypatch.setattr(vectors, "_TIMED_STEPS", 1)
    monkeypatch.setattr(vectors, "_SECONDS", 3600.0)
    texts = [f"text number {number}" for number in range(40)]
    assert vectors._num_steps(texts, tmp_path / "run", seed=1) > 100
    assert list(tmp_path.iterdir()) == []
    begun = vectors._recipe_of(texts, tmp_path / "run", **{"train.steps": 3})  # reads 24 texts
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.resolved.yaml").write_text(resolved_yaml(begun), encoding="utf-8")
    assert vectors._num_steps(texts, tmp_path / "run", seed=1) == 3
    assert len((tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()) == 24


def test_correlation_is_of_ranks_of_pairs():
    """Independent of scipy: three texts, three pairs; the second model orders two pairs the other way round."""
    angles = np.radians([[0, 10, 30], [0, 25, 30]])
    first, second = (np.stack([np.cos(row), np.sin(row)], axis=1).astype(np.float32) for row in angles)
    assert vectors.correlation(first, first) == pytest.approx(1.0)
    assert vectors.correlation(first, second) == pytest.approx(0.5)
