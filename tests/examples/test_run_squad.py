"""Microsoft's command line for SQuAD: every flag with the original's default, what each sets, what is rejected."""

from __future__ import annotations

import json
import logging
import shlex
import signal

import pytest
import torch

from minilm.cli.app import run_reporting
from minilm.recipe import load_recipe, resolved_yaml
from minilm.train.distributed import Ranks

SIZES = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
CONFIG = {"model_type": "bert", "vocab_size": 9, "max_position_embeddings": 32, **SIZES}

README = """--model_type bert
 --output_dir out --data_dir data --train_file train-v2.0.json --predict_file dev-v2.0.json
 --model_name_or_path minilm-l12-h384-uncased.bin --config_name minilm-l12-h384-uncased-config.json
 --tokenizer_name vocab.txt --do_lower_case
 --max_seq_length 384 --per_gpu_train_batch_size 12 --learning_rate 4e-5 --num_train_epochs 4
 --gradient_accumulation_steps 1 --doc_stride 128 --save_steps 5000 --threads 12 --fp16
 --version_2_with_negative --do_train --do_eval"""

# spec.md, section 4, and the other flags of transformers 2.5.1
DEFAULTS = {
    **{"config_name": None, "tokenizer_name": None, "cache_dir": "", "server_ip": "", "server_port": ""},
    **{"data_dir": None, "train_file": None, "predict_file": None, "version_2_with_negative": False},
    **{"null_score_diff_threshold": 0.0, "max_seq_length": 384, "doc_stride": 128, "max_query_length": 64},
    **{"do_train": False, "do_eval": False, "evaluate_during_training": False, "do_lower_case": False},
    **{"per_gpu_train_batch_size": 8, "per_gpu_eval_batch_size": 8, "learning_rate": 5e-5, "weight_decay": 0.0},
    **{"adam_epsilon": 1e-8, "max_grad_norm": 1.0, "gradient_accumulation_steps": 1, "num_train_epochs": 3.0},
    **{"max_steps": -1, "warmup_steps": 0, "n_best_size": 20, "max_answer_length": 30, "logging_steps": 500},
    **{"save_steps": 500, "eval_all_checkpoints": False, "overwrite_output_dir": False, "overwrite_cache": False},
    **{"verbose_logging": False, "no_cuda": False, "lang_id": 0, "seed": 42, "local_rank": -1, "fp16": False},
    **{"fp16_opt_level": "O1", "threads": 1},
}
REQUIRED = {"model_type": "bert", "model_name_or_path": "./m", "output_dir": "o"}
DEAD = ["--cache_dir c", "--per_gpu_eval_batch_size 4", "--verbose_logging", "--lang_id 1", "--overwrite_cache"]
DEAD += ["--fp16_opt_level O2", "--threads 12", "--server_ip h", "--server_port 1"]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("run_squad")


@pytest.fixture
def fail(script, capsys, tmp_path):
    """`fail(code, "--flags")`: the message without "error: "; model/ and vocab.txt are in the folder."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    before = signal.getsignal(signal.SIGTERM)

    def run(code, line):
        flags = {"model_type": "bert", "model_name_or_path": tmp_path / "model", "output_dir": tmp_path / "out"}
        required = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        assert run_reporting(lambda: script.main([*required, *shlex.split(line)])) == code
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        return errors.removeprefix("error: ").rstrip("\n")

    yield run
    signal.signal(signal.SIGTERM, before)


# --- flags -----------------------------------------------------------------------------------------


def test_every_flag_has_the_original_default(parse):
    assert vars(parse()) == {**REQUIRED, **DEFAULTS, "postprocess": "exact"}


@pytest.mark.parametrize("flag", DEAD)
def test_a_flag_without_effect_says_so_once_when_it_is_given(flag, parse, caplog):
    parse()
    assert caplog.messages == []
    values = vars(parse(flag))
    name = flag.split()[0]
    assert [message.partition(" has no effect: ")[0] for message in caplog.messages] == [name]
    assert values[name.removeprefix("--")] != DEFAULTS[name.removeprefix("--")]


def test_a_stale_cache_is_ruled_out(parse, caplog):
    parse("--overwrite_cache")
    assert "there is no feature cache: windows are made anew, so none can be stale" in caplog.text


def test_launchers_may_pass_the_local_rank_in_either_spelling(parse):
    assert parse("--local_rank=1").local_rank == parse("--local-rank=1").local_rank == 1


@pytest.mark.parametrize("line", ["--colour red", "--max_seq_length many", "--postprocess guess"])
def test_an_unknown_flag_or_value_ends_with_2(line, parse, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(line)
    assert caught.value.code == 2
    assert "run_squad.py: error: " in capsys.readouterr().err


# --- what the flags mean ---------------------------------------------------------------------------


def recipe_of(script, line, *, processes=1):
    args = script.parser().parse_args(shlex.split(line))
    return script._recipe(args, Ranks(world_size=processes))


def test_the_command_of_the_readme_is_this_recipe(script, monkeypatch, tmp_path):
    monkeypatch.setattr("minilm.model.precision._cpu_has_bf16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    loaded = recipe_of(script, README, processes=4)
    recipe, task, train = loaded.recipe, loaded.recipe.task, loaded.recipe.train
    assert (recipe.model, recipe.tokenizer) == ("minilm-l12-h384-uncased.bin", "vocab.txt")
    assert (recipe.config, recipe.lowercase) == ("minilm-l12-h384-uncased-config.json", True)
    assert (recipe.out, recipe.seed) == ("out/run", 42)
    assert (task.name, task.train, task.dev) == ("squad", ("data/train-v2.0.json",), ())
    assert (task.version, task.max_tokens, task.stride, task.max_question_tokens) == ("2.0", 384, 128, 64)
    assert (task.n_best, task.max_answer_tokens, task.null_threshold, task.postprocess) == (20, 30, 0.0, "exact")
    assert (train.batch_size, train.learning_rate, train.epochs, train.steps) == (48, 4e-5, 4.0, None)
    assert (train.weight_decay, train.adam_eps, train.max_grad_norm) == (0.0, 1e-8, 1.0)
    assert (train.num_warmup_steps(1000), train.precision) == (0, "bf16")
    assert (train.checkpoint_every, train.log_every, train.eval_every) == (5000, 500, 0)
    file = tmp_path / "r.yaml"
    file.write_text(resolved_yaml(loaded))
    assert load_recipe(file).recipe == recipe
    assert (loaded.origins["task.stride"], loaded.origins["sweep"]) == ("--doc_stride", "run_squad.py")


def test_the_command_of_the_how_to_is_understood(script, repo_dir):
    text = (repo_dir / "docs" / "how-to.md").read_text(encoding="utf-8")
    begin = text.index("./examples/microsoft/run_squad.py") + len("./examples/microsoft/run_squad.py")
    line = text[begin : text.index("```", begin)].replace("\\\n", " ")
    args = script.parser().parse_args(shlex.split(line))
    assert args.do_train
    assert args.do_eval
    assert args.num_train_epochs == 4


def test_the_batch_counts_processes_and_accumulation(script):
    line = f"{README} --gradient_accumulation_steps 3"
    assert recipe_of(script, line, processes=2).recipe.train.batch_size == 12 * 2 * 3


def test_steps_replace_epochs_and_warmup_counts_steps(script):
    train = recipe_of(script, f"{README} --max_steps 70 --warmup_steps 7").recipe.train
    assert (train.steps, train.num_warmup_steps(70)) == (70, 7)


def test_evaluation_while_training_follows_the_logging(script):
    recipe = recipe_of(script, f"{README} --evaluate_during_training --logging_steps 50").recipe
    assert (recipe.task.dev, recipe.train.eval_every) == (("data/dev-v2.0.json",), 50)


def test_no_logging_and_no_saving_as_in_the_original(script):
    train = recipe_of(script, f"{README} --logging_steps 0 --save_steps -1").recipe.train
    assert min(train.log_every, train.checkpoint_every) >= 10**9


def test_a_data_folder_alone_means_the_official_names(script, parse):
    assert str(script._file(parse("--data_dir d"), "train_file")) == "d/train-v1.1.json"
    assert str(script._file(parse("--data_dir d --version_2_with_negative"), "predict_file")) == "d/dev-v2.0.json"
    assert str(script._file(parse("--train_file t.json.gz"), "train_file")) == "t.json.gz"


@pytest.mark.parametrize("supported", [True, False])
def test_fp16_is_bfloat16_where_the_cpu_has_it(supported, script, monkeypatch, caplog):
    monkeypatch.setattr("minilm.model.precision._cpu_has_bf16", lambda: supported)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert recipe_of(script, README.replace("--fp16", "")).recipe.train.precision == "fp32"
    caplog.clear()
    assert recipe_of(script, README).recipe.train.precision == ("bf16" if supported else "fp32")
    said = [message for message in caplog.messages if message.startswith("--fp16: ")]
    assert len(said) == 1
    assert ("computed in bfloat16" if supported else "this CPU has no bfloat16, so computed in float32") in said[0]


@pytest.mark.parametrize(
    ("files", "flags", "expected"),
    [
        (["vocab.txt"], "--tokenizer_name vocab.txt --do_lower_case", True),
        (["vocab.txt"], "--tokenizer_name vocab.txt", False),
        (["vocab.txt"], "--tokenizer_name .", False),
        (["vocab.txt", "tokenizer_config.json"], "--tokenizer_name .", None),
        (["tokenizer.json"], "--tokenizer_name tokenizer.json", None),
        (["tokenizer.json"], "", None),
    ],
)
def test_a_bare_vocabulary_is_cased_without_the_flag(
    files, flags, expected, script, parse, tmp_path, caplog, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in files:
        (tmp_path / name).write_text("")
    args = parse(f"{flags} --do_train --train_file t.json")
    assert script._recipe(args, Ranks()).recipe.lowercase is expected
    assert ("capitals are kept; give --do_lower_case" in caplog.text) is (expected is False)


# --- what is rejected ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "neither --do_train nor --do_eval is given: there is nothing to do"),
        ("--do_train", "--train_file is missing: name the file, or --data_dir with the official ones"),
        ("--do_train --do_eval --train_file t.json", "--predict_file is missing: name the file, or --data_dir"),
        (
            "--do_train --model_type xlnet",
            "--model_type is 'xlnet', expected one of minilm, unilm, electra, bert, roberta",
        ),
        ("--do_train --model_type roberta", "--model_type is roberta, but {model} is a bert: correct it"),
        (
            "--do_train --max_seq_length 33",
            "--max_seq_length is 33, but {model} has positions for 32 tokens: set it to",
        ),
        ("--do_eval --predict_file p.json --max_seq_length 32", "{model} has no trained span head (architectures in"),
        ("--do_train --local_rank 0", "--local_rank is 0, but WORLD_SIZE is not set: leave the flag to"),
    ],
)
def test_flags_that_make_no_sense_are_rejected(line, message, fail, tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    lengths = "" if "--max_seq_length" in line else " --max_seq_length 32"
    assert fail(2, line + lengths).startswith(message.format(model=tmp_path / "model"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "value", "shown"),
    [
        ("learning_rate", "-1", "-1.0: Input should be greater than 0"),
        ("seed", "-1", "-1: Input should be greater than or equal to 0"),
        ("per_gpu_train_batch_size", "0", "0: Input should be greater than or equal to 1"),
        ("num_train_epochs", "0", "0.0: Input should be greater than 0"),
        ("doc_stride", "0", "0: Input should be greater than or equal to 1"),
        ("warmup_steps", "-3", "-3: Input should be greater than or equal to 0"),
        ("null_score_diff_threshold", "nan", "nan: Input should be a finite number"),
    ],
)
def test_the_error_for_an_impossible_value_names_its_flag(flag, value, shown, fail, tmp_path):
    found = fail(2, f"--do_train --train_file t.json --max_seq_length 32 --{flag} {value}")
    assert found == f"--{flag} is {shown}"
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_not_written_to(fail, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    found = fail(2, "--do_train --train_file t.json --max_seq_length 32")
    assert found == (
        f"--output_dir {tmp_path / 'out'} is not empty and holds no run of this script: name another one, or give "
        "--overwrite_output_dir"
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_vocabulary_larger_than_the_word_table_is_rejected_without_training_too(fail, tmp_path):
    model = {**CONFIG, "architectures": ["BertForQuestionAnswering"]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(model))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(5))]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    line = f"--tokenizer_name {tmp_path / 'vocab.txt'} --do_lower_case --predict_file p.json --max_seq_length 32"
    assert str(tmp_path / "model") in fail(3, f"--do_eval {line}")


def test_a_wrong_value_names_its_flag_without_training_too(fail, tmp_path):
    model = {**CONFIG, "architectures": ["BertForQuestionAnswering"]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(model))
    found = fail(2, "--do_eval --predict_file p.json --max_seq_length 32 --n_best_size 0")
    assert found == "--n_best_size is 0: Input should be greater than or equal to 1"


def test_a_missing_model_is_bad_data(fail, tmp_path):
    found = fail(3, f"--do_train --train_file t.json --model_name_or_path {tmp_path / 'none.bin'}")
    assert found == f"{tmp_path / 'none.bin'}: no such model; expected a model folder or a .bin file"


def test_only_the_first_process_reports(fail, monkeypatch, caplog):
    logger = logging.getLogger("minilm")
    level = logger.level
    monkeypatch.setenv("RANK", "1")
    try:
        fail(2, "--threads 4")
    finally:
        logger.setLevel(level)
    assert caplog.messages == []
