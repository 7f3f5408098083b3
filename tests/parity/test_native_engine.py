"""Proves that the native engine gives the torch engine's numbers for all families and heads that it takes.

The torch engine is compared with transformers elsewhere.
"""

from __future__ import annotations

import logging
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.commands import in_a_child

from minilm.errors import UsageError
from minilm.files.json import read_json, write_json
from minilm.infer.engines import load_engine
from minilm.infer.engines import native as native_engine
from minilm.infer.engines.native import NativeEngine
from minilm.infer.engines.torch import TorchEngine
from minilm.kernels.encoder import POOLING, kernels_have_bf16, library_reason
from minilm.kernels.library import find_library
from minilm.model.checkpoint import read_model, write_model
from minilm.model.config import FAMILIES, EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.model.packed_ids import pack_ids
from minilm.model.packing import Packed

pytestmark = pytest.mark.skipif(bool(library_reason()), reason=library_reason() or "there are kernels")

RUNNABLE = [name for name in (find_library().text("minilm_kernels_isas") or "").split() if not name.endswith("-")]
TAKEN = [name for name, family in FAMILIES.items() if not family.relative_positions]
LENGTHS = (1, 2, 3, 7, 16, 31, 33, 60)


def write(folder, family="bert", head=None, **sizes):
    """A random model of a family whose segments, positions and poolers matter."""
    config = EncoderConfig(
        family=family,
        **{
            **{"hidden_size": 48, "num_layers": 3, "num_heads": 4, "intermediate_size": 72, "vocab_size": 30},
            **{"max_positions": 66, "initializer_range": 0.2, "pad_token_id": 1},
            **{"num_segments": 3 if FAMILIES[family].segments else 0},
            **sizes,
        },
    )
    generator = torch.Generator().manual_seed(3)
    encoder = Encoder(config, pooler=True if head == "classification" else None)
    encoder.reset(generator)
    model = Model(encoder, head and new_head(head, config, num_labels=5, generator=generator))
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    folder.mkdir(exist_ok=True)
    write_model(model, folder, head=head)
    return folder


def batch(segments=3):
    draw = np.random.default_rng(0)
    return pack_ids(
        [draw.integers(2, 30, length) for length in LENGTHS], [draw.integers(0, segments, length) for length in LENGTHS]
    )


def engines(folder, head=None):
    both = [load_engine(name, folder, head=head, precision="fp32", threads=2) for name in ("native", "torch")]
    assert [type(one) for one in both] == [NativeEngine, TorchEngine]
    assert both[0].head == both[1].head
    return both


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("family", TAKEN)
def test_vectors_of_every_family(tmp_path, monkeypatch, family, isa):
    monkeypatch.setenv("MINILM_ISA", isa)
    native, torch_engine = engines(write(tmp_path / "m", family))
    rows = batch(3 if FAMILIES[family].segments else 1)
    for pooling, skipped in ((POOLING, 0), (("cls",), 0), (("mean", "cls"), 4)):
        found, expected = (one.pooled(rows, pooling, skipped=skipped) for one in (native, torch_engine))
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-6)
        assert np.ptp(found[np.isfinite(found).all(1)], axis=0).max() > 0.1, "sequences differ"


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("head", ["classification", "span", "tokens"])
@pytest.mark.parametrize("family", TAKEN)
def test_scores_of_every_head(tmp_path, monkeypatch, family, head, isa):
    monkeypatch.setenv("MINILM_ISA", isa)
    native, torch_engine = engines(write(tmp_path / "m", family, head), head)
    rows = batch(3 if FAMILIES[family].segments else 1)
    for one in (rows, batch(1)):
        ask = "classify" if head == "classification" else "tokens"
        found, expected = (getattr(engine, ask)(one) for engine in (native, torch_engine))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_relations_of_a_layer(tmp_path):
    """What a distillation reads of a teacher: nothing after the projections is computed."""
    folder = write(tmp_path / "m")
    model = read_model(folder).eval()
    for layer in (1, 3):
        with torch.inference_mode():
            expected = model.encoder.relations(Packed.from_ids(batch()), layer=layer)
        found = engines(folder)[0].relations(batch(), layer)
        for ours, theirs in zip(found, (expected.query, expected.key, expected.value), strict=True):
            np.testing.assert_allclose(ours, theirs.flatten(1).numpy(), atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "relu"])
def test_other_activations(tmp_path, activation):
    native, torch_engine = engines(write(tmp_path / "m", hidden_act=activation))
    found, expected = (one.pooled(batch(), ("mean",)) for one in (native, torch_engine))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    usual = engines(write(tmp_path / "usual"))[0].pooled(batch(), ("mean",))
    assert np.abs(found - usual).max() > 1e-4


@pytest.mark.parametrize(("precision", "least_cosine", "furthest"), [("fp32", 1 - 1e-6, 1e-5), ("bf16", 0.9999, 0.1)])
def test_the_real_model(real_model_dir, precision, least_cosine, furthest):
    """MiniLM-L6-H384: cosines with fp32 in torch for texts of all lengths, also beyond its 256 tokens."""
    if precision == "bf16" and not kernels_have_bf16():
        pytest.skip("this processor has no products of bfloat16")
    native = load_engine("native", real_model_dir, head=None, precision=precision, threads=2)
    torch_engine = load_engine("torch", real_model_dir, head=None, precision="fp32", threads=2)
    draw = np.random.default_rng(1)
    rows = pack_ids([draw.integers(1000, 30000, length) for length in (1, 2, 9, 64, 128, 129, 300, 512)])
    found, expected = (one.pooled(rows, ("mean",)).astype(np.float64) for one in (native, torch_engine))
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > least_cosine
    assert np.abs(found - expected).max() < furthest


@pytest.mark.parametrize("container", ["fp16", "bf16", "bin", "shards", "bin in bf16"])
def test_every_container_of_weights(tmp_path, container):
    """Both engines read the same folder; half precision is widened."""
    folder = write(tmp_path / "m")
    file = folder / "model.safetensors"
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "bin in bf16": torch.bfloat16}.get(container, torch.float32)
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    file.unlink()
    if container.startswith("bin"):
        torch.save(tensors, folder / "pytorch_model.bin")
    elif container == "shards":
        names = sorted(tensors)
        parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
        for part, inside in parts.items():
            save_file({name: tensors[name] for name in inside}, folder / part)
        weight_map = {name: part for part, inside in parts.items() for name in inside}
        write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    else:
        save_file(tensors, file)
    found, expected = (one.pooled(batch(), ("mean",)) for one in engines(folder))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_embeddings_stay_in_the_file_and_may_lie_anywhere_in_it(tmp_path):
    """A header of any length: arrays that do not begin at a multiple of four bytes are copied."""
    folder = write(tmp_path / "m")
    expected = engines(folder)[1].pooled(batch(), ("mean",))
    for extra in range(4):
        tensors = load_file(folder / "model.safetensors")
        save_file({"embeddings.position_ids": torch.zeros(1 + extra, dtype=torch.uint8), **tensors}, folder / "x")
        shutil.copy(folder / "x", folder / "model.safetensors")
        native = load_engine("native", folder, head=None, precision="fp32")
        np.testing.assert_allclose(native.pooled(batch(), ("mean",)), expected, atol=1e-5)


REFUSED = {
    "mpnet": (dict(family="mpnet", num_segments=0), None, "mpnet models have relative positions"),
    "a projection": (dict(family="electra", embedding_size=24), None, "its embeddings have the width 24, not 48"),
    "a width": (dict(hidden_size=20), None, "its hidden size is 20; expected a multiple of 8 up to 1024"),
    "a generator": (dict(), "mlm", "it generates texts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_run_goes_to_torch_with_one_line(tmp_path, caplog, case):
    sizes, head, reason = REFUSED[case]
    folder = write(tmp_path / "m", head=head, **sizes)
    with caplog.at_level(logging.INFO, logger="minilm"):
        assert isinstance(load_engine("auto", folder, head=head, precision="fp32"), TorchEngine)
    lines = [record.getMessage() for record in caplog.records if "cannot run" in record.getMessage()]
    assert lines == [f"engine native cannot run {folder}: {reason}; torch runs it"]
    with pytest.raises(UsageError, match=f"engine 'native' cannot run .*{reason}; load it with engine='auto'"):
        load_engine("native", folder, head=head, precision="fp32")


def test_a_limit_that_only_the_kernels_know_goes_to_torch_too(tmp_path, caplog, monkeypatch):
    """Such as the number of scores of a head, whose weights would be too large for a test."""
    folder, sizes_of = write(tmp_path / "m"), native_engine._sizes
    monkeypatch.setattr(native_engine, "_sizes", lambda *args, **named: replace(sizes_of(*args, **named), layers=1001))
    with caplog.at_level(logging.INFO, logger="minilm"):
        assert isinstance(load_engine("auto", folder, head=None, precision="fp32"), TorchEngine)
    assert "cannot run" in caplog.text
    assert "layers is 1001; expected 1 to 1000; torch runs it" in caplog.text
    with pytest.raises(UsageError, match="layers is 1001; expected 1 to 1000; load it with engine='auto'"):
        load_engine("native", folder, head=None, precision="fp32")


def test_an_instruction_set_that_does_not_exist_is_an_error_with_auto_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILM_ISA", "avx9")
    with pytest.raises(UsageError, match="MINILM_ISA: no instruction set avx9"):
        load_engine("auto", write(tmp_path / "m"), head=None, precision="fp32")


def test_a_head_without_weights_goes_to_torch_which_reports_it(tmp_path, caplog):
    folder = write(tmp_path / "m")
    values = read_json(folder / "config.json")
    write_json(folder / "config.json", {**values, "architectures": ["BertForSequenceClassification"]})
    assert isinstance(load_engine("auto", folder, head="classification", precision="fp32"), TorchEngine)
    assert "has no trained classification head" in caplog.text


def test_no_kernels_are_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("MINILM_KERNELS", "off")
    find_library.cache_clear()
    try:
        folder = write(tmp_path / "m")
        assert isinstance(load_engine("auto", folder, head=None, precision="fp32"), TorchEngine)
        with pytest.raises(UsageError, match="MINILM_KERNELS=off is set"):
            load_engine("native", folder, head=None, precision="fp32")
    finally:
        monkeypatch.undo()
        find_library.cache_clear()


def test_a_model_is_used_after_a_fork_only_where_its_threads_are(tmp_path):
    folder = write(tmp_path / "m")
    model = load_engine("native", folder, head=None, precision="fp32", threads=2)
    expected = model.pooled(batch(), ("mean",))

    def used(threads: int | None = None) -> str:
        one = model if threads is None else load_engine("native", folder, head=None, precision="fp32", threads=threads)
        return str(np.array_equal(one.pooled(batch(), ("mean",)), expected))

    assert "the model was loaded before this process was forked" in in_a_child(used)
    assert in_a_child(lambda: used(threads=2)) == "True", "a model that the child loads"
    alone = load_engine("native", folder, head=None, precision="fp32", threads=1)
    assert in_a_child(lambda: str(np.array_equal(alone.pooled(batch(), ("mean",)), expected))) == "True"
    assert used() == "True", "the parent goes on"


def test_threads_that_the_system_does_not_start_are_an_error(tmp_path):
    """A child may not take the memory of so many stacks; another model goes on."""
    folder = write(tmp_path / "m")

    def limited() -> str:
        many, few = (load_engine("native", folder, head=None, precision="fp32", threads=count) for count in (1000, 2))
        taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 2**28, resource.RLIM_INFINITY))
        try:
            many.pooled(batch(), ("mean",))
        except UsageError as error:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return f"{error} {few.pooled(batch(), ('mean',)).shape}"
        return "no error"

    said = in_a_child(limited)
    assert "the native engine: the system starts " in said
    assert " of 1000 threads, then no more (Resource temporarily unavailable): use fewer threads" in said
    assert said.endswith(f"({len(LENGTHS)}, 48)")


@pytest.mark.parametrize("threads", [0, 1025, "all", 1.5])
def test_a_bad_number_of_threads_is_an_error_with_any_engine(tmp_path, threads):
    for name in ("auto", "native", "torch"):
        with pytest.raises(UsageError, match=f"threads is {threads!r}; expected a whole number from 1 to 1024"):
            load_engine(name, tmp_path, head=None, precision="fp32", threads=threads)
