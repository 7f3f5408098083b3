"""Seq2seq fine-tuning follows the original s2s-ft: losses, gradients, logits, masks, and its whole training loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.files.tensors import read_safetensors
from minilm.finetune.seq2seq import batch_of, smoothed_losses
from minilm.model.checkpoint import read_model
from minilm.model.heads import Model
from minilm.model.positions import grow_positions
from minilm.model.seq2seq import PackedSeq2Seq, pack_seq2seq
from minilm.model.tensor_names import hf_names, to_hf
from minilm.tasks.seq2seq.masking import Symbols, training_view
from minilm.tasks.seq2seq.settings import MaskingSettings

SYMBOLS = Symbols(cls_id=7, sep_id=8, mask_id=9, vocab_size=600)
CODES = ("202003", "HEAD")


def cases() -> list[str]:
    ways = {"202003": ["pseudo"], "HEAD": ["v2_tmp0", "v2_tmp05", "v2_srcmask", "v1", "v0"]}
    names = [f"{code}_small_{way}_ls{eps}" for code in CODES for way in ways[code] for eps in ("0", "0.1")]
    return names + [f"{code}_resize_{ways[code][0]}_ls{eps}" for code in CODES for eps in ("0", "0.1")]


WITH_LOGITS = ["202003_small_pseudo_ls0.1", "HEAD_small_v1_ls0.1", "HEAD_small_v0_ls0.1"]
RESIZED = [name for name in cases() if "_resize_" in name]


@pytest.fixture(params=cases())
def case(request, golden_dir: Path, golden_file: Callable[[str], Path]):
    """The original's inputs and outputs: its summary, its tensors."""
    folder = golden_dir / "s2s_train"
    file = f"s2sft-{request.param}.safetensors"
    rows = (folder / f"s2sft-{request.param.split('_')[0]}_summary.jsonl").read_text().rstrip("\n").split("\n")
    summary = next(row for row in map(json.loads, rows) if row["file"] == file)
    return summary, read_safetensors(golden_file(f"s2s_train/{file}"))


@pytest.fixture
def model(golden_dir: Path) -> Model:
    return read_model(golden_dir / "model", head="mlm")


def cut(rows: torch.Tensor, lengths: torch.Tensor) -> list[np.ndarray]:
    return [row[:length].numpy().astype(np.int32) for row, length in zip(rows, lengths.tolist(), strict=True)]


def batch_and_labels(tensors: dict[str, torch.Tensor]) -> tuple[PackedSeq2Seq, torch.Tensor]:
    """The original's padded input, packed."""
    num_sources, num_targets = tensors["in.num_source_tokens"], tensors["in.num_target_tokens"]
    sources, targets = cut(tensors["in.source_ids"], num_sources), cut(tensors["in.target_ids"], num_targets)
    if "in.pseudo_ids" in tensors:
        batch = pack_seq2seq(sources, targets, pseudo=cut(tensors["in.pseudo_ids"], num_targets))
        labels = cut(tensors.get("in.label_ids", tensors["in.target_ids"]), num_targets)
    else:
        counts = tensors["in.masked_weight"].sum(1).long()
        read = [row.astype(np.int64) for row in cut(tensors["in.masked_pos"], counts)]
        batch = pack_seq2seq(sources, targets, read=read)
        labels = cut(tensors["in.masked_ids"], counts)
    return batch, torch.from_numpy(np.concatenate(labels).astype(np.int64))


def loss_of(model: Model, batch: PackedSeq2Seq, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    scores = model.head.score(model.encoder.seq2seq(batch), model.encoder)
    return smoothed_losses(scores, labels, smoothing=smoothing, pad_id=0).sum() / (len(labels) + 1e-5)


def gradients(model: Model) -> dict[str, torch.Tensor]:
    found = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    }
    return to_hf(found, family="bert", head="mlm")


def test_loss_and_gradients_are_those_of_the_original(case, model):
    summary, tensors = case
    grow_positions(model.encoder, summary["max_position_embeddings"])
    batch, labels = batch_and_labels(tensors)
    loss = loss_of(model, batch, labels, summary["label_smoothing"])
    assert loss.item() == pytest.approx(summary["loss_f64"], rel=1e-5)
    loss.backward()
    found = gradients(model)
    norms = summary["grad_norms_f64"]
    assert {name for name in found if not name.startswith("bert.pooler.")} == set(norms)
    for name, norm in norms.items():
        assert found[name].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    total = math.sqrt(sum(found[name].norm().item() ** 2 for name in norms))
    assert total == pytest.approx(summary["total_grad_norm_f64"], rel=1e-5)
    compared = {key.removeprefix("grad."): tensor for key, tensor in tensors.items() if key.startswith("grad.")}
    assert len(compared) >= 4
    for name, expected in compared.items():
        assert (found[name] - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-6, name


@pytest.mark.parametrize("case", WITH_LOGITS, indirect=True)
def test_logits_are_those_of_the_original(case, model):
    _, tensors = case
    if "logits" not in tensors:
        pytest.skip("only the full golden sets hold these logits: set MINILM_SHARED")
    batch, _ = batch_and_labels(tensors)
    counts = tensors["in.masked_weight"].sum(1).long() if "in.masked_weight" in tensors else None
    lengths = tensors["in.num_target_tokens"] if counts is None else counts
    expected = torch.cat([row[:length] for row, length in zip(tensors["logits"], lengths.tolist(), strict=True)])
    with torch.no_grad():
        found = model.head.score(model.encoder.seq2seq(batch), model.encoder)
    assert (found - expected).abs().max() < 2e-5


def test_masks_positions_and_segments_are_those_of_the_original(case):
    _, tensors = case
    batch, _ = batch_and_labels(tensors)
    sources, num_tails = tensors["in.source_ids"].shape[1], 2 if batch.has_pseudo else 1
    width = tensors["in.target_ids"].shape[1]
    starts = batch.packed.cu_seqlens.tolist()
    for row, (source, target) in enumerate(zip(batch.source_lengths, batch.target_lengths, strict=True)):
        places = [torch.arange(source)]
        places += [sources + tail * width + torch.arange(target) for tail in range(num_tails)]
        real = torch.cat(places)  # where the original's padded row has this pair's tokens
        mask = tensors["mask.attention_mask"][row][real][:, real].bool()
        assert mask[:source, :source].all()
        assert not mask[:source, source:].any()
        assert torch.equal(mask[source:], batch.tail_masks[row])
        own = slice(starts[row], starts[row + 1])
        assert torch.equal(batch.packed.position_ids[own], tensors["mask.position_ids"][row][real].long())
        assert torch.equal(batch.packed.segment_ids[own], tensors["mask.token_type_ids"][row][real].long())


@pytest.mark.parametrize("case", RESIZED, indirect=True)
def test_the_grown_position_table_is_that_of_the_original(case, model, caplog):
    summary, tensors = case
    grow_positions(model.encoder, summary["max_position_embeddings"])
    expected = tensors["position_embeddings_after_resize"]
    assert torch.equal(model.encoder.embeddings.position.weight, expected)
    assert model.encoder.config.max_tokens == 144
    assert "the position table was extended from 128 to 144 tokens" in caplog.text


def test_uncorrupted_pairs_are_framed_and_truncated_like_the_originals(golden_dir: Path):
    """With no random masking, our views equal the original's inputs, and each way predicts what the original's did."""
    rows = (golden_dir / "s2s_train" / "s2sft-HEAD_summary.jsonl").read_text().rstrip("\n").split("\n")
    summaries = [row for row in map(json.loads, rows) if (golden_dir / "s2s_train" / row["file"]).is_file()]
    assert {summary["mask_way"] for summary in summaries} == {"v2", "v1", "v0"}
    assert len(summaries) > 8
    for summary in summaries:
        tensors = read_safetensors(golden_dir / "s2s_train" / summary["file"])
        way, most_source = summary["mask_way"], summary["max_source_seq_length"]
        labels = []
        for number, features in enumerate(summary["uncorrupted_features"]):
            source = np.array(features["source_ids"][: most_source - (1 if way == "v0" else 2)], dtype=np.int32)
            target = np.array(features["target_ids"][: summary["max_target_seq_length"] - 1], dtype=np.int32)
            draw = np.random.default_rng(0)
            limit = 6 if way == "v1" else 0
            masking = MaskingSettings(
                mask_way=way, keep_prob=1.0, random_prob=0.0, target_mask_prob=0.6, max_masked_tokens=limit
            )
            view = training_view(source, target, masking, SYMBOLS, draw)
            if way == "v1":
                counts = int(tensors["in.masked_weight"][number].sum())
                assert len(view.labels) == masking.num_predicted(len(view.target)) == counts
            else:
                labels.append(view.labels)
            assert len(view.source) == tensors["in.num_source_tokens"][number]
            assert len(view.target) == tensors["in.num_target_tokens"][number]
            if "srcmask" not in summary["file"]:
                assert view.source.tolist() == tensors["in.source_ids"][number, : len(view.source)].tolist()
        if labels:
            assert np.concatenate(labels).tolist() == batch_and_labels(tensors)[1].tolist()


class OriginalAdamW:
    """AdamW of transformers 2.5.1: epsilon outside the bias correction, decay after the update."""

    def __init__(self, model: Model, *, decay: float) -> None:
        self.groups = [
            (weight, 0.0 if _is_plain(name) else decay, torch.zeros_like(weight), torch.zeros_like(weight))
            for name, weight in model.named_parameters()
            if "pooler" not in name
        ]
        self.step_number = 0

    @torch.no_grad()
    def step(self, rate: float) -> None:
        self.step_number += 1
        number = self.step_number
        size = rate * math.sqrt(1 - 0.999**number) / (1 - 0.9**number)
        for weight, decay, first, second in self.groups:
            first.mul_(0.9).add_(weight.grad, alpha=0.1)
            second.mul_(0.999).addcmul_(weight.grad, weight.grad, value=0.001)
            weight.addcdiv_(first, second.sqrt().add_(1e-8), value=-size)
            weight.add_(weight, alpha=-rate * decay)


def _is_plain(name: str) -> bool:
    """No decay on what the original calls `bias` or `LayerNorm.weight`."""
    return all("bias" in one or "LayerNorm.weight" in one for one in hf_names(name, family="bert", head="mlm"))


@pytest.mark.parametrize("name", ["acc1", "acc2"])
def test_twelve_steps_equal_the_whole_original_loop(name: str, golden_dir: Path, model):
    """With its features in its order, each microbatch divided by its own number of targets, clipped, decayed."""
    folder = golden_dir / "s2s_train_loop"
    run = json.loads((folder / f"{name}.json").read_text())
    features, size = run["feature_order_after_shuffle"], {"acc1": 4, "acc2": 2}[name]
    optimizer = OriginalAdamW(model, decay=0.01)
    masking = MaskingSettings(random_prob=0.0, keep_prob=0.0)
    read = 0
    for number, step in enumerate(run["steps"]):
        model.zero_grad()
        for expected in step["micro_losses"]:
            views = []
            for feature in (features[(read + place) % len(features)] for place in range(size)):
                source, target = (np.array(feature[key], dtype=np.int32) for key in ("source_ids", "target_ids"))
                draw = np.random.default_rng(0)
                views.append(training_view(source[:22], target[:11], masking, SYMBOLS, draw))
            read += size
            batch = batch_of(views, pad_id=0)
            loss = loss_of(model, batch.seq2seq, batch.labels, 0.1)
            assert loss.item() == pytest.approx(expected, rel=1e-5), f"step {number}"
            (loss / len(step["micro_losses"])).backward()
        trained = [weight for key, weight in model.named_parameters() if "pooler" not in key]
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0).item()
        assert norm == pytest.approx(step["grad_norm_before_clip"], rel=1e-5)
        optimizer.step(step["lr"][0])
    found = to_hf({key: weight.detach() for key, weight in model.named_parameters()}, family="bert", head="mlm")
    for key, norm in run["param_norms"]["12"].items():
        if key in found and not key.endswith("attention.self.key.bias"):
            assert found[key].norm().item() == pytest.approx(norm, rel=1e-5), key
    if name == "acc1" and (folder / "acc1_ckpt-12.safetensors").is_file():
        for key, expected in read_safetensors(folder / "acc1_ckpt-12.safetensors").items():
            if not key.endswith("attention.self.key.bias"):
                assert (found[key] - expected).abs().max() < 2e-5, key
