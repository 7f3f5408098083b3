"""Sequence-to-sequence fine-tuning of an encoder: pairs, masking, the loss at predicted tokens, held-out numbers.

In: pairs of token ids, a model with the masked-language head. Out: per step this process's share of the batches and
their loss; loss and accuracy per token of held-out pairs, and the scores of targets generated for some of them.

B pairs, T packed tokens, R predicted tokens, E hidden width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from minilm.corpus.order import rank_share, step_documents
from minilm.errors import DataError
from minilm.finetune.seq2seq_generation import DevGeneration, generate_targets, generation_numbers
from minilm.finetune.task import NUM_EXAMPLES, Analysis, numbers_of_sets
from minilm.model.heads import HeadName, MaskedLanguageHead, Model
from minilm.model.token_budget import microbatches
from minilm.randomness import generator
from minilm.tasks.seq2seq.masking import (
    MaskedPair,
    Masking,
    Seq2SeqBatch,
    Symbols,
    batch_of,
    heldout_view,
    training_view,
)
from minilm.tasks.seq2seq.rows import Pairs
from minilm.text.tokenizer import Tokenizer
from minilm.train.distributed import ALONE, Ranks, gathered_in_order
from minilm.train.loop import StepLoss

_ROUNDING = 1e-5  # added to the number of targets that a loss is divided by, as published
_WORDS, _POOLER = "encoder.embeddings.word.weight", "encoder.pooler."


@dataclass(frozen=True, kw_only=True)
class Seq2SeqTask:
    """What is learned: pairs, and how they are masked.

    Attributes:
        train: pairs to learn from.
        dev: held-out pairs by name; the first ones choose the best checkpoint.
        tokenizer: of the ids.
        masking: what is hidden in training.
        label_smoothing: share of the probability that other tokens than the right one should get.
        max_target_tokens: most tokens of a target, the final [SEP] among them.
        max_positions: positions that the longest possible pair takes.
        main_metric: the number that chooses the best checkpoint.
        generation: which held-out pairs are generated at each evaluation.
        reshuffle: a new order for each epoch; else all have the first one's.
        freeze_words: leave the word table, which is also the output matrix, as it is.
    """

    train: Pairs
    dev: Mapping[str, Pairs]
    tokenizer: Tokenizer
    masking: Masking
    label_smoothing: float
    max_target_tokens: int
    max_positions: int
    main_metric: str = "heldout_loss"
    generation: DevGeneration = field(default_factory=DevGeneration)
    reshuffle: bool = True
    freeze_words: bool = False
    head: HeadName = field(default="mlm", init=False)
    labels: Sequence[str] = field(default=(), init=False)

    @property
    def symbols(self) -> Symbols:
        """The ids that frame and mask."""
        return Symbols(
            cls_id=self.tokenizer.cls_id,
            sep_id=self.tokenizer.sep_id,
            mask_id=self.tokenizer.mask_id,
            vocab_size=self.tokenizer.vocab_size,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """One held-out pair: sum of the losses of its tokens, how many there are, how many have the highest score."""

    loss: float
    tokens: int
    right: int


class Seq2SeqObjective:
    """Loss per predicted token over the global batch."""

    def __init__(
        self,
        model: Model,
        task: Seq2SeqTask,
        *,
        batch_size: int,
        tokens_per_batch: int,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        """Train `model` on `task` in batches of `batch_size` pairs over all processes.

        Raises:
            DataError: nothing to train on.
            UsageError: the batch cannot be shared evenly by the processes.
        """
        if not len(task.train):
            raise DataError("no pair is left to train on; check task.train")
        rank_share(np.arange(batch_size), rank=ranks.rank, world_size=ranks.world_size)  # refuse before work begins
        self._model, self._task, self._ranks = model, task, ranks
        self._batch_size, self._tokens_per_batch, self._seed = batch_size, tokens_per_batch, seed
        self._device = next(model.parameters()).device
        self._target_segment = min(1, model.encoder.config.num_segments - 1)
        model.encoder.embeddings.word.weight.requires_grad_(not task.freeze_words)
        model.has_fresh_weights = False  # before anybody asks it for a text, it is trained

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self._model

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """All weights that the loss depends on; without the word table when it is frozen."""
        left_out = (_POOLER, _WORDS) if self._task.freeze_words else (_POOLER,)
        return {name: weight for name, weight in self._model.named_parameters() if not name.startswith(left_out)}

    @property
    def clip_groups(self) -> Sequence[Sequence[nn.Parameter]]:
        """One group."""
        return [list(self.parameters.values())]

    def microbatches(self, step: int) -> list[Seq2SeqBatch]:
        """This process's share of the pairs of `step`, masked anew, sorted by length, cut by the token budget."""
        task = self._task
        rows = step_documents(
            num_documents=len(task.train),
            batch_size=self._batch_size,
            seed=self._seed,
            step=step,
            reshuffle=task.reshuffle,
        )
        predicted = sum(task.masking.num_predicted(len(task.train.targets[row]) + 1) for row in rows)
        places = rank_share(np.arange(len(rows)), rank=self._ranks.rank, world_size=self._ranks.world_size)
        views = [
            training_view(
                task.train.sources[rows[place]],
                task.train.targets[rows[place]],
                task.masking,
                task.symbols,
                generator(self._seed, "masking", step, int(place)),
            )
            for place in places
        ]
        return [batch for _, batch in self._batches(views, scale=1 / (predicted + _ROUNDING))]

    def loss(self, batch: Seq2SeqBatch) -> StepLoss:
        """Sum of the losses of its predicted tokens over those of the step."""
        losses_R = smoothed_losses(
            self._scores(batch).float(),
            batch.labels,
            smoothing=self._task.label_smoothing,
            pad_id=self._task.tokenizer.pad_id,
        )
        return StepLoss(value=losses_R.sum() * batch.scale, parts={})

    def evaluate(self) -> dict[str, float]:
        """Held-out numbers: those of the first set under their own names, of the others as `set.name`."""
        return numbers_of_sets({name: self._numbers_of(name) for name in self._task.dev})

    def analyses(self) -> dict[str, Analysis]:
        """What the report shows of each held-out set."""
        return {name: self._analysis(name, self._heldout(name)) for name in self._task.dev}

    def _numbers_of(self, dev_set: str) -> dict[str, float]:
        numbers = _numbers(self._heldout(dev_set))
        if texts := self._generated(dev_set):
            numbers |= generation_numbers(texts, self._task.dev[dev_set], self._task.tokenizer)
        return numbers

    def _scores(self, batch: Seq2SeqBatch) -> Tensor:
        """Logits at the predicted tokens, `[R, V]`."""
        head, encoder = self._model.head, self._model.encoder
        assert isinstance(head, MaskedLanguageHead), "the task's head"
        return head.score(encoder.seq2seq(batch.seq2seq), encoder)

    def _batches(self, views: Sequence[MaskedPair], *, scale: float = 1.0) -> Iterator[tuple[list[int], Seq2SeqBatch]]:
        """Batches of views, shortest first, each with the numbers of its views."""
        lengths = np.array([view.num_tokens for view in views])
        for part in microbatches(lengths, token_budget=self._tokens_per_batch):
            chosen = [views[number] for number in part]
            yield (
                part.tolist(),
                batch_of(chosen, device=self._device, target_segment=self._target_segment, scale=scale),
            )

    @torch.no_grad()
    def _heldout(self, dev_set: str) -> list[_Found]:
        """What the model makes of each pair of a held-out set; the processes share the work."""
        self._model.eval()
        pairs, task = self._task.dev[dev_set], self._task
        own = range(self._ranks.rank, len(pairs), self._ranks.world_size)
        views = [heldout_view(pairs.sources[row], pairs.targets[row], task.masking.way, task.symbols) for row in own]
        found: list[tuple[int, _Found]] = []
        for numbers, batch in self._batches(views):
            scores_RV = self._scores(batch).float()
            losses = smoothed_losses(scores_RV, batch.labels, smoothing=0.0, pad_id=task.tokenizer.pad_id)
            right = scores_RV.argmax(1) == batch.labels
            sizes = list(batch.seq2seq.read_lengths)
            for number, loss, hits in zip(numbers, losses.split(sizes), right.split(sizes), strict=True):
                one = _Found(loss=float(loss.sum()), tokens=len(loss), right=int(hits.sum()))
                found.append((own[number], one))
        return gathered_in_order(found, self._ranks)

    def _generated(self, dev_set: str) -> dict[int, str]:
        """Targets by number of the pair, for as many pairs as the task wants; the processes share the work."""
        task = self._task
        if not task.generation.pairs:
            return {}
        self._model.eval()
        return generate_targets(
            self._model,
            task.dev[dev_set],
            task.tokenizer,
            task.generation,
            max_target_tokens=task.max_target_tokens,
            way=task.masking.way,
            ranks=self._ranks,
        )

    def _analysis(self, dev_set: str, found: Sequence[_Found]) -> Analysis:
        """The worst pairs, or (where targets are generated) the first of those."""
        pairs, decode, texts = self._task.dev[dev_set], self._task.tokenizer.decode, self._generated(dev_set)
        shown = list(texts) or sorted(range(len(found)), key=lambda row: -found[row].loss / found[row].tokens)
        return Analysis(
            tables={"Held-out pairs": [{"pairs": len(found), **_numbers(found)}]},
            curves={},
            examples=[
                {
                    "source": decode(pairs.sources[row], special_tokens=True),
                    "target": pairs.references[row],
                    **({"generated": texts[row]} if texts else {}),
                    "loss per token": f"{found[row].loss / found[row].tokens:.3f}",
                    "place": pairs.places[row],
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

    Cross-entropy without smoothing. With it KL(q || softmax(logits)), where q is 1 - smoothing on the label, 0 on
    [PAD], and even on the other V - 2 tokens; a label that is [PAD] counts nothing. (s2s-ft, `LabelSmoothingLoss`)
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
        "token_accuracy": 100 * sum(one.right for one in found) / tokens,
    }
