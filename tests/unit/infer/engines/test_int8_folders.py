"""Proves that scales are used only with the weights they belong to; each other state of a folder is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import minilm
import minilm.infer.engines.native
from minilm.errors import DataError, UsageError
from minilm.infer.engines import load_engine
from minilm.infer.engines.int8 import FACTS, SCALES, Int8Maps, map_names, write_int8
from minilm.kernels.encoder import kernels_have_bf16, library_reason
from minilm.model.checkpoint import write_model
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model
from minilm.model.packed_ids import pack_ids

pytestmark = pytest.mark.skipif(bool(library_reason()), reason=library_reason() or "there are kernels")

CONFIG = EncoderConfig(
    hidden_size=16, num_layers=2, num_heads=4, intermediate_size=24, vocab_size=20, initializer_range=0.3
)
ROWS = pack_ids([np.arange(2, 2 + length) for length in (3, 9, 1, 15)])


@pytest.fixture
def folder(tmp_path):
    """A tiny random model with scales of 1 for all maps but one, which is kept."""
    import torch

    encoder = Encoder(CONFIG)
    encoder.reset(torch.Generator().manual_seed(0))
    write_model(Model(encoder), tmp_path)
    names = map_names(CONFIG)
    smoothing = {name: np.ones(width, dtype=np.float32) for name, width in names.items() if name != "layers.1.qkv"}
    write_int8(tmp_path, Int8Maps(smoothing=smoothing, kept=("layers.1.qkv",)), {})
    return tmp_path


def engine(folder, name="auto", precision="int8"):
    return load_engine(name, folder, head=None, precision=precision, threads=1)


def test_int8_is_close_to_fp32_and_other_numbers(folder):
    found, expected = (engine(folder, precision=name).pooled(ROWS, ("mean",)) for name in ("int8", "fp32"))
    assert 1e-5 < np.abs(found - expected).max() < 0.05


def test_a_kept_map_is_not_int8(folder):
    """With all maps kept the numbers are those of fp32 (of bf16 where the processor has it)."""
    write_int8(folder, Int8Maps(smoothing={}, kept=tuple(map_names(CONFIG))), {})
    kept = "bf16" if kernels_have_bf16() else "fp32"
    found, expected = (engine(folder, precision=name).pooled(ROWS, ("mean",)) for name in ("int8", kept))
    assert (found == expected).all()


@pytest.mark.parametrize("missing", [SCALES, FACTS])
def test_without_scales_the_command_is_named(folder, missing):
    (folder / missing).unlink()
    message = f"precision is 'int8', but {folder} has no {missing}; make a folder that has it with 'minilm quantize "
    for name in ("auto", "native"):
        with pytest.raises(UsageError) as caught:
            engine(folder, name)
        assert str(caught.value) == f"{message}{folder} --out DIR' and load that one, or use 'fp32'"


def test_the_torch_engine_has_no_int8(folder):
    with pytest.raises(UsageError) as caught:
        engine(folder, "torch")
    expected = f"engine 'torch' cannot run {folder}: it does not compute in int8, only the native engine does"
    assert str(caught.value) == f"{expected}; load it with engine='native'"


@pytest.mark.parametrize(
    ("name", "way_out"), [("auto", "precision='fp32'"), ("native", "engine='auto' and precision='fp32'")]
)
def test_what_the_kernels_cannot_run_has_no_int8(folder, monkeypatch, name, way_out):
    """Not even with `auto`: torch would compute something else."""
    monkeypatch.setattr(minilm.infer.engines.native, "library_reason", lambda: "there are none")
    with pytest.raises(UsageError) as caught:
        engine(folder, name)
    expected = f"engine 'native' cannot run {folder}: there are none; load it with {way_out}"
    assert str(caught.value) == expected


def test_other_weights_are_rejected(folder):
    """Also if a single number changed; fp32 still loads."""
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][7, 3] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError) as caught:
        engine(folder)
    expected = (
        f"{folder / FACTS}: the weights of {folder} have changed since it was quantized: run minilm quantize again"
    )
    assert str(caught.value) == expected
    engine(folder, precision="fp32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version is 2; expected 1: run minilm quantize again, or upgrade minilm"),
        ({"kept": "all"}, "kept is 'all'; expected a list of names of maps"),
        ({"kept": [1]}, r"kept is \[1\]; expected a list of names of maps"),
        (
            {"kept": []},
            r"found the scales of 7 maps and 0 kept ones, expected each of the 8 .*: layers\.1\.qkv\.smoothing\)",
        ),
        ({"kept": ["layers.1.qkv", "layers.2.qkv"]}, r"\(first difference: layers\.2\.qkv\.smoothing\)"),
        ({"kept": ["layers.1.qkv", "layers.0.qkv"]}, r"\(first difference: layers\.0\.qkv\.smoothing\)"),
    ],
)
def test_facts_that_do_not_fit(folder, change, message):
    facts = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(facts | change))
    with pytest.raises(DataError, match=message):
        engine(folder)


BAD_FACTORS = (0.0, -1.0, np.nan, np.inf, -np.inf)


def one_bad(value: float) -> np.ndarray:
    """Scales of a map of 16 inputs, all good but the last."""
    return np.array([1] * 15 + [value], dtype=np.float32)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(15, np.float32), r"smoothing is float32 of the shape \(15,\); expected float32 of \(16,\)"),
        (np.ones((16, 1), np.float32), r"smoothing is float32 of the shape \(16, 1\); expected float32 of \(16,\)"),
        (np.ones(16, np.float64), r"smoothing is float64 of the shape \(16,\); expected float32 of \(16,\)"),
        (np.ones(16, np.int32), r"smoothing is int32 of the shape \(16,\); expected float32 of \(16,\)"),
        *((one_bad(value), f"smoothing has the factor {value}; expected 1e-06 to 1e") for value in BAD_FACTORS),
    ],
)
def test_scales_that_do_not_fit(folder, array, message):
    save_file(load_file(folder / SCALES) | {"layers.0.ffn_in.smoothing": array}, folder / SCALES)
    with pytest.raises(DataError, match=message):
        engine(folder)


@pytest.mark.parametrize("value", [1e-7, 1e7, 1e-44])
def test_scales_that_would_overflow(folder, value):
    """A weight divided by such a factor, or an input multiplied by it, may be infinite."""
    save_file(load_file(folder / SCALES) | {"layers.0.ffn_in.smoothing": one_bad(value)}, folder / SCALES)
    with pytest.raises(
        DataError, match=r"layers\.0\.ffn_in\.smoothing has the factor .*; expected 1e-06 to 1e\+06: run"
    ):
        engine(folder)


def test_an_array_that_is_missing(folder):
    arrays = load_file(folder / SCALES)
    del arrays["layers.0.ffn_out.smoothing"]
    save_file(arrays, folder / SCALES)
    with pytest.raises(
        DataError, match=r"scales of 6 maps and 1 kept ones.*difference: layers\.0\.ffn_out\.smoothing\)"
    ):
        engine(folder)


@pytest.mark.parametrize("value", [None, 1, [], "0" * 64])
def test_a_hash_of_something_else(folder, value):
    facts = json.loads((folder / FACTS).read_text())
    (folder / FACTS).write_text(json.dumps(facts | {"weights": value}))
    with pytest.raises(DataError, match="have changed since it was quantized: run minilm quantize again"):
        engine(folder)


def test_scales_of_another_calibration(folder):
    """They fit, so that only their hash tells them apart."""
    save_file(load_file(folder / SCALES) | {"layers.0.ffn_in.smoothing": one_bad(2.0)}, folder / SCALES)
    with pytest.raises(DataError, match=rf"{SCALES} is not the file that was written with {FACTS}: run minilm quant"):
        engine(folder)


def test_an_array_of_another_name(folder):
    save_file({**load_file(folder / SCALES), "layers.0.qkv": np.ones(16, np.float32)}, folder / SCALES)
    with pytest.raises(DataError, match=r"the scales of 8 maps and 1 kept ones.*first difference: layers\.0\.qkv\)"):
        engine(folder)


def test_damaged_files(folder):
    whole = (folder / SCALES).read_bytes()
    (folder / SCALES).write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"minilm_int8.safetensors is not a complete safetensors file"):
        engine(folder)
    (folder / SCALES).write_bytes(whole)
    (folder / FACTS).write_text("{")
    with pytest.raises(DataError, match=r"minilm_int8\.json:1"):
        engine(folder)
