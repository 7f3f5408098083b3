"""Microsoft's SQuAD command line gives the same model and answers with one and two processes, killed or not."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from minilm.files.json import read_json
from minilm.files.tensors import read_safetensors
from minilm.train.metrics import read_metrics

SCRIPT = str(Path(__file__).resolve().parents[2] / "examples" / "microsoft" / "run_squad.py")
LENGTHS = ["--max_seq_length", "40", "--doc_stride", "16", "--max_query_length", "8", "--max_answer_length", "8"]
OFTEN = ["--logging_steps", "4", "--save_steps", "2"]
TRAINING = ["--do_train", "--do_eval", "--learning_rate", "5e-3", "--max_steps", "24", *OFTEN]
WORD_TABLE = "bert.embeddings.word_embeddings.weight"
# They shift all scores of a window equally, so their gradient is rounding noise, which Adam amplifies.
NO_GRADIENT = ("self.key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias")


def command(files, out, *flags):
    data = ["--data_dir", str(files.folder / "data"), "--train_file", "train-v2.0.json"]
    answers = ["--predict_file", "dev-v2.0.json", "--version_2_with_negative"]
    return [SCRIPT, *files.model_flags, "--output_dir", str(out), *data, *answers, *LENGTHS, *flags]


def results_of(output):
    """The last line, which only the first process prints."""
    found = [line for line in output.splitlines() if line.startswith("Results: ")]
    assert len(found) == 1, output
    return json.loads(found[0].removeprefix("Results: ").replace("'", '"'))


def null_odds(out):
    return read_json(out / "null_odds_.json")


def best_texts(out):
    """The best non-empty answer of each question."""
    nbest = read_json(out / "nbest_predictions_.json")
    return {name: next(entry["text"] for entry in entries if entry["text"]) for name, entries in nbest.items()}


def written(out, name):
    return (out / name).read_bytes()


@pytest.fixture(scope="module")
def alone(squad_files, finish, tmp_path_factory):
    """A single-process run, with its scores."""
    out = tmp_path_factory.mktemp("alone") / "out"
    return out, results_of(finish(command(squad_files, out, *TRAINING, "--per_gpu_train_batch_size", "8")))


def test_a_question_that_leaves_no_room_is_found_before_training(squad_files, start, tmp_path):
    data = json.loads((squad_files.folder / "data" / "dev-v2.0.json").read_text())
    data["data"][0]["paragraphs"][0]["qas"][0]["question"] = " ".join(["word1"] * 60)
    (tmp_path / "dev.json").write_text(json.dumps(data))
    long = ["--predict_file", str(tmp_path / "dev.json"), "--max_query_length", "60"]
    process = start(command(squad_files, tmp_path / "out", *TRAINING, *long))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "--max_query_length of run_squad.py" in errors
    assert not (tmp_path / "out").exists()


def test_one_process_equals_two(alone, squad_files, finish, largest_difference, tmp_path):
    """Equal global batches: weights agree to 1e-5 without dropout, answers are equal, scores are printed once."""
    out, first = alone
    assert first["total"] == 15
    assert read_json(out / "results.json") == first
    shared = tmp_path / "shared"
    two = [*TRAINING, "--per_gpu_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    second = results_of(finish(command(squad_files, shared, *two), by="torch.distributed.run"))
    before = torch.load(squad_files.model)
    moved = read_safetensors(out / "model.safetensors")[WORD_TABLE] - before[WORD_TABLE]
    assert float(moved.abs().max()) > 1e-3
    assert largest_difference(out, shared, besides=NO_GRADIENT) < 1e-5
    for name in ("predictions_.json", "config.json", "vocab.txt"):
        assert written(out, name) == written(shared, name)
    assert second == pytest.approx(first, abs=1e-4)
    odds, texts = ([part(folder) for folder in (out, shared)] for part in (null_odds, best_texts))
    assert odds[1] == pytest.approx(odds[0], abs=1e-4)
    assert texts[1] == texts[0]
    assert len({*texts[0].values()}) > 5


def test_two_processes_of_the_old_launcher_answer_like_one(alone, squad_files, finish, tmp_path):
    """It passes --local-rank to the script, as the launcher of the README's command does."""
    out, first = alone
    model = ["--model_type", "bert", "--model_name_or_path", str(out), "--output_dir", str(tmp_path / "asked")]
    data = ["--predict_file", str(squad_files.folder / "data" / "dev-v2.0.json"), "--version_2_with_negative"]
    second = results_of(finish([SCRIPT, *model, *data, *LENGTHS, "--do_eval"], by="torch.distributed.launch"))
    assert second == pytest.approx(first, abs=1e-4)
    assert written(tmp_path / "asked", "predictions_.json") == written(out, "predictions_.json")


def test_a_killed_and_restarted_run_gives_the_same_bits(alone, squad_files, start, finish, tmp_path):
    out = tmp_path / "out"
    again = command(squad_files, out, *TRAINING, "--per_gpu_train_batch_size", "8")
    process = start(again)
    while process.poll() is None and len(read_metrics(out / "run")) < 2:
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "model.safetensors").exists()
    finish(again)
    assert "resuming" in (out / "run" / "log.txt").read_text()
    for name in ("model.safetensors", "predictions_.json", "null_odds_.json", "results.json"):
        assert written(out, name) == written(alone[0], name)


def test_other_settings_need_the_overwrite_flag(alone, squad_files, start, finish, tmp_path):
    """They are rejected with the differences; the flag starts a new run, whose two checkpoints are also scored."""
    out = tmp_path / "out"
    shutil.copytree(alone[0], out)
    again = [*command(squad_files, out, *TRAINING, "--per_gpu_train_batch_size", "4"), "--max_steps", "3"]
    process = start(again)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    last = errors.splitlines()[-1]
    assert last.startswith(f"error: {out / 'run' / 'checkpoints' / 'step-00000024'} belongs to a different run: ")
    assert "train.batch_size was 8, is 4; train.steps was 24, is 3. " in last
    assert last.endswith("or choose another out folder, or give --overwrite_output_dir")
    assert written(out, "model.safetensors") == written(alone[0], "model.safetensors")
    results = results_of(finish([*again, "--overwrite_output_dir", "--eval_all_checkpoints"]))
    assert results["total"] == results["total_2"] == results["total_3"] == 15
    assert "total_24" not in results
    assert (results["exact"], results["f1"]) == (results["exact_3"], results["f1_3"])
    assert written(out, "predictions_3.json") == written(out, "predictions_.json")
    assert written(out, "nbest_predictions_2.json") != written(out, "nbest_predictions_3.json")


def test_the_files_have_the_original_format(alone, squad_files):
    """Ids in the order of the questions, four spaces, the empty answer in every list; answers come from the context."""
    out, _ = alone
    predictions, nbest, odds = (
        read_json(out / f"{name}_.json") for name in ("predictions", "nbest_predictions", "null_odds")
    )
    data = read_json(squad_files.folder / "data" / "dev-v2.0.json")["data"]
    contexts = {row["id"]: part["context"] for part in data[0]["paragraphs"] for row in part["qas"]}
    assert list(predictions) == list(nbest) == list(odds) == list(contexts)
    assert written(out, "predictions_.json").startswith(b'{\n    "q0-0": "')
    for name, entries in nbest.items():
        assert [list(entry) for entry in entries[:1]] == [["text", "probability", "start_logit", "end_logit"]]
        assert sum(entry["probability"] for entry in entries) == pytest.approx(1)
        assert "" in [entry["text"] for entry in entries]
        assert all(entry["text"] in contexts[name] for entry in entries)
        best = next(entry["text"] for entry in entries if entry["text"])
        assert predictions[name] == ("" if odds[name] > 0 else best)
