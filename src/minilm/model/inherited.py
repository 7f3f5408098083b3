"""What an encoder starts with that has fewer layers than the one it comes from.

In: a new encoder, one of the same widths, numbers of its layers. Out: the new encoder with those weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from minilm.model.encoder import Encoder


def inherit_layers(encoder: Encoder, source: Encoder, layers: Sequence[int]) -> None:
    """Copy the embeddings and the given layers (counted from 1, in order) of `source`, and its pooler if both have one.

    Both have the same widths and vocabulary; `encoder` has as many layers as are given.
    """
    encoder.embeddings.load_state_dict(source.embeddings.state_dict())
    for target, number in zip(encoder.layers, layers, strict=True):
        target.load_state_dict(source.layers[number - 1].state_dict())
    if source.pooler is not None and encoder.pooler is not None:
        encoder.pooler.load_state_dict(source.pooler.state_dict())
