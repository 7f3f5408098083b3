"""The quickstart in a few seconds: every part is real, only the number of steps is small."""

import json
import shutil
from dataclasses import replace

import pytest

from minilm.quickstart import run as quickstart_run
from minilm.quickstart.run import DISTILLED, TEACHER, UNDISTILLED, quickstart
from minilm.quickstart.text import text_of_files
from minilm.recipe import DistillRecipe, FinetuneRecipe, load_recipe


@pytest.fixture
def short(monkeypatch, repo_dir, tmp_path):
    def load_short(path, overrides, *, kind):
        few = {
            DistillRecipe: ["train.warmup_steps=0", "data.heldout_documents=4"],
            FinetuneRecipe: ["train.warmup_fraction=0"],
        }
        return load_recipe(path, [*overrides, *few[kind], "train.steps=4", "train.batch_size=8"], kind=kind)

    monkeypatch.setattr(quickstart_run, "load_recipe", load_short)
    pages = [shutil.copy(page, tmp_path / f"{page.stem}.txt") for page in sorted((repo_dir / "docs").glob("*.md"))]
    whole = text_of_files(pages)
    return replace(whole, train=whole.train[::13], heldout=whole.heldout[::10], unlabelled=whole.unlabelled[:60])


@pytest.mark.slow
def test_three_rows_have_measured_numbers(real_model_dir, short, tmp_path):
    rows = quickstart(short, tmp_path / "run")
    assert [row.name for row in rows] == [TEACHER, DISTILLED, UNDISTILLED]
    saved = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["rows"]
    assert [set(row) for row in saved] == [
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
