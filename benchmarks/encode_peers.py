"""Our engines beside OpenVINO, onnxruntime and CTranslate2, each in its best mode.

The workloads are those of `minilm bench encode`.

The embedded model is exported to each peer's format: mean pooling and length 1 are in the graph; onnxruntime's is fused
and, for int8, quantized dynamically per channel; OpenVINO's int8 is quantized with nncf on other paragraphs of the same
kind. Peers that are not installed are left out with a line. For all of them:

    pip install 'minilm[embedded,hf,bench]'
    python benchmarks/encode_peers.py --json benchmarks/results/encode_peers/MACHINE.json
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from minilm.bench.encode import PACKAGES, ROUNDS, Row, compare, workloads_of
from minilm.bench.sides import Side, our_sides, peer_sides
from minilm.bench.workloads import MOST_TOKENS, NUM_PASSAGES, paragraphs
from minilm.cli.bench import encode_table, sides_table
from minilm.embedded import embedded_model
from minilm.export.quantize import quantize
from minilm.files.json import write_json
from minilm.infer.engines.threads import usable_threads
from minilm.model.metadata import read_config
from minilm.text.tokenizer import Tokenizer

PEERS = ("openvino", "nncf", "onnxruntime", "ctranslate2")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
CALIBRATION = 128  # texts
WORKER = (sys.executable, str(Path(__file__).resolve().parent / "peer_worker.py"))
# Peer, precision -> what it needs, the file of its weights, its own name of the precision.
SIDES = {
    ("openvino", "fp32"): (("openvino",), "model.onnx", "f32"),
    ("openvino", "bf16"): (("openvino",), "model.onnx", "bf16"),
    ("openvino", "int8"): (("openvino", "nncf"), "openvino-int8.xml", "f32"),
    ("onnxruntime", "fp32"): (("onnxruntime", "onnx"), "fused.onnx", ""),
    ("onnxruntime", "int8"): (("onnxruntime", "onnx"), "fused-int8.onnx", ""),
    ("ctranslate2", "fp32"): (("ctranslate2",), "ctranslate2", "float32"),
    ("ctranslate2", "int8"): (("ctranslate2",), "ctranslate2", "int8_float32"),
}


def main() -> None:
    """Export, measure, print a table and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    if not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: the folder does not exist")
    model = embedded_model()
    config = read_config(model)
    limit = min(MOST_TOKENS, config.max_tokens)
    texts = paragraphs()
    with TemporaryDirectory(prefix="minilm-peers-") as folder:
        sides, left_out = peers(model, Path(folder), texts[NUM_PASSAGES:][:CALIBRATION], max_tokens=limit)
        sides = [*ours(model, Path(folder) / "minilm-int8", max_tokens=limit), *sides]
        if find_spec("sentence_transformers"):
            sides += peer_sides(model, max_tokens=limit)
        found: dict[str, Any] = compare(
            sides,
            workloads_of(model, texts[:NUM_PASSAGES], max_tokens=limit),
            config,
            threads=options.threads,
            rounds=options.rounds,
            packages=(*PACKAGES, *PEERS),
        )
    found["left_out"] = [*left_out, *found["left_out"]]
    print(encode_table([Row(**row) for row in found["rows"]]))
    print(sides_table(found["sides"]))
    print("\n".join(found["left_out"]))
    write_json(options.json, {"model": "embedded", **found})


def ours(model: Path, quantized: Path, *, max_tokens: int) -> list[Side]:
    """Our engines, int8 with the weights that `minilm quantize` writes."""
    quantize(model, quantized)
    rest = [side for side in our_sides(model, max_tokens=max_tokens, name="embedded") if side.precision != "int8"]
    return rest + [side for side in our_sides(quantized, max_tokens=max_tokens) if side.precision == "int8"]


def peers(model: Path, folder: Path, texts: Sequence[str], *, max_tokens: int) -> tuple[list[Side], list[str]]:
    """The sides of the peers that are installed, exported into `folder`, and a line for each of the others."""
    sides, left_out = [], []
    for (peer, precision), (needed, file, hint) in SIDES.items():
        name = f"{peer} {precision}"
        if missing := [package for package in needed if find_spec(package) is None]:
            left_out.append(f"{name} is left out: not installed: {', '.join(missing)}")
            continue
        if hint == "bf16" and "BF16" not in openvino_capabilities():
            left_out.append(f"{name} is left out: OpenVINO does not compute in bf16 on this processor")
            continue
        if not (folder / file).exists():
            EXPORTS[file](model, folder, texts)
        request = {"kind": peer, "model": str(model), "max_tokens": max_tokens, "first": ["The first text."]}
        request |= {"file": str(folder / file), "hint": hint}
        sides.append(Side(name=name, request=request, precision=precision, command=WORKER))
    return sides, left_out


def openvino_capabilities() -> Sequence[str]:
    """What OpenVINO computes natively."""
    import openvino as ov

    return ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def export_onnx(model: Path, folder: Path, _: Sequence[str]) -> Path:
    """The encoder with mean pooling and length 1."""
    file = folder / "model.onnx"
    if file.exists():
        return file
    import torch
    from torch import Tensor
    from transformers import BertModel

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel.from_pretrained(model, attn_implementation="eager", add_pooling_layer=False)

        def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
            hidden = self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

    ids = torch.randint(1000, 20000, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    axes = {name: {0: "texts", 1: "tokens"} for name in INPUTS} | {"vector": {0: "texts"}}
    with torch.no_grad():
        torch.onnx.export(
            Embedding().eval(),
            (ids, mask, torch.zeros_like(ids)),
            str(file),
            input_names=list(INPUTS),
            output_names=["vector"],
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
    return file


def export_fused(model: Path, folder: Path, texts: Sequence[str]) -> Path:
    """The fusions of onnxruntime: attention, GELU, norms."""
    from onnxruntime.transformers import optimizer
    from onnxruntime.transformers.fusion_options import FusionOptions

    file, config = folder / "fused.onnx", read_config(model)
    if not file.exists():
        fused = optimizer.optimize_model(
            str(export_onnx(model, folder, texts)),
            model_type="bert",
            num_heads=config.num_heads,
            hidden_size=config.hidden_size,
            opt_level=1,
            optimization_options=FusionOptions("bert"),
        )
        fused.save_model_to_file(str(file))
    return file


def export_fused_int8(model: Path, folder: Path, texts: Sequence[str]) -> Path:
    """Dynamic quantization by onnxruntime, per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = folder / "fused-int8.onnx"
    options = {"per_channel": True, "reduce_range": False, "extra_options": {"DefaultTensorType": 1}}
    quantize_dynamic(export_fused(model, folder, texts), file, weight_type=QuantType.QInt8, **options)
    return file


def export_openvino_int8(model: Path, folder: Path, texts: Sequence[str]) -> Path:
    """Quantization for transformers by nncf."""
    import nncf
    import openvino as ov
    from peer_worker import padded

    file = folder / "openvino-int8.xml"
    ids = Tokenizer.load(model).encode(texts, max_length=MOST_TOKENS, truncated=[])
    data = nncf.Dataset([padded([one]) for one in ids])
    read = ov.Core().read_model(str(export_onnx(model, folder, texts)))
    ov.save_model(
        nncf.quantize(read, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts)),
        str(file),
        compress_to_fp16=False,
    )
    return file


def export_ctranslate2(model: Path, folder: Path, _: Sequence[str]) -> Path:
    """CTranslate2's own converter."""
    from ctranslate2.converters import TransformersConverter

    target = folder / "ctranslate2"
    TransformersConverter(str(model)).convert(str(target))
    return target


EXPORTS: dict[str, Callable[[Path, Path, Sequence[str]], Path]] = {
    "model.onnx": export_onnx,
    "fused.onnx": export_fused,
    "fused-int8.onnx": export_fused_int8,
    "openvino-int8.xml": export_openvino_int8,
    "ctranslate2": export_ctranslate2,
}

if __name__ == "__main__":
    main()
