"""Vocabulary files: line i is the token with id i, exactly.

In: a `vocab.txt` as BERT and MiniLM ship it. Out: the list of its tokens.
A lost, duplicated or split line shifts every later id and silently corrupts a model, so such a file is rejected.
The renames turn the plain BERT vocabulary into the one for text generation, with the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from minilm.errors import DataError
from minilm.files.regular import read_text

MAX_VOCAB_BYTES = 64 * 2**20

SENTENCE_END = "[X_SEP]"
"""Separates the sentences of a target."""

NLG_RENAMES: Mapping[str, str] = MappingProxyType(
    {
        "[unused1]": SENTENCE_END,
        **{f"[unused{number + 2}]": f"[SEP_{number}]" for number in range(10)},
        "[unused12]": "[S2S_SEP]",
        "[unused13]": "[S2S_CLS]",
        "[unused14]": "[L2R_SEP]",
        "[unused15]": "[L2R_CLS]",
        "[unused16]": "[R2L_SEP]",
        "[unused17]": "[R2L_CLS]",
        "[unused18]": "[S2S_SOS]",
    }
)
"""Unused slots of the BERT vocabulary that UniLM assigns (`utils_s2s`/`loader` of microsoft/unilm, v1)."""


def read_vocab(path: Path) -> list[str]:
    """Read a vocabulary file; lines end with LF or CRLF only.

    Raises:
        DataError: the file is unreadable, not UTF-8 or empty, or has an empty line, a NUL character or a duplicate
            token (the message names both lines).
    """
    text = read_text(path, max_bytes=MAX_VOCAB_BYTES)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DataError(f"{path} is empty: expected one token per line")
    distinct = set(lines)
    if len(distinct) == len(lines) and "" not in distinct and "\0" not in text:
        return lines
    first_line: dict[str, int] = {}
    for number, token in enumerate(lines, start=1):
        if token == "":
            raise DataError(f"{path}:{number}: empty line, expected a token: remove the line")
        if "\0" in token:
            raise DataError(f"{path}:{number}: NUL character: this is not a vocabulary file")
        if token in first_line:
            raise DataError(
                f"{path}:{number}: token {token!r} is also on line {first_line[token]}: each line is one id, "
                "so a duplicate shifts the ids; get the correct file or rename one of the two"
            )
        first_line[token] = number
    return lines


def rename_tokens(vocab: Sequence[str], renames: Mapping[str, str]) -> list[str]:
    """Rename tokens without changing their ids, e.g. with `NLG_RENAMES`.

    Raises:
        DataError: a token to rename is missing, or a new name is taken.
    """
    tokens = set(vocab)
    for old, new in renames.items():
        if old not in tokens:
            already = f"; {new!r} already exists, so no rename is needed" if new in tokens else ""
            raise DataError(f"the vocabulary has no token {old!r} to rename to {new!r}{already}")
        if new in tokens:
            raise DataError(f"cannot rename {old!r}: the vocabulary already has a token {new!r}")
    if len(set(renames.values())) != len(renames):
        raise DataError("two tokens would be renamed to the same name: use distinct names")
    return [renames.get(token, token) for token in vocab]
