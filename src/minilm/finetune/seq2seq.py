"""The task of sequence-to-sequence fine-tuning: masking, the loss at the predicted tokens, held-out metrics.

In: pairs of token ids, a model with the masked-language head. Out: per step, this process's share of the batch and its
loss; for held-out pairs, loss and accuracy per token, and scores of targets generated for some of them.

B pairs, T packed tokens, R predicted tokens, E hidden width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from minilm.finetune.seq2seq_generation import generate_targets, generation_numbers
from minilm.finetune.task import NUM_EXAMPLES, POOLER, Analysis, IndependentParts, PlainTask, Scored, StepRows
from minilm.model.config import EncoderConfig
from minilm.model.heads import MaskedLanguageHead, Model
from minilm.model.metadata import HeadName, ProblemType
from minilm.model.positions import grow_positions
from minilm.model.seq2seq import PackedSeq2Seq, pack_seq2seq
from minilm.model.token_budget import microbatches
from minilm.randomness import generator
from minilm.tasks.seq2seq.masking import MaskedPair, Symbols, heldout_view, training_view
from minilm.tasks.seq2seq.rows import Pairs
from minilm.tasks.seq2seq.settings import Seq2SeqSettings
from minilm.text.tokenizer import Tokenizer
from minilm.train.distributed import Ranks, gathered_in_order

_ROUNDING = 1e-5  # added to the number of predicted tokens in the denominator of the loss, as in s2s-ft
_WORDS = "encoder.embeddings.word.weight"


@dataclass(frozen=True, kw_only=True)
class Seq2SeqBatch:
    """A batch of packed pairs and the parameters of its loss.

    Attributes:
        seq2seq: the packed tokens.
        labels: the tokens to predict, `[R]` int64.
        pad_id: label that is ignored.
        smoothing: label smoothing, the target probability spread over the incorrect tokens.
        scale: factor of the summed loss.
    """

    seq2seq: PackedSeq2Seq
    labels: Tensor
    pad_id: int
    smoothing: float = 0.0
    scale: float = 1.0

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.seq2seq.packed.num_tokens

    def tensors(self) -> dict[str, Tensor]:
        """Packed tokens and labels."""
        return {**self.seq2seq.packed.tensors(), "labels": self.labels}

    def to(self, device: torch.device) -> Seq2SeqBatch:
        """The same batch on `device`."""
        return replace(self, seq2seq=self.seq2seq.to(device), labels=self.labels.to(device))

    def scores(self, model: Model) -> Tensor:
        """Logits at the predicted tokens in float32, `[R, V]`."""
        head, encoder = model.head, model.encoder
        assert isinstance(head, MaskedLanguageHead), "the task's head"
        return head.score(encoder.seq2seq(self.seq2seq), encoder).float()

    def losses(self, scores_RV: Tensor) -> Tensor:
        """Loss of each predicted token, `[R]`."""
        return smoothed_losses(scores_RV, self.labels, smoothing=self.smoothing, pad_id=self.pad_id)

    def loss(self, model: Model) -> Tensor:
        """Sum of the losses of the predicted tokens, times `scale`."""
        return self.losses(self.scores(model)).sum() * self.scale


def batch_of(
    views: Sequence[MaskedPair],
    *,
    pad_id: int,
    target_segment: int = 1,
    smoothing: float = 0.0,
    scale: float = 1.0,
) -> Seq2SeqBatch:
    """Pack pairs that were masked by the same method."""
    pseudo = [view.pseudo for view in views if view.pseudo is not None]
    read = [view.read for view in views if view.read is not None]
    packed = pack_seq2seq(
        [view.source for view in views],
        [view.target for view in views],
        pseudo=pseudo or None,
        read=read or None,
        target_segment=target_segment,
    )
    labels = torch.from_numpy(np.concatenate([view.labels for view in views]).astype(np.int64))
    return Seq2SeqBatch(seq2seq=packed, labels=labels, pad_id=pad_id, smoothing=smoothing, scale=scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """One held-out pair: summed loss, number of predicted tokens, number predicted correctly."""

    loss: float
    tokens: int
    correct: int


@dataclass(kw_only=True)
class Seq2SeqTask(PlainTask):
    """The sequence-to-sequence task.

    Attributes:
        train: training pairs.
        dev: held-out pairs by name; the first set selects the best checkpoint.
        tokenizer: tokenizer of the pairs.
        settings: settings of masking, loss and evaluation.
    """

    train: Pairs
    dev: Mapping[str, Pairs]
    tokenizer: Tokenizer
    settings: Seq2SeqSettings
    head: HeadName = field(default="mlm", init=False)
    labels: Sequence[str] = field(default=(), init=False)
    problem: ProblemType | None = field(default=None, init=False)
    _target_segment: int = field(default=1, init=False)

    @property
    def main_metric(self) -> str:
        """The metric that selects the best checkpoint."""
        return self.settings.metric or HELDOUT_METRICS[0]

    @property
    def reshuffles(self) -> bool:
        """Whether every epoch is reshuffled; otherwise all use the order of the first."""
        return self.settings.shuffle == "epoch"

    @property
    def symbols(self) -> Symbols:
        """Ids of the special tokens used for framing and masking."""
        return Symbols(
            cls_id=self.tokenizer.cls_id,
            sep_id=self.tokenizer.sep_id,
            mask_id=self.tokenizer.mask_id,
            vocab_size=self.tokenizer.vocab_size,
        )

    @property
    def num_examples(self) -> int:
        """Number of training pairs."""
        return len(self.train)

    @property
    def dev_sets(self) -> Sequence[str]:
        """Names of the held-out sets."""
        return list(self.dev)

    def contents(self) -> dict[str, str]:
        """The number of pairs of each set."""
        return {name: f"{len(pairs):,} pairs" for name, pairs in {"training": self.train, **self.dev}.items()}

    def require_fit(self, config: EncoderConfig) -> None:
        """Any model fits: `prepare` extends its position table."""

    def prepare(self, model: Model) -> None:
        """Extend the position table to the longest possible pair; determine the segment id of targets."""
        grow_positions(model.encoder, self.settings.max_source_tokens + self.settings.max_target_tokens)
        self._target_segment = model.encoder.config.target_segment
        model.encoder.embeddings.word.weight.requires_grad_(not self.settings.freeze_words)
        model.has_fresh_weights = False  # the head is trained before anything is generated

    def parameters(self, model: Model) -> dict[str, nn.Parameter]:
        """All weights that the loss depends on, except the word embeddings if they are frozen."""
        left_out = (POOLER, _WORDS) if self.settings.freeze_words else (POOLER,)
        return {name: weight for name, weight in model.named_parameters() if not name.startswith(left_out)}

    def batch(self, chosen: StepRows, *, token_budget: int) -> IndependentParts:
        """This process's pairs of a step, with freshly drawn masks."""
        predicted = sum(self.settings.num_predicted(len(self.train.targets[row]) + 1) for row in chosen.rows)
        views = [
            training_view(
                self.train.sources[row],
                self.train.targets[row],
                self.settings,
                self.symbols,
                generator(chosen.seed, "masking", chosen.step, int(index)),
            )
            for index, row in zip(chosen.own, chosen.rows[chosen.own], strict=True)
        ]
        scale = 1 / (predicted + _ROUNDING)
        batches = self._batches(views, token_budget, smoothing=self.settings.label_smoothing, scale=scale)
        return IndependentParts(parts=[batch for _, batch in batches])

    def score(self, model: Model, dev_set: str, *, token_budget: int, ranks: Ranks) -> Scored:
        """Loss and accuracy per token of a held-out set, and the scores of its generated targets."""
        found = self._heldout(model, dev_set, token_budget, ranks)
        texts = self._generated(model, dev_set, ranks)
        pairs = self.dev[dev_set]
        return Scored(
            numbers=partial(self._metrics, pairs, found, texts), analyse=partial(self._analysis, pairs, found, texts)
        )

    def _metrics(self, pairs: Pairs, found: Sequence[_Found], texts: Mapping[int, str]) -> dict[str, float]:
        return _numbers(found) | (generation_numbers(texts, pairs, self.tokenizer) if texts else {})

    def _batches(
        self, views: Sequence[MaskedPair], token_budget: int, *, smoothing: float = 0.0, scale: float = 1.0
    ) -> Iterator[tuple[list[int], Seq2SeqBatch]]:
        """Batches of views, shortest first, each with the indices of its views."""
        for part in microbatches(np.array([view.num_tokens for view in views]), token_budget=token_budget):
            batch = batch_of(
                [views[number] for number in part],
                pad_id=self.tokenizer.pad_id,
                target_segment=self._target_segment,
                smoothing=smoothing,
                scale=scale,
            )
            yield part.tolist(), batch

    @torch.no_grad()
    def _heldout(self, model: Model, dev_set: str, token_budget: int, ranks: Ranks) -> list[_Found]:
        """Evaluate each pair of a held-out set; the work is divided among the processes."""
        pairs, device = self.dev[dev_set], next(model.parameters()).device
        own = range(ranks.rank, len(pairs), ranks.world_size)
        views = [
            heldout_view(pairs.sources[row], pairs.targets[row], self.settings.mask_way, self.symbols) for row in own
        ]
        found: list[tuple[int, _Found]] = []
        for numbers, batch in self._batches(views, token_budget):
            moved = batch.to(device)
            scores_RV = moved.scores(model)
            correct = scores_RV.argmax(1) == moved.labels
            sizes = list(batch.seq2seq.read_lengths)
            for number, loss, hits in zip(
                numbers, moved.losses(scores_RV).split(sizes), correct.split(sizes), strict=True
            ):
                one = _Found(loss=float(loss.sum()), tokens=len(loss), correct=int(hits.sum()))
                found.append((own[number], one))
        return gathered_in_order(found, ranks)

    def _generated(self, model: Model, dev_set: str, ranks: Ranks) -> dict[int, str]:
        """Generated targets by index of the pair, for `dev_generated` pairs; the processes divide the work."""
        if not self.settings.dev_generated:
            return {}
        return generate_targets(model, self.dev[dev_set], self.tokenizer, self.settings, ranks=ranks)

    def _analysis(self, pairs: Pairs, found: Sequence[_Found], texts: Mapping[int, str]) -> Analysis:
        """Show the pairs with generated targets, if any, else those with the highest loss."""
        shown = list(texts) or sorted(range(len(found)), key=lambda row: -found[row].loss / found[row].tokens)
        return Analysis(
            tables={"Held-out pairs": [{"pairs": len(found), **_numbers(found)}]},
            curves={},
            examples=[
                {
                    "source": self.tokenizer.decode(pairs.sources[row], special_tokens=True),
                    "target": pairs.references[row],
                    **({"generated": texts[row]} if texts else {}),
                    "loss per token": f"{found[row].loss / found[row].tokens:.3f}",
                    "location": pairs.locations[row],
                }
                for row in shown[:NUM_EXAMPLES]
            ],
            predictions=[
                {"id": str(row), **({"prediction": texts[row]} if row in texts else {})}
                | {"loss": round(one.loss, 6), "tokens": one.tokens}
                for row, one in enumerate(found)
            ],
        )


def smoothed_losses(logits_RV: Tensor, labels_R: Tensor, *, smoothing: float, pad_id: int) -> Tensor:
    """Loss of each predicted token, `[R, V]` -> `[R]`.

    Without smoothing: cross-entropy. With smoothing: KL(q || softmax(logits)), where q is 1 - smoothing for the label,
    0 for [PAD], and uniform over the other V - 2 tokens; a [PAD] label has loss 0. (s2s-ft, `LabelSmoothingLoss`)
    """
    total_R = logits_RV.logsumexp(1)
    label_R = logits_RV.gather(1, labels_R[:, None]).squeeze(1)
    if not smoothing:
        return total_R - label_R
    others = logits_RV.shape[1] - 2
    share = smoothing / others
    entropy = -(1 - smoothing) * math.log(1 - smoothing) - smoothing * math.log(share)
    others_R = logits_RV.sum(1) - label_R - logits_RV[:, pad_id] - others * total_R
    losses_R = (1 - smoothing) * (total_R - label_R) - share * others_R - entropy
    return losses_R.masked_fill(labels_R == pad_id, 0.0)


HELDOUT_METRICS = ("heldout_loss", "token_accuracy")


def _numbers(found: Sequence[_Found]) -> dict[str, float]:
    tokens = sum(one.tokens for one in found)
    return {
        "heldout_loss": math.fsum(one.loss for one in found) / tokens,
        "token_accuracy": 100 * sum(one.correct for one in found) / tokens,
    }
