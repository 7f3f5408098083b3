"""Extract the files of this folder from the full golden sets: `python tests/golden/pick.py FULL`.

In: the folder of the full sets. Out: next to this file, one `.xz` for each file taken, whole or in part. Nothing is
computed: every number comes from the full sets. The same input gives the same bytes.
"""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load, save

HERE = Path(__file__).parent
TRACES = {  # recorded searches of a folder: wide and narrow, with and without bans, short and long
    "eps1e-12": ("k5_t48_m1_ng3i", "k2_t48_m8_ng2", "k5_t20_m8_ng3"),
    "eps1e-5": ("k5_t48_m1_nob", "k5_t48_m1_ng3i", "k5_t20_m8_ng3"),
}
WHOLE = (
    *("model/*", "encoder/batch3.safetensors", "glue/*", "metrics/*", "s2s_eval/*", "tokenizer/*"),
    *("s2s_train/*.jsonl", "s2s_train_loop/acc*.json", "distil/arbitrary_mask_*", "distil/*.jsonl"),
    *("distil/tiny_end_to_end_inputs.safetensors", "distil/tiny_student/*", "decode/sources.jsonl"),
    *("decode/*/beam_preds.jsonl", "decode/*/cli_outputs.jsonl", "decode/*/gen_seq_from_trace.jsonl"),
    *("decode/*/greedy.jsonl", "decode/*/pos_shift_*.jsonl"),
    *("squad/official_eval.json", "squad/nbest_dev.json", "squad/nbest_len128_*"),
)


def traces_of(path: Path) -> bytes:
    """The searches in `TRACES`."""
    tensors = load(path.read_bytes())
    return save({name: tensors[name] for name in sorted(tensors) if name.split(".")[0] in TRACES[path.parent.name]})


def rows_of_traces(path: Path) -> bytes:
    """Rows about the searches in `TRACES`."""
    lines = path.read_bytes().split(b"\n")
    return b"".join(line + b"\n" for line in lines if line and json.loads(line)["trace"] in TRACES[path.parent.name])


def train_step(path: Path) -> bytes:
    """A training step with its four smallest gradients; logits of one mask way. The summary has the norms of all."""
    tensors = load(path.read_bytes())
    gradients = sorted((name for name in tensors if name.startswith("grad.")), key=lambda name: tensors[name].numel())
    left_out = {*gradients[4:], *(() if "_v1_" in path.name else ("logits",))}
    return save({name: tensors[name] for name in sorted(tensors) if name not in left_out})


def without_projections(path: Path) -> bytes:
    """A batch without the tensors inside its layers."""
    tensors = load(path.read_bytes())
    return save({name: tensors[name] for name in sorted(tensors) if not name.startswith("layer")})


PARTS: dict[str, Callable[[Path], bytes]] = {
    "encoder/batch1.safetensors": without_projections,
    "s2s_train/*_small_*.safetensors": train_step,
    "s2s_train/s2sft-202003_resize_pseudo_ls0.safetensors": train_step,
    "s2s_train/s2sft-HEAD_resize_v2_tmp0_ls0.1.safetensors": train_step,
    "decode/*/beam_traces.safetensors": traces_of,
    "decode/*/gen_seq_best_sequence.jsonl": rows_of_traces,
}


def main(full: Path) -> None:
    """Write the files and print their total size."""
    for old in HERE.rglob("*.xz"):
        old.unlink()
    found = {path: path.read_bytes() for pattern in WHOLE for path in full.glob(pattern) if path.is_file()}
    found |= {path: part(path) for pattern, part in PARTS.items() for path in full.glob(pattern)}
    for path, data in sorted(found.items()):
        target = HERE / f"{path.relative_to(full)}.xz"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(lzma.compress(data, preset=9))
    vocab = full.parent / "data" / "vocab" / "bert-base-uncased-vocab.txt"
    (HERE / "vocab").mkdir(exist_ok=True)
    (HERE / "vocab" / f"{vocab.name}.xz").write_bytes(lzma.compress(vocab.read_bytes(), preset=9))
    sizes = [path.stat().st_size for path in HERE.rglob("*.xz")]
    sys.stdout.write(f"{len(sizes)} files, {sum(sizes):,} bytes\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
