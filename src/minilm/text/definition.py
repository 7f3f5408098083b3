"""Read tokenizer files into one validated definition (the content of a tokenizer.json).

In: a model folder, a tokenizer.json, a vocab.txt or a sentencepiece.bpe.model; optionally casing and renames.
Out: a `Definition` whose ids are exactly 0..V-1, with truncation and padding cleared, and whose special tokens
are never split. A vocab.txt becomes the pipeline of the original BERT tokenizer.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from minilm.errors import DataError, UsageError
from minilm.files.json import read_json
from minilm.files.sentence_modules import transformer_folder
from minilm.text.beside_json import apply_config, is_unsure_of_segments, leave_out_segments, require_known_reading
from minilm.text.sentencepiece_layout import SENTENCEPIECE, sentencepiece_definition
from minilm.text.vocab_folder import BERT_ROLES, added_tokens, check_class, check_flags, normalizer_flags, roles_of
from minilm.text.vocabulary import read_vocab, rename_tokens

logger = logging.getLogger(__name__)

JsonObject = dict[str, object]

DEFAULT_MAX_LENGTH = 512
_MAX_CHARS_PER_WORD = 100
_NORMALIZER_FLAGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
_NEVER_SPLIT = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|X_SEP|SEP_\d+)\]")


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A validated tokenizer.

    Attributes:
        json: content of a tokenizer.json, truncation and padding cleared.
        tokens: the token of each id.
        is_wordpiece: whether the model is WordPiece (BERT, MiniLM).
        lowercase: whether the BERT normalizer lowercases; None without a BERT normalizer.
        max_length: model_max_length (in old files max_len) of the folder, or 512.
        where: the source file, for messages.
        unsure_of_segments: whether versions of transformers give the second text of a pair different segments.
    """

    json: JsonObject
    tokens: tuple[str, ...]
    is_wordpiece: bool
    lowercase: bool | None
    max_length: int
    where: str
    unsure_of_segments: bool


def load_definition(path: Path, *, lowercase: bool | None, renames: Mapping[str, str] | None) -> Definition:
    """Read and validate a tokenizer; raises DataError for bad files, UsageError for options that do not apply."""
    path = transformer_folder(path)
    definition_path, vocab_path, pieces_path = _locate(path)
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    check_class(folder, config, only_vocab=definition_path is None and vocab_path is not None)
    if pieces_path is not None:
        where = pieces_path
        definition = sentencepiece_definition(where, config)
    elif definition_path is not None:
        where = definition_path
        definition = read_json(definition_path)
        tokens = check_ids(definition, where=where)
        if vocab_path is not None and _model(definition, where)["type"] == "WordPiece":
            _check_same_vocab(definition, tokens, definition_path, vocab_path)
        apply_config(definition, tokens, folder, config, where=where)
    else:
        where = cast(Path, vocab_path)
        vocab, config_path, roles = read_vocab(where), folder / "tokenizer_config.json", roles_of(folder, config)
        check_flags(config, roles, where=config_path)
        definition = _bert_definition(vocab, config, roles, where=where)
        definition["added_tokens"] = added_tokens(folder, config, vocab, roles, where=config_path)
    require_known_reading(config, where=folder / "tokenizer_config.json")
    leave_out_segments(definition, config)
    _set_normalizer(definition, lowercase, folder, config, where=where)
    if renames:
        _rename(definition, renames, where=where)
    return _finish(definition, config, where=where)


def _locate(path: Path) -> tuple[Path | None, Path | None, Path | None]:
    """Return (tokenizer.json, vocab.txt, SentencePiece model): the first two that exist, else the third."""
    if path.is_dir():
        names = ("tokenizer.json", "vocab.txt", SENTENCEPIECE)
        definition, vocab, pieces = [file if (file := path / name).exists() else None for name in names]
        if definition is None and vocab is None and pieces is None:
            raise DataError(
                f"{path} contains neither tokenizer.json nor vocab.txt nor {SENTENCEPIECE}: give a folder with one of "
                "them (transformers writes tokenizer.json: "
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER))"
            )
        return definition, vocab, pieces if definition is None and vocab is None else None
    if not path.exists():
        raise DataError(f"no tokenizer at {path}: give a model folder, a tokenizer.json or a vocab.txt")
    if path.suffix == ".json":
        return path, None, None
    return (None, None, path) if path.suffix == ".model" else (None, path, None)


# --- the BERT pipeline ---------------------------------------------------------------------------


def _bert_definition(vocab: Sequence[str], config: JsonObject, roles: Mapping[str, str], *, where: Path) -> JsonObject:
    """The pipeline of the original BERT tokenizer around a WordPiece vocabulary, framed with its special tokens."""
    ids = {token: token_id for token_id, token in enumerate(vocab)}
    missing = [token for token in roles.values() if token not in ids]
    if missing:
        named = "a BERT" if roles is BERT_ROLES else "an MPNet"
        raise DataError(f"{where} lacks {', '.join(missing)}: not the vocabulary of {named} model")
    flags = {name: config.get(name) for name in ("do_lower_case", "tokenize_chinese_chars", "strip_accents")}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": flags["tokenize_chinese_chars"] is not False,
            "strip_accents": flags["strip_accents"],  # null: follows lowercase
            "lowercase": flags["do_lower_case"] is not False,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _bert_frame(ids) if roles is BERT_ROLES else _roberta_frame(ids, roles),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": roles["unk"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": _MAX_CHARS_PER_WORD,
            "vocab": ids,
        },
    }


def _bert_frame(ids: Mapping[str, int]) -> JsonObject:
    """[CLS] a [SEP] b [SEP], with segments."""
    cls, sep = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]"))
    first = [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": first + second,
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")
        },
    }


def _roberta_frame(ids: Mapping[str, int], roles: Mapping[str, str]) -> JsonObject:
    """<s> a </s></s> b </s>, without segments."""
    cls, sep = ([roles[role], ids[roles[role]]] for role in ("cls", "sep"))
    return {"type": "RobertaProcessing", "sep": sep, "cls": cls, "trim_offsets": True, "add_prefix_space": False}


def _set_normalizer(
    definition: JsonObject, lowercase: bool | None, folder: Path, config: JsonObject, *, where: Path
) -> None:
    """Set the normalizer: the argument, else the flags of the tokenizer's class, else the definition itself."""
    normalizer = definition.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        if lowercase is not None:
            raise UsageError(f"lowercase={lowercase} does not apply to {where}: it has no BERT normalizer")
        return
    named, flags = normalizer_flags(folder, config, as_file=where.suffix == ".json")
    if lowercase is not None:
        flags["do_lower_case"] = lowercase
    before = normalizer.get("lowercase")
    for key, value in flags.items():
        name = _NORMALIZER_FLAGS[key]
        if normalizer.get(name) is value:
            continue
        if (key, value) != ("do_lower_case", lowercase):
            of = "in tokenizer_config.json" if key in config else f"by default in {named}"
            logger.warning("%s: %s=%s %s overrides the file's normalizer", where, key, value, of)
        normalizer[name] = value
    if normalizer.get("lowercase") is not before:
        normalizer["strip_accents"] = config.get("strip_accents")


def _rename(definition: JsonObject, renames: Mapping[str, str], *, where: Path) -> None:
    model = _model(definition, where)
    if model["type"] != "WordPiece":
        raise UsageError(f"tokens of {where} cannot be renamed: only WordPiece vocabularies support renames")
    ids = cast(dict[str, int], model["vocab"])
    model["vocab"] = dict(zip(rename_tokens(list(ids), renames), ids.values(), strict=True))
    for added in cast(list[JsonObject], definition["added_tokens"]):
        added["content"] = renames.get(str(added["content"]), added["content"])


def _finish(definition: JsonObject, config: JsonObject, *, where: Path) -> Definition:
    definition["truncation"] = definition["padding"] = None
    tokens = check_ids(definition, where=where)
    is_wordpiece = _model(definition, where)["type"] == "WordPiece"
    if is_wordpiece and '"[CLS]"' in json.dumps(definition.get("post_processor")):
        _protect(definition, tokens)
    normalizer = definition.get("normalizer")
    is_bert = isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer"
    max_length = config.get("model_max_length", config.get("max_len"))
    known = isinstance(max_length, int) and 0 < max_length < 2**31
    return Definition(
        json=definition,
        tokens=tokens,
        is_wordpiece=is_wordpiece,
        lowercase=bool(cast(JsonObject, normalizer).get("lowercase")) if is_bert else None,
        max_length=cast(int, max_length) if known else DEFAULT_MAX_LENGTH,
        where=str(where),
        unsure_of_segments=is_unsure_of_segments(config),
    )


def _protect(definition: JsonObject, tokens: Sequence[str]) -> None:
    """Mark the structural tokens as special, so that they are recognized in text and never split."""
    added = cast(list[JsonObject], definition["added_tokens"])
    known = {entry["content"] for entry in added}
    for token in (token for token in tokens if token.startswith("[")):
        if token not in known and _NEVER_SPLIT.fullmatch(token):
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            added.append({"id": tokens.index(token), "content": token, **flags, "special": True})
    added.sort(key=lambda entry: cast(int, entry["id"]))


# --- checks --------------------------------------------------------------------------------------


def check_ids(definition: JsonObject, *, where: Path) -> tuple[str, ...]:
    """Return the token of each id; raises DataError unless the ids are 0..V-1 with exactly one token each."""
    ids = _model_vocab(definition, where=where)
    for token, token_id in _added_tokens(definition, where=where):
        if ids.setdefault(token, token_id) != token_id:
            raise DataError(
                f"{where}: token {token!r} has id {ids[token]} in the vocabulary but {token_id} as an added token"
            )
    if list(ids.values()) == list(range(len(ids))):  # in order, as tokenizers are written
        return tuple(ids)
    in_order = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in in_order] == list(range(len(ids))):
        return tuple(in_order)
    tokens: dict[int, str] = {}
    for token, token_id in ids.items():
        if tokens.setdefault(token_id, token) != token:
            raise DataError(f"{where}: id {token_id} belongs to two tokens, {tokens[token_id]!r} and {token!r}")
    hole = next(token_id for token_id in range(len(tokens)) if token_id not in tokens)
    raise DataError(
        f"{where}: no token has id {hole}, but there are {len(tokens)} tokens up to id {max(tokens)}: "
        "a token is missing from the source vocabulary or appears twice in it"
    )


def _model(definition: JsonObject, where: Path) -> JsonObject:
    model = definition.get("model")
    if isinstance(model, dict) and model.get("type") is None and "vocab" in model and "merges" in model:
        model["type"] = "BPE"  # early files omit it
    if not isinstance(model, dict) or model.get("type") not in ("WordPiece", "BPE", "Unigram", "WordLevel"):
        raise DataError(f"{where}: not a tokenizer.json: no model of type WordPiece, BPE, Unigram, WordLevel")
    return model


def _model_vocab(definition: JsonObject, *, where: Path) -> dict[str, int]:
    vocab = _model(definition, where).get("vocab")
    if isinstance(vocab, dict):
        if set(map(type, vocab.values())) - {int} or min(vocab.values(), default=0) < 0:
            bad = next(token for token, token_id in vocab.items() if type(token_id) is not int or token_id < 0)
            raise DataError(f"{where}: token {bad!r} has id {str(vocab[bad])[:40]}, expected a non-negative integer")
        return dict(vocab)
    if not isinstance(vocab, list) or not all(isinstance(e, list) and e and isinstance(e[0], str) for e in vocab):
        raise DataError(f"{where}: 'model.vocab' is neither tokens with ids nor pieces with scores")
    ids: dict[str, int] = {}
    for token_id, (piece, *_) in enumerate(vocab):
        if ids.setdefault(piece, token_id) != token_id:
            raise DataError(f"{where}: piece {piece!r} appears twice, with ids {ids[piece]} and {token_id}")
    return ids


def _added_tokens(definition: JsonObject, *, where: Path) -> list[tuple[str, int]]:
    added = definition.setdefault("added_tokens", [])
    pairs = [(e.get("content"), e.get("id")) for e in added if isinstance(e, dict)] if isinstance(added, list) else None
    if pairs is None or len(pairs) != len(cast(list[object], added)):
        raise DataError(f"{where}: 'added_tokens' is not a list of objects")
    for content, token_id in pairs:
        if not isinstance(content, str) or type(token_id) is not int or token_id < 0:
            raise DataError(f"{where}: an added token lacks its content or its id")
    return cast(list[tuple[str, int]], pairs)


def _check_same_vocab(definition: JsonObject, tokens: Sequence[str], definition_path: Path, vocab_path: Path) -> None:
    """Check that both files of a folder assign the same id to every token."""
    lines = read_vocab(vocab_path)
    differing = enumerate(zip(lines, tokens, strict=False)) if lines != list(tokens[: len(lines)]) else ()
    for token_id, (line, token) in differing:
        if line != token:
            raise DataError(
                f"{vocab_path}:{token_id + 1}: id {token_id} is {line!r}, but {token!r} in "
                f"{definition_path.name}: the two files do not match; remove the wrong one"
            )
    ids = _model_vocab(definition, where=definition_path)
    if len(lines) > len(tokens) or len(lines) < len(ids):
        raise DataError(
            f"{vocab_path} has {len(lines)} tokens, but {definition_path.name} has {len(ids)}: "
            "the two files do not match; remove the wrong one"
        )
