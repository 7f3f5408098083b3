"""The encoder as an incremental decoder: predicts the next token of every beam without recomputing the prefix.

In: framed source ids, then per step the tokens and parents of the beams. Out: log-probabilities of the next token.

For models trained with pseudo-masking (spec 2.6), a step feeds the previous token and a [MASK] at the position to
predict; only the previous token stays in the cache. In the last layer, sources and previous tokens need keys and
values only. With `pos_shift` the previous token itself predicts the next one, and decoding starts from an end token.

B examples, K beams, R = B x K predicted rows, T packed tokens, E hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from minilm.decode.cache import Cache
from minilm.errors import UsageError
from minilm.model.attention import attend
from minilm.model.config import require_absolute
from minilm.model.encoder import Layer
from minilm.model.heads import MaskedLanguageHead, Model
from minilm.model.packing import Packed, pack
from minilm.model.prepacked import prepack
from minilm.model.without_weights import without_weights
from minilm.text.pairs import Int32s
from minilm.text.tokenizer import Tokenizer

PosShift = Literal["none", "head", "2020-03"]
"""Decoding mode of models trained by position shift (`mask_way` v0): as in the latest release, or the first."""

_ORIGINAL_EPS = 1e-5


def pos_shift_of(mask_way: str) -> PosShift:
    """The decoding mode of a model trained with `mask_way`."""
    return "head" if mask_way == "v0" else "none"


def source_frame(pos_shift: PosShift) -> int:
    """Number of special tokens around a source; see `Decoder.frame`."""
    return 1 if pos_shift == "head" else 2


class Decoder:
    """A model with a masked-language head, prepared for decoding.

    It holds a copy of the output weights: after further training, create a new one.

    Attributes:
        end_id: the token that ends a target.
        pad_id: padding, which also ends a target.
        vocab_size: V, the tokenizer's vocabulary; rows of the model's table beyond it are never predicted.
        max_positions: positions for source and target together.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, *, pos_shift: PosShift = "none") -> None:
        """Prepare a model in evaluation mode.

        Raises:
            UsageError: no trained masked-language head, relative positions, a vocabulary mismatch, or an unknown
                `pos_shift`.
        """
        if not isinstance(model.head, MaskedLanguageHead) or model.has_fresh_weights:
            raise UsageError(
                "the model has no trained mlm head, so it cannot generate: the checkpoint lacks those weights; "
                "fine-tune it on a seq2seq task first"
            )
        if pos_shift not in get_args(PosShift):
            raise UsageError(f"pos_shift is {pos_shift!r}; expected one of {', '.join(get_args(PosShift))}")
        assert not model.training, "a decoder needs a model in evaluation mode"
        config = model.encoder.config
        require_absolute(config)
        if tokenizer.vocab_size > config.vocab_size:
            raise UsageError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, but the model has {config.vocab_size}; "
                "use the tokenizer the model was trained with"
            )
        self._encoder, self._head, self._pos_shift = model.encoder, model.head, pos_shift
        self.vocab_size, self.max_positions = tokenizer.vocab_size, config.max_tokens
        words = model.encoder.embeddings.word.weight[: self.vocab_size]
        self._output = _output_map(words, model.head.bias[: self.vocab_size])
        self._cls_id, self._mask_id, self.end_id, self.pad_id = (
            tokenizer.cls_id,
            tokenizer.mask_id,
            tokenizer.sep_id,
            tokenizer.pad_id,
        )
        self._target_segment = config.target_segment

    def source_room(self, max_target_tokens: int, *, max_positions: int | None = None) -> int:
        """Max source tokens, special tokens excluded, that leave room for `max_target_tokens`.

        Raises:
            UsageError: no source token fits.
        """
        positions = self.max_positions if max_positions is None else min(max_positions, self.max_positions)
        room = positions - max_target_tokens - source_frame(self._pos_shift)
        if room < 1:
            raise UsageError(
                f"{max_target_tokens} target tokens leave no room for a source in {positions} positions; "
                f"use at most {positions - 3}"
            )
        return room

    def frame(self, token_ids: Int32s) -> Int32s:
        """`[CLS] x [SEP]`, or `[CLS] x` if `pos_shift` is head."""
        after = [self.end_id] * (source_frame(self._pos_shift) - 1)
        return np.concatenate([[self._cls_id], token_ids, after]).astype(np.int32)

    @torch.inference_mode()
    def start(self, sources: Sequence[Int32s], *, beams: int, room: int) -> tuple[Cache, Tensor]:
        """Encode the sources.

        Args:
            sources: framed ids of B sources; batches of similar lengths are fastest.
            beams: K, the number of beams of every later step.
            room: max tokens of a target.

        Returns:
            The cache, and the log-probabilities of the first token, `[B, V]` float32.

        Raises:
            UsageError: a source and its target need more positions than the model has.
        """
        packed = pack(sources).to(self._encoder.embeddings.word.weight.device)
        if packed.max_len + room > self.max_positions:
            raise UsageError(
                f"a source of {packed.max_len} tokens and a target of {room} need more than the model's "
                f"{self.max_positions} positions; truncate the source or reduce the target tokens"
            )
        dtype = self._encoder.embeddings.word.weight.dtype
        cache = Cache(self._encoder.config, packed, beams=beams, room=room, dtype=dtype)
        self._read(packed, cache)
        cache.open_step(None, kept=self._pos_shift != "none", passing=self._pos_shift == "none")
        token_id = self._mask_id if self._pos_shift == "none" else self.end_id
        tokens_B1 = torch.full_like(cache.lengths, token_id)[:, None]
        return cache, self._predict(cache, tokens_B1, cache.lengths[:, None], read=1)

    @torch.inference_mode()
    def step(self, cache: Cache, tokens_BK: Tensor, parents_BK: Tensor, *, step: int) -> Tensor:
        """Advance by one token.

        Args:
            cache: the cache returned by `start`, updated in place.
            tokens_BK: the newest token of each beam.
            parents_BK: the beam of the previous step that each beam extends.
            step: number of tokens each beam now has.

        Returns:
            Log-probabilities of the next token of each beam, `[R, V]` float32; the beams of an example are adjacent.
        """
        beams = tokens_BK.shape[1]
        positions_BK = (cache.lengths + step)[:, None].expand(-1, beams)
        if self._pos_shift != "none":
            cache.open_step(parents_BK, kept=True, passing=False)
            return self._predict(cache, tokens_BK, positions_BK, read=beams)
        cache.open_step(parents_BK, kept=True, passing=True)
        tokens = torch.cat([tokens_BK, torch.full_like(tokens_BK, self._mask_id)], 1)
        return self._predict(cache, tokens, torch.cat([positions_BK - 1, positions_BK], 1), read=beams)

    def _read(self, packed: Packed, cache: Cache) -> None:
        """Encode the sources; the last layer computes only keys and values."""
        hidden_TE: Tensor = self._encoder.embeddings(packed)
        layers = self._layers()
        for number, layer in enumerate(layers[:-1]):
            hidden_TE = layer.forward_with(hidden_TE, partial(_attend_source, cache, number, packed))
        _, key, value = layers[-1].project(hidden_TE)
        cache.store_source(len(layers) - 1, key, value, packed)

    def _predict(self, cache: Cache, tokens: Tensor, positions: Tensor, *, read: int) -> Tensor:
        """Run new rows `[B, W]`; return log-probabilities at the last `read` rows of each example."""
        segments = torch.full_like(tokens, self._target_segment)
        hidden = self._encoder.embeddings.rows(tokens.flatten(), positions.flatten(), segments.flatten())
        layers = self._layers()
        for number, layer in enumerate(layers[:-1]):
            hidden = layer.forward_with(hidden, partial(cache.attend, number))
        last = torch.arange(tokens.numel(), device=tokens.device).view(tokens.shape)[:, -read:].flatten()
        hidden_RE = layers[-1].forward_with(hidden, partial(cache.attend, len(layers) - 1), last)
        logits_RV: Tensor = self._output(self._head.norm(self._head.dense(hidden_RE)))
        return logits_RV.float().log_softmax(-1)

    def _layers(self) -> list[Layer]:
        return [layer for layer in self._encoder.layers if isinstance(layer, Layer)]


def use_original_eps(model: Model) -> None:
    """Set every LayerNorm's eps to 1e-5, as the original decoder does regardless of its configuration (spec 10.12)."""
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = _ORIGINAL_EPS


def _attend_source(cache: Cache, layer: int, packed: Packed, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    cache.store_source(layer, key, value, packed)
    return attend(query, key, value, packed)


def _output_map(words_VE: Tensor, bias: Tensor) -> nn.Module:
    """The tied output projection as a separate module, prepacked where that is faster."""
    with without_weights():
        linear = nn.Linear(words_VE.shape[1], words_VE.shape[0])
    linear.weight, linear.bias = nn.Parameter(words_VE.detach()), nn.Parameter(bias.detach())
    output = nn.Sequential(linear).requires_grad_(False)
    prepack(output)
    return output
