"""The tokenizer: texts in, int32 ids out, truncated but never padded.

In: a model folder, a tokenizer.json or a vocab.txt (see `definition`), then texts.
Out: one array of ids per text; ids back to text; the files that other libraries load.
The `tokenizers` library does the work, in parallel over the texts of one call.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import numpy.typing as npt

from minilm.errors import DataError, UsageError, one_line
from minilm.files.atomic import atomic_write, make_folder
from minilm.files.json import write_json
from minilm.files.regular import without_surrogates
from minilm.text.definition import Definition, load_definition
from minilm.text.pairs import Int32s, PairFrame, frame_pairs, read_pair_frame
from minilm.text.vocab_folder import BERT_ROLES, ROBERTA_ROLES

if TYPE_CHECKING:
    import tokenizers

logger = logging.getLogger(__name__)

_OFFSET_BATCH = 256  # texts per call: with offsets, the library holds far more than the ids
# Tables are padded to a multiple of 8 to 128 rows; any other difference is a vocabulary that lost lines.
_PADDED_TO, _MAX_PADDING = 8, 128
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ROLES = ("cls", "sep", "pad", "mask", "unk")
# The special tokens by role, by the first of those around a text.
_FAMILIES = {
    **{roles["cls"]: roles for roles in (BERT_ROLES, ROBERTA_ROLES)},
    ROBERTA_ROLES["sep"]: {role: ROBERTA_ROLES[role] for role in ("sep", "pad", "unk")},  # of T5
}


@final
class Tokenizer:
    """A tokenizer that frames a text as [CLS] ... [SEP], as <s> ... </s>, or as ... </s>, as T5's does.

    Created by `Tokenizer.load`.
    """

    def __init__(self, definition: Definition) -> None:
        """Build the tokenizer from a validated definition; raises DataError if it is unusable."""
        self._definition = definition
        self._backend = _build(definition)
        self._ids = {token: token_id for token_id, token in enumerate(definition.tokens)}
        self._special = _special_ids(self._backend, self._ids, definition)
        self.sep_id: int = self._special["sep"]
        self.pad_id: int = self._special["pad"]
        self.unk_id: int = self._special["unk"]
        self.before: Int32s = np.array([self._special[role] for role in ("cls",) if role in self._special], np.int32)
        """The special tokens before a text, `[1]` or `[0]`; after it there is one, `sep_id`."""
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        """What it is, for example at the prompt of an interpreter."""
        return f"<minilm tokenizer of {self.vocab_size:,} tokens>"

    @classmethod
    def load(
        cls, path: Path | str, *, lowercase: bool | None = None, renames: Mapping[str, str] | None = None
    ) -> Tokenizer:
        """Load a tokenizer.

        Args:
            path: a model folder (tokenizer.json, else vocab.txt, else sentencepiece.bpe.model), or one of these files.
            lowercase: overrides the files. By default tokenizer_config.json decides, and a vocab.txt without it
                is lowercased.
            renames: new names for WordPiece tokens with the same ids, for example `vocabulary.NLG_RENAMES`.

        Raises:
            DataError: the files are missing, damaged or contradictory, or their ids are not 0..V-1.
            UsageError: `lowercase` or `renames` does not apply to this tokenizer.
        """
        _set_parallelism()
        return cls(load_definition(Path(path), lowercase=lowercase, renames=renames))

    def lowercased(self) -> Tokenizer:
        """This tokenizer, which also lowercases each text first, as `do_lower_case` of sentence-transformers does."""
        normalizer = self._definition.json.get("normalizer")
        parts = [normalizer] if normalizer else []
        if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
            parts = normalizer["normalizers"]
        first = {"type": "Lowercase"}
        if first in parts:
            return self
        changed = {**self._definition.json, "normalizer": {"type": "Sequence", "normalizers": [first, *parts]}}
        return Tokenizer(replace(self._definition, json=changed))

    @cached_property
    def for_words(self) -> Tokenizer:
        """This tokenizer for texts that are split into words: byte-level BPE puts a space before each of them.

        transformers demands the same of such a tokenizer (`add_prefix_space`).
        """
        splitter = self._definition.json.get("pre_tokenizer")
        changed = _with_prefix_space(splitter)
        if changed == splitter:
            return self
        return Tokenizer(replace(self._definition, json={**self._definition.json, "pre_tokenizer": changed}))

    @property
    def cls_id(self) -> int:
        """Id of [CLS] or <s>; raises DataError if there is none."""
        return self._special_id("cls")

    @property
    def mask_id(self) -> int:
        """Id of [MASK] or <mask>; raises DataError if there is none."""
        return self._special_id("mask")

    def _special_id(self, role: str) -> int:
        if role not in self._special:
            raise DataError(
                f"{self._definition.where}: it frames a text with </s> alone, as T5's does, and has no "
                f"{BERT_ROLES[role]}, which is needed here: use a model whose tokenizer has one, such as BERT"
            )
        return self._special[role]

    @property
    def vocab_size(self) -> int:
        """Number of tokens V, added tokens included; ids are 0..V-1."""
        return len(self._definition.tokens)

    @property
    def is_wordpiece(self) -> bool:
        """Whether the tokens are WordPieces, where word-internal pieces start with ##."""
        return self._definition.is_wordpiece

    @cached_property
    def is_continuation(self) -> npt.NDArray[np.bool_]:
        """Whether each token is a WordPiece that continues a word, `[V]`."""
        return np.array([self.is_wordpiece and token.startswith("##") for token in self._definition.tokens])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines the ids of a text, independent of the source format."""
        canonical = json.dumps(json.loads(self._backend.to_str()), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        special_tokens: bool = True,
        truncated: list[int] | None = None,
    ) -> list[Int32s]:
        """Turn texts into ids.

        Args:
            texts: the texts; empty ones, NUL characters and lone surrogates are fine.
            max_length: max tokens per text, special tokens included; the tail is truncated, the final [SEP] kept.
            special_tokens: frame each text with [CLS] and [SEP].
            truncated: collects the indices of truncated texts, for callers that report them; without it, the first
                truncation is logged as a warning.

        Returns:
            One int32 array per text, not padded.

        Raises:
            UsageError: `texts` is one string, or `max_length` leaves no room.
        """
        if isinstance(texts, str):
            raise UsageError("texts is one string, expected a list of strings: put it in a list")
        if max_length is not None and max_length < (2 if special_tokens else 1):
            raise UsageError(f"max_length={max_length} leaves no room for [CLS] and [SEP]: use 2 or more")
        arrays = [np.array(item.ids, dtype=np.int32) for item in self._encode_batch(texts, special_tokens)]
        if max_length is None:
            return arrays
        self._report_truncated(
            [index for index, ids in enumerate(arrays) if len(ids) > max_length], arrays, max_length, truncated
        )
        return [self._cut(ids, max_length, special_tokens) for ids in arrays]

    @cached_property
    def pair_frame(self) -> PairFrame:
        """The special tokens around a pair of texts; raises DataError if the tokenizer does not support pairs."""
        where = self._definition.where
        frame = read_pair_frame(self._backend, cls_id=self.cls_id, sep_id=self.sep_id, where=where)
        if self._definition.unsure_of_segments and frame.segments.any():
            raise DataError(
                f"{where}: tokenizer_config.json names PreTrainedTokenizerFast and no model_input_names: "
                "transformers 4 gives the second text of a pair segment 1, transformers 5 segment 0; add "
                "model_input_names, with or without token_type_ids"
            )
        return frame

    def encode_pairs(
        self, texts: Sequence[str], pairs: Sequence[str] | None, *, max_length: int, truncated: list[int] | None = None
    ) -> list[tuple[Int32s, Int32s]]:
        """Turn texts, or pairs of texts, into framed ids and segment ids.

        Args:
            texts: the texts, or the first text of each pair.
            pairs: the second text of each pair; None for single texts, as `encode` frames them.
            max_length: max tokens per row, special tokens included; the longer text of a pair is truncated first.
            truncated: as for `encode`.

        Returns:
            (ids, segment ids) of each row, int32 `[N]`, not padded.

        Raises:
            UsageError: `texts` and `pairs` differ in length, or `max_length` leaves no room.
            DataError: the tokenizer cannot frame a pair.
        """
        if pairs is None:
            return [(ids, np.zeros_like(ids)) for ids in self.encode(texts, max_length=max_length, truncated=truncated)]
        if len(texts) != len(pairs):
            raise UsageError(f"found {len(texts)} texts and {len(pairs)} second texts, expected equal numbers")
        room = max_length - self.pair_frame.num_special
        if room < 0:
            raise UsageError(f"max_length={max_length} leaves no room for the special tokens: use {-room} more")
        firsts, seconds = (self.encode(column, special_tokens=False) for column in (texts, pairs))
        rows, too_long = frame_pairs(self.pair_frame, firsts, seconds, room=room)
        self._report_truncated(too_long, rows, max_length, truncated)
        return rows

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[Int32s, Int32s]]:
        """Turn texts into ids without special tokens, with the character offsets of each token.

        Args:
            texts: the texts; empty ones, NUL characters and lone surrogates are fine.

        Returns:
            (ids `[N]`, offsets `[N, 2]`) of each text, int32: token i is `text[offsets[i, 0]:offsets[i, 1]]`
            before normalization.

        Raises:
            UsageError: `texts` is one string or contains a non-string.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UsageError("texts must be a list of strings: found one string, or an item that is not a string")
        pieces = []
        for start in range(0, len(texts), _OFFSET_BATCH):
            # replaced character by character, so that offsets still refer to the original text
            whole = [_LONE_SURROGATE.sub("\ufffd", text) for text in texts[start : start + _OFFSET_BATCH]]
            pieces += [
                (np.array(item.ids, dtype=np.int32), np.array(item.offsets, dtype=np.int32).reshape(-1, 2))
                for item in self._backend.encode_batch(whole, add_special_tokens=False)
            ]
        return pieces

    def encode_words(self, sentences: Sequence[Sequence[str]]) -> list[tuple[Int32s, Int32s]]:
        """Turn the words of sentences into ids without special tokens, each word on its own.

        Args:
            sentences: lists of words; empty ones, NUL characters and lone surrogates are fine.

        Returns:
            (ids `[N]`, index of the word of each token `[N]`) of each sentence, int32; a word may have no token.
        """
        backend = self.for_words._backend
        pieces = []
        for start in range(0, len(sentences), _OFFSET_BATCH):
            whole = [
                [_LONE_SURROGATE.sub("\ufffd", word) for word in words]
                for words in sentences[start : start + _OFFSET_BATCH]
            ]
            pieces += [
                (np.array(item.ids, dtype=np.int32), np.array(item.word_ids, dtype=np.int32))
                for item in backend.encode_batch(whole, is_pretokenized=True, add_special_tokens=False)
            ]
        return pieces

    def words(self, text: str) -> list[str]:
        """Split a text as BERT does before WordPiece: normalize it, then split at whitespace and punctuation.

        Raises:
            UsageError: the tokenizer is not WordPiece.
        """
        if not self._definition.is_wordpiece:
            raise UsageError(f"{self._definition.where} is not a WordPiece tokenizer: it does not define words")
        normalizer, splitter = self._backend.normalizer, self._backend.pre_tokenizer
        plain = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in splitter.pre_tokenize_str(plain)] if splitter else plain.split()

    def _encode_batch(self, texts: Sequence[str], special_tokens: bool) -> list[tokenizers.Encoding]:
        try:
            return self._backend.encode_batch_fast(list(texts), add_special_tokens=special_tokens)
        except TypeError:
            bad = [type(text).__name__ for text in texts if not isinstance(text, str)]
            if bad:
                raise UsageError(f"texts: found {bad[0]}, expected only strings") from None
            whole = [without_surrogates(text) for text in texts]
            changed = sum(new != old for new, old in zip(whole, texts, strict=True))
            self._warn_once("%d of %d texts contained lone surrogates, which were replaced", changed, len(whole))
            return self._backend.encode_batch_fast(whole, add_special_tokens=special_tokens)

    def _cut(self, ids: Int32s, max_length: int, special_tokens: bool) -> Int32s:
        if len(ids) <= max_length:
            return ids
        short: Int32s = ids[:max_length].copy()
        if special_tokens:
            short[-1] = self.sep_id
        return short

    def _report_truncated(
        self, indices: Sequence[int], rows: Sequence[object], max_length: int, truncated: list[int] | None
    ) -> None:
        if truncated is not None:
            truncated += indices
        elif indices:
            self._warn_once(
                "truncated %d of %d texts to %d tokens (first: text %d)",
                len(indices),
                len(rows),
                max_length,
                indices[0],
            )

    def _warn_once(self, message: str, *values: object) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message + " (further cases are not reported)", *values)

    def decode(self, ids: Sequence[int] | Int32s, *, special_tokens: bool = False) -> str:
        """Turn ids back into text, by default without special tokens; raises DataError for an id outside 0..V-1."""
        plain = [int(token_id) for token_id in ids]
        for token_id in plain:
            self._check_id(token_id)
        return self._backend.decode(plain, skip_special_tokens=not special_tokens)

    def id_to_token(self, token_id: int) -> str:
        """Return the token of an id; raises DataError for an id outside 0..V-1."""
        self._check_id(token_id)
        return self._definition.tokens[token_id]

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token, or None if it is not in the vocabulary."""
        return self._ids.get(token)

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            raise DataError(f"token id {token_id} is outside the vocabulary: expected 0 to {self.vocab_size - 1}")

    def require_vocab_size(self, expected: int, *, where: str) -> None:
        """Check the vocabulary size against the number of rows of an embedding table.

        Raises:
            DataError: there are more tokens than rows, or fewer tokens of a WordPiece vocabulary, unless the table was
                padded to a multiple of 8. Unused rows are logged as a warning.
        """
        size, source = self.vocab_size, self._definition.where
        if size == expected:
            return
        padded = expected % _PADDED_TO == 0 and expected - size < _MAX_PADDING
        if size > expected or (self._definition.is_wordpiece and not padded):
            raise DataError(
                f"the tokenizer {source} has {size} tokens but {where} has {expected}: "
                "they do not match; use the tokenizer that the model was trained with"
            )
        logger.warning("%s has %d rows for the %d tokens of %s: the rest are unused", where, expected, size, source)

    def save(self, folder: Path, *, segments: bool = True, max_length: int | None = None) -> None:
        """Write tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt into a folder.

        They load in `transformers.AutoTokenizer` and here, with equal ids. Without `segments` the model takes no
        segment ids, and the files say so. `max_length` replaces the length at which these libraries truncate.

        Raises:
            SystemProblem: the folder cannot be written.
        """
        make_folder(folder)
        atomic_write(folder / "tokenizer.json", self._backend.to_str(pretty=True) + "\n")
        write_json(folder / "tokenizer_config.json", self._config(segments=segments, max_length=max_length))
        if self._definition.is_wordpiece:
            atomic_write(folder / "vocab.txt", "".join(f"{token}\n" for token in self._definition.tokens))

    def _config(self, *, segments: bool, max_length: int | None) -> dict[str, object]:
        names = {role: self._special[role] for role in _ROLES if role in self._special}
        added = self._backend.get_added_tokens_decoder()
        extra = [token.content for token_id, token in sorted(added.items()) if token_id not in names.values()]
        inputs = [
            "input_ids",
            *(["token_type_ids"] if self._definition.is_wordpiece and segments else []),
            "attention_mask",
        ]
        config: dict[str, object] = {
            "tokenizer_class": "PreTrainedTokenizerFast",  # uses tokenizer.json unchanged
            "model_input_names": inputs,
            "model_max_length": self._definition.max_length if max_length is None else max_length,
            **{f"{name}_token": self.id_to_token(token_id) for name, token_id in names.items()},
        }
        if self._definition.lowercase is not None:
            config["do_lower_case"] = self._definition.lowercase
        if extra:
            config["additional_special_tokens"] = extra
        return config


def _build(definition: Definition) -> tokenizers.Tokenizer:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(json.dumps(definition.json))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{definition.where}: the tokenizers library rejects it: {one_line(error)}") from error


def _special_ids(backend: tokenizers.Tokenizer, ids: Mapping[str, int], definition: Definition) -> dict[str, int]:
    """Find [CLS], if there is one, and [SEP] from how the tokenizer frames a text, the others by name."""
    around, with_text = ([definition.tokens[one] for one in backend.encode(text).ids] for text in ("", "a"))
    names = _FAMILIES.get(around[0] if around else "", {})
    framed = around == [names[role] for role in ("cls", "sep") if role in names]
    if not names or not framed or with_text[-1] != names["sep"]:
        raise DataError(
            f"{definition.where}: it frames a text with {around}, expected [CLS] and [SEP], <s> and </s>, or </s> at "
            "its end: use a model that reads such texts, such as BERT, RoBERTa or T5, or change post_processor if the "
            "file is wrong"
        )
    model = definition.json["model"]
    unk = model.get("unk_token") if isinstance(model, dict) else None
    wanted = {**names, "unk": unk if isinstance(unk, str) else names["unk"]}
    for role, token in ROBERTA_ROLES.items():  # ALBERT has [CLS], [SEP] and [MASK], but <pad> and <unk>
        if role in wanted and wanted[role] not in ids and token in ids:
            wanted[role] = token
    missing = [token for token in wanted.values() if token not in ids]
    if missing:
        raise DataError(f"{definition.where} has no token {', '.join(missing)}: not the tokenizer of an encoder")
    return {role: ids[token] for role, token in wanted.items()}


def _with_prefix_space(splitter: object) -> object:
    """A pre-tokenizer whose byte-level parts put a space before each text."""
    if not isinstance(splitter, dict):
        return splitter
    if splitter.get("type") == "Sequence":
        return {**splitter, "pretokenizers": [_with_prefix_space(part) for part in splitter["pretokenizers"]]}
    return {**splitter, "add_prefix_space": True} if splitter.get("type") == "ByteLevel" else splitter


def _set_parallelism() -> None:
    """Enable parallel tokenization explicitly, except in forked children, which would hang."""
    if "TOKENIZERS_PARALLELISM" in os.environ:
        return
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    os.register_at_fork(after_in_child=lambda: os.environ.update(TOKENIZERS_PARALLELISM="false"))
