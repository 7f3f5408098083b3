"""Microsoft's command lines for decoding and for rescoring traces: flags, outputs of the original, rejections."""

from __future__ import annotations

import json
import logging
import pickle
import shlex
import shutil

import pytest
import torch

from minilm.cli.app import run_reporting
from minilm.decode.settings import GenerationSettings
from minilm.decode.traces import Trace, read_traces, write_traces
from minilm.errors import UsageError
from minilm.files.tensors import read_safetensors
from minilm.infer import generate as generate_module
from minilm.model.precision import has_bf16

# spec.md, section 2.5
DEFAULTS = {
    **{"config_path": None, "max_seq_length": 512, "max_tgt_length": 128, "input_file": None, "subset": 0},
    **{"output_file": None, "split": "", "batch_size": 4, "beam_size": 1, "length_penalty": 0.0, "min_len": 1},
    **{"forbid_duplicate_ngrams": False, "ngram_size": 3, "forbid_ignore_word": None, "need_score_traces": False},
    **{"mode": "s2s", "pos_shift": False, "fp16": False, "do_lower_case": False, "seed": 123, "cache_dir": ""},
    **{"tokenized_input": False, "no_cuda": False, "s2s_special_token": False, "s2s_add_segment": False},
    **{"s2s_share_segment": False, "amp": False, "parity": "off"},
}
DEAD = ["--cache_dir c", "--seed 1", "--tokenized_input", "--s2s_special_token", "--s2s_add_segment"]
DEAD += ["--s2s_share_segment", "--amp"]
KEYS = ("scores", "wids", "ptrs")
REQUIRED = "--model_type bert --tokenizer_name v --model_path m"


@pytest.fixture
def decoding(load_script):
    return load_script("decode_seq2seq")


@pytest.fixture
def rescoring(load_script):
    return load_script("gen_seq_from_trace")


@pytest.fixture
def here(generator_dir, tmp_path, monkeypatch):
    """A folder with two checkpoints and four sources."""
    monkeypatch.chdir(tmp_path)
    for number in (500, 1000):
        shutil.copytree(generator_dir, tmp_path / "out" / f"ckpt-{number}")
    (tmp_path / "out" / "notes.txt").write_text("no folder")
    rows = [["w1", "w2"], "w3 w4 w5", ["w9"], "w7"]
    (tmp_path / "test.json").write_text("".join(json.dumps({"src": row, "tgt": []}) + "\n" for row in rows))
    return tmp_path


def flags(line=""):
    words = "--model_type minilm --tokenizer_name generator/vocab.txt --input_file test.json --max_tgt_length 8"
    return shlex.split(f"{words} --max_seq_length 64 --do_lower_case {line}")


def test_every_flag_has_the_defaults_of_the_original(decoding):
    args = vars(decoding.parser().parse_args(shlex.split(REQUIRED)))
    assert args == DEFAULTS | {"model_type": "bert", "tokenizer_name": "v", "model_path": "m"}


@pytest.mark.parametrize("line", DEAD)
def test_dead_flags_are_reported_once(decoding, line, caplog):
    with caplog.at_level(logging.WARNING):
        decoding.parser().parse_args(shlex.split(f"{REQUIRED} {line}"))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [f"{line.split()[0]} has no effect"]


def test_every_checkpoint_that_matches_is_decoded(decoding, here, capsys):
    assert decoding.main(flags("--model_path 'out/*' --split test --beam_size 3")) == 0
    outputs = sorted(path.name for path in (here / "out").iterdir() if path.is_file())
    assert outputs == ["ckpt-1000.test", "ckpt-500.test", "notes.txt"]
    assert len((here / "out" / "ckpt-500.test").read_text().splitlines()) == 4
    said = capsys.readouterr().out
    assert said.index("ckpt-500") < said.index("ckpt-1000")


def test_the_subset_and_the_output_can_be_chosen(decoding, here):
    line = "--model_path out/ckpt-500/ --beam_size 3"
    decoding.main(flags(f"{line} --split test"))
    decoding.main(flags(f"{line} --subset 2 --output_file two.txt"))
    whole = (here / "out" / "ckpt-500.test").read_text().splitlines()
    assert (here / "two.txt").read_text().splitlines() == whole[:2]
    decoding.main(flags(f"{line} --subset -1 --output_file all.txt"))
    assert (here / "all.txt").read_text().splitlines() == whole


def test_the_current_folder_gives_its_output_its_name(decoding, here, monkeypatch):
    words = flags("--model_path . --split test")
    words[words.index("generator/vocab.txt")] = "../../generator/vocab.txt"
    words[words.index("test.json")] = "../../test.json"
    monkeypatch.chdir(here / "out" / "ckpt-500")
    decoding.main(words)
    assert len((here / "out" / "ckpt-500.test").read_text().splitlines()) == 4


def test_a_stopped_run_resumes(decoding, here, monkeypatch, capsys):
    """Sources in batches of one; the third is interrupted; the same command computes the rest."""
    line = flags("--model_path out/ckpt-500 --split test --beam_size 3")
    search, searched = generate_module.search, []

    def interrupted(decoder, sources, *rest):
        if len(searched) == 2:
            raise KeyboardInterrupt
        searched.append(len(sources))
        return search(decoder, sources, *rest)

    monkeypatch.setattr(GenerationSettings, "batch_tokens", 1)
    line += ["--batch_size", "0"]
    monkeypatch.setattr(generate_module, "search", interrupted)
    assert run_reporting(lambda: decoding.main(line)) == 130
    assert not (here / "out" / "ckpt-500.test").exists()
    monkeypatch.setattr(generate_module, "search", search)
    assert decoding.main(line) == 0
    assert "resuming: 2 of 4 rows are finished" in capsys.readouterr().err
    assert len((here / "out" / "ckpt-500.test").read_text().splitlines()) == 4


def test_greedy_ignores_beam_flags_as_the_original_does(decoding, here, caplog):
    line = "--model_path out/ckpt-500 --output_file"
    decoding.main(flags(f"{line} a.txt"))
    with caplog.at_level(logging.WARNING):
        decoding.main(flags(f"{line} b.txt --forbid_duplicate_ngrams --ngram_size 1 --min_len 5"))
    assert (here / "a.txt").read_text() == (here / "b.txt").read_text()
    for name in ("forbid_duplicate_ngrams", "min_len"):
        assert f"--{name} has no effect with --beam_size 1, as in the original" in caplog.text


def test_fp16_is_bfloat16_where_the_cpu_has_it(decoding, here, caplog):
    supported = has_bf16()
    with caplog.at_level(logging.WARNING):
        decoding.main(flags("--model_path out/ckpt-500 --output_file a.txt --fp16"))
    said = "computed in bfloat16, not in float16" if supported else "this CPU has no bfloat16, so computed in float32"
    assert f"--fp16: {said}" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model_path none-*", "--model_path none-* matches no folder; name checkpoint folders, such as ckpt-*"),
        ("--model_path out/* --output_file a.txt", "--output_file names one file for 2 checkpoints; leave it out"),
        ("--model_path out/* --mode both", "--mode both is not possible, as in the original; use s2s"),
        ("--model_path out/* --need_score_traces", "--need_score_traces is for beam search: set --beam_size to 2 or"),
        ("--model_path out/* --max_tgt_length 62", "--max_tgt_length 62 leaves no room for a source in --max_seq_len"),
        ("--model_path out/* --model_type gpt2", "--model_type is 'gpt2', expected one of minilm, unilm, electra, ber"),
        ("--model_path out/* --model_type roberta", "--model_type is roberta, but out/ckpt-500 is a bert: correct it"),
        ("--model_path out/* --input_file a.txt", "--input_file is a.txt; expected JSON lines, in a .json or .jsonl"),
    ],
)
def test_impossible_flags_are_rejected(decoding, here, line, message):
    with pytest.raises(UsageError) as caught:
        decoding.main(flags(line))
    assert message in str(caught.value)


def test_a_checkpoint_without_a_head_is_rejected(decoding, here, capsys):
    from minilm.model.checkpoint import read_model, write_model
    from minilm.model.heads import Model

    write_model(Model(read_model(here / "out" / "ckpt-500").encoder), here / "out" / "ckpt-500")
    code = run_reporting(lambda: decoding.main(flags("--model_path out/ckpt-500 --split test")))
    assert code == 2
    assert "the model has no trained mlm head, so it cannot generate" in capsys.readouterr().err


def test_a_smaller_position_table_is_reported(decoding, here, caplog):
    with caplog.at_level(logging.WARNING):
        decoding.main(flags("--model_path out/ckpt-500 --output_file a.txt --max_seq_length 512"))
    assert "--max_seq_length 512: out/ckpt-500 has positions for 64 tokens, which are used" in caplog.text


def test_traces_are_written_and_rescored(decoding, rescoring, here, capsys, caplog):
    decoding.main(flags("--model_path 'out/ckpt-*' --split test --beam_size 3 --need_score_traces"))
    traces = read_traces(here / "out" / "ckpt-500.test.trace.safetensors")
    assert len(traces) == 4
    words = "--input 'out/ckpt-*.test' --model_type minilm --tokenizer_name generator/vocab.txt"
    with caplog.at_level(logging.WARNING):
        rescoring.main(shlex.split(f"{words} --length_penalty 0.5 --expect 12 --alpha 0.9 --min_len 8"))
    assert "--min_len has no effect but in the name of the output" in caplog.text
    assert (here / "out" / "ckpt-1000.test.lenp0.5exp12.0alp0.9minl8").is_file()
    rescoring.main(shlex.split(words))
    assert (here / "out" / "ckpt-500.test.").read_text() == (here / "out" / "ckpt-500.test").read_text()


def test_traces_of_minilm_generate_are_rescored_unless_of_another_run(decoding, rescoring, here, capsys, caplog):
    write_traces(here / "a.jsonl.trace.jsonl", [Trace(scores=[[-1.0, -2.0]], ids=[[8, 9]], parents=[[0, 0]])])
    (here / "a.jsonl").write_text('{"prediction": "w1"}\n')
    words = shlex.split("--input a.jsonl --tokenizer_name generator/vocab.txt --expect 5 --alpha 0.9")
    with caplog.at_level(logging.WARNING):
        assert rescoring.main(words) == 0
    assert (here / "a.jsonl.exp5.0alp0.9").read_text() == "w1\n"
    assert "--expect 5.0 has no effect without --length_penalty but in the name of the output" in caplog.text
    (here / "a.jsonl").write_text('{"prediction": "w1"}\n' * 2)
    assert run_reporting(lambda: rescoring.main(words)) == 3
    assert "a.jsonl.trace.jsonl holds 1 traces, but a.jsonl 2 targets: they are of different" in capsys.readouterr().err


def test_old_traces_and_a_negative_penalty_are_reported(decoding, here, caplog):
    (here / "a.txt.trace.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        decoding.main(flags("--model_path out/ckpt-500 --output_file a.txt --beam_size 3 --length_penalty -1"))
        decoding.main(flags("--model_path out/ckpt-500 --output_file b.txt --beam_size 3"))
    assert "a.txt.trace.safetensors is of an earlier run: remove it, or decode with --need_score_traces" in caplog.text
    assert "--length_penalty -1.0 has no effect, as in the original" in caplog.text
    assert (here / "a.txt").read_text() == (here / "b.txt").read_text()


def test_pickled_traces_are_read_too(rescoring, here):
    trace = Trace(scores=[[-1.0, -2.0]], ids=[[8, 9]], parents=[[0, 0]])
    records = [{"version": 0.0, "num_samples": 1}, {"scores": trace.scores, "wids": trace.ids, "ptrs": trace.parents}]
    (here / "old.test").write_text("")
    (here / "old.test.trace.pickle").write_bytes(b"".join(map(pickle.dumps, records)))
    rescoring.main(shlex.split("--input old.test --bert_model generator/vocab.txt --model_type bert"))
    assert (here / "old.test.").read_text() == "w1\n"


def test_traces_of_another_vocabulary_are_rejected(rescoring, here, capsys):
    records = [{"num_samples": 1}, {"scores": [[-1.0]], "wids": [[999]], "ptrs": [[0]]}]
    (here / "old.test").write_text("")
    (here / "old.test.trace.pickle").write_bytes(b"".join(map(pickle.dumps, records)))
    line = "--input old.test --tokenizer_name generator/vocab.txt"
    assert run_reporting(lambda: rescoring.main(shlex.split(line))) == 3
    said = capsys.readouterr().err
    assert "its trace holds token id 999, but the tokenizer has 67 tokens: they do not belong together" in said
    with pytest.raises(UsageError, match=r"--input none matches no output with its traces beside it: expected its"):
        rescoring.main(shlex.split("--input none --tokenizer_name generator/vocab.txt"))


# --- the original's own outputs ----------------------------------------------------------------------


@pytest.fixture
def golden(golden_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(golden_dir / "model", tmp_path / "ckpt-1")
    return golden_dir


@pytest.mark.parametrize("eps", ["eps1e-12", "eps1e-5"])
def test_text_outputs_equal_the_original(decoding, golden, tmp_path, eps):
    """Every line of `decode_seq2seq.py`; in two of the runs sources are truncated to 26 tokens."""
    for line in (golden / "decode" / eps / "cli_outputs.jsonl").read_text().splitlines():
        run = json.loads(line)
        words = ["--split", run["name"], *run["args"], "--max_seq_length", str(run["max_seq_length"])]
        assert decoding.main([*original_words(golden, eps), *words]) == 0
        assert (tmp_path / f"ckpt-1.{run['name']}").read_text().splitlines() == run["output_lines"]


@pytest.mark.parametrize("eps", ["eps1e-12", "eps1e-5"])
def test_rescored_outputs_equal_the_original(decoding, rescoring, golden, tmp_path, eps):
    """Decoded with traces and rescored; where the original's traces are recorded, also from them as it pickled them.

    With one eps, only the searches whose traces are recorded: rescoring does not depend on the model.
    """
    recorded = read_safetensors(golden / "decode" / eps / "beam_traces.safetensors")
    lines = (golden / "decode" / eps / "gen_seq_from_trace.jsonl").read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    if eps == "eps1e-5":
        runs = [run for run in runs if f"{run['trace']}.scores" in recorded]
    for name in {run["trace"]: None for run in runs}:
        beam, steps, least, ban = name.split("_")
        words = ["--beam_size", beam[1:], "--max_tgt_length", steps[1:], "--min_len", least[1:], "--output_file", name]
        words += ["--forbid_duplicate_ngrams", "--ngram_size", ban[2]] if ban.startswith("ng") else []
        words += ["--forbid_ignore_word", ".|[X_SEP]"] if ban.endswith("i") else []
        decoding.main([*original_words(golden, eps), *words, "--need_score_traces"])
        if f"{name}.scores" in recorded:
            write_pickle(tmp_path / f"pickled_{name}", [recorded[f"{name}.{part}"] for part in KEYS])
        for run in runs:
            for file in (name, f"pickled_{name}"):
                if run["trace"] == name and (tmp_path / file).is_file():
                    tokens = ["--model_type", "bert", "--tokenizer_name", str(golden / "model")]
                    assert rescoring.main(["--input", file, *tokens, *run["args"]]) == 0
                    output = tmp_path / f"{file}{run['output_suffix']}"
                    assert output.read_text().splitlines() == run["output_lines"]
    assert len(list(tmp_path.glob("pickled_*.trace.pickle"))) >= 2


def original_words(golden, eps):
    words = ["--model_type", "bert", "--tokenizer_name", str(golden / "model"), "--model_path", "ckpt-*"]
    words += ["--input_file", str(golden / "decode" / "sources.jsonl"), "--max_seq_length", "128"]
    return [*words, "--parity", "off" if eps == "eps1e-12" else "2020-03"]


def write_pickle(path, parts):
    """An empty output, and beside it the traces with seven frames of zeros after the real ones."""
    padded = [torch.cat([part, torch.zeros_like(part[:, :1]).repeat(1, 7, 1)], 1).tolist() for part in parts]
    records = [dict(zip(KEYS, one, strict=True)) for one in zip(*padded, strict=True)]
    path.write_text("")
    data = [{"version": 0.0, "num_samples": len(records)}, *records]
    path.with_name(f"{path.name}.trace.pickle").write_bytes(b"".join(map(pickle.dumps, data)))
