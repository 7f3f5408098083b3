"""Proves what a fine-tuning run leaves behind, what a sweep reports, and what is rejected before work begins."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.commands import rows_of

from minilm.cli.finetune import _table
from minilm.errors import DataError, UsageError
from minilm.finetune.start import start_model
from minilm.finetune.sweep import finetune
from minilm.infer.api import load
from minilm.model.checkpoint import read_model
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.train.best import load_best
from minilm.train.metrics import read_metrics


def run(recipe: Path, *overrides: str):
    return finetune(load_recipe(recipe, overrides, kind=FinetuneRecipe))


@pytest.mark.slow
def test_a_run_learns_and_leaves_everything(tiny_task):
    out = tiny_task.folder / "run"
    [point] = run(tiny_task.recipe(steps=150, eval_every=50))
    [result] = point.runs
    assert result.main > 60  # 30 rows in three classes
    measured = {row["step"]: row["accuracy"] for row in read_metrics(out) if "accuracy" in row}
    assert list(measured) == [50, 100, 150]
    assert result.main == max(measured.values())
    assert measured[result.best_step] == result.main
    assert {"accuracy", "heldout_loss"} <= result.numbers.keys()
    assert load_best(out)[0] == result.best_step
    page = (out / "report.html").read_text()
    assert "Confusion matrix" in page
    assert "Held-out scores" in page
    assert page.count('class="card"') <= 20
    record = json.loads((out / "result.json").read_text())
    assert (record["train_examples"], record["steps"], record["seed"]) == (60, 150, 42)


@pytest.mark.slow
def test_saved_model_predictions_and_score_are_those_of_the_run(tiny_task):
    """The folder alone gives the predictions that the run wrote, through the Python API."""
    out = tiny_task.folder / "run"
    [point] = run(tiny_task.recipe(steps=24, eval_every=12))
    dev = rows_of(tiny_task.folder / "dev.jsonl")
    model = load(out / "model")
    assert model.labels == ("high", "low", "mid")
    assert model.max_tokens == 32
    found = model.classify([row["text"] for row in dev])
    written = rows_of(out / "predictions" / "dev.jsonl")
    assert [row["id"] for row in written] == [row["id"] for row in dev]
    assert [one.label for one in found] == [row["prediction"] for row in written]
    right = np.mean([one.label == row["label"] for one, row in zip(found, dev, strict=True)])
    assert 100 * right == pytest.approx(point.runs[0].main)
    assert all(sum(one.probabilities) == pytest.approx(1) and one.score == max(one.probabilities) for one in found)


@pytest.mark.slow
def test_the_model_folder_loads_in_transformers(tiny_task):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'minilm[hf]'")
    out = tiny_task.folder / "run"
    run(tiny_task.recipe(steps=6))
    theirs, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
        out / "model", output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert theirs.config.id2label == {0: "high", 1: "low", 2: "mid"}
    words = transformers.AutoTokenizer.from_pretrained(out / "model")("word1 word20", return_tensors="pt")
    expected = theirs.eval()(**words).logits.softmax(-1)[0]
    [found] = load(out / "model").classify(["word1 word20"])
    torch.testing.assert_close(torch.tensor(found.probabilities), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_sweep_reports_mean_and_deviation_and_keeps_the_best_model(tiny_task):
    out = tiny_task.folder / "run"
    recipe = tiny_task.recipe(steps=18, sweep={"seeds": [1, 2], "learning_rate": [0.003, 1e-6]})
    points = run(recipe)
    assert [(point.runs[0].learning_rate, len(point.runs)) for point in points] == [(0.003, 2), (1e-6, 2)]
    good, bad = points
    assert good.mean == pytest.approx(statistics.fmean(run.main for run in good.runs))
    assert good.deviation == pytest.approx(statistics.stdev(run.main for run in good.runs))
    assert good.mean > bad.mean
    page = (out / "report.html").read_text()
    assert "best mean" in page
    assert "The MiniLM paper reports the mean over seeds of the best setting" in page
    assert "seed 2.loss</text>" in page
    assert "seed 2 accuracy</text>" in page
    assert "All runs" in page
    best = max(good.runs, key=lambda one: one.main)
    predictions = rows_of(best.folder / "predictions" / "dev.jsonl")
    texts = [row["text"] for row in rows_of(tiny_task.folder / "dev.jsonl")]
    assert [one.label for one in load(out / "model").classify(texts)] == [row["prediction"] for row in predictions]
    assert not [path for path in (out / "runs").glob("*/*") if path.name in ("checkpoints", "best", "model")]
    stored = json.loads((out / "results.json").read_text())
    assert len(stored["runs"]) == 4
    assert best.folder.name == f"lr0.003-steps18-batch{best.batch_size}-seed{best.seed}"
    before = (out / "results.json").read_bytes()
    assert [point.mean for point in run(recipe)] == [point.mean for point in points]  # nothing runs again
    assert (out / "results.json").read_bytes() == before


@pytest.mark.slow
def test_seeds_can_be_added_and_a_model_that_was_not_kept_is_reported(tiny_task, caplog):
    """Only the new runs are executed. The best run of the second sweep is one whose model the first one dropped."""
    out = tiny_task.folder / "run"
    seeds = [1, 2, 3]
    run(tiny_task.recipe(steps=6, sweep={"seeds": seeds}))
    scores = {one["seed"]: one["accuracy"] for one in json.loads((out / "results.json").read_text())["runs"]}
    best = max(seeds, key=lambda seed: scores[seed])
    kept = json.loads((out / "results.json").read_text())["model"]
    assert kept.endswith(f"-seed{best}")
    others = [seed for seed in seeds if seed != best]
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*/result.json")}
    run(tiny_task.recipe(steps=6, sweep={"seeds": others}))
    [said] = [record.getMessage() for record in caplog.records if "deleted by an earlier" in record.getMessage()]
    assert f"{out / 'model'} is the model of {kept}. To recreate it, remove {out / 'runs'}" in said
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((out / "results.json").read_text())["model"] == kept
    Path(said.partition("remove ")[2].partition(" and run")[0]).unlink()
    run(tiny_task.recipe(steps=6, sweep={"seeds": others}))
    assert json.loads((out / "results.json").read_text())["model"] != kept


@pytest.mark.slow
def test_starting_a_sweep_over_removes_nothing_when_its_files_are_missing(tiny_task):
    sweep = {"seeds": [1]}
    run(tiny_task.recipe(steps=2, sweep=sweep))
    kept = tiny_task.folder / "run" / "results.json"
    loaded = load_recipe(tiny_task.recipe(steps=2, sweep=sweep), ["task.train.0=nowhere.jsonl"], kind=FinetuneRecipe)
    with pytest.raises(UsageError, match=r"nowhere\.jsonl: no such file"):
        finetune(loaded, resume="never")
    assert kept.is_file()


@pytest.fixture
def fast_processes(forked, monkeypatch):
    """Runs on devices start as forks."""
    monkeypatch.setattr(sys, "executable", str(forked / "python"))


@pytest.mark.slow
def test_runs_on_two_devices_equal_runs_one_after_another(tiny_task, fast_processes):
    sweep = {"seeds": [1, 2, 3]}
    alone = run(tiny_task.recipe("alone", steps=6, sweep=sweep))
    spread = run(tiny_task.recipe("spread", steps=6, sweep={**sweep, "devices": ["cpu", "cpu"]}))
    assert [one.main for one in alone[0].runs] == [one.main for one in spread[0].runs]


@pytest.mark.parametrize(
    ("devices", "message"),
    [(["gpu"], "found 'gpu'; expected 'cpu' or 'cuda:0'"), (["cuda:99"], "found 'cuda:99', but this machine has")],
)
def test_a_missing_device_is_rejected(tiny_task, devices, message):
    """It is never replaced by the CPU, even if it is the only one."""
    with pytest.raises(UsageError, match=message):
        run(tiny_task.recipe(steps=1, sweep={"seeds": [1], "devices": devices}))


@pytest.mark.slow
def test_a_run_that_dies_on_a_device_says_why(tiny_task, fast_processes):
    recipe = tiny_task.recipe(steps=6, sweep={"seeds": [1, 2], "devices": ["cpu", "cpu"]})
    (tiny_task.folder / "train.jsonl").write_text("")
    with pytest.raises(DataError) as caught:
        run(recipe)
    assert "exited with code 3" in str(caught.value)
    assert "train.jsonl" in str(caught.value)


@pytest.mark.slow
def test_regression_predicts_numbers(tiny_task):
    rows = rows_of(tiny_task.folder / "train.jsonl")
    file = tiny_task.folder / "numbers.jsonl"
    file.write_text("".join(json.dumps({**row, "label": len(row["text"].split())}) + "\n" for row in rows))
    files = [f"task.train.0={file}", f"task.dev.0={file}"]
    [point] = run(tiny_task.recipe(steps=120, eval_every=60), *files, "task.regression=true")
    assert point.metric == "pearson"
    assert point.mean > 80  # the length of a text is easy
    model = load(tiny_task.folder / "run" / "model")
    [short, long] = model.classify(["word1", " ".join(["word3"] * 12)])
    assert short.label == long.label == ""
    assert short.score + 2 < long.score


@pytest.mark.slow
def test_pairs_are_segments_of_one_sequence(tiny_task):
    rows = rows_of(tiny_task.folder / "train.jsonl")
    file = tiny_task.folder / "pairs.jsonl"
    file.write_text("".join(json.dumps({**row, "other": "word7 word8"}) + "\n" for row in rows))
    files = [f"task.train.0={file}", f"task.dev.0={file}", "task.text_pair=other"]
    run(tiny_task.recipe(steps=6), *files)
    model = load(tiny_task.folder / "run" / "model")
    assert model.task.text_pair == "other"
    one, other = (model.classify(["word1 word2"], [second])[0] for second in ("word7 word8", "word9"))
    assert one.probabilities != other.probabilities


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.name=colla", "task.text=null", "task.label=null"], "did you mean 'cola'"),
        (["task.metric=rouge"], "task.metric is 'rouge'; task 'parity' has accuracy, matthews_correlation"),
        (["task.labels=[low, mid]"], "high"),
        (["task.label=gold"], "'gold'"),
        (["task.dev.0=nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["model=nowhere"], "nowhere: no such model"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(tiny_task, overrides, message):
    with pytest.raises((UsageError, DataError)) as caught:
        run(tiny_task.recipe(), *overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tiny_task.folder / "run" / "model").exists()


@pytest.mark.slow
def test_changed_data_is_rejected_and_named(tiny_task):
    recipe = tiny_task.recipe(steps=6)
    run(recipe)
    tiny_task.write_rows("train.jsonl", 61, seed=1)
    with pytest.raises(UsageError, match=r"train file 1 train\.jsonl was"):
        run(recipe)
    tiny_task.write_rows("train.jsonl", 60, seed=1)
    with pytest.raises(UsageError, match=r"train\.learning_rate was 0\.003, is 0\.004"):
        run(recipe, "train.learning_rate=0.004")
    run(recipe)


@pytest.mark.slow
def test_a_head_of_the_same_labels_is_kept_and_another_replaced(tiny_task, caplog):
    run(tiny_task.recipe(steps=6))
    trained = tiny_task.folder / "run" / "model"

    class Same:
        head, labels, problem = "classification", ("high", "low", "mid"), "single_label_classification"

    kept = start_model(trained, Same(), seed=1)
    assert torch.equal(kept.head.out.weight, read_model(trained, head="classification").head.out.weight)
    Same.labels = ("a", "b")
    replaced = start_model(trained, Same(), seed=1)
    assert replaced.head.out.weight.shape[0] == 2
    assert torch.equal(replaced.encoder.pooler.weight, kept.encoder.pooler.weight)
    assert "freshly initialized" in caplog.text


@pytest.mark.slow
def test_without_held_out_data_the_last_weights_are_saved(tiny_task):
    [point] = run(tiny_task.recipe(steps=6), "task.dev=[]")
    assert np.isnan(point.mean)
    assert "epochs, batch" in point.describe()
    assert _table([point]) == f"{point.describe()}: not scored, task.dev names no held-out data"
    assert load_best(tiny_task.folder / "run") is None
    saved = read_model(tiny_task.folder / "run" / "model", head="classification").state_dict()
    assert saved["head.out.weight"].shape == (3, 48)


@pytest.mark.slow
def test_a_sweep_without_held_out_data_has_no_numbers(tiny_task):
    [point] = run(tiny_task.recipe(steps=2, sweep={"seeds": [1, 2]}), "task.dev=[]")
    assert np.isnan([point.mean, point.deviation]).all()
    assert (tiny_task.folder / "run" / "report.html").is_file()


@pytest.mark.slow
def test_an_undefined_correlation_is_null_in_the_files_of_a_sweep(tiny_task):
    """Of held-out texts that are all the same: a model that collapses gives equal numbers, too."""
    for name in ("train", "dev"):
        rows = [{"text": f"word{number if name == 'train' else 1}", "label": number} for number in range(4)]
        (tiny_task.folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = tiny_task.recipe(steps=2, eval_every=1, sweep={"seeds": [1, 2]})
    changes = ("task.labels=[]", "task.regression=true", "task.metric=null")
    [point] = run(recipe, *changes)
    out = tiny_task.folder / "run"
    assert np.isnan(point.mean)
    assert [one["spearmanr"] for one in json.loads((out / "results.json").read_text())["runs"]] == [None, None]
    assert (out / "model").is_dir()
    [again] = run(recipe, *changes)
    assert [one.numbers.keys() for one in again.runs] == [one.numbers.keys() for one in point.runs]
    assert np.isnan([one.numbers["spearmanr"] for one in again.runs]).all()


@pytest.mark.slow
def test_the_table_shows_the_epochs_that_a_number_of_steps_makes(tiny_task):
    [point] = run(tiny_task.recipe(steps=3), "train.batch_size=10")
    assert ", 0.5 epochs, batch 10" in point.describe()  # 30 of 60 rows


def test_a_number_of_steps_and_a_grid_of_epochs_are_rejected(tiny_task):
    with pytest.raises(UsageError, match=r"found both train.steps and sweep.epochs"):
        run(tiny_task.recipe(steps=3), "sweep.epochs=[1,2]")


@pytest.mark.slow
def test_attention_dropout_changes_the_run_and_is_reported(tiny_task, caplog):
    caplog.set_level("INFO", logger="minilm")
    losses = {}
    for share in (0.0, 0.3):
        out = tiny_task.folder / f"run{share}"
        run(tiny_task.recipe(out.name, steps=6), f"train.attention_dropout={share}")
        losses[share] = [row["loss"] for row in read_metrics(out) if "loss" in row]
    assert losses[0.0] != losses[0.3]
    reported = [record.message for record in caplog.records if record.message.startswith("train.attention_dropout")]
    assert reported == [
        "train.attention_dropout is 0.3: fused attention kernels do not support dropout, so training is slower and, "
        "on CPUs, memory grows with the square of the sequence length"
    ]
