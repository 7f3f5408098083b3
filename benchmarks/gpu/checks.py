"""What only a GPU can show: every path with separate code there against the CPU, then how fast it is.

The JSON is written after every part, and no part begins after eight minutes, so that a batch which is cut off loses
one part at most. A part that fails is recorded with its error, and the next one runs.

    PYTHONPATH=src python benchmarks/gpu/checks.py --json gpu.json
    PYTHONPATH=src python benchmarks/gpu/checks.py --json tiny.json --device cpu --tiny  # the same code, in a minute

A machine that has PyTorch for CUDA (2.11 at least), transformers and tokenizers, but no package index, needs no
installation of minilm: copy this repository there. If it lacks pydantic, take its wheels along (3 MB); where there is
an index, and then there:

    pip download --only-binary=:all: --python-version 3.12 --platform manylinux_2_17_x86_64 -d wheels pydantic
    pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=src:site
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import rates
from ab import json_file, show
from cases import FULL, TINY, Cases

import parity
from minilm.environment import machine
from minilm.files.json import write_json

PARTS: dict[str, Callable[[Cases], Iterator[Mapping[str, object]]]] = {
    "relation loss": parity.relation_kernels,
    "encoder": parity.encoder,
    "attention": parity.attention,
    "encode": parity.encode,
    "beam search": parity.beam_search,
    "teachers": parity.teachers,
    "steps": parity.steps,
    "rate of distillation": rates.distillation,
    "rate of relation losses": rates.relation_losses,
    "rate of encoding": rates.encode,
    "rate of fine-tuning": rates.finetuning,
    "rate of beam search": rates.beam_search,
}
LIMIT = 8 * 60.0  # seconds after which no part begins


def main() -> int:
    """Run all parts; 1 if one failed or a row does not keep its bound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="where the results are written")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script")
    options = parser.parse_args()
    file, device = json_file(parser, options.json), torch.device(options.device)
    size = TINY if options.tiny else FULL
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    facts = {"machine": machine(["torch", "triton", "numpy", "transformers"]), "device": name, "size": size.name}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        return run(Cases(size=size, device=device, folder=Path(folder)), file, facts, started=started)


def run(cases: Cases, file: Path, facts: Mapping[str, object], *, started: float) -> int:
    """All parts in turn; see `main`."""
    rows: list[dict[str, object]] = []
    errors: dict[str, str] = {}
    left_out: list[str] = []
    for part, work in PARTS.items():
        before = len(rows)
        if time.perf_counter() - started > LIMIT:
            left_out.append(part)
        else:
            try:
                for row in work(cases):
                    rows.append({"part": part, **{name: _in_json(value) for name, value in row.items()}})
            except Exception as error:  # whatever one part meets, the others are still worth their minutes
                traceback.print_exc()
                errors[part] = f"{type(error).__name__}: {error}"
        show(rows[before:])
        seconds = time.perf_counter() - started
        print(f"-- {part}: {seconds:.0f} s so far", flush=True)
        write_json(file, {**facts, "seconds": seconds, "errors": errors, "left out": left_out, "rows": rows})
    broken = [row for row in rows if row.get("holds") is False]
    print(f"{len(rows)} rows, {len(broken)} beyond their bound; parts that failed: {[*errors]}; left out: {left_out}")
    return int(bool(broken or errors or left_out))


def _in_json(value: object) -> object:
    """None for what is not a number, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
