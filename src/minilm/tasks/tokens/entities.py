"""The scores of tokens as tags of words, and these as entities in the text.

In: framed sentences, the scores of their tokens, the labels. Out: tags and entities, each with its characters.

N tokens of one sentence, W words, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minilm.score.entities import entity_spans, split_tag
from minilm.tasks.tokens.words import NO_TOKEN, FramedWords

_OUTSIDE = "O"
_MAX_SHOWN, _MAX_CHARACTERS = 8, 80  # entities, and characters of a text, in a representation


@dataclass(frozen=True, kw_only=True, slots=True)
class Entity:
    """An entity in a text.

    Attributes:
        label: its type, such as PER.
        text: its characters.
        start: its first character in the text.
        end: the character after its last one.
        score: the mean over its words of the probability of their tags.
        first_word: index of its first word.
        end_word: index of the word after its last one.
    """

    label: str
    text: str
    start: int
    end: int
    score: float
    first_word: int
    end_word: int

    def __repr__(self) -> str:
        """The entity and its location in the text."""
        return f"<Entity {self.label} {self.text!r} at {self.start}:{self.end}, probability {self.score:.3f}>"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tagged:
    """The tags of one text.

    Attributes:
        text: the text; the words joined by spaces if they were given.
        words: its words.
        tags: the tag of each word; O if the word was lost or has no token.
        entities: the entities, in order. A tag without a prefix, as in part-of-speech tagging, joins its neighbors.
    """

    text: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    entities: tuple[Entity, ...]

    def __repr__(self) -> str:
        """The text and its entities; the beginning of long ones."""
        shown = [f"{one.label} {one.text!r}" for one in self.entities[:_MAX_SHOWN]]
        shown += ["..."] if len(self.entities) > _MAX_SHOWN else []
        text = self.text if len(self.text) <= _MAX_CHARACTERS else f"{self.text[:_MAX_CHARACTERS]}..."
        return f"<Tagged {text!r}: {', '.join(shown) or 'no entities'}>"

    def row(self, *, with_words: bool) -> dict[str, object]:
        """The entities as JSON values; `with_words` also their words, and the tag of each word."""
        entities = [
            {
                "label": one.label,
                "text": one.text,
                "start": one.start,
                "end": one.end,
                "score": round(one.score, 6),
                **({"first_word": one.first_word, "end_word": one.end_word} if with_words else {}),
            }
            for one in self.entities
        ]
        return {"prediction": entities, **({"tags": list(self.tags)} if with_words else {})}


def types_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The types of entities among tags: PER for B-PER and I-PER."""
    return tuple(dict.fromkeys(split_tag(label)[1] for label in labels if label != _OUTSIDE))


def tag_words(framed: FramedWords, logits_NC: NDArray[np.floating], labels: Sequence[str]) -> Tagged:
    """Tag each word by the scores of its first token, and find the entities."""
    has_token = framed.first != NO_TOKEN
    logits_WC = logits_NC[framed.first].astype(np.float64)  # the row of a word without a token is not read
    best_W = logits_WC.argmax(1)
    scores_W = np.exp(logits_WC.max(1) - np.logaddexp.reduce(logits_WC, axis=1))
    tags = tuple(labels[best] if has else _OUTSIDE for best, has in zip(best_W.tolist(), has_token, strict=True))
    entities = []
    for span in entity_spans(tags):
        start, end = int(framed.spans[span.start, 0]), int(framed.spans[span.end - 1, 1])
        entities.append(
            Entity(
                label=span.type,
                text=framed.text[start:end],
                start=start,
                end=end,
                score=float(scores_W[span.start : span.end].mean()),
                first_word=span.start,
                end_word=span.end,
            )
        )
    return Tagged(text=framed.text, words=tuple(framed.words), tags=tags, entities=tuple(entities))
