"""Proves that a teacher on the native engine gives the numbers of transformers, bit-equal over cuts of the batch."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from tests.parity.conftest import relative_difference

from minilm.distill import teacher_native
from minilm.distill.teacher import load_teacher, read_sizes
from minilm.infer.engines.protocol import CannotRun
from minilm.kernels.encoder import chosen_isa
from minilm.kernels.library import find_library
from minilm.model.packing import pack

transformers = pytest.importorskip("transformers")
needs_kernels = pytest.mark.skipif(find_library().functions is None, reason="the kernels are not built: make kernels")
LENGTHS = (3, 30, 1, 12, 30, 4)


@pytest.fixture(scope="module")
def texts():
    generator = np.random.default_rng(5)
    return [generator.integers(5, 120, size=length) for length in LENGTHS]


@needs_kernels
@pytest.mark.parametrize(
    ("name", "settings"),
    [("Bert", {}), ("Roberta", {"pad_token_id": 1}), ("XLMRoberta", {"pad_token_id": 1}), ("DistilBert", {})],
)
def test_the_native_engine_gives_the_projections_of_single_runs(save, own_projections, texts, name, settings):
    """Those of transformers' own attention, which are also those of its packed teacher."""
    folder = save(name, **settings)
    apart = [own_projections(folder, text) for text in texts]
    for layer in (1, 3):
        native, theirs = (load_teacher(folder, layer=layer, native=wanted) for wanted in (True, False))
        assert native.engine == f"native, {chosen_isa()}"
        assert theirs.engine == "transformers, packed"
        assert native.sizes == theirs.sizes == read_sizes(folder, layer=layer)
        packed = pack(texts)
        found, together = native.relations(packed), theirs.relations(packed)
        for place, part in enumerate(("query", "key", "value")):
            ours, single = getattr(found, part), torch.cat([rows[layer - 1][place] for rows in apart])
            assert relative_difference(ours, single) < 1e-5
            assert relative_difference(getattr(together, part), single) < 1e-5
            cut = torch.cat([getattr(native.relations(pack(some)), part) for some in (texts[:2], texts[2:])])
            assert torch.equal(cut, ours)


@needs_kernels
def test_what_the_kernels_cannot_run_goes_to_transformers_and_the_log_says_why(save, monkeypatch, caplog):
    folder = save("Bert")

    def none(*_):
        raise CannotRun("MINILM_KERNELS=off is set")

    monkeypatch.setattr(teacher_native, "load_native_engine", none)
    with caplog.at_level(logging.INFO, "minilm"):
        assert load_teacher(folder).engine == "transformers, packed"
    assert f"teacher {folder}: not on the native engine: MINILM_KERNELS=off is set" in caplog.text
    assert load_teacher(save("Electra", embedding_size=16)).engine == "transformers, packed"
