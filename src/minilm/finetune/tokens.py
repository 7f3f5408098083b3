"""The token task: a tag for each word, read from the scores of its first token; entities, and how many were found.

In: tagged sentences of the training and held-out files. Out: a `Task` whose head gives each token a score per label.

B sequences, T packed tokens, N tokens of one sequence, W words of one sentence, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from minilm.errors import DataError
from minilm.finetune.sequences import Array, Sequences, SequenceTask
from minilm.finetune.task import NUM_EXAMPLES, Analysis
from minilm.model.heads import Model
from minilm.model.metadata import HeadName
from minilm.model.packing import Packed, unpack
from minilm.score.entities import METRICS, entity_metrics, entity_rows, entity_spans
from minilm.tally import reporting_tally
from minilm.tasks.tokens.entities import Tagged, tag_words
from minilm.tasks.tokens.rows import Sentence
from minilm.tasks.tokens.settings import TokensSettings
from minilm.tasks.tokens.words import NO_TOKEN, FramedWords, WordFramer
from minilm.text.tokenizer import Tokenizer

SELECTABLE = (*METRICS, "heldout_loss")
"""Numbers that `task.metric` may name; without it the first one selects the best weights."""

_IGNORED = -100  # target of a token that is not the first one of a word


class TokensTask(SequenceTask):
    """Cross-entropy over the first tokens of all words of a batch, as in transformers' run_ner."""

    head: HeadName = "tokens"

    def __init__(
        self,
        train: Sequence[Sentence],
        dev: Mapping[str, Sequence[Sentence]],
        tokenizer: Tokenizer,
        *,
        labels: Sequence[str],
        settings: TokensSettings,
    ) -> None:
        """Tokenize all sentences; their tags are among `labels`.

        Raises:
            DataError: no word of the training sentences has a token.
        """
        self.labels = tuple(labels)
        self.main_metric = settings.metric or SELECTABLE[0]
        self._tokenizer, self._settings = tokenizer, settings
        self._sentences = {**dev}
        self._framed = {name: self._framed_words(part) for name, part in dev.items()}
        framed = self._framed_words(train)
        targets = self._targets(train, framed)
        super().__init__(
            _sequences(framed),
            targets,
            {name: _sequences(part) for name, part in self._framed.items()},
            max_tokens=settings.max_tokens,
        )
        self._num_targets = np.array([int((one != _IGNORED).sum()) for one in targets])
        if train and not self._num_targets.any():
            raise DataError(f"no word of the {len(train)} training sentences has a token (first: {train[0].location})")

    def _framed_words(self, sentences: Sequence[Sentence]) -> list[FramedWords]:
        with reporting_tally() as tally:
            framer = WordFramer(tokenizer=self._tokenizer, max_tokens=self._settings.max_tokens, tally=tally)
            return framer.words([one.words for one in sentences], [one.location for one in sentences])

    def _targets(self, train: Sequence[Sentence], framed: Sequence[FramedWords]) -> list[NDArray[np.generic]]:
        """The number of each word's tag at its first token, `[N]` int64 each."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        targets: list[NDArray[np.generic]] = []
        for sentence, one in zip(train, framed, strict=True):
            tags_W = np.array([numbers[tag] for tag in sentence.tags])
            has_token, target_N = one.first != NO_TOKEN, np.full(len(one.token_ids), _IGNORED)
            target_N[one.first[has_token]] = tags_W[has_token]
            targets.append(target_N)
        return targets

    def prepare(self, model: Model) -> None:
        """Also remove the pooler, which this head does not read."""
        model.encoder.pooler = None
        super().prepare(model)

    def num_targets(self, rows: NDArray[np.int64]) -> int:
        """The words with a token in these training sentences."""
        return max(1, int(self._num_targets[rows].sum()))

    def losses(self, scores: Tensor, packed: Packed, targets: Tensor) -> Tensor:
        """Sum of the cross-entropies of the words of each sentence, `[T, C]` -> `[B]`."""
        losses_T = functional.cross_entropy(scores, targets, reduction="none", ignore_index=_IGNORED)
        return torch.stack([losses_N.sum() for losses_N in unpack(losses_T, packed)])

    def outputs(self, scores: Tensor, packed: Packed) -> list[Array]:
        """The logits of the tokens of each sentence, `[N, C]`."""
        return [part.numpy() for part in unpack(scores.cpu(), packed)]

    def metrics(self, dev_set: str, outputs: Sequence[Array]) -> dict[str, float]:
        """Seqeval's numbers, times 100, and the mean held-out loss of the words that have a token."""
        found = [one.tags for one in self.tagged(dev_set, outputs)]
        numbers = entity_metrics([sentence.tags for sentence in self._sentences[dev_set]], found)
        return {**numbers, "heldout_loss": self._heldout_loss(dev_set, outputs)}

    def analyse(self, dev_set: str, outputs: Sequence[Array]) -> Analysis:
        """A row per type of entity and average, sentences with the most wrong entities, all predictions."""
        sentences, tagged = self._sentences[dev_set], self.tagged(dev_set, outputs)
        gold = [sentence.tags for sentence in sentences]
        found = [one.tags for one in tagged]
        pairs = zip(gold, found, strict=True)
        mistakes = [len({*entity_spans(ours)} ^ {*entity_spans(given)}) for ours, given in pairs]
        worst = sorted(range(len(sentences)), key=lambda index: -mistakes[index])[:NUM_EXAMPLES]
        return Analysis(
            tables={"Entities by type": entity_rows(gold, found)},
            curves={},
            examples=[
                {
                    "text": tagged[index].text,
                    "gold": _shown(sentences[index].words, sentences[index].tags),
                    "predicted": _shown(sentences[index].words, found[index]),
                    "id": sentences[index].id,
                }
                for index in worst
                if mistakes[index]
            ],
            predictions=[
                {"id": sentence.id, **one.row(with_words=True)} for sentence, one in zip(sentences, tagged, strict=True)
            ],
        )

    def tagged(self, dev_set: str, outputs: Sequence[Array]) -> list[Tagged]:
        """The tags and entities of each sentence of a held-out set, in order."""
        pairs = zip(self._framed[dev_set], outputs, strict=True)
        return [tag_words(framed, logits_NC, self.labels) for framed, logits_NC in pairs]

    def _heldout_loss(self, dev_set: str, outputs: Sequence[Array]) -> float:
        targets = self._targets(self._sentences[dev_set], self._framed[dev_set])
        targets_T, logits_TC = np.concatenate(targets), np.concatenate(outputs).astype(np.float64)
        own = targets_T != _IGNORED
        chosen = logits_TC[own, targets_T[own]]
        return float(np.mean(np.logaddexp.reduce(logits_TC[own], axis=1) - chosen)) if own.any() else float("nan")


def _sequences(framed: Sequence[FramedWords]) -> Sequences:
    return Sequences(
        token_ids=[one.token_ids for one in framed], segment_ids=[np.zeros_like(one.token_ids) for one in framed]
    )


def _shown(words: Sequence[str], tags: Sequence[str]) -> str:
    """The entities of a sentence for a reader."""
    spans = entity_spans(tags)
    return "; ".join(f"{' '.join(words[one.start : one.end])} ({one.type})" for one in spans) or "(none)"
