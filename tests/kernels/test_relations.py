"""The relation kernel computes the loss of the papers and its gradients, the same bits in any company.

The oracle is the formula in float64, with whole matrices and autograd.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.conftest import runnable

from minilm.errors import UsageError
from minilm.kernels.relations import PairOfRows, RelationKernel, Rows

FEW = settings(max_examples=40, deadline=None)
lengths_of_batches = st.lists(st.one_of(st.integers(0, 9), st.integers(0, 70)), min_size=1, max_size=5)
isas = st.sampled_from(runnable() or ["none"])


class Case:
    """Random projections of both sides; one of each where they are the same projection."""

    def __init__(
        self, lengths, heads=2, widths=(5, 3), *, symmetric=True, bf16=False, scale=1.0, seed=0, padding=0
    ) -> None:
        draw = np.random.default_rng(seed)
        self.lengths, self.heads, self.widths, self.bf16 = list(lengths), heads, widths, bf16
        sides = [
            [
                (draw.standard_normal((sum(lengths), heads * width + padding)) * scale).astype(np.float32)
                for _ in range(1 if symmetric else 2)
            ]
            for width in widths
        ]
        if bf16:  # the numbers that are left of them
            sides = [[torch.from_numpy(rows).bfloat16().float().numpy() for rows in both] for both in sides]
        self.teacher, self.student = sides
        self.weights = np.array([1 / (heads * max(1, length)) for length in lengths])

    def part(self, first, last):
        """The case of some of its sequences."""
        begin, end = sum(self.lengths[:first]), sum(self.lengths[:last])
        found = type(self)([], self.heads, self.widths, bf16=self.bf16)
        found.lengths, found.weights = self.lengths[first:last], self.weights[first:last]
        found.teacher, found.student = ([rows[begin:end] for rows in both] for both in (self.teacher, self.student))
        return found

    def run(self, threads=1, kernel=None):
        """Loss of each sequence, gradients of the student's projections."""
        kernel = kernel or RelationKernel(threads=threads)
        keep, sides = [], []
        for both in (self.teacher, self.student):
            sides.append([])
            for rows in both:
                words = (rows.view(np.uint32) >> 16).astype(np.uint16) if self.bf16 else rows
                keep.append(words)
                sides[-1].append(Rows(address=words.ctypes.data, stride=rows.shape[1], bf16=self.bf16))
        shape = (sum(self.lengths), self.heads * self.widths[1])
        gradients = [np.full(shape, 7, dtype=np.float32) for _ in self.student]
        pair = self.pair(sides, [rows.ctypes.data for rows in gradients])
        ends = np.cumsum([0, *self.lengths]).astype(np.int32)
        losses = kernel.run(pair, ends, self.weights)
        assert np.array_equal(losses, kernel.run(self.pair(sides, ()), ends, self.weights), equal_nan=True)
        return losses, gradients

    def pair(self, sides, gradients):
        return PairOfRows(teacher=sides[0], student=sides[1], heads=self.heads, widths=self.widths, gradients=gradients)

    def exact(self):
        """The same in float64."""
        width_t, width_s = (self.heads * width for width in self.widths)
        teacher = [torch.from_numpy(rows[:, :width_t]).double() for rows in self.teacher]
        student = [torch.from_numpy(rows[:, :width_s]).double().requires_grad_() for rows in self.student]

        def relation(both, part):
            a, b = (rows[part].unflatten(1, (self.heads, -1)).transpose(0, 1) for rows in (both[0], both[-1]))
            return (a @ b.mT / a.shape[-1] ** 0.5).log_softmax(-1)

        losses, begin = [], 0
        for length, weight in zip(self.lengths, self.weights, strict=True):
            t, s = (relation(both, slice(begin, begin + length)) for both in (teacher, student))
            losses.append((t.exp() * (t - s)).sum() * weight)
            begin += length
        sum(losses).backward()
        return np.array([float(loss.detach()) for loss in losses]), [rows.grad.numpy() for rows in student]

    def check(self, threads=1):
        losses, gradients = self.run(threads)
        exact_losses, exact_gradients = self.exact()
        np.testing.assert_allclose(losses, exact_losses, atol=1e-6, rtol=3e-6)
        # Where teacher and student nearly agree, the difference of their distributions is mostly rounding: such a
        # gradient is compared with a hundredth of what one of distributions that differ would be.
        usual = max(float(np.abs(self.student).max(initial=0)) * max(self.weights, default=0), 1e-4)
        for found, exact in zip(gradients, exact_gradients, strict=True):
            largest = max(float(np.abs(exact).max(initial=0)), 0.01 * usual)
            assert float(np.abs(found - exact).max(initial=0)) <= 1e-5 * largest

    def check_spoiled(self, bad) -> None:
        """A bad number in the first head of the first of two sequences, whose heads are 4 wide, spoils that alone."""
        length = self.lengths[0]
        self.student[0][length // 2, 1] = bad
        losses, gradients = self.run()
        assert np.isnan(losses[0])
        assert np.isfinite(losses[1])
        for gradient in gradients:
            assert np.isnan(gradient[:length, :4]).any()
            assert np.isfinite(gradient[:length, 4:]).all()
            assert np.isfinite(gradient[length:]).all()


@FEW
@given(
    lengths=lengths_of_batches,
    heads=st.integers(1, 4),
    widths=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    symmetric=st.booleans(),
    bf16=st.booleans(),
    scale=st.sampled_from([0.3, 1.0, 3.0]),
    padding=st.sampled_from([0, 3]),
    seed=st.integers(0, 999),
    isa=isas,
)
def test_loss_and_gradients_are_those_of_float64(lengths, heads, widths, symmetric, bf16, scale, padding, seed, isa):
    """Also of numbers of bfloat16, which are exact in float32, and of rows that other numbers lie between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_ISA", isa)
        case = Case(lengths, heads, widths, symmetric=symmetric, bf16=bf16, scale=scale, seed=seed, padding=padding)
        case.check()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("widths", [(16, 8), (64, 32), (256, 1), (1, 256), (48, 200)])
def test_widths_of_heads(isa, widths, symmetric):
    Case([40, 1, 13], 1, widths, symmetric=symmetric).check()


@pytest.mark.parametrize("length", [399, 1100])
def test_long_sequences_keep_their_exponentials_or_compute_them_again(isa, length):
    """All of them are kept, or those of the first rows."""
    Case([length], 1, (8, 8), scale=1.3).check()


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_dominant_token_costs_the_others_nothing(isa, symmetric):
    """Scores of one token are hundreds larger: one bound for all rows would lose the others."""
    case = Case([30], 1, (8, 8), symmetric=symmetric)
    for both in (case.teacher, case.student):
        for rows in both:
            rows[7] *= 12
    case.check()


def test_rounded_numbers_give_close_gradients(isa):
    exact = Case([50, 20], 4, (16, 8))
    rounded = Case([50, 20], 4, (16, 8), bf16=True)
    gradients = rounded.run()[1][0], exact.exact()[1][0]
    assert float(np.abs(gradients[0] - gradients[1]).max()) <= 1e-2 * float(np.abs(gradients[1]).max())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", [name for name in runnable() if name != "scalar"])
def test_every_instruction_set_computes_what_the_scalar_twin_does(name, symmetric, monkeypatch):
    case = Case([1, 2, 7, 8, 9, 33, 90], 3, (12, 7), symmetric=symmetric)
    found = {}
    for isa in (name, "scalar"):
        monkeypatch.setenv("MINILM_ISA", isa)
        found[isa] = case.run()
    np.testing.assert_allclose(found[name][0], found["scalar"][0], atol=1e-6, rtol=1e-5)
    for mine, twin in zip(found[name][1], found["scalar"][1], strict=True):
        assert float(np.abs(mine - twin).max()) <= 1e-5 * float(np.abs(twin).max())


@settings(max_examples=20, deadline=None)
@given(lengths=lengths_of_batches, cut=st.integers(0, 5), threads=st.integers(1, 4), symmetric=st.booleans(), isa=isas)
def test_a_sequence_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(
    lengths, cut, threads, symmetric, isa
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_ISA", isa)
        case = Case(lengths, 3, (9, 4), symmetric=symmetric)
        losses, gradients = case.run()
        parts = [case.part(0, cut).run(threads), case.part(cut, len(lengths)).run(threads)]
        assert np.array_equal(losses, np.concatenate([part[0] for part in parts]))
        for number, gradient in enumerate(gradients):
            assert np.array_equal(gradient, np.concatenate([part[1][number] for part in parts]))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("length", [1, 20])
def test_a_number_that_is_none_spoils_its_head_alone(isa, symmetric, bad, length):
    case = Case([length, 9], 2, (4, 4), symmetric=symmetric)
    case.check_spoiled(bad)


@pytest.mark.parametrize("symmetric", [True, False])
def test_memory_is_linear_in_the_tokens(isa, symmetric):
    case = Case([1], 48, (16, 8), symmetric=symmetric)
    kernel = RelationKernel(threads=1)
    rows = [Rows(address=0, stride=1)] * (1 if symmetric else 2)
    pair = case.pair([rows, rows], [1] * len(rows))
    of = {length: kernel.scratch_bytes(pair, length) for length in (500, 2000, 4000, 8000)}
    assert of[8000] - of[4000] == pytest.approx(2 * (of[4000] - of[2000]), rel=0.02)
    # Both sides twice, two gradients, five sums, two rows of scores for each of at most 14 rows of a block, and at most
    # 1.25 MiB of exponentials.
    numbers = 2 * (16 + 8) + 2 * 8 + 5 + 2 * 14
    assert of[8000] <= 4 * numbers * 8100 + (5 * 2**18 if symmetric else 0) + 2**17
    assert all(of[length] >= kernel.scratch_bytes(pair, length - 1) for length in of)


def test_several_threads_may_call_at_once(isa):
    case, kernel = Case([30, 12, 7], 4), RelationKernel(threads=2)
    expected, found = case.run(), []
    threads = [threading.Thread(target=lambda: found.append(case.run(kernel=kernel))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 4
    assert all(np.array_equal(losses, expected[0]) for losses, _ in found)
    assert all(np.array_equal(gradients[0], expected[1][0]) for _, gradients in found)


def test_what_cannot_be_computed_is_rejected():
    kernel = RelationKernel(threads=1)
    case = Case([3])
    with pytest.raises(UsageError, match="there are 1 weights of 2 sequences"):
        kernel.run(case.pair([[Rows(address=0, stride=1)]] * 2, ()), np.array([0, 1, 2], np.int32), np.ones(1))
    with pytest.raises(UsageError, match="sequence 1 ends before it begins"):
        kernel.run(case.pair([[Rows(address=0, stride=1)]] * 2, ()), np.array([0, 2, 1], np.int32), np.ones(2))
    with pytest.raises(UsageError, match="1 projections of the teacher, 2 of the student and 0 gradients"):
        kernel.run(
            case.pair([[Rows(address=0, stride=1)], [Rows(address=0, stride=1)] * 2], ()),
            np.array([0, 0], np.int32),
            np.ones(1),
        )
    case.heads = 0
    with pytest.raises(UsageError, match="the relation kernel: relation heads is 0; expected at least 1"):
        kernel.run(case.pair([[Rows(address=0, stride=1)]] * 2, ()), np.array([0, 1], np.int32), np.ones(1))
    with pytest.raises(UsageError, match="threads is 0; expected 1 to 1024"):
        RelationKernel(threads=0)


def test_no_sequence_has_no_loss(isa):
    assert Case([]).run()[0].shape == (0,)


def test_a_fork_is_refused_the_threads_of_its_parent_and_gets_its_own_kernel(monkeypatch):
    case, kernel, shared = Case([4]), RelationKernel(threads=2), RelationKernel.shared(2)
    assert RelationKernel.shared(2) is shared
    expected = case.run(kernel=kernel)[0]
    real = os.getpid()
    monkeypatch.setattr("minilm.kernels.threaded.os.getpid", lambda: real + 1)
    with pytest.raises(UsageError, match="the relation kernel was made before this process was forked"):
        case.run(kernel=kernel)
    assert RelationKernel.shared(2) is not shared
    monkeypatch.undo()
    assert np.array_equal(case.run(kernel=kernel)[0], expected)
