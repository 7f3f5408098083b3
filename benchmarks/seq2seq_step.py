"""One seq2seq training step against the dense mask on padded rows, equal loss.

The padded baseline, as in s2s-ft: every row is 464 + 48 + 48 positions, one additive mask over the whole square, all
rows of all layers, the head and the smoothed loss at all 48 pseudo positions, padding masked out at the end. `eager`
computes attention as s2s-ft does, `sdpa` by torch's fused call with the same mask. Lengths are drawn so that 79% of
the positions are real; files of XSum or question generation add rows with theirs.

    python benchmarks/seq2seq_step.py [xsum=xsum/train.jsonl] [qg=qg/train.jsonl]
"""

from __future__ import annotations

import copy
import sys
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from ab import interleaved, save
from torch import Tensor
from torch.nn import functional

from minilm.embedded import embedded_model
from minilm.finetune.seq2seq import batch_of, smoothed_losses
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import MaskedLanguageHead, Model, new_head
from minilm.model.precision import has_bf16
from minilm.randomness import derived_seed
from minilm.recipe import OptimizationSettings
from minilm.tasks.seq2seq.masking import MaskedPair, Symbols, training_view
from minilm.tasks.seq2seq.rows import load_nlg_tokenizer, read_pairs
from minilm.tasks.seq2seq.settings import MaskingSettings, Seq2SeqSettings
from minilm.train.allocator import keep_freed_memory
from minilm.train.optim import make_optimizer

SOURCE, TARGET, BATCH, SMOOTHING, PAD = 464, 48, 8, 0.1, 0
LENGTH = SOURCE + 2 * TARGET
SYMBOLS = Symbols(cls_id=101, sep_id=102, mask_id=103, vocab_size=30522)
SETTINGS = OptimizationSettings(learning_rate=1e-4)
LENGTHS = {"name": "pairs", "max_source_tokens": SOURCE, "max_target_tokens": TARGET}
COLUMNS = {
    "xsum": Seq2SeqSettings(source=("document",), target="summary", **LENGTHS),
    "qg": Seq2SeqSettings(source=("context", "answer"), target="question", **LENGTHS),
}
Attention = Literal["eager", "sdpa"]


def drawn_views() -> list[MaskedPair]:
    """Pairs of random ids: a third of the sources are truncated at the limit, targets have 15 to 40 tokens."""
    draw = np.random.default_rng(3)
    lengths = np.where(draw.random(BATCH) < 0.33, SOURCE - 2, draw.integers(225, SOURCE - 2, BATCH))
    targets = draw.integers(14, 40, BATCH)
    ids = [[draw.integers(1000, 30000, size).astype(np.int32) for size in part] for part in (lengths, targets)]
    return masked(*ids)


def file_views(name: str, file: Path) -> list[MaskedPair]:
    """The middle batch of the first hundred by its tokens."""
    tokenizer = load_nlg_tokenizer(embedded_model())
    pairs = read_pairs([file], tokenizer, COLUMNS[name])
    starts = range(0, min(100 * BATCH, len(pairs) - BATCH), BATCH)
    batches = [masked(pairs.sources[at : at + BATCH], pairs.targets[at : at + BATCH]) for at in starts]
    return sorted(batches, key=lambda views: sum(view.num_tokens for view in views))[len(batches) // 2]


def masked(sources: list[np.ndarray], targets: list[np.ndarray]) -> list[MaskedPair]:
    """The pairs masked as in training by default."""
    draw = np.random.default_rng(0)
    return [training_view(*pair, MaskingSettings(), SYMBOLS, draw) for pair in zip(sources, targets, strict=True)]


def model_of(preset: str) -> Model:
    """A random model without dropout."""
    values = {name: getattr(EncoderConfig.preset(preset), name) for name in EncoderConfig.__dataclass_fields__}
    config = EncoderConfig(**{**values, "hidden_dropout": 0.0})
    generator = torch.Generator().manual_seed(derived_seed(0, preset))
    encoder = Encoder(config, pooler=False)
    encoder.reset(generator)
    return Model(encoder, new_head("mlm", config, num_labels=0, generator=generator)).train()


class PaddedWay:
    """The same weights on padded rows under the dense mask."""

    def __init__(self, model: Model, attention: Attention, *, bf16: bool) -> None:
        self.model, self.attention, self.bf16 = copy.deepcopy(model), attention, bf16
        self.optimizer = make_optimizer(dict(self.model.named_parameters()), SETTINGS)

    def step(self, views: list[MaskedPair]) -> float:
        """One update; returns the loss."""
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            loss = self._loss(views)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _loss(self, views: list[MaskedPair]) -> Tensor:
        ids, places, kinds, mask, labels, real = self._rows(views)
        encoder, head = self.model.encoder, self.model.head
        assert isinstance(head, MaskedLanguageHead)
        tables = encoder.embeddings
        hidden = tables.norm(tables.word(ids) + tables.position(places) + tables.segment(kinds))
        additive = (1.0 - mask.float())[:, None] * -10000.0
        for layer in encoder.layers:
            shape = (len(views), LENGTH, *layer.head_shape)
            query, key, value = (part.transpose(1, 2) for part in layer.qkv(hidden).view(shape).unbind(2))
            hidden = self._finish(layer, hidden, self._attend(query, key, value, additive))
        logits = head.score(hidden[:, SOURCE + TARGET :].flatten(0, 1), encoder)
        losses = smoothed_kl(logits.float(), labels.flatten()).view(labels.shape)
        return (losses * real).sum() / (real.sum() + 1e-5)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, additive: Tensor) -> Tensor:
        if self.attention == "sdpa":
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=additive.to(query.dtype))
        else:
            scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + additive
            mixed = scores.softmax(-1) @ value
        return mixed.transpose(1, 2).flatten(2)

    @staticmethod
    def _finish(layer: torch.nn.Module, hidden: Tensor, mixed: Tensor) -> Tensor:
        hidden = layer.attention_norm(hidden + layer.attention_out(mixed))
        return layer.ffn_norm(hidden + layer.ffn_out(layer.ffn_in(hidden)))

    @staticmethod
    def _rows(views: list[MaskedPair]) -> tuple[Tensor, ...]:
        """Padded ids, positions, segments, mask, labels, and which labels are real."""
        shape = (len(views), LENGTH)
        ids, places, kinds = (torch.zeros(shape, dtype=torch.long) for _ in range(3))
        mask = torch.zeros(len(views), LENGTH, LENGTH, dtype=torch.bool)
        labels, real = torch.zeros(len(views), TARGET, dtype=torch.long), torch.zeros(len(views), TARGET)
        kinds[:, SOURCE:] = 1
        causal, itself = torch.ones(TARGET, TARGET, dtype=torch.bool).tril(), torch.eye(TARGET, dtype=torch.bool)
        second, third = slice(SOURCE, SOURCE + TARGET), slice(SOURCE + TARGET, LENGTH)
        for row, view in enumerate(views):
            source, target = len(view.source), len(view.target)
            for start, part in ((0, view.source), (SOURCE, view.target), (SOURCE + TARGET, view.pseudo)):
                ids[row, start : start + len(part)] = torch.from_numpy(part)
            places[row, :source] = torch.arange(source)
            for start in (SOURCE, SOURCE + TARGET):
                places[row, start : start + target] = torch.arange(source, source + target)
            mask[row, :, :source] = True
            mask[row, second, second] = causal
            mask[row, third, second], mask[row, third, third] = causal & ~itself, itself
            labels[row, :target] = torch.from_numpy(view.labels)
            real[row, :target] = 1
        return ids, places, kinds, mask, labels, real


def smoothed_kl(logits: Tensor, labels: Tensor) -> Tensor:
    """The smoothed loss by its definition, as s2s-ft computes it: a whole target distribution per row."""
    wanted = torch.full_like(logits, SMOOTHING / (logits.shape[1] - 2))
    wanted[:, PAD] = 0
    wanted.scatter_(1, labels[:, None], 1 - SMOOTHING)
    wanted.masked_fill_((labels == PAD)[:, None], 0)
    return functional.kl_div(logits.log_softmax(1), wanted, reduction="none").sum(1)


class Ours:
    """Packed rows, the seq2seq mask, the last layer and the head at pseudo tokens only."""

    def __init__(self, model: Model, *, bf16: bool) -> None:
        self.model, self.bf16 = copy.deepcopy(model), bf16
        self.optimizer = make_optimizer(dict(self.model.named_parameters()), SETTINGS)

    def step(self, views: list[MaskedPair]) -> float:
        """One update; returns the loss."""
        encoder, head = self.model.encoder, self.model.head
        assert isinstance(head, MaskedLanguageHead)
        batch = batch_of(sorted(views, key=lambda view: view.num_tokens), pad_id=PAD)
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            logits = head.score(encoder.seq2seq(batch.seq2seq), encoder).float()
            losses = smoothed_losses(logits, batch.labels, smoothing=SMOOTHING, pad_id=PAD)
            loss = losses.sum() / (len(batch.labels) + 1e-5)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def compare(name: str, preset: str, views: list[MaskedPair], repetitions: int) -> list[dict[str, object]]:
    """Ratios for one kind of lengths, and the difference of the first losses."""
    model, rows = model_of(preset), []
    tokens = sum(view.num_tokens for view in views)
    for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):  # nobody trains in emulated bfloat16
        bf16 = precision == "bf16"
        ours = Ours(model, bf16=bf16)
        padded = {attention: PaddedWay(model, attention, bf16=bf16) for attention in ("eager", "sdpa")}
        first = ours.step(views)
        difference = max(abs(side.step(views) - first) / first for side in padded.values())
        sides = {"ours": ours, **padded}
        seconds = interleaved({side: partial(way.step, views) for side, way in sides.items()}, repetitions=repetitions)
        rows.append(
            {
                **{"lengths": name, "model": preset, "precision": precision},
                "real share": tokens / (len(views) * LENGTH),
                "loss difference": difference,
                "tokens/s": tokens / seconds["ours"],
                "ratio to padded eager": seconds["eager"] / seconds["ours"],
                "ratio to padded sdpa": seconds["sdpa"] / seconds["ours"],
            }
        )
    return rows


def main(arguments: list[str]) -> None:
    """Measure each kind of lengths; `--quick` runs one repetition of the small model and stores nothing."""
    print("glibc keeps freed memory, for every side:", keep_freed_memory())
    quick = "--quick" in arguments
    views = {"drawn": drawn_views()[: 4 if quick else BATCH]}
    for argument in arguments:
        if "=" in argument:
            name, _, file = argument.partition("=")
            views[name] = file_views(name, Path(file))
    rows: list[dict[str, object]] = []
    for preset in ("L6-H384",) if quick else ("L6-H384", "L12-H384"):
        for name, batch in views.items():
            rows += compare(name, preset, batch, 1 if quick else 3)
    if quick:
        for row in rows:
            print(row)
    else:
        save("seq2seq_step", rows)


if __name__ == "__main__":
    main(sys.argv[1:])
