"""The relation kernels for GPUs, in Triton's interpreter, compute what float64 does; and Triton can compile them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.interpreted import WHY_NOT
from tests.kernels.test_relations import Case

from minilm.kernels import relation_cuda
from minilm.kernels.library import SWITCHED_OFF
from minilm.kernels.relation_cuda import relation_loss_of_pair, why_not

interpreted = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
compiled = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not WHY_NOT,
    reason="needs Triton, without TRITON_INTERPRET=1: make check-triton",
)
FEW = settings(max_examples=10, deadline=None)


class OnGpu(Case):
    """The same case, by the other kernels."""

    def run(self, threads=1, kernel=None):
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        teacher, student = (
            [torch.from_numpy(rows).to(dtype)[:, : self.heads * width] for rows in both]
            for both, width in zip((self.teacher, self.student), self.widths, strict=True)
        )
        common = {"lengths": tuple(self.lengths), "weights": tuple(self.weights.tolist()), "heads": self.heads}
        found = relation_loss_of_pair(teacher, student, **common, wants_gradients=True)
        without = relation_loss_of_pair(teacher, student, **common, wants_gradients=False)
        assert not without.gradients
        assert np.array_equal(without.of_sequences, found.of_sequences, equal_nan=True)
        assert found.of_sequences.dtype == torch.float64
        return found.of_sequences.numpy(), [rows.numpy() for rows in found.gradients]


@interpreted
@FEW
@given(
    lengths=st.lists(st.one_of(st.integers(1, 9), st.integers(1, 140)), min_size=1, max_size=2),
    heads=st.integers(1, 3),
    widths=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    symmetric=st.booleans(),
    scale=st.sampled_from([0.3, 1.0, 3.0]),
    padding=st.sampled_from([0, 3]),
    seed=st.integers(0, 999),
)
def test_loss_and_gradients_are_those_of_float64(lengths, heads, widths, symmetric, scale, padding, seed):
    OnGpu(lengths, heads, widths, symmetric=symmetric, scale=scale, seed=seed, padding=padding).check()


@interpreted
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("widths", [(64, 32), (256, 1), (1, 130), (48, 100)])
def test_widths_of_heads(widths, symmetric):
    """Those that are wider than a product are computed in chunks."""
    OnGpu([40, 1, 13], 1, widths, symmetric=symmetric).check()


@interpreted
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_dominant_token_costs_the_others_nothing(symmetric):
    case = OnGpu([100], 1, (8, 8), symmetric=symmetric)
    for both in (case.teacher, case.student):
        for rows in both:
            rows[70] *= 12
    case.check()


@interpreted
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_numbers_of_bfloat16_give_gradients_of_their_own_precision(symmetric, offset):
    """Also where all rows have much in common, so that gradients are small sums of large slopes."""
    case = OnGpu([90, 20], 2, (16, 8), symmetric=symmetric, bf16=True)
    for both in (case.teacher, case.student):
        both[:] = [torch.from_numpy(rows + np.float32(offset)).bfloat16().float().numpy() for rows in both]
    losses, gradients = case.run()
    exact_losses, exact_gradients = case.exact()
    np.testing.assert_allclose(losses, exact_losses, atol=1e-5, rtol=1e-5)
    for found, exact in zip(gradients, exact_gradients, strict=True):
        assert float(np.abs(found - exact).max()) <= 1e-3 * float(np.abs(exact).max())


@interpreted
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_sequence_has_the_same_bits_in_any_batch(symmetric, cut):
    case = OnGpu([66, 3, 5], 2, (9, 4), symmetric=symmetric)
    losses, gradients = case.run()
    parts = [case.part(0, cut).run(), case.part(cut, 3).run()]
    assert np.array_equal(losses, np.concatenate([part[0] for part in parts]))
    for number, gradient in enumerate(gradients):
        assert np.array_equal(gradient, np.concatenate([part[1][number] for part in parts]))


@interpreted
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("length", [1, 20])
def test_a_number_that_is_none_spoils_its_head_alone(symmetric, bad, length):
    case = OnGpu([length, 9], 2, (4, 4), symmetric=symmetric)
    case.check_spoiled(bad)


@compiled
@pytest.mark.parametrize(
    ("capability", "dtype", "widths"),
    [(90, "bf16", (16, 8)), (90, "fp32", (64, 32)), (86, "bf16", (64, 32)), (86, "fp32", (100, 768))],
)
def test_triton_compiles_the_kernels_for_gpus(widths, dtype, capability):
    """A block of programs has 99 KiB of shared memory at least."""
    import triton
    from triton.backends.compiler import GPUTarget

    from minilm.kernels import relation_triton as kernels

    sizes = relation_cuda._sizes(*widths)
    both = {"IS_A": True, "IS_B": True}
    for kernel, constants in (
        (kernels.statistics, sizes),
        *((kernels.gradient, {**sizes, **both, **part}) for part in ({}, {"IS_A": False}, {"IS_B": False})),
        (kernels.sequence_losses, {"HEADS": 64}),
    ):
        kinds = {
            "scale_t": "fp32",
            "scale_s": "fp32",
            "total": "i32",
            "heads": "i32",
            **dict.fromkeys(("blocks", "ends", "first_blocks"), "*i32"),
            **dict.fromkeys(("weights", "kept", "losses"), "*fp32"),
            "found": "*fp64" if kernel is kernels.sequence_losses else "*fp32",
        }
        constants = {name: value for name, value in constants.items() if name.isupper()}
        signature = {
            name: "constexpr"
            if name in constants
            else kinds.get(name, "i32" if name.startswith("stride") else f"*{dtype}")
            for name in kernel.arg_names
        }
        source = triton.compiler.ASTSource(kernel, signature, constants)
        found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=relation_cuda._OPTIONS)
        assert found.metadata.shared <= 99 * 2**10, kernel


@pytest.fixture
def capability(monkeypatch):
    """A GPU of this compute capability is there, as far as torch says."""
    why_not.cache_clear()
    found = [(9, 0)]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found[0])
    yield found
    why_not.cache_clear()


def test_the_reason_why_the_kernels_do_not_run_is_given(capability, monkeypatch):
    device = torch.device("cuda:0")
    monkeypatch.setenv("MINILM_KERNELS", "off")
    assert why_not(device) == SWITCHED_OFF
    monkeypatch.undo()
    why_not.cache_clear()
    monkeypatch.setattr(relation_cuda.importlib.util, "find_spec", lambda name: None)
    assert why_not(device) == "the package triton is not installed"
    why_not.cache_clear()
    monkeypatch.setattr(relation_cuda.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert why_not(device) == "the compute capability of cuda:0 is 7.5, and they need 8.0"
    why_not.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert why_not(device).startswith("Triton cannot be used: ")  # here without a GPU, or without Triton
