"""The original decoding algorithm of s2s-ft (spec 2.6), reimplemented on our weights for benchmarks.

Everything is padded to the longest source. A step feeds the token before and a [MASK]; what is cached are the hidden
rows of every layer, so keys and values of the source and of all tokens before are projected again in each step; every
beam carries its own copy of the source, and all copies are gathered when beams are reordered. The search runs until
the last step, whatever has ended.

In: a `Model` with the masked-language head (not prepacked), framed sources. Out: one `Trace` per source.

B examples, K beams, N tokens of one row, E hidden width, H heads, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from minilm.decode.settings import GenerationSettings
from minilm.decode.traces import Trace
from minilm.model.heads import MaskedLanguageHead, Model
from minilm.text.tokenizer import Tokenizer

_AWAY = -10000.0


class OriginalDecoder:
    """Beam search without bans on n-grams."""

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        assert isinstance(model.head, MaskedLanguageHead)
        self._encoder, self._head = model.encoder, model.head
        self._mask_id, self._end_id, self._pad_id = tokenizer.mask_id, tokenizer.sep_id, tokenizer.pad_id

    @torch.inference_mode()
    def search(self, sources: Sequence[np.ndarray], settings: GenerationSettings) -> list[Trace]:
        """All frames of every search."""
        beams, steps, size = settings.beam_size, settings.num_steps, len(sources)
        ids, places, kinds, mask = self._padded(sources, steps)
        longest = ids.shape[1]
        new_ids, history = ids, None
        frames: list[tuple[Tensor, Tensor, Tensor]] = []
        for step in range(steps):
            end = longest + step + 1
            start = end - 1 - new_ids.shape[1]
            masks = torch.full((len(new_ids), 1), self._mask_id)
            states = self._run(
                torch.cat([new_ids, masks], 1),
                places[:, start:end],
                kinds[:, start:end],
                mask[:, None, start:end, :end],
                history,
            )
            scores = self._scores(states[-1][:, -1])
            if step + 1 <= settings.min_tokens:
                scores[:, self._end_id] = _AWAY
            best, tokens = scores.topk(beams)
            if frames:
                before, before_ids, _ = frames[-1]
                ended = (before_ids == self._end_id).float() * _AWAY
                best = (best + ended.view(-1, 1) + before.view(-1, 1)).view(size, beams * beams)
                best, chosen = best.topk(beams)
                parents, tokens = chosen // beams, tokens.view(size, -1).gather(1, chosen)
            else:
                parents = torch.zeros_like(tokens)
            frames.append((best, tokens, parents))
            kept = [state[:, :-1] for state in states]
            if history is None:
                history = [state.repeat_interleave(beams, 0) for state in kept]
                places, kinds, mask = (part.repeat_interleave(beams, 0) for part in (places, kinds, mask))
            else:
                rows = (parents + beams * torch.arange(size)[:, None]).flatten()
                history = [torch.cat([old, new], 1)[rows] for old, new in zip(history, kept, strict=True)]
            new_ids = tokens.view(-1, 1)
        return [self._trace(frames, number) for number in range(size)]

    def _padded(self, sources: Sequence[np.ndarray], steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Ids `[B, N]`, and for all rows to come: positions, segments, and a mask `[B, N', N']` to be added."""
        longest = max(map(len, sources))
        total = longest + steps
        ids = torch.full((len(sources), longest), self._pad_id)
        places = torch.zeros(len(sources), total, dtype=torch.long)
        seen = torch.zeros(len(sources), total, total)
        seen[:, longest:, longest:] = torch.ones(steps, steps).tril()
        for row, source in enumerate(sources):
            ids[row, : len(source)] = torch.from_numpy(source)
            places[row, : len(source)] = torch.arange(len(source))
            places[row, longest:] = len(source) + torch.arange(steps)
            seen[row, :, : len(source)] = 1
        kinds = (torch.arange(total) >= longest).long().repeat(len(sources), 1)
        return ids, places, kinds, (1 - seen) * _AWAY

    def _run(
        self, ids: Tensor, places: Tensor, kinds: Tensor, mask: Tensor, history: list[Tensor] | None
    ) -> list[Tensor]:
        """Embeddings and outputs of every layer for the new rows, `[rows, N, E]` each."""
        embedded = self._encoder.embeddings.rows(ids.flatten(), places.flatten(), kinds.flatten())
        states = [embedded.view(*ids.shape, -1)]
        mask = mask.to(embedded.dtype)
        for number, layer in enumerate(self._encoder.layers):
            new = states[-1]
            old = new if history is None else torch.cat([history[number], new], 1)
            weights, biases = layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3)
            query, key, value = (
                functional.linear(rows, weight, bias).view(*rows.shape[:2], *layer.head_shape[1:]).transpose(1, 2)
                for rows, weight, bias in zip((new, old, old), weights, biases, strict=True)
            )
            scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) + mask
            mixed = layer.attention_out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
            hidden = layer.attention_norm(new + mixed)
            states.append(layer.ffn_norm(hidden + layer.ffn_out(layer.ffn_in(hidden))))
        return states

    def _scores(self, hidden_RE: Tensor) -> Tensor:
        return self._head.score(hidden_RE, self._encoder).log_softmax(-1)

    def _trace(self, frames: Sequence[tuple[Tensor, Tensor, Tensor]], number: int) -> Trace:
        """The frames of one source up to the last usable one."""
        ids = [frame[1][number].tolist() for frame in frames]
        used = next((place for place, row in enumerate(ids) if set(row) == {self._end_id}), len(ids) - 1) + 1
        return Trace(
            scores=[frame[0][number].tolist() for frame in frames[:used]],
            ids=ids[:used],
            parents=[frame[2][number].tolist() for frame in frames[:used]],
        )
