"""The restricted reader returns what `torch.load(weights_only=True)` returns, in both formats."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.errors import DataError
from minilm.files.torch_bin import read_torch_bin, read_torch_bin_arrays

ZIP_AND_STREAM = pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "stream"])


def compare(path: Path) -> dict[str, torch.Tensor]:
    ours = read_torch_bin(path)
    theirs = torch.load(path, weights_only=True)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert ours[name].shape == tensor.shape, name
        assert ours[name].stride() == tensor.stride() or tensor.numel() == 0, name
        assert torch.equal(ours[name], tensor), name
    arrays = read_torch_bin_arrays(path)
    assert list(arrays) == list(ours)
    for name, tensor in ours.items():
        widened = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        np.testing.assert_array_equal(arrays[name], widened.detach().numpy(), strict=True, err_msg=name)
    return ours


@ZIP_AND_STREAM
def test_every_type_and_layout(tmp_path: Path, as_zip: bool) -> None:
    base = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    names = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    tensors = {
        **{name: base.mul(3).to(getattr(torch, name)) for name in names},
        "transposed": base.T,
        "part": base[1:4, 2::3],
        "row": base[5],
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "tied": base,
        "expanded": torch.arange(5).expand(3, 5),
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "frozen": torch.nn.Parameter(base[:2], requires_grad=False),
    }
    torch.save(tensors, tmp_path / "m.bin", _use_new_zipfile_serialization=as_zip)
    read = compare(tmp_path / "m.bin")
    assert read["tied"].untyped_storage().data_ptr() == read["transposed"].untyped_storage().data_ptr()


@ZIP_AND_STREAM
def test_state_dict_of_a_model_with_its_metadata(tmp_path: Path, as_zip: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 4))
    state = model.state_dict()
    assert isinstance(state, OrderedDict)
    assert hasattr(state, "_metadata")
    torch.save(state, tmp_path / "m.bin", _use_new_zipfile_serialization=as_zip)
    compare(tmp_path / "m.bin")


@ZIP_AND_STREAM
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_since_2(tmp_path: Path, as_zip: bool, protocol: int) -> None:
    path = tmp_path / "m.bin"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=as_zip, pickle_protocol=protocol)
    assert torch.equal(read_torch_bin(path)["a"], torch.ones(3))


@ZIP_AND_STREAM
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"model": {"a": torch.ones(1)}},
            "entry 'model': found dict, expected a tensor: save model.state_dict",
        ),
        ({"a": torch.ones(1), "epoch": 3}, "entry 'epoch': found int, expected a tensor"),
        ([torch.ones(1)], r"m\.bin: found list, expected a state dict \(names to tensors\)"),
        ({1: torch.ones(1)}, "damaged or not a PyTorch state dict: a key that is not a string"),
    ],
)
def test_other_contents_are_rejected_by_name(tmp_path: Path, as_zip: bool, value: object, message: str) -> None:
    torch.save(value, tmp_path / "m.bin", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(DataError, match=message):
        read_torch_bin(tmp_path / "m.bin")


def test_whole_models_are_rejected(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.bin")
    with pytest.raises(DataError, match=r"refers to torch\.nn\.modules\.linear\.Linear, .* nothing was executed"):
        read_torch_bin(tmp_path / "m.bin")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_rejected(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(DataError, match=r"a TorchScript program, not a state dict: save model\.state_dict"):
        read_torch_bin(tmp_path / "m.pt")


def test_files_of_other_kinds_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    with pytest.raises(DataError, match=r"cannot read .*m\.bin: No such file"):
        read_torch_bin(path)
    path.touch()
    with pytest.raises(DataError, match=r"m\.bin is empty: expected a PyTorch state dict"):
        read_torch_bin(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DataError, match="neither the zip nor the stream format"):
        read_torch_bin(path)
    path.write_bytes(b"a text\n")
    with pytest.raises(DataError, match="damaged or not a PyTorch state dict"):
        read_torch_bin(path)


@ZIP_AND_STREAM
def test_every_truncation_is_a_data_error(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "m.bin"
    torch.save({"a": torch.arange(40), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=as_zip)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_torch_bin(path)
