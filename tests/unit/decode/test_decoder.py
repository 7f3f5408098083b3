"""What a decoder rejects, how sources are framed, and impossible searches."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from minilm.decode.beam import search
from minilm.decode.decoder import Decoder, use_original_eps
from minilm.decode.rescore import best_hypotheses
from minilm.decode.settings import GenerationSettings
from minilm.errors import UsageError
from minilm.model.checkpoint import read_model, write_model
from minilm.model.heads import Model
from minilm.text.tokenizer import Tokenizer


def source(decoder, length=4):
    return decoder.frame(np.arange(7, 7 + length, dtype=np.int32))


def test_a_model_without_a_trained_head_is_rejected(model, tokenizer, tmp_path, caplog):
    with pytest.raises(UsageError, match="the model has no trained mlm head, so it cannot generate"):
        Decoder(Model(model.encoder), tokenizer)
    folder = tmp_path / "bare"
    folder.mkdir()
    write_model(Model(model.encoder), folder)
    with caplog.at_level(logging.WARNING):
        fresh = read_model(folder, head="mlm")
    assert "has no trained mlm head; initialized 5 tensors randomly" in caplog.text
    with pytest.raises(UsageError, match="the checkpoint lacks those weights; fine-tune it on a seq2seq task first"):
        Decoder(fresh, tokenizer)


def test_a_larger_vocabulary_is_rejected(model, tmp_path):
    path = tmp_path / "more.txt"
    path.write_text(
        "".join(f"{token}\n" for token in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(40))])
    )
    with pytest.raises(UsageError, match="the tokenizer has 45 tokens, but the model has 33; use the tokenizer"):
        Decoder(model, Tokenizer.load(path))


def test_rows_of_the_table_without_a_token_are_never_chosen(model, tmp_path):
    """Tables of 33 rows with 30 tokens: the last three win by far, but no target contains them."""
    path = tmp_path / "fewer.txt"
    path.write_text(
        "".join(f"{token}\n" for token in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(25))])
    )
    model.head.bias.data[30:] = 50.0
    decoder = Decoder(model, Tokenizer.load(path))
    [trace] = search(decoder, [source(decoder)], GenerationSettings(beam_size=4, max_target_tokens=6))
    assert max(token for frame in trace.ids for token in frame) < 30


def test_an_unknown_shift_is_rejected(model, tokenizer):
    with pytest.raises(UsageError, match=r"^pos_shift is 'left'; expected one of none, head, 2020-03$"):
        Decoder(model, tokenizer, pos_shift="left")


def test_frames_and_room_follow_the_position_shift(model, tokenizer):
    plain, shifted, first = (Decoder(model, tokenizer, pos_shift=kind) for kind in ("none", "head", "2020-03"))
    assert source(plain, 2).tolist() == source(first, 2).tolist() == [2, 7, 8, 3]
    assert source(shifted, 2).tolist() == [2, 7, 8]
    assert (plain.source_room(10), shifted.source_room(10), first.source_room(10)) == (28, 29, 28)
    assert plain.source_room(10, max_positions=30) == 18
    assert plain.source_room(10, max_positions=400) == 28
    with pytest.raises(UsageError, match="38 target tokens leave no room for a source in 40 positions; use at"):
        plain.source_room(38)


def test_all_positions_are_used_and_no_more(decoder):
    """A source that fills the room decodes to its last token; one token more is rejected."""
    longest = source(decoder, 25)
    [trace] = search(decoder, [longest], GenerationSettings(beam_size=2, max_target_tokens=13, traces=True))
    assert trace.complete
    with pytest.raises(UsageError, match="a source of 27 tokens and a target of 14 need more than the model's 40 pos"):
        search(decoder, [longest], GenerationSettings(max_target_tokens=14))


def test_more_beams_than_tokens_are_rejected(decoder):
    with pytest.raises(UsageError, match=r"^beam_size is 34, but the vocabulary has 33 tokens; use fewer beams$"):
        search(decoder, [source(decoder)], GenerationSettings(beam_size=34, max_target_tokens=2))


def test_there_may_be_as_many_beams_as_tokens(decoder):
    """The whole vocabulary is in the first frame, the banned end token last, with the penalty as its score."""
    options = GenerationSettings(beam_size=33, max_target_tokens=2, min_tokens=1, traces=True)
    [trace] = search(decoder, [source(decoder)], options)
    assert sorted(trace.ids[0]) == list(range(33))
    assert (trace.ids[0][-1], trace.scores[0][-1]) == (3, -10000.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0; expected 1 or more"),
        ({"max_target_tokens": 0}, "max_target_tokens is 0; expected 1 or more"),
        ({"beam_size": 2, "n_best": 3}, "n_best is 3, expected at most beam_size .2.; raise beam_size or use sample"),
    ],
)
def test_settings_that_allow_no_search_are_rejected(options, message):
    with pytest.raises(UsageError, match=message):
        GenerationSettings(**options)


@pytest.mark.slow
def test_finished_examples_leave_the_batch(decoder, monkeypatch):
    """Examples that end at different steps: each keeps its own result, and fewer and fewer are computed."""
    sizes = []
    step = decoder.step
    monkeypatch.setattr(
        decoder,
        "step",
        lambda cache, *rest, **named: (sizes.append(cache.num_examples), step(cache, *rest, **named))[1],
    )
    own = [source(decoder, length) for length in range(1, 12)]
    decoder._head.bias[3] = 3.0
    options = GenerationSettings(beam_size=3, max_target_tokens=20)
    together = [best_hypotheses(t, end_id=3, length_penalty=0.0) for t in search(decoder, own, options)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 2
    alone = [best_hypotheses(search(decoder, [one], options)[0], end_id=3, length_penalty=0.0) for one in own]
    assert [best[0].ids for best in together] == [best[0].ids for best in alone]


def test_the_original_eps_changes_the_scores_a_little(model, tokenizer):
    [before] = search(Decoder(model, tokenizer), [np.array([2, 7, 3])], GenerationSettings(max_target_tokens=1))
    use_original_eps(model)
    [after] = search(Decoder(model, tokenizer), [np.array([2, 7, 3])], GenerationSettings(max_target_tokens=1))
    assert 0 < torch.tensor(before.scores).sub(torch.tensor(after.scores)).abs().max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("n_best", "penalty"), [(2, 0.0), (4, 0.9)])
def test_the_early_stop_waits_for_every_requested_hypothesis(decoder, n_best, penalty):
    """A search that is sure of the best alone stops sooner, and its second best is wrong."""
    sources = [source(decoder, length) for length in range(1, 25)]
    decoder._head.bias[3] = 3.0

    def targets(**options):
        settings = GenerationSettings(beam_size=4, max_target_tokens=14, length_penalty=penalty, **options)
        traces = search(decoder, sources, settings)
        frames = sum(len(trace.ids) for trace in traces)
        return frames, [
            [one.ids for one in best_hypotheses(trace, end_id=3, length_penalty=penalty, n_best=n_best)]
            for trace in traces
        ]

    whole_frames, whole = targets(n_best=n_best, traces=True)
    frames, stopped = targets(n_best=n_best)
    too_early_frames, too_early = targets(n_best=1)
    assert stopped == whole
    assert too_early != whole
    assert too_early_frames < frames < whole_frames
