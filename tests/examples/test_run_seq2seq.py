"""Microsoft's command line for seq2seq: every flag with its default, what each sets, checkpoints, two processes."""

from __future__ import annotations

import json
import logging
import os
import random
import shlex
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

from minilm.cli.app import run_reporting
from minilm.files.tensors import read_safetensors
from minilm.finetune import run as run_module
from minilm.model.checkpoint import read_model
from minilm.model.tensor_names import to_hf
from minilm.recipe import load_recipe, resolved_yaml
from minilm.tasks.saved import read_task
from minilm.train.distributed import Ranks
from minilm.train.loop import Event, train
from minilm.train.metrics import read_metrics

README = """--train_file train.json --output_dir out --model_type bert
 --model_name_or_path minilm-l12-h384-uncased.bin --config_name minilm-l12-h384-uncased-config.json
 --tokenizer_name minilm-l12-h384-uncased-vocab-nlg.txt --do_lower_case --fp16 --fp16_opt_level O2
 --max_source_seq_length 464 --max_target_seq_length 48 --per_gpu_train_batch_size 16
 --gradient_accumulation_steps 1 --learning_rate 1e-4 --num_warmup_steps 500 --num_training_steps 108000
 --cache_dir cache --save_steps 1500"""

# spec.md, section 2.1; target_mask_prob as in March 2020
DEFAULTS = {
    **{"config_name": None, "tokenizer_name": None, "cache_dir": "", "log_dir": "", "cached_train_features_file": ""},
    **{"max_source_seq_length": 464, "max_target_seq_length": 48, "do_lower_case": False},
    **{"per_gpu_train_batch_size": 8, "learning_rate": 5e-5, "gradient_accumulation_steps": 1, "weight_decay": 0.01},
    **{"adam_epsilon": 1e-8, "max_grad_norm": 1.0, "label_smoothing": 0.1, "num_training_steps": -1},
    **{"num_training_epochs": 10.0, "num_warmup_steps": 0, "random_prob": 0.1, "keep_prob": 0.1},
    **{"logging_steps": 500, "save_steps": 1500, "no_cuda": False, "seed": 42, "local_rank": -1},
    **{"fp16": False, "fp16_opt_level": "O1", "server_ip": "", "server_port": "", "fix_word_embedding": False},
    **{"source_mask_prob": -1.0, "target_mask_prob": 0.0, "num_max_mask_token": 0, "mask_way": "v2"},
    **{"lmdb_cache": False, "lmdb_dtype": "h"},
}
REQUIRED = {"train_file": "t", "model_type": "bert", "model_name_or_path": "./m", "output_dir": "o"}
DEAD = ["--log_dir l", "--cache_dir c", "--cached_train_features_file f", "--lmdb_cache", "--lmdb_dtype i"]
DEAD += ["--fp16_opt_level O2", "--server_ip h", "--server_port 1"]


@pytest.fixture
def script(load_script):
    return load_script("run_seq2seq")


@pytest.fixture
def given(tiny_task) -> Path:
    """A folder with a model as Microsoft shipped them (.bin, configuration and vocabulary apart) and 20 pairs."""
    tiny_task.distillation.write_teacher()
    folder, draw = tiny_task.folder, random.Random(0)
    model = read_model(tiny_task.model)
    torch.save(to_hf(model.state_dict(), family="bert", head="mlm"), folder / "small.bin")
    (tiny_task.model / "config.json").rename(folder / "elsewhere.json")
    rows = []
    for _ in range(20):
        words = [f"word{draw.randrange(95)}" for _ in range(draw.randint(2, 12))]
        rows.append(json.dumps({"src": words, "tgt": words[:2]}) + "\n")
    (folder / "train.json").write_text("".join(rows))
    return folder


def flags(folder: Path, out: str = "out", **changes: object) -> list[str]:
    values = {
        "train_file": folder / "train.json",
        "model_type": "minilm",
        "model_name_or_path": folder / "small.bin",
        "config_name": folder / "elsewhere.json",
        "tokenizer_name": folder / "vocab.txt",
        "output_dir": folder / out,
        "max_source_seq_length": 20,
        "max_target_seq_length": 6,
        "per_gpu_train_batch_size": 4,
        "learning_rate": 1e-3,
        "num_training_steps": 10,
        "num_warmup_steps": 2,
        "save_steps": 4,
        "logging_steps": 2,
    } | changes
    return [word for name, value in values.items() for word in (f"--{name}", str(value))] + ["--do_lower_case"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_safetensors(folder / "model.safetensors")


def test_every_flag_of_both_versions_is_there_with_its_default(parse):
    found = vars(parse())
    assert found == REQUIRED | DEFAULTS


def test_the_published_command_sets_the_published_recipe(script, monkeypatch):
    monkeypatch.setattr("minilm.model.precision._cpu_has_bf16", lambda: True)
    args = script.parser().parse_args(shlex.split(README))
    loaded = script._recipe(args, Ranks(rank=0, world_size=4))
    recipe = loaded.recipe
    assert (recipe.train.batch_size, recipe.train.learning_rate, recipe.train.steps) == (64, 1e-4, 108000)
    assert (recipe.train.num_warmup_steps(108000), recipe.train.precision) == (500, "bf16")
    assert (recipe.train.adam_eps, recipe.train.weight_decay, recipe.train.checkpoint_every) == (1e-8, 0.01, 1500)
    task = recipe.task
    assert (task.max_source_tokens, task.max_target_tokens, task.label_smoothing) == (464, 48, 0.1)
    assert (task.mask_way, task.target_mask_prob, task.source_mask_prob, task.shuffle) == ("v2", 0.0, 0.0, "once")
    assert (recipe.lowercase, recipe.config) == (True, "minilm-l12-h384-uncased-config.json")
    assert loaded.origins["train.learning_rate"] == "--learning_rate"


def test_the_recipe_of_a_command_is_one_of_minilm_finetune(parse, script, tmp_path):
    loaded = script._recipe(parse("--mask_way v1 --target_mask_prob 0.4 --num_max_mask_token 9"), Ranks())
    (tmp_path / "again.yaml").write_text(resolved_yaml(loaded))
    assert load_recipe(tmp_path / "again.yaml").recipe == loaded.recipe
    assert loaded.recipe.task.max_masked_tokens == 9


def test_what_only_v1_reads_is_reported_as_having_no_effect(parse, script, caplog):
    """The original accepts the number with every mask way."""
    loaded = script._recipe(parse("--num_max_mask_token 10"), Ranks())
    assert loaded.recipe.task.max_masked_tokens == 0
    assert "--num_max_mask_token has no effect with --mask_way v2" in caplog.text


def test_gradient_accumulation_and_processes_multiply_the_batch(parse, script):
    args = parse("--per_gpu_train_batch_size 4 --gradient_accumulation_steps 3")
    assert script._recipe(args, Ranks(rank=1, world_size=2)).recipe.train.batch_size == 24


@pytest.mark.parametrize("line", DEAD)
def test_dead_flags_are_accepted_and_reported(parse, caplog, line):
    with caplog.at_level(logging.WARNING):
        parse(line)
    assert f"{line.split()[0]} has no effect: " in caplog.text


def test_it_trains_and_writes_checkpoints_that_decode(script, given, capsys):
    assert script.main(flags(given)) == 0
    assert capsys.readouterr().out == f"Training is done: the checkpoints are {given / 'out'}/ckpt-*\n"
    folders = sorted(path.name for path in (given / "out").iterdir())
    assert folders == ["ckpt-10", "ckpt-4", "ckpt-8", "run", "train_opt.json"]
    model = read_model(given / "out" / "ckpt-8", head="mlm")
    assert model.encoder.config.num_layers == 3
    assert read_task(given / "out" / "ckpt-8").max_target_tokens == 6
    options = json.loads((given / "out" / "train_opt.json").read_text())
    assert list(options) == sorted(options)
    assert options["num_training_steps"] == 10


def test_the_same_command_resumes_where_it_was_killed(script, given, monkeypatch):
    script.main(flags(given, "whole"))

    def die(event: Event, updates: int) -> None:
        if (event, updates) == ("batch", 6):
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", partial(train, on_event=die))
        with pytest.raises(RuntimeError, match="killed"):
            script.main(flags(given, "broken"))
    assert not (given / "broken" / "ckpt-8").exists()
    script.main(flags(given, "broken"))
    whole, broken = (weights(given / name / "ckpt-10") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_two_processes_end_where_one_does(script, given, repo_dir, forked):
    """Half the batch each, started by torchrun; without dropout only the order of sums differs."""
    config = json.loads((given / "elsewhere.json").read_text())
    (given / "elsewhere.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0}))
    script.main(flags(given, "one", per_gpu_train_batch_size=4))
    command = [forked / "python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [
        str(repo_dir / "examples" / "microsoft" / "run_seq2seq.py"),
        *flags(given, "two", per_gpu_train_batch_size=2),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(repo_dir / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Training is done") == 1
    curves = [[row["loss"] for row in read_metrics(given / name / "run")] for name in ("one", "two")]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
    one, two = (weights(given / name / "ckpt-10") for name in ("one", "two"))
    keys = [name for name in one if not name.endswith("self.key.bias")]  # no gradient: Adam turns noise into updates
    assert max(float((one[name] - two[name]).abs().max()) for name in keys) < 1e-3


@pytest.fixture
def fail(script, capsys):
    """`fail(code, flags)`: the message without "error: "."""
    before = signal.getsignal(signal.SIGTERM)

    def run(code, arguments):
        assert run_reporting(lambda: script.main(arguments)) == code
        return capsys.readouterr().err.removeprefix("error: ").rstrip("\n")

    yield run
    signal.signal(signal.SIGTERM, before)


def test_impossible_values_are_rejected_by_flag(fail, given):
    assert fail(2, flags(given, model_type="gpt")) == (
        "--model_type is 'gpt', expected one of minilm, unilm, electra, bert, roberta, xlm-roberta, camembert, "
        "distilbert, mpnet"
    )
    assert fail(2, flags(given, model_type="roberta")).startswith("--model_type is roberta, but ")
    assert fail(2, flags(given, label_smoothing=1.5)).startswith("--label_smoothing is 1.5: ")
    assert fail(2, flags(given, mask_way="v1")) == (
        "the flags do not go together: mask_way v1 requires a target_mask_prob above 0: it predicts only masked tokens"
    )
    assert fail(2, flags(given, local_rank=0)).startswith("--local_rank is 0, but WORLD_SIZE is not set")
    assert fail(2, flags(given, train_file="no.json")).startswith("no.json: no such file")
    (given / "train.json").write_text('{"tgt": ["word1"]}\n')
    assert fail(3, flags(given)).startswith(f"{given / 'train.json'}:1: no field 'src', found 'tgt'")


def test_checkpoints_of_something_else_are_not_mixed_with_ours(fail, given):
    (given / "out" / "ckpt-4").mkdir(parents=True)
    assert fail(2, flags(given)) == (
        f"--output_dir {given / 'out'} holds ckpt-* but no run of this script: name another one"
    )


def test_other_settings_in_the_same_folder_are_rejected(fail, script, given):
    fail(2, flags(given, train_file="none.json"))
    script.main(flags(given))
    assert "train.learning_rate" in fail(2, flags(given, learning_rate=2e-3))
    options = json.loads((given / "out" / "train_opt.json").read_text())  # those that trained
    assert (options["train_file"], options["learning_rate"]) == (str(given / "train.json"), 1e-3)
