"""The C functions called directly: whatever their numbers are, they return an error or a result, and never crash.

Arrays are as long as the sizes say, which is all that a caller in C has to keep.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.conftest import runnable

from minilm.kernels import encoder as kernels
from minilm.kernels.encoder import Sizes

GOOD = Sizes(hidden=16, heads=2, ffn=24, layers=2, vocab=11, positions=514, segments=2, first_position=2, labels=3)
PARTS = ("embeddings", *((which, layer) for layer in range(2) for which in range(6)))  # 4 maps and 2 norms of a layer
BAD_SIZES = {
    **{"hidden": (-8, 0, 7, 1032), "heads": (-1, 0, 3, 17), "ffn": (0, 9, 4104), "layers": (-1, 0, 1001)},
    **{"vocab": (-1, 0), "positions": (-1, 0, 2), "segments": (-1,), "first_position": (-1, 514), "labels": (-1,)},
    **{"activation": (-1, 4), "pooler_activation": (-1, 99), "threads": (-1, 0, 1025), "tile_tokens": (-1,)},
}
POOLED, CLASSIFY, TOKENS, RELATIONS = range(4)


class Caller:
    """A model made by calls of the C functions; `failed` are their messages."""

    def __init__(self, isa: str, sizes: Sizes, threads: int, tile_tokens: int) -> None:
        self.functions, self.sizes, self.failed = kernels._functions(), sizes, []
        self.handle = ctypes.c_void_p()
        shape = kernels._Shape(*astuple(sizes))
        self.call("create", ctypes.byref(shape), isa.encode(), threads, tile_tokens, ctypes.byref(self.handle), to=None)

    def call(self, name: str, *arguments: object, to: str | None = "handle") -> bool:
        """Whether `minilm_NAME` succeeds; if not its message is kept."""
        given_ = [one.ctypes.data if isinstance(one, np.ndarray) else one for one in arguments]
        failed = getattr(self.functions, f"minilm_{name}")(*([self.handle] if to else []), *given_)
        if failed:
            self.failed.append(self.functions.minilm_error().decode())
            assert self.failed[-1]
        return not failed

    def set_part(self, part: str | tuple[int, int], precision: int, weights: np.ndarray) -> bool:
        """A table of random numbers is enough for every array of a part."""
        if part == "embeddings":
            self.kept = weights
            return self.call("set_embeddings", weights, weights, weights, weights, weights)
        which, layer = part
        if which >= 4:
            return self.call("set_norm", layer, which - 4, weights, weights)
        arrays = (ctypes.c_void_p * 3)(*[weights.ctypes.data] * 3)
        return self.call("set_linear", layer, which, precision, arrays, arrays, None)

    def run(self, ids, segments, ends, output, pooling, skipped, layer) -> np.ndarray | None:
        """The result, or None where it failed."""
        modes = np.array(pooling, np.int32)
        outs = np.zeros((3, max(len(ids), len(ends)) * self.sizes.hidden * max(1, len(modes))), np.float32)
        rest = (output, modes, len(modes), skipped, layer, *outs)
        return outs if self.call("run", ids, segments, ends, len(ends) - 1, *rest) else None

    def free(self) -> None:
        """Free the model."""
        self.functions.minilm_free(self.handle)


@st.composite
def one_bad_size(draw):
    """A good shape with one number that no model has: (sizes, threads, tile_tokens)."""
    name = draw(st.sampled_from(sorted(BAD_SIZES)))
    bad = draw(st.sampled_from(BAD_SIZES[name]))
    numbers = {"threads": 1, "tile_tokens": 0, **{name: bad}}
    return (GOOD if name in ("threads", "tile_tokens") else replace(GOOD, **{name: bad})), numbers


@settings(max_examples=60, deadline=None)
@given(shape=one_bad_size(), isa=st.sampled_from(runnable() or ["none"]))
def test_a_shape_that_no_model_has_is_an_error(shape, isa):
    sizes, numbers = shape
    one = Caller(isa, sizes, numbers["threads"], numbers["tile_tokens"])
    assert len(one.failed) == 1
    assert one.handle.value is None


FAULTS = ("length", "start", "id", "segment", "output", "pooling", "skipped", "layer", "part", "nan")


@st.composite
def calls(draw):
    """What is set and asked, with up to two faults."""
    faults = draw(st.lists(st.sampled_from(FAULTS), max_size=2))

    def one_of(name: str, good: Sequence[int], bad: Sequence[int]) -> int:
        return draw(st.sampled_from(bad if name in faults else good))

    lengths = draw(st.lists(st.sampled_from([1, 2, 3, 17, 512]), min_size=1, max_size=4))
    if "length" in faults:
        lengths = draw(st.sampled_from([[], [*lengths, 0], [0, *lengths], [*lengths, 513]]))
    total, source = sum(lengths), np.random.default_rng(0)
    ids, segments = source.integers(0, 11, total).astype(np.int32), source.integers(0, 2, total).astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ends[0] = one_of("start", [0], [-1, 1, 2**31 - 1, -(2**31)])
    for name, array, most in (("id", ids, 11), ("segment", segments, 2)):
        if name in faults and total:
            array[draw(st.integers(0, total - 1))] = draw(st.sampled_from([-1, most, 2**31 - 1, -(2**31)]))
    asked = {
        "output": one_of("output", [POOLED, CLASSIFY, RELATIONS], [-1, TOKENS, 4, 2**31 - 1]),
        "pooling": [one_of("pooling", range(6), [-1, 6]) for _ in range(draw(st.integers("pooling" not in faults, 3)))],
        "skipped": one_of("skipped", [0, 1, 600, 2**31 - 1], [-1]),
        "layer": one_of("layer", [0, 1], [-1, 2, 2**31 - 1]),
    }
    lacking = draw(st.sampled_from(PARTS)) if "part" in faults else None
    return lengths, (ids, segments, ends), asked, lacking, "nan" in faults


def expected_to_work(lengths, arrays, asked, lacking) -> bool:
    """What `minilm_run` should say, found in another way."""
    ids, segments, ends = arrays
    rows = bool(lengths) and all(1 <= length <= 512 for length in lengths) and ends[0] == 0
    values = ((ids >= 0) & (ids < 11)).all() and ((segments >= 0) & (segments < 2)).all()
    output, layer, modes = asked["output"], asked["layer"], asked["pooling"]
    there = lacking is None
    if output == RELATIONS and 0 <= layer < 2 and lacking not in (None, "embeddings"):
        there = (lacking[1], min(lacking[0], 1)) > (layer, 0)  # later than the map to queries, keys and values
    question = {
        POOLED: bool(modes) and all(0 <= mode < 6 for mode in modes) and asked["skipped"] >= 0,
        CLASSIFY: True,
        RELATIONS: 0 <= layer < 2,
    }.get(output, False)  # no scores of tokens: the head has a pooler
    return bool(rows and values and question and there)


@settings(max_examples=150, deadline=None)
@given(
    case=calls(), isa=st.sampled_from(runnable() or ["none"]), threads=st.integers(1, 3), precision=st.integers(-1, 3)
)
def test_any_call_gives_an_error_or_a_result(case, isa, threads, precision):
    lengths, arrays, asked, lacking, nan = case
    one = Caller(isa, GOOD, threads, tile_tokens=len(lengths))
    weights = np.random.default_rng(0).standard_normal((520, 24)).astype(np.float32)
    broken = np.where(np.arange(24) == 5, np.float32("nan"), weights)
    for part in PARTS:
        if part != lacking and not one.set_part(part, precision, broken if nan else weights):
            assert part[0] in range(4)
            assert precision not in (0, 2) or nan
            assert one.set_part(part, 0, weights), "what failed may be set again"
    assert one.call("set_head", weights, weights, weights, weights)
    before = len(one.failed)
    found = one.run(*arrays, **asked)
    works = expected_to_work(lengths, arrays, asked, lacking)
    assert (found is not None) == works, one.failed[before:]
    if works and not nan and asked["skipped"] == 0:
        assert np.isfinite(found).all()
    one.free()


@pytest.mark.parametrize("layer", [-1, 2, 2**31 - 1])
def test_a_part_of_no_layer_is_an_error(layer):
    one, weights = Caller("scalar", GOOD, 1, 0), np.zeros((24, 24), np.float32)
    assert not one.set_part((0, layer), 0, weights)
    assert not one.set_part((4, layer), 0, weights)
    assert one.failed == ["no such linear map", "no such norm"]
    one.free()
