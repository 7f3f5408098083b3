"""The kernels compute one thing: each instruction set is the scalar twin's, whatever shares a batch with a sequence."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.conftest import batch_of, encoder_of, runnable, weights_of

from minilm.errors import UsageError
from minilm.kernels import encoder as kernels
from minilm.kernels.encoder import ACTIVATIONS, LINEARS, NORMS, POOLING, Sizes
from minilm.kernels.relations import RelationKernel

SIZES = {
    "one head of 8": Sizes(hidden=8, heads=1, ffn=8, layers=1, vocab=11, positions=40, segments=0, labels=1),
    "heads of 1": Sizes(hidden=16, heads=16, ffn=24, layers=2, vocab=20, positions=40, segments=2, labels=3),
    "heads of 12, odd widths": Sizes(
        hidden=24, heads=2, ffn=104, layers=3, vocab=50, positions=70, segments=1, labels=40
    ),
    "positions after padding": Sizes(
        hidden=32, heads=4, ffn=64, layers=2, vocab=50, positions=70, segments=1, first_position=2, labels=2
    ),
    "MiniLM": Sizes(hidden=384, heads=12, ffn=1536, layers=1, vocab=100, positions=200, segments=2, labels=2),
    "heads of 64, relu": Sizes(
        hidden=128, heads=2, ffn=512, layers=2, vocab=90, positions=140, segments=2, activation=2, labels=5
    ),
    "one head of 256, tanh gelu": Sizes(
        hidden=256, heads=1, ffn=40, layers=1, vocab=30, positions=60, segments=2, activation=1, labels=2
    ),
}
FAST = "heads of 12, odd widths"


def outputs(sizes: Sizes, weights, lengths, *, threads=1, tile_tokens=0, precision="fp32", seed=0):
    """Everything that an encoder computes of a batch, by name."""
    batch = batch_of(sizes, lengths, seed)
    one = encoder_of(sizes, weights, threads=threads, tile_tokens=tile_tokens, precision=precision)
    tagger = encoder_of(sizes, weights, threads=threads, tile_tokens=tile_tokens, precision=precision, pooler=False)
    found = {mode: one.pooled(*batch, [mode]) for mode in POOLING}
    found |= {"two modes": one.pooled(*batch, ["mean", "cls"]), "skipped": one.pooled(*batch, POOLING, skipped=3)}
    found |= {"classify": one.classify(*batch), "tokens": tagger.tokens(*batch)}
    names = ("query", "key", "value")
    for layer in range(sizes.layers):
        parts = one.relations(*batch, layer=layer)
        found |= {f"{name} {layer}": part for name, part in zip(names, parts, strict=True)}
    return found


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("isa", [name for name in runnable() if name != "scalar"])
def test_every_instruction_set_computes_what_the_scalar_twin_does(name, isa, monkeypatch):
    monkeypatch.setenv("MINILM_ISA", isa)
    sizes = SIZES[name]
    lengths = [length for length in (1, 2, 5, 8, 9, 16, 17, 33, 38, 64) if length <= sizes.positions - 2]
    weights = weights_of(sizes)
    found = outputs(sizes, weights, lengths)
    monkeypatch.setenv("MINILM_ISA", "scalar")
    for what, twin in outputs(sizes, weights, lengths).items():
        np.testing.assert_allclose(found[what], twin, atol=3e-6, rtol=3e-6, err_msg=what)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 68), min_size=1, max_size=12),
    threads=st.integers(1, 4),
    tile_tokens=st.integers(1, 200),
    precision=st.sampled_from(["fp32", "bf16", "int8"]),
    name=st.sampled_from(runnable() or ["none"]),
)
def test_a_sequence_has_the_same_bits_alone_and_in_any_company(lengths, threads, tile_tokens, precision, name):
    sizes = SIZES[FAST]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_ISA", name)
        if precision == "bf16" and not kernels.kernels_have_bf16():
            precision = "fp32"
        weights = weights_of(sizes)
        ids, segments, ends = batch_of(sizes, lengths)
        whole = encoder_of(sizes, weights, threads=threads, tile_tokens=tile_tokens, precision=precision)
        alone = encoder_of(sizes, weights, precision=precision)
        together = whole.pooled(ids, segments, ends, ["mean", "max"])
        classes = whole.classify(ids, segments, ends)
        for number, (begin, end) in enumerate(pairwise(ends)):
            one = ids[begin:end], segments[begin:end], np.array([0, end - begin], np.int32)
            assert np.array_equal(alone.pooled(*one, ["mean", "max"])[0], together[number])
            assert np.array_equal(alone.classify(*one)[0], classes[number])


def test_many_tiles_of_a_team_keep_apart(isa):
    """Long sequences beside short ones: fewer tiles than threads, shared scratch memory."""
    sizes = SIZES["heads of 64, relu"]
    lengths, weights = [130, 3, 120, 1], weights_of(sizes)
    batch = batch_of(sizes, lengths)
    expected = encoder_of(sizes, weights, threads=1).pooled(*batch, ["mean"])
    for threads in (2, 3, 8):
        found = encoder_of(sizes, weights, threads=threads).pooled(*batch, ["mean"])
        assert np.array_equal(found, expected), threads


@pytest.mark.parametrize("shape", [(1, 64, 64), (7, 384, 128), (3, 4096, 64)])
def test_whole_sums_of_bytes_are_exact(isa, shape):
    rows, width, out = shape
    draw = np.random.default_rng(5)
    bytes_RK = draw.choice([0, 1, 127, 254, 255], (rows, width)).astype(np.uint8)
    whole_NK = draw.choice([-127, -126, 0, 5, 127], (out, width)).astype(np.float32)
    whole_NK[:, 0] = 127  # each row has the largest weight, so that a step is exactly 1
    sums = np.zeros((rows, out), np.int32)
    functions = kernels._functions()
    failed = functions.minilm_test_int8_product(
        isa.encode(), bytes_RK.ctypes.data, rows, whole_NK.ctypes.data, width, out, sums.ctypes.data
    )
    assert not failed, functions.minilm_error()
    assert np.array_equal(sums, bytes_RK.astype(np.int64) @ whole_NK.astype(np.int64).T)


def rowwise(isa: str, kind: int, detail: int, rows: np.ndarray, weight=None, bias=None) -> np.ndarray:
    width = rows.shape[1]
    padded = np.zeros((len(rows), -(-width // 16) * 16), np.float32)
    padded[:, :width] = rows
    extra = [np.zeros(padded.shape[1], np.float32) for _ in range(2)]
    for to, given_ in zip(extra, (weight, bias), strict=True):
        if given_ is not None:
            to[:width] = given_
    addresses = [array.ctypes.data for array in extra]
    functions = kernels._functions()
    failed = functions.minilm_test_rowwise(isa.encode(), kind, detail, padded.ctypes.data, len(rows), width, *addresses)
    assert not failed
    return padded[:, :width]


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_are_within_a_millionth(isa, kind):
    x = np.concatenate([np.linspace(-12, 12, 40_001), [0, -0.0, 1e-30, -1e-30, 50, -50]]).astype(np.float32)
    wide = x.astype(np.float64)
    exact = {
        "gelu": lambda: wide * np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in wide]),
        "gelu_tanh": lambda: wide / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))),
        "relu": lambda: np.maximum(wide, 0),
        "tanh": lambda: np.tanh(wide),
    }[kind]()
    found = rowwise(isa, 0, ACTIVATIONS.index(kind), x[None])[0]
    assert np.max(np.abs(found - exact) / np.maximum(1, np.abs(exact))) <= 1e-6


@pytest.mark.parametrize("width", [1, 7, 8, 16, 31, 512])
def test_softmax_and_layer_norm_are_within_a_millionth(isa, width):
    draw = np.random.default_rng(width)
    rows = (draw.standard_normal((20, width)) * 8).astype(np.float32)
    wide = rows.astype(np.float64)
    powers = np.exp(wide - wide.max(1, keepdims=True))
    assert np.abs(rowwise(isa, 1, 0, rows) - powers / powers.sum(1, keepdims=True)).max() <= 1e-6
    weight, bias = draw.standard_normal((2, width)).astype(np.float32)
    normal = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-12)
    exact = normal * weight + bias
    found = rowwise(isa, 2, 0, rows, weight, bias)
    assert np.max(np.abs(found - exact) / np.maximum(1, np.abs(exact))) <= 1e-6


def test_a_layer_norm_of_numbers_whose_squares_overflow_is_nan(isa):
    """As in torch; 1 / sqrt(infinity) would leave the bias, which looks like a result."""
    rows = np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)
    rows[1] *= 1e25
    rows[2, 3] = 1e30
    found = rowwise(isa, 2, 0, rows, np.ones(24), np.ones(24))
    assert np.isnan(found).all(1).tolist() == [False, True, True]
    assert np.isfinite(found[0]).all()


def test_int8_is_close_to_fp32(isa):
    sizes = SIZES["MiniLM"]
    weights, batch = weights_of(sizes), batch_of(sizes, [3, 50, 100, 7])
    exact = encoder_of(sizes, weights).pooled(*batch, ["mean"])
    found = encoder_of(sizes, weights, precision="int8").pooled(*batch, ["mean"])
    cosines = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.999
    assert not np.array_equal(exact, found)


@pytest.mark.parametrize("size", [1e-45, 1e-38, 3e-37, 1e-30])
def test_tiny_weights_are_zeros_in_int8(isa, size):
    """The inverse of their step may be infinite; a row of ordinary weights beside them is what it was."""
    sizes = SIZES[FAST]
    batch = batch_of(sizes, [5, 9])
    found = []
    for factor in (size, 0):
        weights = weights_of(sizes)
        for name in ("0.qkv.1", "0.attention_out.0", "1.ffn_in.0", "2.ffn_out.0"):
            weights[f"{name}.weight"][1::2] *= np.float32(factor)
        found.append(encoder_of(sizes, weights, precision="int8").pooled(*batch, ["mean"]))
    assert np.isfinite(found[0]).all()
    assert np.array_equal(*found)


def test_a_weight_that_is_not_a_number_is_seen(isa):
    """In fp32 it reaches the result; int8 rejects it, and an input that overflows gives NaN, not a plausible number."""
    sizes = SIZES[FAST]
    batch = batch_of(sizes, [5, 9])
    weights = weights_of(sizes)
    weights["0.ffn_in.0.weight"][0, 0] = np.nan
    assert np.isnan(encoder_of(sizes, weights).pooled(*batch, ["mean"])).all()
    with pytest.raises(UsageError, match="a weight is not a finite number"):
        encoder_of(sizes, weights, precision="int8")
    weights = weights_of(sizes)
    weights["word"][:] = np.inf
    assert np.isnan(encoder_of(sizes, weights, precision="int8").pooled(*batch, ["mean"])).all()


def test_one_token_that_is_not_a_number_is_seen(isa):
    """Whichever the pooling, and wherever in its sequence it is: the others are not."""
    sizes = SIZES["heads of 64, relu"]
    weights = weights_of(sizes)
    weights["1.ffn_in.0.weight"][0] = np.eye(1, sizes.hidden) * 3e38  # above 1.1 the first number of a row overflows
    batch = batch_of(sizes, [9, 1, 30, 2, 1])
    bad = np.isnan(encoder_of(sizes, weights, pooler=False).tokens(*batch)).all(1)
    ends = batch[2]
    expected = [bad[begin:end].any() for begin, end in pairwise(ends)]
    assert 0 < sum(expected) < len(expected)
    assert not bad[ends[1:] - 1][expected].all(), "in one sequence it is not the last"
    for mode in ("max", "mean"):
        assert list(np.isnan(encoder_of(sizes, weights).pooled(*batch, [mode])).all(1)) == expected


BAD = {
    "an id below 0": (dict(ids=[-1, 2, 3]), "token 0 has the id -1; expected 0 to 49"),
    "an id beyond the table": (dict(ids=[1, 2, 50]), "token 2 has the id 50"),
    "an unknown segment": (dict(segments=[0, 1, 0]), "token 1 has a segment that the model does not have"),
    "an empty sequence": (dict(ends=[0, 3, 3]), "sequence 1 is empty"),
    "a falling end": (dict(ends=[0, 5, 3]), "sequence 1 is empty"),
    "no sequence": (dict(ids=[], segments=[], ends=[0]), "expected the number of tokens"),
    "ends of another batch": (dict(ends=[0, 2]), "expected the number of tokens, 3"),
    "fewer segments than tokens": (dict(segments=[0, 0]), "there are 2 segment ids of 3 tokens"),
    "a late start": (dict(ends=[1, 3]), "the first sequence does not begin at 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_batch_is_an_error_and_the_next_one_works(isa, case):
    sizes = SIZES[FAST]
    one = encoder_of(sizes, weights_of(sizes))
    changed, message = BAD[case]
    good = {"ids": [1, 2, 3], "segments": [0, 0, 0], "ends": [0, 3]}
    arrays = {name: np.array(value, np.int32) for name, value in {**good, **changed}.items()}
    with pytest.raises(UsageError, match=message):
        one.pooled(arrays["ids"], arrays["segments"], arrays["ends"], ["mean"])
    fine = [np.array(value, np.int32) for value in good.values()]
    assert np.isfinite(one.pooled(*fine, ["mean"])).all()


def test_a_sequence_longer_than_the_table_is_an_error(isa):
    sizes = SIZES["positions after padding"]
    one = encoder_of(sizes, weights_of(sizes))
    assert np.isfinite(one.pooled(*batch_of(sizes, [68]), ["mean"])).all()
    with pytest.raises(UsageError, match="sequence 0 has 69 tokens, but the model has 68 positions"):
        one.pooled(*batch_of(sizes, [69]), ["mean"])


def test_what_an_encoder_lacks_is_an_error(isa):
    sizes = SIZES[FAST]
    batch, weights = batch_of(sizes, [4]), weights_of(sizes)
    with pytest.raises(UsageError, match="the model has no head for tokens"):
        encoder_of(sizes, weights).tokens(*batch)
    with pytest.raises(UsageError, match="the model has no classifier"):
        encoder_of(sizes, weights, pooler=False).classify(*batch)
    with pytest.raises(UsageError, match="no such layer"):
        encoder_of(sizes, weights).relations(*batch, layer=3)


@pytest.mark.parametrize("lacking", ["the embeddings", *(f"{name} of layer 1" for name in (*LINEARS, *NORMS))])
def test_an_encoder_without_all_weights_does_not_run(isa, lacking, monkeypatch):
    """It says which; relations of the layer before need no more than what comes before them."""
    sizes = SIZES[FAST]
    name = lacking.split()[0]
    kind = "set_embeddings" if name == "the" else "set_linear" if name in LINEARS else "set_norm"
    set_part = getattr(kernels.NativeEncoder, kind)

    def all_but_one(encoder, *given_):
        if name != "the" and given_[:2] != (1, name):
            set_part(encoder, *given_)

    monkeypatch.setattr(kernels.NativeEncoder, kind, all_but_one)
    one, batch = encoder_of(sizes, weights_of(sizes)), batch_of(sizes, [5, 2])
    for run in (lambda: one.pooled(*batch, ["mean"]), lambda: one.relations(*batch, layer=2)):
        with pytest.raises(UsageError, match=f"the model has no weights for {lacking}"):
            run()
    if name != "the":
        assert np.isfinite(one.relations(*batch, layer=0)).all()


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_bad_number_of_threads_is_an_error(isa, threads):
    with pytest.raises(UsageError, match=f"threads is {threads}; expected 1 to 1024"):
        kernels.NativeEncoder(SIZES[FAST], threads=threads)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_holds_memory_of_the_library_is_not_copied(copied):
    """A copy would free the same memory again."""
    sizes = SIZES[FAST]
    for one in (encoder_of(sizes, weights_of(sizes)), RelationKernel(threads=1)):
        with pytest.raises(UsageError, match="cannot be copied or pickled: load it again where it is needed"):
            copied(one)


def test_a_name_of_an_instruction_set_that_is_no_text(monkeypatch):
    monkeypatch.setenv("MINILM_ISA", "\udcff")  # how Python shows the byte 255
    with pytest.raises(UsageError, match="MINILM_ISA: no instruction set \ufffd in this library; it has"):
        kernels.chosen_isa()


def test_sizes_that_the_kernels_do_not_have_are_named():
    base = {"heads": 1, "layers": 1, "vocab": 9, "positions": 9, "segments": 0}
    for sizes, message in (
        (Sizes(hidden=12, ffn=8, **base), "its hidden size is 12; expected a multiple of 8 up to 1024"),
        (Sizes(hidden=8, ffn=4104, **base), "its intermediate size is 4104"),
        (Sizes(hidden=264, ffn=8, **base), "the width of a head is 264; expected at most 256"),
    ):
        assert message in sizes.unsupported()
        with pytest.raises(UsageError, match="the native engine"):
            kernels.NativeEncoder(sizes, threads=1)


def test_an_instruction_set_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("MINILM_ISA", "avx9")
    with pytest.raises(UsageError, match=r"MINILM_ISA: no instruction set avx9 in this library; it has .*scalar"):
        kernels.chosen_isa()
    lacking = [name[:-1] for name in kernels.find_library().text("minilm_kernels_isas").split() if name.endswith("-")]
    for name in lacking:
        monkeypatch.setenv("MINILM_ISA", name)
        with pytest.raises(UsageError, match=f"this processor does not have the instruction set {name}"):
            kernels.chosen_isa()


@pytest.mark.parametrize("value", ["0", "-1", "many", "65537", "9999999999999"])
def test_a_size_of_tiles_that_is_not_one_is_an_error(monkeypatch, value):
    monkeypatch.setenv("MINILM_TILE_TOKENS", value)
    with pytest.raises(UsageError, match=f"MINILM_TILE_TOKENS is '{value}'; expected a number from 1 to 65536"):
        kernels.NativeEncoder(SIZES[FAST], threads=1)


def test_the_size_of_tiles_can_be_set(monkeypatch):
    monkeypatch.setenv("MINILM_TILE_TOKENS", "77")
    assert kernels.NativeEncoder(SIZES[FAST], threads=1).tile_tokens == 77
    assert kernels.NativeEncoder(SIZES[FAST], threads=1, tile_tokens=5).tile_tokens == 5
    monkeypatch.delenv("MINILM_TILE_TOKENS")
    assert kernels.NativeEncoder(SIZES[FAST], threads=1).tile_tokens not in (5, 77)


def test_two_threads_may_call_at_once(isa):
    sizes = SIZES["heads of 64, relu"]
    one = encoder_of(sizes, weights_of(sizes), threads=2)
    batches = [batch_of(sizes, [20, 30, 100], seed) for seed in range(4)]
    expected = [one.pooled(*batch, ["mean"]) for batch in batches]
    found: dict[int, bool] = {}

    def work(number: int) -> None:
        found[number] = all(np.array_equal(one.pooled(*batches[number], ["mean"]), expected[number]) for _ in range(5))

    callers = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert found == dict.fromkeys(range(4), True)
