"""Beam search as in Microsoft's s2s-ft (spec 2.6), with early stopping that never changes the result.

In: a `Decoder` and framed sources. Out: one `Trace` per source, from which `rescore` picks the best hypotheses.

B active examples, K beams, R = B x K rows, V vocabulary; a frame is the state of the K beams after one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor

from minilm.decode.decoder import Decoder
from minilm.decode.search_rules import PENALTY, banned_tokens, length_divisors, may_stop
from minilm.decode.settings import GenerationSettings
from minilm.decode.traces import Trace
from minilm.errors import UsageError
from minilm.text.pairs import Int32s

_CHUNK = 256  # columns reduced to one maximum before the selection


class _Example:
    """Search state of one example."""

    def __init__(
        self, settings: GenerationSettings, divisors: Sequence[float], end_id: int, ignored: AbstractSet[int]
    ) -> None:
        self._settings, self._divisors, self._end_id, self._ignored = settings, divisors, end_id, ignored
        self._scores: list[list[float]] = []
        self._ids: list[list[int]] = []
        self._parents: list[list[int]] = []
        self._ended: list[float] = []
        self._sequences: list[list[int]] = [[]]

    def add(self, scores: list[float], ids: list[int], parents: list[int]) -> None:
        """Append a frame."""
        divisor = self._divisors[len(self._ids)]
        self._scores.append(scores)
        self._ids.append(ids)
        self._parents.append(parents)
        self._ended += [score / divisor for score, token in zip(scores, ids, strict=True) if token == self._end_id]
        if self._settings.ban_ngrams:
            self._sequences = [[*self._sequences[parent], token] for parent, token in zip(parents, ids, strict=True)]

    def is_finished(self) -> bool:
        """Whether every beam has ended, or no later frame can change the best hypotheses."""
        if all(token == self._end_id for token in self._ids[-1]):
            return True
        reachable = max(
            score - PENALTY * (token == self._end_id)
            for score, token in zip(self._scores[-1], self._ids[-1], strict=True)
        )
        to_come = self._divisors[len(self._ids) :]
        return not self._settings.traces and may_stop(self._ended, self._settings.n_best, reachable, to_come)

    def banned(self) -> list[list[int]]:
        """Tokens that may not follow, per beam."""
        size, ignored = self._settings.ban_ngrams, self._ignored
        return [
            [] if sequence[-1:] == [self._end_id] else banned_tokens(sequence, size, ignored)
            for sequence in self._sequences
        ]

    def trace(self) -> Trace:
        """All frames."""
        complete = len(self._ids) == len(self._divisors) or all(token == self._end_id for token in self._ids[-1])
        return Trace(scores=self._scores, ids=self._ids, parents=self._parents, complete=complete)


@torch.inference_mode()
def search(
    decoder: Decoder, sources: Sequence[Int32s], settings: GenerationSettings, ignored: AbstractSet[int] = frozenset()
) -> list[Trace]:
    """Beam-search a batch of sources; batches of similar lengths are fastest.

    An example leaves the batch once no later step can change its `n_best` hypotheses (see `may_stop`). With `traces`
    the search continues until every beam has ended, so that the trace can be rescored under other rules.

    Args:
        decoder: the model.
        sources: framed ids.
        settings: the search settings.
        ignored: tokens whose n-grams may repeat (such as full stops).

    Raises:
        UsageError: `beam_size` exceeds the vocabulary, or a source and its target exceed the model's positions.
    """
    beams, steps = settings.beam_size, settings.num_steps
    if beams > decoder.vocab_size:
        raise UsageError(f"beam_size is {beams}, but the vocabulary has {decoder.vocab_size} tokens; use fewer beams")
    divisors = length_divisors(steps, settings.length_penalty)
    examples = [_Example(settings, divisors, decoder.end_id, ignored) for _ in sources]
    live = list(range(len(sources)))
    cache, log_scores_RV = decoder.start(sources, beams=beams, room=steps)
    before_BK: tuple[Tensor, Tensor] | None = None
    for step in range(1, steps + 1):
        _ban(log_scores_RV, step, [examples[number] for number in live], decoder.end_id, settings)
        scores_BK, ids_BK, parents_BK = _choose(log_scores_RV, beams, before_BK, decoder.end_id)
        for number, *frame in zip(live, scores_BK.tolist(), ids_BK.tolist(), parents_BK.tolist(), strict=True):
            examples[number].add(*frame)
        kept = [index for index, number in enumerate(live) if not examples[number].is_finished()]
        if step == steps or not kept:
            break
        if len(kept) < len(live):
            order = cache.keep(kept)
            live = [live[index] for index in order]
            scores_BK, ids_BK, parents_BK = scores_BK[order], ids_BK[order], parents_BK[order]
        before_BK = scores_BK, ids_BK
        log_scores_RV = decoder.step(cache, ids_BK, parents_BK, step=step)
    return [example.trace() for example in examples]


def _ban(
    log_scores_RV: Tensor, step: int, examples: Sequence[_Example], end_id: int, rules: GenerationSettings
) -> None:
    """Penalize banned tokens in place. A banned end token scores exactly -PENALTY, as in the original."""
    if rules.ban_ngrams and step > rules.ban_ngrams:
        banned = [tokens for example in examples for tokens in example.banned()]
        rows = [row for row, tokens in enumerate(banned) for _ in tokens]
        log_scores_RV[rows, [token for tokens in banned for token in tokens]] -= PENALTY
    if rules.bans_end(step):
        log_scores_RV[:, end_id] = -PENALTY


def _choose(
    log_scores_RV: Tensor, beams: int, before_BK: tuple[Tensor, Tensor] | None, end_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The next frame: scores, tokens and parents, `[B, K]` each.

    The first step takes the top K tokens of a single row; later steps take the top K among the top K of every row.
    """
    scores, ids = best_of_rows(log_scores_RV, beams)
    scores = scores.double()
    if before_BK is None:
        return scores, ids, torch.zeros_like(ids)
    scores_BK, ids_BK = before_BK
    scores = scores.view(*scores_BK.shape, beams) + (scores_BK - PENALTY * (ids_BK == end_id))[..., None]
    best, columns = scores.flatten(1).topk(beams)
    return best, ids.view(len(ids_BK), -1).gather(1, columns), columns // beams


def best_of_rows(scores_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest scores of each row and their columns, highest first, `[R, count]` each.

    The columns are split into chunks. The highest scores are in the `count` chunks with the highest maxima, so the
    selection runs over those chunks only: a maximum costs a tenth of a selection over the full vocabulary.
    """
    num_chunks = scores_RV.shape[1] // _CHUNK
    if num_chunks <= 2 * count:
        best, columns = scores_RV.topk(count)
        return best, columns
    chunks = scores_RV[:, : num_chunks * _CHUNK].unflatten(1, (num_chunks, _CHUNK))
    chosen = chunks.amax(-1).topk(count).indices[..., None]
    all_columns = torch.arange(scores_RV.shape[1], device=scores_RV.device)
    in_chunks = (chosen * _CHUNK + all_columns[:_CHUNK]).flatten(1)
    rest = all_columns[num_chunks * _CHUNK :].expand(len(scores_RV), -1)
    columns = torch.cat([in_chunks, rest], 1)
    best, found = scores_RV.gather(1, columns).topk(count)
    return best, columns.gather(1, found)
