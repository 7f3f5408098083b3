"""The native engine = the torch engine for random sizes, heads and mixes of lengths, on every instruction set here.

The torch engine is compared with transformers elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.parity.test_native_engine import RUNNABLE, TAKEN, engines, write

from minilm.infer.engines import load_engine
from minilm.kernels.encoder import POOLING, library_reason
from minilm.model.config import FAMILIES
from minilm.model.packed_ids import PackedIds, pack_ids

pytestmark = pytest.mark.skipif(bool(library_reason()), reason=library_reason() or "there are kernels")

HEADS = (None, "classification", "span", "tokens")
LARGEST = {"hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096, "num_layers": 1}


@st.composite
def sizes(draw) -> dict[str, int]:
    """Widths of any multiple of 8; heads of any width that divides."""
    width = 8 * draw(st.integers(1, 12))
    return {
        "hidden_size": width,
        "num_heads": draw(st.sampled_from([heads for heads in range(1, 9) if width % heads == 0])),
        "intermediate_size": 8 * draw(st.integers(1, 24)),
        "num_layers": draw(st.integers(1, 2)),
    }


def rows_of(lengths: list[int], segments: int) -> PackedIds:
    draw = np.random.default_rng(len(lengths))
    ids = [draw.integers(2, 30, length) for length in lengths]
    return pack_ids(ids, [draw.integers(0, max(1, segments), length) for length in lengths])


def answers(engine, rows: PackedIds, head: str | None) -> list[np.ndarray]:
    """Vectors of every pooling without a head, else scores."""
    if head is None:
        return [engine.pooled(rows, POOLING, skipped=1)]
    return [engine.classify(rows) if head == "classification" else engine.tokens(rows)]


@settings(max_examples=8, deadline=None)
@given(
    sizes=sizes(),
    family=st.sampled_from(TAKEN),
    head=st.sampled_from(HEADS),
    short=st.lists(st.integers(1, 40), max_size=6),
    long=st.integers(1, 512),
    threads=st.integers(1, 3),
)
@example(sizes=LARGEST, family="bert", head="classification", short=[1, 9, 3], long=17, threads=2)
@example(
    sizes={**LARGEST, "hidden_size": 8, "num_heads": 8}, family="roberta", head="tokens", short=[], long=512, threads=1
)
def test_native_is_torch(sizes, family, head, short, long, threads):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        segments = 3 if FAMILIES[family].segments else 0
        spread = 1 / np.sqrt(max(sizes["hidden_size"], 25))  # rows of all layers are of the size of 1
        model = write(Path(folder), family, head, max_positions=514, initializer_range=spread, **sizes)
        rows = rows_of([*short, long], segments)
        expected = answers(engines(model, head)[1], rows, head)
        for isa in RUNNABLE:
            patch.setenv("MINILM_ISA", isa)
            native = load_engine("native", model, head=head, precision="fp32", threads=threads)
            for found, ours in zip(answers(native, rows, head), expected, strict=True):
                np.testing.assert_allclose(found, ours, atol=1e-5, rtol=1e-5, err_msg=isa)
