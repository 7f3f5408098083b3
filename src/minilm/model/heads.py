"""Heads on top of the encoder: masked language model, classifier, answer span, tags of tokens.

In: rows of the last layer. Out: scores.

B sequences, T packed tokens, E hidden width, V vocabulary, C labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from minilm.model.config import FAMILIES, EncoderConfig
from minilm.model.encoder import ActivatedLinear, Encoder, reset_weights
from minilm.model.metadata import HeadName
from minilm.model.packing import Packed
from minilm.model.vector_head import VectorHead


class MaskedLanguageHead(nn.Module):
    """Dense, activation, LayerNorm, then the tied word table plus a bias: `[T, E]` -> `[T, V]`."""

    def __init__(self, config: EncoderConfig, num_labels: int = 0) -> None:
        """Create the transform; the output matrix is the encoder's word table (tied). `num_labels` is unused."""
        super().__init__()
        activation = config.hidden_act if FAMILIES[config.family].activation_in_mlm_head else "gelu"
        self.dense = ActivatedLinear(config.hidden_size, config.embedding_width, activation)
        self.norm = nn.LayerNorm(config.embedding_width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, encoder: Encoder, packed: Packed) -> Tensor:
        """Logits over the vocabulary for every token."""
        return self.score(encoder(packed), encoder)

    def score(self, hidden_RE: Tensor, encoder: Encoder) -> Tensor:
        """Logits over the vocabulary for any rows of the encoder's last layer, `[R, E]` -> `[R, V]`."""
        return functional.linear(self.norm(self.dense(hidden_RE)), encoder.embeddings.word.weight, self.bias)


class ClassificationHead(nn.Module):
    """Dropout and a linear map on the pooled first token: `[B, E]` -> `[B, C]`.

    In most families other than BERT the dropout also applies before the pooler.
    """

    def __init__(self, config: EncoderConfig, num_labels: int) -> None:
        """Create a head for `num_labels` classes (1 for regression)."""
        super().__init__()
        rate = config.hidden_dropout if config.classifier_dropout is None else config.classifier_dropout
        self.dropout: nn.Module = nn.Dropout(rate)
        self.is_dropped_before = FAMILIES[config.family].dropout_before_pooler
        self.out = nn.Linear(config.hidden_size, num_labels)

    def forward(self, encoder: Encoder, packed: Packed) -> Tensor:
        """Logits of each sequence."""
        before = self.dropout if self.is_dropped_before else None
        logits_BC: Tensor = self.out(self.dropout(encoder.pooled(packed, dropout=before)))
        return logits_BC


class SpanHead(nn.Module):
    """Dropout (in DistilBERT) and a linear map to a start and an end score: `[T, E]` -> `[T, 2]`."""

    def __init__(self, config: EncoderConfig, num_labels: int = 2) -> None:
        """Create the map; a span always has two scores, so `num_labels` is unused."""
        super().__init__()
        self.dropout = nn.Dropout(config.span_dropout)
        self.out = nn.Linear(config.hidden_size, 2)

    def forward(self, encoder: Encoder, packed: Packed) -> Tensor:
        """Start and end score of every token."""
        scores_T2: Tensor = self.out(self.dropout(encoder(packed)))
        return scores_T2


class TokensHead(nn.Module):
    """Dropout and a linear map on every token: `[T, E]` -> `[T, C]`."""

    def __init__(self, config: EncoderConfig, num_labels: int) -> None:
        """Create a head for `num_labels` classes."""
        super().__init__()
        of_heads = config.classifier_dropout if FAMILIES[config.family].classifier_dropout_of_tokens else None
        self.dropout = nn.Dropout(config.hidden_dropout if of_heads is None else of_heads)
        self.out = nn.Linear(config.hidden_size, num_labels)

    def forward(self, encoder: Encoder, packed: Packed) -> Tensor:
        """Logits of every token."""
        logits_TC: Tensor = self.out(self.dropout(encoder(packed)))
        return logits_TC


Head = MaskedLanguageHead | ClassificationHead | SpanHead | TokensHead | VectorHead
HEADS: dict[HeadName, type[MaskedLanguageHead | ClassificationHead | SpanHead | TokensHead]] = {
    "mlm": MaskedLanguageHead,
    "classification": ClassificationHead,
    "span": SpanHead,
    "tokens": TokensHead,
}


class Model(nn.Module):
    """An encoder with at most one head; `model(packed)` gives the head's scores, or hidden rows without one.

    `has_fresh_weights`: some weights were not in the checkpoint and are randomly initialized.
    """

    def __init__(self, encoder: Encoder, head: Head | None = None) -> None:
        """Combine the two; both keep their own weights."""
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.has_fresh_weights = False

    def forward(self, packed: Packed) -> Tensor:
        """Scores of the head: `[T, V]`, `[B, C]`, `[T, 2]` or `[T, C]`; vectors, `[B, W]`; `[T, E]` without a head."""
        scores: Tensor = self.encoder(packed) if self.head is None else self.head(self.encoder, packed)
        return scores


def new_head(name: HeadName, config: EncoderConfig, *, num_labels: int, generator: torch.Generator) -> Head:
    """A newly initialized head."""
    head = HEADS[name](config, num_labels)
    reset_weights(head, config.initializer_range, generator)
    return head
