"""Greedy decoding and sampling: one token at a time, without a search.

In: a `Decoder`, framed sources; for sampling, one uniform random number per token. Out: tokens per step, or complete
targets.

Each target has its own random numbers, so the rest of the batch never affects it.

B examples, K targets of each (1 if greedy), R = B x K rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minilm.decode.decoder import Decoder
from minilm.decode.rescore import Hypothesis
from minilm.decode.search_rules import banned_tokens
from minilm.decode.settings import GenerationSettings
from minilm.text.pairs import Int32s

Uniforms = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The next token of each target of example `number`, with its log-probability; -1 for ended targets."""

    number: int
    ids: list[int]
    scores: list[float]


def choose_all(
    decoder: Decoder,
    sources: Sequence[Int32s],
    settings: GenerationSettings,
    uniforms: Sequence[Sequence[Uniforms]] | None = None,
    ignored: AbstractSet[int] = frozenset(),
) -> list[list[Hypothesis]]:
    """Decode a batch of sources; returns the K targets of each source, most probable first.

    Args:
        decoder: the model.
        sources: framed ids; batches of similar lengths are fastest.
        settings: the sampling settings.
        uniforms: numbers in [0, 1), one per token for each of the K targets of each source; None for greedy decoding.
        ignored: tokens whose n-grams may repeat.
    """
    width = 1 if uniforms is None else len(uniforms[0])
    ids: list[list[list[int]]] = [[[] for _ in range(width)] for _ in sources]
    scores = [[0.0] * width for _ in sources]
    for chosen in choose(decoder, sources, settings, uniforms, ignored):
        for target, (token, score) in enumerate(zip(chosen.ids, chosen.scores, strict=True)):
            if token >= 0:
                ids[chosen.number][target].append(token)
                scores[chosen.number][target] += score
    found = [
        [Hypothesis(ids=tuple(tokens), score=score) for tokens, score in zip(*both, strict=True)]
        for both in zip(ids, scores, strict=True)
    ]
    return [sorted(targets, key=lambda hypothesis: -hypothesis.score) for targets in found]


@torch.inference_mode()
def choose(
    decoder: Decoder,
    sources: Sequence[Int32s],
    settings: GenerationSettings,
    uniforms: Sequence[Sequence[Uniforms]] | None = None,
    ignored: AbstractSet[int] = frozenset(),
) -> Iterator[Chosen]:
    """Yield the tokens of each step; see `choose_all`. A target ends with the end token or padding."""
    width = 1 if uniforms is None else len(uniforms[0])
    live, steps = list(range(len(sources))), settings.num_steps
    targets: list[list[list[int]]] = [[[] for _ in range(width)] for _ in sources]
    cache, log_scores_RV = decoder.start(sources, beams=width, room=steps)
    log_scores_RV = log_scores_RV.repeat_interleave(width, 0)
    parents: Tensor = torch.zeros(len(sources), width, dtype=torch.int64, device=log_scores_RV.device)
    for step in range(1, steps + 1):
        if settings.ban_ngrams and step > settings.ban_ngrams:
            _forbid_ngrams(log_scores_RV, [one for number in live for one in targets[number]], settings, ignored)
        if settings.bans_end(step):
            log_scores_RV[:, decoder.end_id] = -torch.inf
        draws = None if uniforms is None else [row[step - 1] for number in live for row in uniforms[number]]
        ids_R = log_scores_RV.argmax(-1) if draws is None else draw(log_scores_RV, draws, settings)
        ids_BK = ids_R.view(len(live), width)
        scores = log_scores_RV.gather(1, ids_R[:, None]).view(len(live), width).tolist()
        for number, tokens, values in zip(live, ids_BK.tolist(), scores, strict=True):
            yield _add(targets[number], tokens, values, number, decoder)
        kept = [index for index, number in enumerate(live) if not all(_has_ended(t, decoder) for t in targets[number])]
        if step == steps or not kept:
            return
        if len(kept) < len(live):
            order = cache.keep(kept)
            live, ids_BK, parents = [live[index] for index in order], ids_BK[order], parents[order]
        log_scores_RV = decoder.step(cache, ids_BK, parents, step=step)
        parents = torch.arange(width, device=ids_BK.device).expand(len(live), -1)


def draw(log_scores_RV: Tensor, uniforms: Sequence[float], settings: GenerationSettings) -> Tensor:
    """Sample one token per row from its uniform number, `[R]` int64.

    Temperature is applied first, then `top_k`, then `top_p` on the tokens that remain.
    """
    scores = log_scores_RV / settings.temperature
    columns = None
    if settings.top_k or settings.top_p < 1:
        count = min(settings.top_k or scores.shape[1], scores.shape[1])
        scores, columns = scores.topk(count)
    chances = scores.softmax(-1).double()
    if settings.top_p < 1:
        chances = torch.where(chances.cumsum(-1) - chances < settings.top_p, chances, 0.0)
    heights = chances.cumsum(-1)
    wanted = torch.tensor(uniforms, dtype=torch.float64, device=heights.device)[:, None] * heights[:, -1:]
    picked = torch.searchsorted(heights, wanted, right=True)
    last = heights.shape[1] - 1 - chances.flip(-1).gt(0).byte().argmax(-1, keepdim=True)
    picked = torch.minimum(picked, last)
    return (picked if columns is None else columns.gather(1, picked))[:, 0]


def _has_ended(target: Sequence[int], decoder: Decoder) -> bool:
    return bool(target) and target[-1] in (decoder.end_id, decoder.pad_id)


def _add(targets: list[list[int]], tokens: list[int], values: list[float], number: int, decoder: Decoder) -> Chosen:
    """Append to the targets that have not ended."""
    ids = [-1 if _has_ended(target, decoder) else token for target, token in zip(targets, tokens, strict=True)]
    for target, token in zip(targets, ids, strict=True):
        if token >= 0:
            target.append(token)
    return Chosen(number=number, ids=ids, scores=values)


def _forbid_ngrams(
    log_scores_RV: Tensor, targets: Sequence[list[int]], settings: GenerationSettings, ignored: AbstractSet[int]
) -> None:
    """Set the scores of tokens that would repeat an n-gram to -inf, in place."""
    banned = [banned_tokens(target, settings.ban_ngrams, ignored) for target in targets]
    rows = [row for row, tokens in enumerate(banned) for _ in tokens]
    log_scores_RV[rows, [token for tokens in banned for token in tokens]] = -torch.inf
