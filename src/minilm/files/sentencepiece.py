"""SentencePiece models (`sentencepiece.bpe.model`, a protocol buffer), without the library.

In: a file. Out: its pieces with scores, which of them are special, the table of its normalizer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minilm.errors import DataError
from minilm.files.regular import reading

_MAX_BYTES = 64 * 2**20
# Numbers of the fields that are read, and of the kinds of pieces and models, in sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _CHARSMAP = 3, 2
_NORMAL, _CONTROL, _USER_DEFINED, _UNIGRAM = 1, 3, 4, 1
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class SentencePieces:
    """A unigram model.

    Attributes:
        scores: each piece, in order of its id, with its log-probability.
        control: pieces that stand for no text, such as `<s>`.
        user_defined: pieces that are never split.
        charsmap: the compiled table of the normalizer; empty without one.
    """

    scores: tuple[tuple[str, float], ...]
    control: frozenset[str]
    user_defined: frozenset[str]
    charsmap: bytes


def read_sentencepieces(path: Path) -> SentencePieces:
    """Read a model.

    Raises:
        DataError: it is missing, unreadable, damaged, larger than 64 MiB, or not a unigram model.
    """
    with reading(path), path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise DataError(f"{path} is larger than {_MAX_BYTES} bytes, the limit for this kind of file")
    try:
        found = list(_fields(data))
        pieces = [_piece(value) for number, value in found if number == _PIECES and isinstance(value, bytes)]
        parts = {
            number: dict(_fields(value))
            for number, value in found
            if number in (_TRAINER, _NORMALIZER) and isinstance(value, bytes)
        }
    except (ValueError, KeyError, struct.error):
        raise DataError(f"{path}: not a SentencePiece model, or damaged: get the file again") from None
    if not pieces:
        raise DataError(f"{path}: a SentencePiece model without pieces: get the file again")
    if parts.get(_TRAINER, {}).get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        raise DataError(
            f"{path}: not a unigram model, which is the only kind read here: save the tokenizer with transformers "
            "first, which writes tokenizer.json"
        )
    charsmap = parts.get(_NORMALIZER, {}).get(_CHARSMAP, b"")
    return SentencePieces(
        scores=tuple((text, score) for text, score, _ in pieces),
        control=frozenset(text for text, _, kind in pieces if kind == _CONTROL),
        user_defined=frozenset(text for text, _, kind in pieces if kind == _USER_DEFINED),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
    )


def _piece(data: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(data))
    text, score, kind = fields[_TEXT], fields.get(_SCORE, 0.0), fields.get(_KIND, _NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, float) or not isinstance(kind, int):
        raise ValueError
    return text.decode("utf-8"), score, kind


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a protocol buffer message: number and value; raises ValueError or struct.error if it is damaged."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        value: int | float | bytes
        if key & 7 == _VARINT:
            value, at = _varint(data, at)
        elif key & 7 == _BYTES:
            length, at = _varint(data, at)
            value = data[at : at + length]
            if len(value) != length:
                raise ValueError
            at += length
        elif key & 7 == _FOUR_BYTES:
            (value,), at = struct.unpack_from("<f", data, at), at + 4
        elif key & 7 == _EIGHT_BYTES:
            (value,), at = struct.unpack_from("<d", data, at), at + 8
        else:
            raise ValueError
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
