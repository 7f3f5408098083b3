"""`model.generate`, `stream` and what they reject: order, options, truncated sources, unknown tokens."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

import minilm
from minilm.decode.settings import GenerationSettings
from minilm.errors import UsageError
from minilm.model.checkpoint import read_model, write_model
from minilm.model.heads import Model
from minilm.tasks.saved import write_task
from minilm.tasks.seq2seq.settings import Seq2SeqSettings

TEXTS = ["w1 w2 w3", "w9", "w4 w5 w6 w7 w8 w9 w10", "w2 w2", "w9"]


@pytest.fixture
def model(generator_dir):
    return minilm.load(generator_dir)


def test_there_is_one_text_for_each_source_in_order(model):
    found = model.generate(TEXTS, max_target_tokens=8)
    assert len(found) == len(TEXTS)
    assert found[1] == found[4]
    assert len(set(found)) > 2
    assert found == model.generate((text for text in TEXTS), max_target_tokens=8)
    assert found == [model.generate([text], max_target_tokens=8)[0] for text in TEXTS]
    assert model.generate([]) == []


@pytest.mark.slow
def test_small_batches_change_nothing(model):
    assert model.generate(TEXTS, batch_tokens=1) == model.generate(TEXTS)


@pytest.mark.slow
def test_windows_change_nothing(model, monkeypatch):
    whole = model.generate(TEXTS, sample=True)
    monkeypatch.setattr("minilm.infer.api.TEXTS_PER_CHUNK", 1)
    assert model.generate(TEXTS, sample=True) == whole


@pytest.mark.slow
def test_several_texts_come_best_first(model):
    best = model.generate(TEXTS)
    several = model.generate(TEXTS, n_best=3)
    assert [texts[0] for texts in several] == best
    assert {len(texts) for texts in several} == {3}
    found = model.generations(TEXTS, GenerationSettings(n_best=3, length_penalty=0.9))
    for one in found:
        scores = [candidate.score for candidate in one.candidates]
        assert scores == sorted(scores, reverse=True)
        assert one.trace is None
    traced = model.generations(TEXTS, GenerationSettings(n_best=3, length_penalty=0.9, traces=True))
    for one, other in zip(traced, found, strict=True):  # without the early stop batches differ, and so does rounding
        assert [candidate.text for candidate in one.candidates] == [candidate.text for candidate in other.candidates]
        scores = [candidate.score for candidate in other.candidates]
        assert [candidate.score for candidate in one.candidates] == pytest.approx(scores, abs=1e-5)
    assert all(one.trace.complete for one in traced)


def test_lists_of_tokens_are_only_looked_up(model, caplog):
    assert model.generate([["w1", "w2", "w3"]]) == model.generate(["w1 w2 w3"])
    with caplog.at_level(logging.WARNING):
        found = model.generate([["w1"], ["w1", "new", "w2", "newer"]])
    assert found[1] == model.generate([["w1", "[UNK]", "w2", "[UNK]"]])[0]
    assert "2 of 5 tokens are not in the vocabulary and were read as [UNK] (first: text 1, 'new')" in caplog.text
    assert len(caplog.records) == 1


def test_long_sources_are_truncated_and_reported_once(model, caplog):
    long = " ".join(["w1"] * 100)
    with caplog.at_level(logging.WARNING):
        found = model.generate(["w2", long, long], max_target_tokens=10)
    assert found[1] == model.generate([" ".join(["w1"] * 52)], max_target_tokens=10)[0]
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 sources were longer than 52 tokens and were truncated (first: text 1)"
    ]


def test_the_settings_of_training_are_the_default(generator_dir, caplog):
    write_task(generator_dir, Seq2SeqSettings(name="seq2seq", max_source_tokens=6, max_target_tokens=3))
    model = minilm.load(generator_dir)
    assert model.generate(["w1 w2 w3 w4 w5 w6 w7"], min_tokens=0) == model.generate(
        ["w1 w2 w3 w4"], max_target_tokens=3, min_tokens=0
    )
    assert "longer than 4 tokens and were truncated" in caplog.text
    assert all(len(text.split()) <= 3 for text in model.generate(TEXTS, beam_size=1))


@pytest.mark.slow
def test_a_model_trained_with_position_shift_generates_with_it(generator_dir):
    plain = minilm.load(generator_dir).generate(TEXTS)
    write_task(generator_dir, Seq2SeqSettings(name="seq2seq", mask_way="v0"))
    assert minilm.load(generator_dir).generate(TEXTS) != plain


@pytest.mark.slow
def test_sampled_texts_depend_on_seed_and_position(model):
    options = {"sample": True, "top_k": 20, "top_p": 0.95, "temperature": 1.3}
    found = model.generate(TEXTS, seed=1, **options)
    assert found == model.generate(TEXTS, seed=1, batch_tokens=1, **options)
    assert found != model.generate(TEXTS, seed=2, **options)
    assert found[1] != found[4]  # equal texts at other positions
    assert found[:2] == model.generate(TEXTS[:2], seed=1, **options)
    several = model.generate(TEXTS, seed=1, n_best=4, **options)
    assert all(len(set(texts)) > 1 for texts in several)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"sample": True, "seed": 5}, {"ban_ngrams": 1}])
def test_streamed_pieces_are_the_text(model, options):
    for text in TEXTS:
        pieces = list(model.stream(text, **options))
        beams = {} if options.get("sample") else {"beam_size": 1}
        assert "".join(pieces) == model.generate([text], **beams, **options)[0]
        assert len(pieces) >= 1
    assert len(list(model.stream(["w1", "w2"]))) > 1


def test_truncation_that_removes_an_answer_is_reported(model, caplog):
    long = " ".join(["w1"] * 60)
    model.generate([f"{long} [SEP] w7", "w1 [SEP] w2", long], max_target_tokens=8)
    assert "2 of 3 sources were longer than" in caplog.text
    assert "1 of 3 sources lost a [SEP] and what follows it: pass the parts" in caplog.text


@pytest.mark.slow
def test_ignored_words_may_repeat(model, caplog):
    banned = model.generate(TEXTS, ban_ngrams=1)
    assert all(len(set(text.split())) == len(text.split()) for text in banned)
    words = "|".join(f"w{number}" for number in range(60))
    with caplog.at_level(logging.WARNING):
        assert model.generate(TEXTS, ban_ngrams=1, ban_ignore=f"{words}|[sep]|.|##s") == model.generate(TEXTS)
    assert caplog.text == ""
    model.generate(["w1"], ban_ngrams=1, ban_ignore=".|[x_sep]|w1")
    assert "1 of 3 tokens whose n-grams may repeat are not in the vocabulary (first: '[X_SEP]')" in caplog.text


def test_bf16_generates_texts(generator_dir):
    assert len(minilm.load(generator_dir, engine="torch", precision="bf16").generate(TEXTS)) == len(TEXTS)


# --- rejections --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("w1", r"generate expects a list of texts, not one string; write generate\(\[text\]\)"),
        (["w1", " "], "text 1 is empty, so there is nothing to generate from; remove it"),
        (["w1", []], "text 1 is empty"),
        (["w1", None], "text 1: found NoneType; generate expects texts or token lists"),
        ([["w1", 3]], "text 0 contains a non-string; generate expects texts or token lists"),
    ],
)
def test_invalid_sources_are_rejected(model, texts, message):
    with pytest.raises(UsageError, match=message):
        model.generate(texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 3}, "top_k applies only with sample; set sample or omit top_k"),
        ({"temperature": 2.0}, "temperature applies only with sample"),
        ({"sample": True, "beam_size": 3}, "beam_size applies only without sample; omit one of the two"),
        ({"sample": True, "length_penalty": 0.6}, "length_penalty applies only without sample"),
        ({"seed": 7}, "seed applies only with sample"),
        ({"ban_ignore": "."}, "ban_ignore applies only with ban_ngrams; set both or neither"),
        ({"beam_size": 1, "length_penalty": 0.9}, "length_penalty applies only to beam search; omit it or raise beam"),
        ({"length_penalty": float("nan")}, "length_penalty is nan; expected a finite number"),
        ({"length_penalty": 400.0}, "length_penalty is 400.0; expected 100 or less"),
        ({"length_penalty": -0.5}, "length_penalty is -0.5; expected 0 or more"),
        ({"traces": True}, r"generate returns only texts; for traces call generations.texts, settings."),
        ({"beam_size": "5"}, "beam_size is '5'; expected a whole number"),
        ({"beam_size": 2.0}, "beam_size is 2.0; expected a whole number"),
        ({"min_tokens": True}, "min_tokens is True; expected a whole number"),
        ({"length_penalty": None}, "length_penalty is None; expected a number"),
        ({"ban_ignore": ["."], "ban_ngrams": 3}, r"ban_ignore is \['\.'\]; expected a text"),
        ({"sample": 1}, "sample is 1; expected True or False"),
        ({"max_target_tokens": "9"}, "max_target_tokens is '9'; expected a whole number or None"),
        ({"top_k": -1, "sample": True}, "top_k is -1; expected 0 or more"),
        ({"top_p": 1.5, "sample": True}, "top_p is 1.5; expected 1 or less"),
        ({"beam_sizes": 2}, "unknown option 'beam_sizes': did you mean 'beam_size'."),
        ({"colour": 2}, "unknown option 'colour': expected one of beam_size, max_target_tokens, min_tokens"),
        ({"beam_size": 0}, "beam_size is 0; expected 1 or more"),
        ({"max_target_tokens": 0}, "max_target_tokens is 0; expected 1 or more"),
        ({"n_best": 0}, "n_best is 0; expected 1 or more"),
        ({"n_best": 6}, "n_best is 6, expected at most beam_size .5.; raise beam_size or use sample"),
        ({"beam_size": 1, "n_best": 2}, "n_best is 2, expected at most beam_size .1.; raise beam_size or use sample"),
        ({"min_tokens": 48}, "min_tokens is 48, but a target has at most 48 tokens, end token included; lower one"),
        ({"beam_size": 99}, "beam_size is 99, but the vocabulary has 67 tokens; use fewer beams"),
        ({"max_target_tokens": 62}, "62 target tokens leave no room for a source in 64 positions; use at most"),
    ],
)
def test_options_that_make_no_sense_are_rejected(model, options, message):
    with pytest.raises(UsageError, match=message):
        model.generate(["w1"], **options)


def test_traces_need_a_beam_search():
    for options in ({"beam_size": 1}, {"sample": True}):
        with pytest.raises(
            UsageError, match="traces require a beam search; use a beam_size of at least 2, without samp"
        ):
            GenerationSettings(traces=True, **options)


def test_beams_cannot_be_streamed(model):
    with pytest.raises(UsageError, match="a beam search knows its target only at the end; stream with beam_size=1"):
        list(model.stream("w1", beam_size=2))


def test_a_stream_has_one_target(model):
    with pytest.raises(UsageError, match="n_best is 2, but only one target can be streamed; leave it out"):
        list(model.stream("w1", sample=True, n_best=2))


def test_unknown_characters_of_texts_are_counted(model, caplog):
    model.generate(["w1 w2", "w1 \u2603 \u2603", "\u2603"])
    assert re.search(
        r"3 of \d+ tokens are not in the vocabulary and were read as \[UNK\] \(first: text 1\)", caplog.text
    )


def test_a_model_without_a_trained_head_encodes_and_does_not_generate(generator_dir, caplog):
    """Also when its configuration names a head whose weights are missing."""
    vectors = minilm.load(generator_dir).encode(TEXTS)
    encoder = read_model(generator_dir).encoder
    config = (generator_dir / "config.json").read_text()
    write_model(Model(encoder), generator_dir)
    for text in (None, config):
        if text is not None:
            (generator_dir / "config.json").write_text(text)
        model = minilm.load(generator_dir)
        assert np.allclose(model.encode(TEXTS), vectors, atol=1e-6)
        with pytest.raises(UsageError, match="cannot generate text: it has no trained head; train a model with mini"):
            model.generate(["w1"])
