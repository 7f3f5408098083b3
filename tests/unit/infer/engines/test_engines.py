"""Proves what every engine promises: arrays of the stated shapes, and rows that do not depend on their neighbors."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import minilm
import minilm.infer.engines.native
from minilm.errors import UsageError
from minilm.infer.engines import ENGINES, load_engine
from minilm.infer.engines.protocol import GenerationEngine
from minilm.infer.engines.torch import TorchEngine
from minilm.kernels.encoder import library_reason
from minilm.model.checkpoint import write_model
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.model.packed_ids import pack_ids
from minilm.model.packing import pack
from minilm.model.pooling import pool_rows
from minilm.text.tokenizer import Tokenizer

SEQUENCES = [np.array(ids) for ids in ([2, 5, 3], [2, 6, 7, 8, 3], [2, 9, 3], [2], [2, 5, 6, 7, 8, 9, 3])]
SEGMENTS = [np.array(ids) for ids in ([0, 0, 1], [0, 0, 1, 1, 1], [0, 1, 1], [0], [0, 0, 0, 0, 1, 1, 1])]


NATIVE = ([], [pytest.mark.skipif(bool(library_reason()), reason=library_reason() or "there are kernels")])


def write(folder, head, num_labels=3):
    """A tiny random model."""
    config = EncoderConfig(
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        intermediate_size=24,
        vocab_size=20,
        max_positions=32,
        initializer_range=0.3,
    )
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(config)
    encoder.reset(generator)
    model = Model(encoder, head and new_head(head, config, num_labels=num_labels, generator=generator))
    write_model(model, folder, head=head)
    return model.eval()


def of(name, folder, head):
    return load_engine(name, folder, head=head, precision="fp32")


@pytest.mark.parametrize("name", ["auto", *(pytest.param(name, marks=NATIVE[name == "native"]) for name in ENGINES)])
@pytest.mark.parametrize(
    ("head", "ask", "rows", "columns"),
    [
        (None, lambda engine, batch: engine.pooled(batch, ("mean",)), "sequences", 16),
        (None, lambda engine, batch: engine.pooled(batch, ("cls",)), "sequences", 16),
        (None, lambda engine, batch: engine.pooled(batch, ("weightedmean", "max", "lasttoken")), "sequences", 48),
        ("classification", lambda engine, batch: engine.classify(batch), "sequences", 3),
        ("span", lambda engine, batch: engine.tokens(batch), "tokens", 2),
    ],
)
def test_a_row_does_not_depend_on_its_neighbors(tmp_path, name, head, ask, rows, columns):
    write(tmp_path, head)
    engine = of(name, tmp_path, head)
    assert engine.head == head
    batch = pack_ids(SEQUENCES, SEGMENTS)
    together = ask(engine, batch)
    assert type(together) is np.ndarray
    assert together.dtype == np.float32
    assert together.shape == ({"sequences": 5, "tokens": 19}[rows], columns)
    alone = [ask(engine, pack_ids([ids], [kinds])) for ids, kinds in zip(SEQUENCES, SEGMENTS, strict=True)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    assert np.ptp(together, axis=0).min() > 1e-3, "rows differ"


@pytest.mark.parametrize("head", ["classification", "span"])
def test_the_torch_engine_gives_the_scores_of_the_model(tmp_path, head):
    model = write(tmp_path, head)
    with torch.inference_mode():
        expected = model(pack(SEQUENCES, segments=SEGMENTS)).numpy()
    engine = of("torch", tmp_path, head)
    ask = engine.classify if head == "classification" else engine.tokens
    np.testing.assert_allclose(ask(pack_ids(SEQUENCES, SEGMENTS)), expected, atol=1e-5)


def test_auto_is_the_best_available_engine(tmp_path):
    write(tmp_path, None)
    assert type(of("auto", tmp_path, None)).__name__ == ("TorchEngine" if library_reason() else "NativeEngine")


def test_the_torch_engine_generates(generator_dir):
    engine = of("torch", generator_dir, "mlm")
    assert isinstance(engine, GenerationEngine)
    tokenizer = Tokenizer.load(generator_dir)
    decoder = engine.decoder(tokenizer, pos_shift="none")
    _, scores = decoder.start([decoder.frame(np.array([7, 8], dtype=np.int32))], beams=1, room=3)
    assert scores.shape == (1, tokenizer.vocab_size)
    assert scores.exp().sum().item() == pytest.approx(1)


@pytest.mark.slow
def test_a_loaded_model_runs_on_the_named_engine(real_model_dir):
    assert isinstance(minilm.load(real_model_dir, engine="torch").engine, TorchEngine)


def test_mean_rows_is_the_mean_of_each_sequence():
    packed = pack([np.ones(length, dtype=int) for length in (2, 2, 5, 1)])
    rows = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([part.mean(0) for part in rows.split([2, 2, 5, 1])])
    torch.testing.assert_close(pool_rows(rows, packed, ("mean",), skipped=0), expected)


def test_skipped_rows_are_pooled_in_no_mode_but_count_as_positions():
    packed = pack([np.ones(length, dtype=int) for length in (4, 1)])
    rows = torch.arange(1.0, 6.0)[:, None]
    modes = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    long, short = pool_rows(rows, packed, modes, skipped=2).tolist()
    assert long == pytest.approx([3, 4, 3.5, 7 / 2**0.5, (3 * 3 + 4 * 4) / 7, 4])
    assert short == [5, float("-inf"), 0, 0, 0, 0]  # as sentence-transformers, where the prompt takes all tokens


def test_bf16_is_rejected_where_the_processor_lacks_it_unless_torch_is_asked_to_emulate_it(
    tmp_path, monkeypatch, caplog
):
    """And the log does not say that torch runs it."""
    write(tmp_path, None)
    monkeypatch.setattr(minilm.infer.engines, "has_bf16", lambda: False)
    monkeypatch.setenv("MINILM_ISA", "scalar")
    with (
        caplog.at_level(logging.INFO, logger="minilm"),
        pytest.raises(UsageError, match="precision is 'bf16', which this processor does not have; use 'fp32'"),
    ):
        load_engine("auto", tmp_path, head=None, precision="bf16")
    assert "torch runs it" not in caplog.text
    assert isinstance(load_engine("torch", tmp_path, head=None, precision="bf16"), TorchEngine)


@pytest.mark.parametrize(
    ("engine", "precision", "way_out"),
    [
        ("native", "fp32", "engine='auto'"),
        ("native", "bf16", "engine='auto' and precision='fp32'"),
        ("native", "int8", "engine='auto' and precision='fp32'"),
        ("auto", "int8", "precision='fp32'"),
    ],
)
def test_the_way_out_of_an_engine_that_cannot_run_a_model_works(tmp_path, monkeypatch, engine, precision, way_out):
    """On a processor without bfloat16: `auto` alone would reject it as well."""
    write(tmp_path, None)
    monkeypatch.setattr(minilm.infer.engines, "has_bf16", lambda: False)
    monkeypatch.setattr(minilm.infer.engines.native, "library_reason", lambda: "there are none")
    with pytest.raises(UsageError, match=f"; load it with {way_out}$"):
        load_engine(engine, tmp_path, head=None, precision=precision)
    changed = {"engine": engine, "precision": precision}
    changed |= dict(part.split("=") for part in way_out.replace("'", "").split(" and "))
    assert isinstance(load_engine(changed.pop("engine"), tmp_path, head=None, **changed), TorchEngine)
