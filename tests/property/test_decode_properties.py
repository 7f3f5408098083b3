"""Properties of decoding, on tiny random models: fast equals plain, and no target depends on its batch.

The twin below is slow and obviously right: for every step and every beam it runs the whole sequence again, without a
cache, and it searches to the last step.
"""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from minilm.decode.beam import best_of_rows, search
from minilm.decode.decoder import Decoder
from minilm.decode.rescore import best_hypotheses
from minilm.decode.sampling import choose_all
from minilm.decode.settings import GenerationSettings
from minilm.decode.traces import Trace
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.text.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = [*SPECIAL, *(f"w{number}" for number in range(35))]
# The same examples each time: two hypotheses that are equal up to rounding may come in either order.
FEW = settings(max_examples=12, deadline=None, derandomize=True)

source = st.lists(st.integers(5, len(VOCAB) - 1), min_size=1, max_size=12)
sources = st.lists(source, min_size=1, max_size=6)
seeds = st.integers(0, 5)


@functools.cache
def tokenizer():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.txt")
        path.write_text("".join(f"{token}\n" for token in VOCAB))
        return Tokenizer.load(path)


@functools.cache
def tiny_model(seed, end_bias=0.0):
    """Odd seeds are RoBERTa's: positions begin after the padding id, and there is one segment."""
    roberta = {"family": "roberta", "pad_token_id": 1, "num_segments": 1, "max_positions": 42}
    config = EncoderConfig(
        **(roberta if seed % 2 else {"max_positions": 40}),
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=24,
        vocab_size=len(VOCAB),
        initializer_range=0.5,
        hidden_dropout=0.0,
    )
    generator = torch.Generator().manual_seed(seed)
    encoder = Encoder(config)
    encoder.reset(generator)
    model = Model(encoder, new_head("mlm", config, num_labels=0, generator=generator)).eval().requires_grad_(False)
    model.head.bias[tokenizer().sep_id] = end_bias
    return model


def decoder(seed, end_bias=0.0):
    return Decoder(tiny_model(seed, end_bias), tokenizer())


def framed(decoder, sources):
    return [decoder.frame(np.array(ids, dtype=np.int32)) for ids in sources]


# --- the slow twin ---------------------------------------------------------------------------------


def next_scores(model, source, target):
    """Log-probabilities of the token after `target`: source and target and [MASK] in one dense, masked pass."""
    ids = torch.tensor([*source.tolist(), *target, tokenizer().mask_id])
    length = len(ids)
    segments = (torch.arange(length) >= len(source)).long() * (model.encoder.config.num_segments - 1)
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    seen[:, : len(source)] = True
    hidden = model.encoder.embeddings.rows(ids, torch.arange(length), segments)

    def attention(query, key, value):
        by_head = (rows.transpose(0, 1) for rows in (query, key, value))
        return scaled_dot_product_attention(*by_head, attn_mask=seen).transpose(0, 1)

    for layer in model.encoder.layers:
        hidden = layer.forward_with(hidden, attention)
    return model.head.score(hidden[-1:], model.encoder).log_softmax(-1)[0].double()


def ngram_bans(target, size, ignored):
    """As worded in the specification, one n-gram after the other."""
    banned = set()
    if size and len(target) >= size:
        tail = target[len(target) - (size - 1) :]
        if not any(token in ignored for token in tail):
            for start in range(len(target) - size + 1):
                *head, last = target[start : start + size]
                if head == tail and last not in ignored:
                    banned.add(last)
    return banned


def slow_search(model, source, options, ignored):
    """Every frame to the last step, each hypothesis computed from scratch."""
    end, beams, steps = tokenizer().sep_id, options.beam_size, options.max_target_tokens
    frames = []
    hypotheses = [([], 0.0)]
    for step in range(1, steps + 1):
        candidates = []
        for place, (target, score) in enumerate(hypotheses):
            scores = next_scores(model, source, target)
            for token in ngram_bans(target, options.ban_ngrams, ignored):
                scores[token] -= 10000.0
            if step <= options.min_tokens:
                scores[end] = -10000.0
            best, tokens = scores.topk(beams)
            if target and target[-1] == end:
                best = best - 10000.0
            candidates += [(score + s, token, place) for s, token in zip(best.tolist(), tokens.tolist(), strict=True)]
        chosen = sorted(candidates, key=lambda candidate: -candidate[0])[:beams]
        frames.append(chosen)
        hypotheses = [([*hypotheses[place][0], token], score) for score, token, place in chosen]
        if all(token == end for _, token, _ in chosen):
            break
    parts = [[[entry[part] for entry in frame] for frame in frames] for part in range(3)]
    return Trace(scores=parts[0], ids=parts[1], parents=parts[2])


@given(source, seeds, st.sampled_from([0.0, 2.0, 4.0]), st.integers(0, 3), st.integers(0, 3), st.integers(2, 4))
@FEW
def test_cached_decoding_equals_full_recomputation(ids, seed, end_bias, ban, least, beams):
    rules = {"min_tokens": least, "ban_ngrams": ban}
    fast = decoder(seed, end_bias)
    [own] = framed(fast, [ids])
    options = GenerationSettings(beam_size=beams, max_target_tokens=7, traces=True, **rules)
    [found] = search(fast, [own], options, frozenset([7]))
    expected = slow_search(tiny_model(seed, end_bias), own, options, frozenset([7]))
    assert (found.ids, found.parents) == (expected.ids, expected.parents)
    assert np.abs(np.array(found.scores) - np.array(expected.scores)).max() < 1e-4


# --- properties --------------------------------------------------------------------------------------


@given(sources, seeds, st.integers(1, 3), st.integers(2, 5), st.frozensets(st.integers(5, 39), max_size=9))
@FEW
def test_no_banned_ngram_comes_twice_in_a_target(batch, seed, size, beams, ignored):
    """Except those with a token whose n-grams may repeat."""
    fast = decoder(seed, -20.0)
    options = GenerationSettings(beam_size=beams, max_target_tokens=20, ban_ngrams=size)
    own = framed(fast, batch)
    traces = search(fast, own, options, ignored)
    found = [best_hypotheses(trace, end_id=3, length_penalty=0.0, n_best=beams) for trace in traces]
    for hypotheses in [*found, *choose_all(fast, own, options, ignored=ignored)]:
        for hypothesis in hypotheses:
            ngrams = [hypothesis.ids[at : at + size] for at in range(len(hypothesis.ids) - size + 1)]
            ngrams = [ngram for ngram in ngrams if ignored.isdisjoint(ngram)]
            assert len(set(ngrams)) == len(ngrams)


@given(sources, seeds, st.sampled_from([0.0, 3.0]), st.integers(0, 3))
@FEW
def test_one_beam_equals_greedy(batch, seed, end_bias, least):
    fast = decoder(seed, end_bias)
    own = framed(fast, batch)
    traces = search(fast, own, GenerationSettings(beam_size=1, max_target_tokens=9, min_tokens=least))
    chosen = choose_all(fast, own, GenerationSettings(max_target_tokens=9, min_tokens=least))
    for trace, [greedy] in zip(traces, chosen, strict=True):
        [best] = best_hypotheses(trace, end_id=3, length_penalty=0.0)
        cut = best.ids[: best.ids.index(0) + 1] if 0 in best.ids else best.ids  # padding ends a greedy target
        assert cut == greedy.ids
        assert math.isclose(best.score, greedy.score, abs_tol=1e-4) or cut != best.ids


@given(sources, seeds, st.randoms(use_true_random=False), st.booleans())
@FEW
def test_batch_and_order_do_not_matter(batch, seed, random, is_sampled):
    """One by one, all together, and in another order: equal targets, for beam search and for sampling."""
    fast = decoder(seed, 2.0)
    own = framed(fast, batch)

    def targets(sources, numbers):
        if not is_sampled:
            options = GenerationSettings(beam_size=3, max_target_tokens=8, n_best=2)
            traces = search(fast, sources, options)
            found = [best_hypotheses(trace, end_id=3, length_penalty=0.0, n_best=2) for trace in traces]
        else:
            draws = [[np.random.default_rng([number, sample]).random(8) for sample in (0, 1)] for number in numbers]
            found = choose_all(
                fast, sources, GenerationSettings(sample=True, max_target_tokens=8, top_k=9, top_p=0.9), draws
            )
        return [[hypothesis.ids for hypothesis in hypotheses] for hypotheses in found]

    numbers = list(range(len(own)))
    together = targets(own, numbers)
    assert together == [targets([one], [number])[0] for number, one in enumerate(own)]
    shuffled = random.sample(numbers, len(numbers))
    assert targets([own[number] for number in shuffled], shuffled) == [together[number] for number in shuffled]


@given(
    sources,
    seeds,
    st.sampled_from([1.0, 3.0, 5.0, 8.0]),
    st.sampled_from([0.0, 0.3, 0.9, 2.5]),
    st.integers(1, 4),
    st.integers(0, 4),
    st.sampled_from([0, 1, 2]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_early_stopping_never_changes_a_result(batch, seed, end_bias, penalty, n_best, least, ban):
    fast = decoder(seed, end_bias)
    own = framed(fast, batch)
    found = []
    for early_stop in (True, False):
        options = GenerationSettings(
            beam_size=4,
            max_target_tokens=14,
            length_penalty=penalty,
            n_best=n_best,
            min_tokens=least,
            ban_ngrams=ban,
            traces=not early_stop,
        )
        traces = search(fast, own, options, frozenset([7, 8]))
        found.append([best_hypotheses(t, end_id=3, length_penalty=penalty, n_best=n_best) for t in traces])
    stopped, whole = found
    assert [[one.ids for one in best] for best in stopped] == [[one.ids for one in best] for best in whole]


def test_early_stopping_does_stop_early():
    """Otherwise the property above would hold trivially."""
    fast = decoder(0, 6.0)
    [own] = framed(fast, [[5, 6, 7]])
    options = {"beam_size": 4, "max_target_tokens": 20}
    [stopped] = search(fast, [own], GenerationSettings(**options))
    [whole] = search(fast, [own], GenerationSettings(**options, traces=True))
    assert len(stopped.ids) < len(whole.ids)
    assert not stopped.complete


@given(st.integers(1, 4), st.integers(1, 2000), st.integers(1, 6), st.integers(0, 99))
@FEW
def test_best_of_rows_equals_topk(rows, columns, count, seed):
    count = min(count, columns)
    scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    best, places = best_of_rows(scores, count)
    expected = scores.topk(count)
    assert torch.equal(best, expected.values)
    assert torch.equal(places, expected.indices)
