"""The packed encoder: post-norm BERT on T tokens without padding.

In: a `Packed` batch.
Out: hidden rows of the last layer, its first rows only, or the projections of a layer (`Relations`).
For a `PackedSeq2Seq` batch: the rows of the last layer that a loss reads.

B sequences, T packed tokens, R rows that the loss reads, H heads, D head width, E hidden width, F feed-forward width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from minilm.errors import DataError, UsageError
from minilm.model.activations import Activation
from minilm.model.attention import attend, attend_first, attend_seq2seq, attend_seq2seq_read
from minilm.model.compact import CompactTable
from minilm.model.config import FAMILIES, EncoderConfig, FeedForwardActivation, require_absolute
from minilm.model.packing import Packed
from minilm.model.relative import RelativeBias
from minilm.model.seq2seq import PackedSeq2Seq

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Query rows `[R, H, D]`, key and value rows `[T, H, D]` -> attended values of the query rows."""
Biases = Sequence[Tensor] | None
"""What is added to the attention scores of each run of equal lengths, `[H, N, N]`; None without relative positions."""

_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "Tanh": torch.tanh,
    "GELU": functional.gelu,
    "ReLU": functional.relu,
}


@dataclass(frozen=True, kw_only=True)
class Relations:
    """Projections of one layer, directly after the linear maps and before any dropout, each `[T, H, D]`."""

    query: Tensor
    key: Tensor
    value: Tensor


ACTIVATIONS_INSIDE: Mapping[FeedForwardActivation, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}


class ActivatedLinear(nn.Linear):
    """A linear map and what follows it, `[T, in]` -> `[T, out]`; a single module so that engines can fuse them."""

    def __init__(self, inside: int, out: int, activation: FeedForwardActivation = "gelu") -> None:
        """Create the weights."""
        super().__init__(inside, out)
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:  # named as in nn.Linear
        """Apply both."""
        return ACTIVATIONS_INSIDE[self.activation](super().forward(input))


class Embeddings(nn.Module):
    """Word + position + segment tables, LayerNorm, dropout, and where the tables are narrower a map: -> `[T, E]`."""

    def __init__(self, config: EncoderConfig) -> None:
        """Create the tables; `Encoder.reset` or a checkpoint sets their values."""
        super().__init__()
        self.first_position = config.first_position
        width = config.embedding_width
        # as published: a [PAD] in the text does not train its row
        self.word: nn.Embedding | CompactTable = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_positions, width)
        self.segment = nn.Embedding(config.num_segments, width) if config.num_segments else None
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.project = nn.Linear(width, config.hidden_size) if width != config.hidden_size else None

    def forward(self, packed: Packed) -> Tensor:
        """Embed the tokens of `packed`."""
        return self.rows(packed.token_ids, packed.position_ids, packed.segment_ids)

    def rows(self, token_ids: Tensor, position_ids: Tensor, segment_ids: Tensor) -> Tensor:
        """Embed any tokens, `[T]` int64 each (positions from 0) -> `[T, E]`."""
        places = self.position(position_ids + self.first_position)
        if self.segment is not None:
            places = places + self.segment(segment_ids)
        embedded: Tensor = self.dropout(self.norm(self.word(token_ids) + places))
        return embedded if self.project is None else self.project(embedded)


class Layer(nn.Module):
    """One post-norm Transformer layer with a fused query-key-value projection."""

    def __init__(self, config: EncoderConfig) -> None:
        """Create the weights; `Encoder.reset` or a checkpoint sets their values."""
        super().__init__()
        width = config.hidden_size
        self.head_shape = (3, config.num_heads, config.head_size)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.ffn_in = ActivatedLinear(width, config.intermediate_size, config.hidden_act)
        self.ffn_out = nn.Linear(config.intermediate_size, width)
        self.ffn_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.dropout_after_attention = (
            self.dropout if FAMILIES[config.family].dropout_after_attention else nn.Identity()
        )

    def project(self, hidden_TE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value rows, each `[T, H, D]`."""
        query, key, value = self.qkv(hidden_TE).view(-1, *self.head_shape).unbind(1)
        return query, key, value

    def forward(self, hidden_TE: Tensor, packed: Packed, *, biases: Biases = None, dropout: float = 0.0) -> Tensor:
        """`[T, E]` -> `[T, E]`; `dropout` applies to attention probabilities."""
        return self.forward_projected(hidden_TE, self.project(hidden_TE), packed, biases=biases, dropout=dropout)

    def forward_projected(
        self,
        hidden_TE: Tensor,
        projected_THD: tuple[Tensor, Tensor, Tensor],
        packed: Packed,
        *,
        biases: Biases,
        dropout: float,
    ) -> Tensor:
        """`[T, E]` -> `[T, E]` where query, key and value are known."""
        return self._finish(hidden_TE, attend(*projected_THD, packed, biases=biases, dropout=dropout))

    def forward_first(
        self, hidden_TE: Tensor, packed: Packed, *, biases: Biases = None, dropout: float = 0.0
    ) -> Tensor:
        """Each sequence's first row only: `[T, E]` -> `[B, E]`.

        Keys and values are projected only with attention dropout or prepacked maps.
        """
        rows_BE = hidden_TE[packed.first_rows]
        biases = biases and [bias_HNN[:, :1] for bias_HNN in biases]
        if isinstance(self.qkv, nn.Linear) and not dropout:
            return self._finish(rows_BE, self._attend_hidden(rows_BE, hidden_TE, packed, biases))
        query, key, value = self.project(hidden_TE)
        attended = attend_first(query[packed.first_rows], key, value, packed, biases=biases, dropout=dropout)
        return self._finish(rows_BE, attended)

    def _attend_hidden(self, rows_BE: Tensor, hidden_TE: Tensor, packed: Packed, biases: Biases) -> Tensor:
        """Attention of first rows, with the key and value maps applied to B rows instead of T: `[B, H, D]`.

        q (W_k h + b_k) = (W_k^T q) h + a constant, which softmax ignores; sum p (W_v h + b_v) = W_v (sum p h) + b_v.
        """
        heads, size = self.head_shape[1:]
        query_map_EE, key_map_EE, value_map_EE = self.qkv.weight.chunk(3)
        query_bias, _, value_bias = self.qkv.bias.chunk(3)
        key_map_HDE, value_map_HDE = (part.view(heads, size, -1) for part in (key_map_EE, value_map_EE))
        query_BHD = functional.linear(rows_BE, query_map_EE, query_bias).view(-1, heads, size)
        asked_BHE = torch.einsum("bhd,hde->bhe", query_BHD, key_map_HDE).to(hidden_TE.dtype)
        hidden_T1E = hidden_TE[:, None]
        biases = biases and [bias_H1N.transpose(0, 1) for bias_H1N in biases]  # the heads are queries of one head
        mixed = attend_first(
            asked_BHE.flatten(0, 1)[:, None], hidden_T1E, hidden_T1E, packed, scale=size**-0.5, biases=biases
        )
        values_BHD = torch.einsum("bhe,hde->bhd", mixed.view_as(asked_BHE), value_map_HDE)
        return values_BHD + value_bias.view(heads, size)

    def forward_with(self, hidden_TE: Tensor, attention: Attention, rows: Tensor | None = None) -> Tensor:
        """`[T, E]` -> `[T, E]` with the caller's attention; only `rows` (int64), if given."""
        query, key, value = self.project(hidden_TE)
        if rows is not None:
            hidden_TE, query = hidden_TE[rows], query[rows]
        return self._finish(hidden_TE, attention(query, key, value))

    def _finish(self, hidden_TE: Tensor, attended_THD: Tensor) -> Tensor:
        mixed_TE = self.dropout_after_attention(self.attention_out(attended_THD.flatten(1)))
        hidden_TE = self.attention_norm(hidden_TE + mixed_TE)
        inner_TE = self.dropout(self.ffn_out(self.ffn_in(hidden_TE)))
        finished: Tensor = self.ffn_norm(hidden_TE + inner_TE)
        return finished


class Encoder(nn.Module):
    """Embeddings, layers and an optional pooler (a dense map with an activation, read by classifiers).

    `attention_dropout` is the dropout rate of attention probabilities in training: 0 unless set, regardless of the
    configuration.
    """

    def __init__(self, config: EncoderConfig, *, pooler: bool | None = None) -> None:
        """Create an encoder with uninitialized weights; see `reset` and `minilm.model.checkpoint`.

        Without `pooler`, it has one if the family's model without a head does.
        """
        super().__init__()
        family = FAMILIES[config.family]
        pooler = family.base_pooler if pooler is None else pooler
        self.config = config
        self.attention_dropout = 0.0
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.relative = RelativeBias(config.num_heads) if family.relative_positions else None
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if pooler else None
        self._activation = _ACTIVATIONS[family.pooler]

    def forward(self, packed: Packed) -> Tensor:
        """Hidden rows of the last layer, `[T, E]`."""
        return self._run(packed, len(self.layers), self._biases(packed))

    def first(self, packed: Packed) -> Tensor:
        """Hidden row of each sequence's first token, `[B, E]`; the last layer is computed for those rows only."""
        last, biases = self._layer(len(self.layers)), self._biases(packed)
        before_last_TE = self._run(packed, len(self.layers) - 1, biases)
        return last.forward_first(before_last_TE, packed, biases=biases, dropout=self._dropout_now())

    def seq2seq(self, batch: PackedSeq2Seq) -> Tensor:
        """Hidden rows that a seq2seq loss reads, `[R, E]`; the last layer is computed for those rows only."""
        require_absolute(self.config)
        _require_fits(batch.max_positions, self.config)
        hidden_TE: Tensor = self.embeddings(batch.packed)
        inner = partial(attend_seq2seq, batch=batch, dropout=self._dropout_now())
        for number in range(1, len(self.layers)):
            hidden_TE = self._layer(number).forward_with(hidden_TE, inner)
        read = partial(attend_seq2seq_read, batch=batch, dropout=self._dropout_now())
        return self._layer(len(self.layers)).forward_with(hidden_TE, read, batch.read_rows)

    def pooled(self, packed: Packed, *, dropout: nn.Module | None = None) -> Tensor:
        """activation(dense(first row)), `[B, E]`: the input of a classifier; `dropout` applies to the first rows."""
        assert self.pooler is not None, "create the encoder with pooler=True"
        rows_BE = self.first(packed)
        return self._activation(self.pooler(rows_BE if dropout is None else dropout(rows_BE)))

    def relations(self, packed: Packed, *, layer: int | None = None) -> Relations:
        """Query, key and value of `layer` (1-based, default: last); later operations are not computed.

        Raises:
            UsageError: the layer does not exist.
        """
        layer = len(self.layers) if layer is None else layer
        return self.relations_of(packed, [layer])[layer]

    def relations_of(self, packed: Packed, layers: Sequence[int]) -> dict[int, Relations]:
        """Query, key and value of some `layers` (1-based) in one pass; what follows the last is not computed.

        Raises:
            UsageError: a layer does not exist.
        """
        self._require_layers(layers)
        biases, found, last = self._biases(packed), dict[int, Relations](), max(layers)
        hidden_TE: Tensor = self.embeddings(packed)
        for number in range(1, last + 1):
            layer = self._layer(number)
            query, key, value = projected = layer.project(hidden_TE)
            if number in layers:
                found[number] = Relations(query=query, key=key, value=value)
            if number < last:
                hidden_TE = layer.forward_projected(
                    hidden_TE, projected, packed, biases=biases, dropout=self._dropout_now()
                )
        return found

    def hidden_of(self, packed: Packed, layers: Sequence[int]) -> dict[int, Tensor]:
        """Hidden rows after some `layers` (1-based) in one pass, `[T, E]` each.

        Raises:
            UsageError: a layer does not exist.
        """
        self._require_layers(layers)
        after_each = enumerate(self._after_each(packed, max(layers), self._biases(packed)))
        return {number: hidden_TE for number, hidden_TE in after_each if number in layers}

    def relation_parameters(self) -> list[nn.Parameter]:
        """The weights that `relations` of the last layer depends on; all others get no gradient from it."""
        last = self._layer(len(self.layers))
        unused = {*last.parameters()} - {*last.qkv.parameters()}
        unused |= set() if self.pooler is None else {*self.pooler.parameters()}
        return [parameter for parameter in self.parameters() if parameter not in unused]

    def hidden_parameters(self) -> list[nn.Parameter]:
        """The weights that the rows of the last layer depend on: all but those of the pooler."""
        unused = set() if self.pooler is None else {*self.pooler.parameters()}
        return [parameter for parameter in self.parameters() if parameter not in unused]

    def reset(self, generator: torch.Generator) -> None:
        """Fill all weights: N(0, initializer_range), zero biases, unit LayerNorm; the [PAD] row is zero."""
        reset_weights(self, self.config.initializer_range, generator)
        with torch.no_grad():
            self.embeddings.word.weight[self.config.pad_token_id] = 0

    def _dropout_now(self) -> float:
        return self.attention_dropout if self.training else 0.0

    def _require_layers(self, layers: Sequence[int]) -> None:
        wrong = [layer for layer in layers if not 1 <= layer <= len(self.layers)]
        if wrong:
            raise UsageError(f"layer is {wrong[0]}; the encoder has layers 1 to {len(self.layers)}")

    def _layer(self, number: int) -> Layer:
        layer = self.layers[number - 1]
        assert isinstance(layer, Layer)
        return layer

    def _biases(self, packed: Packed) -> Biases:
        _require_fits(packed.max_len, self.config)
        return None if self.relative is None else self.relative(packed)

    def _run(self, packed: Packed, num_layers: int, biases: Biases = None) -> Tensor:
        return deque(self._after_each(packed, num_layers, biases), maxlen=1).pop()  # one at a time in memory

    def _after_each(self, packed: Packed, num_layers: int, biases: Biases) -> Iterator[Tensor]:
        """Hidden rows before the first layer, then after each."""
        hidden_TE: Tensor = self.embeddings(packed)
        yield hidden_TE
        for number in range(1, num_layers + 1):
            hidden_TE = self._layer(number)(hidden_TE, packed, biases=biases, dropout=self._dropout_now())
            yield hidden_TE


def reset_weights(module: nn.Module, initializer_range: float, generator: torch.Generator) -> None:
    """Initialize linear maps and tables as BERT does, from `generator` alone."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                part.weight.normal_(0.0, initializer_range, generator=generator)
            if isinstance(part, nn.LayerNorm):
                part.weight.fill_(1.0)
            if isinstance(part, nn.Linear | nn.LayerNorm) and part.bias is not None:
                part.bias.zero_()


def _require_fits(longest: int, config: EncoderConfig) -> None:
    if longest > config.max_tokens:
        raise DataError(
            f"a sequence has {longest} tokens, but the position table holds {config.max_tokens}; "
            f"truncate the text or use a model with more positions"
        )
