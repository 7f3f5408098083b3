"""Proves that the golden sets in the repository suffice for one full check of each kind, and stay small."""

from __future__ import annotations

import json
import lzma

import pytest
from safetensors.numpy import load

KINDS = {  # kind of check -> the files it needs, with the smallest number of cases
    "glue/metrics.jsonl": 13,
    "tokenizer/bert_tokenizer.jsonl": 96,
    "metrics/qg_pairs.jsonl": 120,
    "metrics/summary_pairs.jsonl": 80,
    "metrics/edge_pairs.jsonl": 18,
    "distil/tiny_end_to_end.jsonl": 4,
    "decode/sources.jsonl": 40,
    **{f"decode/{eps}/beam_preds.jsonl": 120 for eps in ("eps1e-12", "eps1e-5")},
    **{f"decode/{eps}/cli_outputs.jsonl": 7 for eps in ("eps1e-12", "eps1e-5")},
    **{f"decode/{eps}/gen_seq_from_trace.jsonl": 4 for eps in ("eps1e-12", "eps1e-5")},
    "decode/eps1e-12/gen_seq_best_sequence.jsonl": 2,
    "squad/nbest_len128_features.jsonl": 100,
}
TENSORS = {
    "encoder/batch1.safetensors": ("hidden_states.0", "hidden_states.3", "pooler_output"),
    "encoder/batch3.safetensors": ("layer0.query", "layer2.value", "mlm_logits"),
    "distil/arbitrary_mask_grads.safetensors": ("grad.v1.AT.student.q", "grad.v1.VR.student.v"),
    **{
        f"s2s_train/s2sft-HEAD_small_{way}_ls{eps}.safetensors": ("mask.attention_mask", "in.source_ids")
        for way in ("v2_tmp0", "v2_tmp05", "v2_srcmask", "v1", "v0")
        for eps in ("0", "0.1")
    },
    "s2s_train/s2sft-HEAD_small_v1_ls0.1.safetensors": ("logits",),
    "s2s_train/s2sft-202003_small_pseudo_ls0.1.safetensors": ("in.pseudo_ids",),
    "s2s_train/s2sft-202003_resize_pseudo_ls0.safetensors": ("position_embeddings_after_resize",),
    "s2s_train/s2sft-HEAD_resize_v2_tmp0_ls0.1.safetensors": ("position_embeddings_after_resize",),
    "decode/eps1e-12/beam_traces.safetensors": ("k5_t48_m1_ng3i.scores", "k2_t48_m8_ng2.ptrs", "k5_t20_m8_ng3.wids"),
    "decode/eps1e-5/beam_traces.safetensors": ("k5_t48_m1_nob.scores", "k5_t48_m1_ng3i.ptrs"),
}


@pytest.fixture(scope="module")
def folder(repo_dir):
    return repo_dir / "tests" / "golden"


def test_every_kind_of_check_has_its_cases(folder):
    short = {}
    for name, least in KINDS.items():
        lines = lzma.decompress((folder / f"{name}.xz").read_bytes()).decode().split("\n")
        if (found := sum(bool(json.loads(line)) for line in lines if line)) < least:
            short[name] = f"{found} of {least}"
    for name, tensors in TENSORS.items():
        found = load(lzma.decompress((folder / f"{name}.xz").read_bytes()))
        if missing := [tensor for tensor in tensors if tensor not in found]:
            short[name] = missing
    assert not short, short


def test_they_are_small_and_their_origin_is_named(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*.xz")) <= 2_000_000
    text = (folder / "README.md").read_text(encoding="utf-8")
    unnamed = [path.name for path in folder.iterdir() if path.is_dir() and f"| `{path.name}/` |" not in text]
    assert not unnamed, unnamed


def test_they_are_part_of_the_full_sets(folder, golden_dir):
    """The same bytes if a file is whole, the same tensors if it is a part."""
    whole = 0
    for packed in sorted(folder.rglob("*.xz")):
        path = golden_dir / packed.relative_to(folder).with_suffix("")
        if not path.is_file():
            continue  # the vocabulary is elsewhere in the full sets
        ours, theirs = lzma.decompress(packed.read_bytes()), path.read_bytes()
        if ours == theirs:
            whole += 1
        elif path.suffix == ".safetensors":
            full = load(theirs)
            assert all((full[name] == tensor).all() for name, tensor in load(ours).items()), path
        else:
            assert set(ours.split(b"\n")) <= set(theirs.split(b"\n")), path
    assert whole > 40
