"""Self-attention over packed sequences; the only module that handles sequence boundaries.

In: query, key, value of T packed tokens.
Out: the attended values of the same rows, of each sequence's first row only, or of the rows that a seq2seq loss reads.

CUDA uses one variable-length kernel; other devices use one fused call per run of equal lengths. Neither supports
dropout of attention probabilities or a bias of the scores: with `dropout` (a rate, default 0) or `biases`, every device
uses one call per run of equal lengths, which in training materializes full matrices on CPUs.

B sequences, T packed tokens, N tokens of one sequence, H heads, D head width, Q query rows per sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import repeat

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minilm.model.packing import Packed
from minilm.model.seq2seq import PackedSeq2Seq, PaddedRows


def attend(
    query_THD: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    packed: Packed,
    *,
    scale: float | None = None,
    window: int | None = None,
    biases: Sequence[Tensor] | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Bidirectional attention of every token over its own sequence, `[T, H, D]` -> `[T, H, D]`.

    softmax(QK^T scale) V within each sequence, scale = 1 / sqrt(D) unless given. Keys and values may have fewer
    heads (each then serves a group of query heads). With `window`, tokens attend only to tokens less than `window`
    positions away (local attention of some teachers). With `biases`, one `[H, N, N]` per run, these are added to the
    scaled scores (relative positions); not together with `window`.
    """
    if query_THD.is_cuda and query_THD.dtype in (torch.float16, torch.bfloat16) and not dropout and biases is None:
        return _attend_cuda(query_THD, key_THD, value_THD, packed, scale, window)
    sizes = [count * length for count, length in packed.runs]
    masks: Sequence[Tensor | None] = biases or [_band(length, window, query_THD.device) for _, length in packed.runs]
    parts = zip(packed.runs, masks, *(rows.split(sizes) for rows in (query_THD, key_THD, value_THD)), strict=True)
    attended = [
        _attend_run(query, key, value, count, scale=scale, mask=mask, dropout=dropout)
        for (count, _), mask, query, key, value in parts
    ]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def attend_first(
    query: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    packed: Packed,
    *,
    scale: float | None = None,
    biases: Sequence[Tensor] | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of Q queries per sequence (usually its first token) over it, `[B Q, H, D]` -> `[B Q, H, D]`.

    `biases` are added to the scaled scores, one `[H, Q, N]` per run.
    """
    queries = len(query) // packed.num_sequences
    sizes = [count * length for count, length in packed.runs]
    counts = [count for count, _ in packed.runs]
    parts = zip(
        counts,
        query.split([count * queries for count in counts]),
        key_THD.split(sizes),
        value_THD.split(sizes),
        biases or repeat(None, len(counts)),
        strict=True,
    )
    return torch.cat(
        [
            _attend_run(query, key, value, count, scale=scale, mask=mask, dropout=dropout)
            for count, query, key, value, mask in parts
        ]
    )


def attend_seq2seq(
    query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, batch: PackedSeq2Seq, *, dropout: float = 0.0
) -> Tensor:
    """Seq2seq attention: sources over their own source, tails masked by `tail_masks`, `[T, H, D]` -> `[T, H, D]`."""
    if query_THD.is_cuda:
        return _attend_seq2seq_cuda(query_THD, key_THD, value_THD, batch, dropout)
    lengths = list(batch.packed.lengths)
    parts = [length for both in zip(batch.source_lengths, batch.tail_lengths, strict=True) for length in both]
    queries = query_THD.split(parts)
    attended: list[Tensor] = []
    for number, (key, value) in enumerate(zip(key_THD.split(lengths), value_THD.split(lengths), strict=True)):
        source, mask = batch.source_lengths[number], batch.tail_masks[number]
        attended.append(_attend_run(queries[2 * number], key[:source], value[:source], 1, dropout=dropout))
        attended.append(_attend_run(queries[2 * number + 1], key, value, 1, mask=mask, dropout=dropout))
    return torch.cat(attended)


def attend_seq2seq_read(
    query_RHD: Tensor, key_THD: Tensor, value_THD: Tensor, batch: PackedSeq2Seq, *, dropout: float = 0.0
) -> Tensor:
    """Seq2seq attention of the rows that the loss reads, `[R, H, D]` -> `[R, H, D]`."""
    if query_RHD.is_cuda:
        return _attend_padded(query_RHD, key_THD, value_THD, batch.padded_read, dropout)
    lengths = list(batch.packed.lengths)
    parts = zip(
        query_RHD.split(list(batch.read_lengths)),
        key_THD.split(lengths),
        value_THD.split(lengths),
        batch.read_masks,
        strict=True,
    )
    return torch.cat(
        [_attend_run(query, key, value, 1, mask=mask, dropout=dropout) for query, key, value, mask in parts]
    )


def _attend_seq2seq_cuda(
    query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, batch: PackedSeq2Seq, dropout: float
) -> Tensor:
    """Sources in one variable-length call, tails in one masked call: on GPUs the number of calls dominates."""
    rows = batch.source_rows
    sources = attend(query_THD[rows], key_THD[rows], value_THD[rows], batch.sources, dropout=dropout)
    tails = _attend_padded(query_THD[batch.tail_rows], key_THD, value_THD, batch.padded_tails, dropout)
    attended = torch.zeros_like(query_THD).index_copy(0, rows, sources)
    return attended.index_copy(0, batch.tail_rows, tails)


def _attend_padded(query: Tensor, key_THD: Tensor, value_THD: Tensor, padded: PaddedRows, dropout: float) -> Tensor:
    """Attention of some rows of each sequence over the full sequence, padded for this call only."""
    shape = (len(padded.mask), -1, *query.shape[1:])
    query_BHQD, key_BHND, value_BHND = (
        rows.index_select(0, index).view(shape).transpose(1, 2)
        for rows, index in ((query, padded.queries), (key_THD, padded.keys), (value_THD, padded.keys))
    )
    with torch.autocast(query.device.type, enabled=False):
        attended = scaled_dot_product_attention(
            query_BHQD, key_BHND, value_BHND, attn_mask=padded.mask, dropout_p=dropout
        )
    return attended.transpose(1, 2).flatten(0, 1)[padded.kept]


def _attend_run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    count: int,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    dropout: float,
) -> Tensor:
    """`count` sequences of equal length in one call on views of the rows, fused if the device supports it.

    `mask` is boolean `[Q, N]`, or added to the scores, `[H, Q, N]`.
    """
    query_BHND, key_BHND, value_BHND = (
        rows.view(count, -1, *rows.shape[1:]).transpose(1, 2) for rows in (query, key, value)
    )
    # float32 on CPUs: more accurate, and on a 2-core AVX-512 machine equally fast forward and much faster backward.
    if query.device.type == "cpu" and query.dtype in (torch.float16, torch.bfloat16):
        query_BHND, key_BHND, value_BHND = query_BHND.float(), key_BHND.float(), value_BHND.float()
    if mask is not None and mask.dim() == 3:
        mask = mask[None].to(query_BHND.dtype)
    with torch.autocast(query.device.type, enabled=False):
        attended = scaled_dot_product_attention(
            query_BHND,
            key_BHND,
            value_BHND,
            attn_mask=mask,
            dropout_p=dropout,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    return attended.transpose(1, 2).reshape(query.shape).to(query.dtype)


def _band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """True where two positions are less than `window` apart; None if all are."""
    if window is None or length <= window:
        return None
    positions = torch.arange(length, device=device)
    return (positions[:, None] - positions).abs() < window


def _attend_cuda(
    query_THD: Tensor,
    key_THD: Tensor,
    value_THD: Tensor,
    packed: Packed,
    scale: float | None,
    window: int | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if window is None else window - 1
    attention = varlen_attn
    if query_THD.shape[1] != key_THD.shape[1]:  # not always given, as PyTorch 2.11 does not know it
        attention = partial(varlen_attn, enable_gqa=True)
    attended = attention(
        query_THD,
        key_THD,
        value_THD,
        packed.cu_seqlens,
        packed.cu_seqlens,
        packed.max_len,
        packed.max_len,
        scale=scale,
        window_size=(reach, reach),
    )
    assert isinstance(attended, Tensor)
    return attended
