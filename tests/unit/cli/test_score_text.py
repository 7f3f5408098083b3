"""`minilm score rouge` and `qg`: tables and JSON, signatures, intervals, warnings, and one clear error per mistake."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from minilm import __version__
from minilm.errors import SystemProblem
from minilm.files import meteor_java as meteor
from minilm.score.generation import METEOR_NUMBERS

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    """METEOR immediately gives its counts for three words, all matched."""
    row = np.zeros(METEOR_NUMBERS)
    row[[0, 1, 4, 5, 20, 21, 22]] = [3, 4, 3, 3, 1, 3, 3]
    monkeypatch.setattr(meteor, "meteor_counts", lambda items, num_counts: np.stack([row] * len(items)))


def write(name: str, *items: object) -> str:
    """Write one item per line: text as it is, anything else as JSON."""
    data = "".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in items).encode()
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return name


COMMON = (
    f"minilm:{__version__}|as:ROUGE-1.5.5|f:harmonic|"
    f"stem:Porter of ROUGE-1.5.5 + WordNet 2.0, words over 3 letters|words:[a-z0-9]+ lower-cased|"
)


def test_the_rouge_table(score):
    write("p.test", "the children ran", "a b c d")
    write("r.txt.gz", "The child ran home", "a b x y")
    assert score("rouge", "p.test", "r.txt.gz") == (
        0,
        "                 F  precision   recall\n"
        "rouge1     67.8571    75.0000  62.5000\n"
        "rouge2     56.6667    66.6667  50.0000\n"
        "rougeL     67.8571    75.0000  62.5000\n"
        "rougeLsum  67.8571    75.0000  62.5000\n"
        "\n"
        f"rouge1, rouge2: {COMMON}task:none|pairs:2\n"
        f"rougeL: {COMMON}task:none|pairs:2|sentences:taken as one\n"
        f"rougeLsum: {COMMON}task:none|pairs:2|sentences:joined\n",
        [],
    )


def test_rouge_json_holds_everything(score):
    write("p.jsonl", {"output": "a b\nc d"})
    write("r.jsonl", {"references": ["c d [X_SEP] a b", "x"]})
    code, out, said = score("rouge", "p.jsonl", "r.jsonl", "--json", "--confidence")
    found = json.loads(out)
    assert (code, said) == (0, [])
    assert (found["rougeL"], found["rougeLsum"]) == pytest.approx((100 * 4 / 13, 100 * 8 / 13))
    assert (found["rouge1_precision"], found["rouge1_recall"]) == pytest.approx((50, 80))
    assert found["pairs"] == 1
    assert found["confidence"]["rouge1"] == pytest.approx([found["rouge1"]] * 2)
    metrics = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    assert list(found["confidence"]) == metrics
    assert list(found["signature"]) == metrics + [
        f"{name}_{part}" for part in ("precision", "recall") for name in metrics
    ]


@pytest.mark.parametrize("task", ["xsum", "cnndm"])
def test_brackets_are_words_on_neither_side_of_a_task(score, task):
    """A prediction's brackets become codes there; the references have brackets or codes."""
    write("p.txt", "the minister ( labour ) spoke well today", "the minister ( labour ) spoke well today")
    write("r.txt", "The minister (Labour) spoke well today", "the minister -LRB- labour -rrb- spoke well today")
    found = json.loads(score("rouge", "p.txt", "r.txt", "--task", task, "--json")[1])
    assert (found["rouge1_precision"], found["rouge1_recall"], found["rougeLsum"]) == (100, 100, 100)


def test_intervals_are_the_same_each_time_and_around_the_score(score):
    write("p.txt", *(f"a b {'c' * (number % 3)}" for number in range(40)))
    write("r.txt", *(f"a {'c' * (number % 5)}" for number in range(40)))
    first, second = (score("rouge", "p.txt", "r.txt", "--json", "--confidence")[1] for _ in range(2))
    assert first == second
    found = json.loads(first)
    low, high = found["confidence"]["rouge1"]
    assert low < found["rouge1"] < high
    table = score("rouge", "p.txt", "r.txt", "--confidence")[1].splitlines()
    assert table[0].endswith("95% interval")
    assert table[1].endswith(f"{low:.4f} to {high:.4f}")


def test_a_task_prepares_both_sides(score):
    write("p.txt", "a b c d e [X_SEP] f g h i j", "x y [X_SEP] z")
    write("r.txt", "f g h i j . <S_SEP> a b c d e .", "a")
    code, out, said = score("rouge", "p.txt", "r.txt", "--task", "cnndm", "--trunc-len", "7", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["rougeLsum"] == pytest.approx(100 * 14 / 17 / 2)
    assert "|task:cnndm|bracket codes:no words|trunc_len:7|duplicate_rate:0.7|pairs:2" in found["signature"]["rouge1"]
    assert said == ["p.txt: --task cnndm leaves nothing of 1 predictions, so they match nothing (first: line 2)"]


def test_empty_texts_are_counted_once(score):
    write("p.txt", "a", "", " ", "b")
    write("r.txt", "a", "a", "b", "")
    code, out, said = score("rouge", "p.txt", "r.txt", "--json")
    assert (code, json.loads(out)["rouge1"]) == (0, 25)
    assert said == [
        "2 of 4 predictions are empty and match nothing (first: p.txt:2)",
        "1 of 4 references are empty and match nothing (first: r.txt:4)",
    ]


def test_references_can_be_truncated(score):
    write("p.txt", "a", "b")
    write("r.txt", "a", "b", "c", "d")
    code, out, said = score("rouge", "p.txt", "r.txt", "--cut-references", "--json")
    assert (code, json.loads(out)["rouge1"]) == (0, 100)
    assert said == ["r.txt: the last 2 of 4 references have no prediction and are ignored (first: line 3)"]


UNEQUAL = "expected the same number: check that the files belong together"


@pytest.mark.parametrize(
    ("kind", "predictions", "options", "message"),
    [
        ("rouge", 1, [], f"p.txt holds 1 predictions and r.txt holds 2 references; {UNEQUAL}; "
         "`score rouge --cut-references` ignores the last ones"),
        ("rouge", 3, ["--cut-references"], f"p.txt holds 3 predictions and r.txt holds 2 references; {UNEQUAL}"),
        ("qg", 3, [], f"p.txt holds 3 predictions and r.txt holds 2 references; {UNEQUAL}"),
        ("qg", 2, ["--sources", "s.txt"], f"p.txt holds 2 predictions and s.txt holds 3 sources; {UNEQUAL}"),
    ],
)  # fmt: skip
def test_unequal_numbers_are_an_error_with_both(score, kind, predictions, options, message):
    write("p.txt", *["a"] * predictions)
    write("r.txt", "a", "b")
    write("s.txt", "a", "b", "c")
    assert score(kind, "p.txt", "r.txt", *options) == (3, "", [message])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("rouge", ["--trunc-len", "3"],
         "--trunc-len 3 needs --task xsum, cnndm or gigaword; else nothing is truncated"),
        ("rouge", ["--task", "xsum", "--duplicate-rate", "0.5"],
         "--duplicate-rate 0.5 needs --task cnndm; no other task drops sentences"),
        ("qg", ["--source-field", "s"],
         "--source-field s names a column of --sources: add that file, or remove it"),
    ],
)  # fmt: skip
def test_meaningless_flags_are_a_usage_error(score, kind, options, message):
    write("p.txt", "a")
    assert score(kind, "p.txt", "p.txt", *options) == (2, "", [message])


@pytest.mark.slow
def test_an_empty_file_and_broken_text_are_one_clear_error(score):
    write("p.txt", "a")
    Path("empty.txt").touch()
    Path("latin.txt").write_bytes(b"caf\xe9\n")
    for kind in ("rouge", "qg"):
        message = "empty.txt: the file is empty; expected at least one text"
        assert score(kind, "empty.txt", "p.txt") == (3, "", [message])
        message = "latin.txt:1: invalid UTF-8; write the file again as UTF-8"
        assert score(kind, "p.txt", "latin.txt") == (3, "", [message])
        assert score(kind, "p.txt", "gone.txt") == (2, "", ["gone.txt: no such file; check the input path"])


BLEU = f"minilm:{__version__}|as:pycocoevalcap 1.2|stem:none|words:between spaces, case kept"
METEOR = (
    f"minilm:{__version__}|counts:METEOR 1.5 jar|task:rank|words:-norm, lower-cased|"
    f"matches:exact, stem, synonym, paraphrase"
)


def test_the_qg_table(score):
    """Two rows share a source: both references count, and the last prediction."""
    write("p.txt", "wrong", "what is it ?", "who ?")
    write("r.txt", "what is this ?", "what was it ?", "who ?")
    write("s.txt", "It is .", "it  is .", "they")
    meteor_value = 100 / (0.15 / 1 + 0.85 / 0.75) * (1 - 0.6 * (1 / 3) ** 0.2)
    code, out, said = score("qg", "p.txt", "r.txt", "--sources", "s.txt")
    assert (code, len(said)) == (0, 1)
    assert said[0].startswith("p.txt: 2 of 3 predictions are scored: the last of the rows with the same source")
    scope = "items:by source, last prediction|n:2"
    assert out.splitlines() == [
        "            score",
        "Bleu_1   100.0000",
        "Bleu_2    86.6025",
        "Bleu_3     0.0007",
        "Bleu_4     0.0000",
        f"METEOR    {meteor_value:.4f}",
        "ROUGE_L   87.5000",
        "",
        f"Bleu_1, Bleu_2, Bleu_3, Bleu_4: {BLEU}|corpus:clipped, closest reference length|{scope}",
        f"METEOR: {METEOR}|{scope}",
        f"ROUGE_L: {BLEU}|f:beta 1.2, best precision and recall|{scope}",
    ]


def test_qg_json_from_rows(score):
    rows = [{"src": "s", "prediction": "a b c d", "questions": ["a b c d", "e"]}, {"src": "s", "questions": "f"}]
    write("d.jsonl", *rows)
    write("p.jsonl", {"prediction": "x"}, {"prediction": "a b c d"})
    options = ["--reference-field", "questions", "--sources", "d.jsonl", "--json", "--confidence"]
    code, out, said = score("qg", "p.jsonl", "d.jsonl", *options)
    found = json.loads(out)
    assert (code, len(said)) == (0, 1)
    assert found["Bleu_4"] == pytest.approx(100)
    assert (found["rows"], found["items"]) == (2, 1)
    assert found["confidence"]["Bleu_4"] == pytest.approx([100, 100])
    assert list(found["signature"]) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L"]


def test_capitals_on_one_side_are_reported(score):
    write("p.txt", "what is it ?")
    write("r.txt", "What is it?")
    _, _, said = score("qg", "p.txt", "r.txt")
    assert said == ["r.txt has capitals and p.txt has none, so few words match: tokenize and lower-case both alike"]


def test_without_meteor_the_other_numbers_are_still_shown(score, monkeypatch):
    def fail(items: object, num_counts: int) -> None:
        raise SystemProblem("there is no Java")

    monkeypatch.setattr(meteor, "meteor_counts", fail)
    write("p.txt", "a b c d")
    code, out, said = score("qg", "p.txt", "p.txt", "--json", "--confidence")
    found = json.loads(out)
    assert (code, said) == (0, ["METEOR is skipped: there is no Java"])
    assert (found["METEOR"], found["Bleu_4"]) == (None, pytest.approx(100))
    assert "METEOR" not in found["signature"]
    assert "METEOR" not in found["confidence"]
    code, out, _ = score("qg", "p.txt", "p.txt")
    assert (code, "METEOR       none" in out) == (0, True)


@pytest.mark.parametrize("line", ["今天天气很好", "Сегодня хорошо", "σήμερα", "오늘 날씨", "!?"])
def test_rouge_of_texts_without_a_countable_word_warns_with_the_count(score, line):
    """ROUGE-1.5.5 gives 0.0 for identical lines; an empty line is 0 in every language, so it is not counted."""
    Path("p.txt").write_text(f"{line}\n{line}\nEnglish\n\n", encoding="utf-8")
    Path("r.txt").write_text(f"{line}\nEnglish\nEnglish\nEnglish\n", encoding="utf-8")
    code, _, said = score("rouge", "p.txt", "r.txt")
    assert code == 0
    [warning] = [one for one in said if "ROUGE counts" in one]
    assert "2 of 4 pairs have a side without a word that ROUGE counts (letters A to Z and digits)" in warning
    assert "(first: pair 1)" in warning


def test_rouge_of_mixed_texts_does_not_warn(score):
    Path("p.txt").write_text("2026年\ncafé\n", encoding="utf-8")
    Path("r.txt").write_text("2026年\ncafé\n", encoding="utf-8")
    assert not [one for one in score("rouge", "p.txt", "r.txt")[2] if "ROUGE counts" in one]
