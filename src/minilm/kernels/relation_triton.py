"""The relation loss in Triton, for GPUs: kernels in which no program adds into memory that another one writes.

In: rows of teacher and student in device memory, packed sequences in blocks of rows. Out: see `relation_cuda.py`.
`statistics` goes over the scores of a block of rows and keeps five numbers of each row; `gradient` computes the scores
again, with these numbers; `sequence_losses` adds up. Orders of addition depend on the sequence alone.

Scores are z = a b^T / sqrt(W), in powers of two: z log2(e). The diagonal, which dominates where a is b, is kept apart:
P_s - P_t there follows from the sums of all others, not from the difference of two numbers that are close to 1.

T packed tokens, B sequences, R relation heads, W width of one, M rows of a block, N columns that it meets at a time,
C numbers of a head that are multiplied at a time. `_t` is the teacher, `_s` the student.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(float("-inf"))


@triton.jit
def tile(side, stride, rows, end, head, begin, W: tl.constexpr, C: tl.constexpr):
    """Numbers `begin` to `begin + C` of a head, `[M, C]`; 0 beyond the sequence and beyond the head."""
    numbers = begin + tl.arange(0, C)
    where = rows[:, None].to(tl.int64) * stride + head * W + numbers[None, :]
    return tl.load(side + where, mask=(rows < end)[:, None] & (numbers < W)[None, :], other=0.0)


@triton.jit
def scores(a, b, stride_a, stride_b, rows, columns, end, head, scale, W: tl.constexpr, C: tl.constexpr):
    """Scores of rows of a and rows of b, `[M, N]`."""
    found = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for begin in range(0, W, C):
        left = tile(a, stride_a, rows, end, head, begin, W, C)
        right = tile(b, stride_b, columns, end, head, begin, W, C)
        found = tl.dot(left, tl.trans(right), found, input_precision="ieee")
    return found * scale


@triton.jit
def own_scores(a, b, stride_a, stride_b, rows, end, head, scale, W: tl.constexpr, C: tl.constexpr):
    """Scores of rows of a and the same rows of b, `[M]`."""
    found = tl.zeros((rows.shape[0],), tl.float32)
    for begin in range(0, W, C):
        left = tile(a, stride_a, rows, end, head, begin, W, C).to(tl.float32)
        right = tile(b, stride_b, rows, end, head, begin, W, C).to(tl.float32)
        found += tl.sum(left * right, 1)
    return found * scale


@triton.jit(do_not_specialize=["total"])
def statistics(
    a_t, b_t, a_s, b_s, stride_a_t, stride_b_t, stride_a_s, stride_b_s,
    blocks, ends, weights, kept, losses, total, scale_t, scale_s,
    W_T: tl.constexpr, W_S: tl.constexpr, C_T: tl.constexpr, C_S: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """What the gradient needs of each row of a block, and the loss of the block in one head.

    The sides are `[T, R * W]`. `blocks` `[blocks, 2]` are the sequence and the first row of each, `ends` `[B + 1]` are
    where sequences begin, then `total` = T; `weights` `[B]` are what one row of one head counts. Written are `losses`
    `[blocks, R]` and `kept` `[5, R, T]`: the largest score of the teacher, weight / sum of exponentials of the teacher,
    both of the student, and the slope of the row's score with itself.
    """
    block, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    sequence, first = tl.load(blocks + 2 * block), tl.load(blocks + 2 * block + 1)
    begin, end = tl.load(ends + sequence), tl.load(ends + sequence + 1)
    rows = first + tl.arange(0, M)
    own_t = own_scores(a_t, b_t, stride_a_t, stride_b_t, rows, end, head, scale_t, W_T, C_T)
    own_s = own_scores(a_s, b_s, stride_a_s, stride_b_s, rows, end, head, scale_s, W_S, C_S)
    high_t, high_s = own_t, own_s
    # Over all columns but the row's own: sum(e_t), sum(e_s) and sum(e_t ((z_t - high_t) - (z_s - high_s))).
    sum_t = tl.zeros((M,), tl.float32)
    sum_s = tl.zeros((M,), tl.float32)
    cross = tl.zeros((M,), tl.float32)
    for start in range(begin, end, N):
        columns = start + tl.arange(0, N)
        is_other = (columns < end)[None, :] & (columns[None, :] != rows[:, None])
        z_t = scores(a_t, b_t, stride_a_t, stride_b_t, rows, columns, end, head, scale_t, W_T, C_T)
        z_s = scores(a_s, b_s, stride_a_s, stride_b_s, rows, columns, end, head, scale_s, W_S, C_S)
        next_t = tl.maximum(high_t, tl.max(tl.where(is_other, z_t, LOWEST), 1))
        next_s = tl.maximum(high_s, tl.max(tl.where(is_other, z_s, LOWEST), 1))
        down_t, down_s = high_t - next_t, high_s - next_s
        high_t, high_s = next_t, next_s
        x, y = z_t - high_t[:, None], z_s - high_s[:, None]
        e_t = tl.where(is_other, tl.exp2(x), 0.0)
        e_s = tl.where(is_other, tl.exp2(y), 0.0)
        cross = tl.exp2(down_t) * (cross + (down_t - down_s) * sum_t) + tl.sum(e_t * (x - y), 1)
        sum_t = tl.exp2(down_t) * sum_t + tl.sum(e_t, 1)
        sum_s = tl.exp2(down_s) * sum_s + tl.sum(e_s, 1)
    x, y = own_t - high_t, own_s - high_s
    e_t, e_s = tl.exp2(x), tl.exp2(y)
    all_t, all_s = sum_t + e_t, sum_s + e_s
    is_row, weight = rows < end, tl.load(weights + sequence)
    divergence = LN2 * ((cross + e_t * (x - y)) / all_t - tl.log2(all_t) + tl.log2(all_s))
    tl.store(losses + block * heads + head, weight * tl.sum(tl.where(is_row, divergence, 0.0), 0))
    part = tl.cast(heads, tl.int64) * total
    kept += tl.cast(head, tl.int64) * total + rows
    tl.store(kept, high_t, mask=is_row)
    tl.store(kept + part, weight / all_t, mask=is_row)
    tl.store(kept + 2 * part, high_s, mask=is_row)
    tl.store(kept + 3 * part, weight / all_s, mask=is_row)
    tl.store(kept + 4 * part, weight * (sum_t / all_t - sum_s / all_s), mask=is_row)


@triton.jit
def factors(kept, part, places, end):
    """The first four numbers that `statistics` keeps, of rows of a head, `[M]` or `[N]` each; 0 beyond the sequence."""
    exists = places < end
    high_t = tl.load(kept + places, mask=exists, other=0.0)
    of_t = tl.load(kept + part + places, mask=exists, other=0.0)
    high_s = tl.load(kept + 2 * part + places, mask=exists, other=0.0)
    of_s = tl.load(kept + 3 * part + places, mask=exists, other=0.0)
    return high_t, of_t, high_s, of_s


@triton.jit
def add_product(slopes, numbers, found):
    """`found` + slopes numbers, `[M, C]`; numbers in bfloat16 meet slopes in two parts, which keep 16 of their bits."""
    if numbers.dtype == tl.bfloat16:
        high = slopes.to(tl.bfloat16)
        low = (slopes - high.to(tl.float32)).to(tl.bfloat16)
        found = tl.dot(low, numbers, found)
        found = tl.dot(high, numbers, found)
    else:
        found = tl.dot(slopes, numbers, found, input_precision="ieee")
    return found


@triton.jit(do_not_specialize=["total"])
def gradient(
    own_t, other_t, own_s, other_s, stride_own_t, stride_other_t, stride_own_s, stride_other_s,
    blocks, ends, kept, found, total, scale_t, scale_s,
    W_T: tl.constexpr, W_S: tl.constexpr, C_T: tl.constexpr, C_S: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    IS_A: tl.constexpr, IS_B: tl.constexpr,
):  # fmt: skip
    """The gradient of a side of the student: with G = weight (P_s - P_t), G b of a, G^T a of b, (G + G^T) x of both.

    `own` is the side whose gradient is `found`, `[T, R * W]`, and whose rows the `blocks` are; IS_A and IS_B say which
    it is. The last axis of the programs goes over the chunks of a head. All else is as for `statistics`.
    """
    block, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    chunk = tl.program_id(2) * C_S
    sequence, first = tl.load(blocks + 2 * block), tl.load(blocks + 2 * block + 1)
    begin, end = tl.load(ends + sequence), tl.load(ends + sequence + 1)
    rows = first + tl.arange(0, M)
    part = tl.cast(heads, tl.int64) * total
    kept += tl.cast(head, tl.int64) * total
    high_t, of_t, high_s, of_s = factors(kept, part, rows, end)
    diagonal = tl.load(kept + 4 * part + rows, mask=rows < end, other=0.0) * (2 if IS_A and IS_B else 1)
    sums = diagonal[:, None] * tile(other_s, stride_other_s, rows, end, head, chunk, W_S, C_S).to(tl.float32)
    for start in range(begin, end, N):
        columns = start + tl.arange(0, N)
        z_t = scores(own_t, other_t, stride_own_t, stride_other_t, rows, columns, end, head, scale_t, W_T, C_T)
        z_s = scores(own_s, other_s, stride_own_s, stride_other_s, rows, columns, end, head, scale_s, W_S, C_S)
        slopes = tl.zeros((M, N), tl.float32)
        if IS_A:
            slopes += tl.exp2(z_s - high_s[:, None]) * of_s[:, None] - tl.exp2(z_t - high_t[:, None]) * of_t[:, None]
        if IS_B:
            top_t, by_t, top_s, by_s = factors(kept, part, columns, end)
            slopes += tl.exp2(z_s - top_s[None, :]) * by_s[None, :] - tl.exp2(z_t - top_t[None, :]) * by_t[None, :]
        slopes = tl.where((columns < end)[None, :] & (columns[None, :] != rows[:, None]), slopes, 0.0)
        sums = add_product(slopes, tile(other_s, stride_other_s, columns, end, head, chunk, W_S, C_S), sums)
    numbers = chunk + tl.arange(0, C_S)
    where = rows[:, None].to(tl.int64) * (heads * W_S) + head * W_S + numbers[None, :]
    tl.store(found + where, sums * (scale_s / LOG2E), mask=(rows < end)[:, None] & (numbers < W_S)[None, :])


@triton.jit
def sequence_losses(losses, first_blocks, found, heads, HEADS: tl.constexpr):
    """The loss of each sequence in float64, `found` `[B]`: its rows of `losses` `[blocks, R]`, one after the other.

    `first_blocks` `[B + 1]` are the first block of each sequence, then their number; HEADS is a power of two from R on.
    """
    sequence, own = tl.program_id(0), tl.arange(0, HEADS)
    sums = tl.zeros((HEADS,), tl.float64)
    for block in range(tl.load(first_blocks + sequence), tl.load(first_blocks + sequence + 1)):
        sums += tl.load(losses + block * heads + own, mask=own < heads, other=0.0).to(tl.float64)
    tl.store(found + sequence, tl.sum(sums, 0))
