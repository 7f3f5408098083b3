"""The encoder as a decoder: predicts the next token of every beam, computing nothing twice.

In: framed source ids; then, step by step, the tokens and parents of the beams. Out: log-probabilities of the next.

As trained with pseudo-masking (spec 2.6), a step feeds the token before and a [MASK] in the place to predict; only
the former stays. Of the last layer, sources and tokens before need keys and values alone. With `pos_shift` the
token before predicts by itself, and an end token starts.

B examples, K beams, R = B x K rows that are read, T packed tokens, E hidden width, V vocabulary.
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
from minilm.model.encoder import Layer
from minilm.model.heads import MaskedLanguageHead, Model
from minilm.model.packing import Packed, pack
from minilm.model.prepacked import prepack
from minilm.model.without_weights import without_weights
from minilm.text.pairs import Int32s
from minilm.text.tokenizer import Tokenizer

PosShift = Literal["none", "head", "2020-03"]
"""How a model is asked that was trained by position shift (mask way v0): as the last code does, or the first."""

_ORIGINAL_EPS = 1e-5


def pos_shift_of(mask_way: str) -> PosShift:
    """How a model that was trained in a mask way is asked."""
    return "head" if mask_way == "v0" else "none"


def source_frame(pos_shift: PosShift) -> int:
    """Number of special tokens around a source: see `Decoder.frame`."""
    return 1 if pos_shift == "head" else 2


class Decoder:
    """A model with a masked-language head, ready to predict.

    It holds a copy of the output weights as they are now: after training, make another.

    Attributes:
        end_id: the token that ends a target.
        pad_id: padding, which also ends a text.
        vocab_size: V, the tokens of the tokenizer; rows that the model's table has behind them are never chosen.
        max_positions: places for source and target together.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, *, pos_shift: PosShift = "none") -> None:
        """Take a model in evaluation mode.

        Raises:
            UsageError: no trained masked-language head, another vocabulary, or an unknown `pos_shift`.
        """
        if not isinstance(model.head, MaskedLanguageHead) or model.has_fresh_weights:
            raise UsageError(
                "the model has no trained mlm head, so it cannot generate: its checkpoint lacks those weights; "
                "fine-tune it with the task seq2seq"
            )
        if pos_shift not in get_args(PosShift):
            raise UsageError(f"pos_shift is {pos_shift!r}; expected one of {', '.join(get_args(PosShift))}")
        assert not model.training, "a decoder needs a model in evaluation mode"
        config = model.encoder.config
        if tokenizer.vocab_size > config.vocab_size:
            raise UsageError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}: they do not belong "
                "together; use the tokenizer the model was trained with"
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
        self._target_segment = min(1, config.num_segments - 1)

    def source_room(self, max_target_tokens: int, *, max_positions: int | None = None) -> int:
        """How many tokens of a source fit, without its special tokens, beside `max_target_tokens`.

        Raises:
            UsageError: none fits.
        """
        places = self.max_positions if max_positions is None else min(max_positions, self.max_positions)
        room = places - max_target_tokens - source_frame(self._pos_shift)
        if room < 1:
            raise UsageError(
                f"{max_target_tokens} target tokens leave no room for a source among {places} positions; "
                f"ask for at most {places - 3}"
            )
        return room

    def frame(self, token_ids: Int32s) -> Int32s:
        """`[CLS] x [SEP]`; `[CLS] x` for models trained by position shift with the last code."""
        after = [self.end_id] * (source_frame(self._pos_shift) - 1)
        return np.concatenate([[self._cls_id], token_ids, after]).astype(np.int32)

    @torch.inference_mode()
    def start(self, sources: Sequence[Int32s], *, beams: int, room: int) -> tuple[Cache, Tensor]:
        """Read the sources.

        Args:
            sources: framed ids of B sources, best of similar lengths.
            beams: K, the beams of every later step.
            room: most tokens of a target.

        Returns:
            The cache, and the log-probabilities of each first token, `[B, V]` float32.

        Raises:
            UsageError: the position table does not hold a source and its target.
        """
        packed = pack(sources).to(self._encoder.embeddings.word.weight.device)
        if packed.max_len + room > self.max_positions:
            raise UsageError(
                f"a source of {packed.max_len} tokens and a target of {room} need more than the model's "
                f"{self.max_positions} positions; cut the source or ask for fewer target tokens"
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
        """Go on by one token.

        Args:
            cache: as `start` or the last call left it.
            tokens_BK: the newest token of each beam.
            parents_BK: the beam of the step before that each beam goes on from.
            step: how many tokens each beam now has.

        Returns:
            Log-probabilities of the next token of each beam, `[R, V]` float32, beams of an example side by side.
        """
        beams = tokens_BK.shape[1]
        places_BK = (cache.lengths + step)[:, None].expand(-1, beams)
        if self._pos_shift != "none":
            cache.open_step(parents_BK, kept=True, passing=False)
            return self._predict(cache, tokens_BK, places_BK, read=beams)
        cache.open_step(parents_BK, kept=True, passing=True)
        tokens = torch.cat([tokens_BK, torch.full_like(tokens_BK, self._mask_id)], 1)
        return self._predict(cache, tokens, torch.cat([places_BK - 1, places_BK], 1), read=beams)

    def _read(self, packed: Packed, cache: Cache) -> None:
        """Run the sources; nothing is computed behind the keys and values of the last layer."""
        hidden_TE: Tensor = self._encoder.embeddings(packed)
        layers = self._layers()
        for number, layer in enumerate(layers[:-1]):
            hidden_TE = layer.forward_with(hidden_TE, partial(_attend_source, cache, number, packed))
        _, key, value = layers[-1].project(hidden_TE)
        cache.store_source(len(layers) - 1, key, value, packed)

    def _predict(self, cache: Cache, tokens: Tensor, places: Tensor, *, read: int) -> Tensor:
        """Run new rows `[B, W]`; log-probabilities at the last `read` of each example."""
        segments = torch.full_like(tokens, self._target_segment)
        hidden = self._encoder.embeddings.rows(tokens.flatten(), places.flatten(), segments.flatten())
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
    """Compute as the original decoder, whose LayerNorms add 1e-5 whatever the configuration says (spec 10.12)."""
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = _ORIGINAL_EPS


def _attend_source(cache: Cache, layer: int, packed: Packed, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    cache.store_source(layer, key, value, packed)
    return attend(query, key, value, packed)


def _output_map(words_VE: Tensor, bias: Tensor) -> nn.Module:
    """The tied output projection as a module of its own, prepacked where that is faster."""
    with without_weights():
        linear = nn.Linear(words_VE.shape[1], words_VE.shape[0])
    linear.weight, linear.bias = nn.Parameter(words_VE.detach()), nn.Parameter(bias.detach())
    output = nn.Sequential(linear).requires_grad_(False)
    prepack(output)
    return output
