"""What the files next to a vocab.txt or a tokenizer.json say about the tokenizer: its class, flags, added tokens.

In: a folder and its tokenizer_config.json. Out: the names of its special tokens (BERT's or MPNet's), the flags of the
normalizer that its class sets, the added tokens as entries of a tokenizer.json; or one `DataError` for a class or flag
whose texts would get other ids here than in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from minilm.errors import DataError
from minilm.files.json import read_json

JsonObject = dict[str, object]

# Classes of transformers that compute what BertTokenizer does; each also as ...TokenizerFast.
_SAME = (
    *("Bert", "ConvBert", "DistilBert", "Electra", "LayoutLM", "Lxmert", "MobileBert", "Realm", "RetriBert"),
    *("Splinter", "SqueezeBert", "DPRContextEncoder", "DPRQuestionEncoder", "DPRReader"),
)
AS_WRITTEN = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that use a tokenizer.json whatever the flags are."""
_MPNET = ("MPNetTokenizer", "MPNetTokenizerFast")
_FAST = {f"{name}Tokenizer{fast}" for name in _SAME for fast in ("", "Fast")} | {*AS_WRITTEN, *_MPNET}
# Models whose tokenizer builds its BertNormalizer from its flags or their defaults, whatever tokenizer.json says.
_REBUILT = (*_SAME, "Funnel", "MPNet")
_JAPANESE = ("word_tokenizer_type", "subword_tokenizer_type")
BERT_ROLES: Mapping[str, str] = {role: f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
MPNET_ROLES: Mapping[str, str] = {"pad": "<pad>", "unk": "[UNK]", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
ROBERTA_ROLES: Mapping[str, str] = {**MPNET_ROLES, "unk": "<unk>"}
"""Special tokens by role. A vocab.txt of MPNet has those of BERT's vocabulary as ordinary tokens, too."""
_FLAGS = ("single_word", "lstrip", "rstrip")
_DEFAULTS: Mapping[str, object] = {"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None}


def check_class(folder: Path, config: Mapping[str, object], *, only_vocab: bool) -> None:
    """Reject a class that splits texts in another way than BERT does, whatever names it.

    Raises:
        DataError: the class is BertJapaneseTokenizer or, with `only_vocab`, is not a twin of BertTokenizer.
    """
    where, named = folder / "tokenizer_config.json", config.get("tokenizer_class")
    if named is None and any(config.get(key) is not None for key in _JAPANESE):
        named = "BertJapaneseTokenizer"
    if named is None and (folder / "config.json").is_file():
        where, named = folder / "config.json", read_json(folder / "config.json").get("tokenizer_class")
    if named == "BertJapaneseTokenizer":
        raise DataError(
            f"{where}: tokenizer_class is {named!r}, which splits words with a Japanese dictionary, so texts would get "
            "other ids here; use a model whose tokenizer transformers saves as tokenizer.json"
        )
    if only_vocab and named is not None and named not in _FAST:
        raise DataError(
            f"{where}: tokenizer_class is {named!r:.80}, but from a vocab.txt only BertTokenizer and its twins are "
            "read; save the tokenizer with transformers first, which writes tokenizer.json"
        )


def roles_of(folder: Path, config: Mapping[str, object]) -> Mapping[str, str]:
    """The special tokens by role, from the class of the tokenizer, else from the family of the model."""
    named, file = config.get("tokenizer_class"), folder / "config.json"
    if named is None and file.is_file():
        values = read_json(file)
        named = values.get("tokenizer_class") or (_MPNET[0] if values.get("model_type") == "mpnet" else None)
    return MPNET_ROLES if named in _MPNET else BERT_ROLES


def normalizer_flags(folder: Path, config: Mapping[str, object], *, as_file: bool) -> tuple[str, dict[str, object]]:
    """The class of the tokenizer, and the flags of the BertNormalizer that it sets; {} where it keeps the file's own.

    Args:
        folder: the model folder; without a tokenizer class its model type stands for one, as in transformers.
        config: its tokenizer_config.json.
        as_file: the definition is that of a tokenizer.json.
    """
    model = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    named = str(config.get("tokenizer_class") or model.get("tokenizer_class") or "")
    if named in AS_WRITTEN and as_file:
        return named, {}
    types = {name.lower(): f"{name}Tokenizer" for name in _REBUILT}
    named = named or types.get(str(model.get("model_type")), "")
    given = {key: config[key] for key in _DEFAULTS if isinstance(config.get(key), bool)}
    return named, {**_DEFAULTS, **given} if named.removesuffix("Fast") in types.values() else given


def check_flags(config: Mapping[str, object], roles: Mapping[str, str], *, where: Path) -> None:
    """Reject what a vocab.txt would not get here, or gets in one version of transformers only.

    Raises:
        DataError: a flag has the wrong type, a special token another name, or versions of transformers disagree.
    """
    for key in _DEFAULTS:
        if not isinstance(config.get(key), bool | None):
            raise DataError(f"{where}: {key} is {config[key]!r:.60}; expected true or false")
    for key, expected in ((f"{role}_token", token) for role, token in roles.items()):
        found = token_text(config.get(key, expected))
        if found != expected:
            raise DataError(
                f"{where}: {key} is {found!r:.60}, expected {expected!r} without a tokenizer.json; save the tokenizer "
                "with transformers first, which writes it"
            )
    if config.get("do_basic_tokenize") is False:
        raise DataError(
            f"{where}: do_basic_tokenize is false: the slow BertTokenizer of transformers 4 then splits texts at "
            "whitespace only and keeps their case, its fast one and transformers 5 ignore it; remove it for these, "
            "else give a tokenizer.json that splits like the slow one"
        )
    if config.get("never_split"):
        raise DataError(
            f"{where}: never_split is {config['never_split']!r:.60}: the slow BertTokenizer of transformers 4 keeps "
            "these words whole, its fast one and transformers 5 ignore it; remove it for these, else give a "
            "tokenizer.json that splits like the slow one"
        )


def added_tokens(
    folder: Path, config: Mapping[str, object], vocab: Sequence[str], roles: Mapping[str, str], *, where: Path
) -> list[JsonObject]:
    """The tokens that files next to a vocab.txt add to it, by id, as transformers adds them.

    Raises:
        DataError: a file is malformed.
    """
    ids = {token: number for number, token in enumerate(vocab)}
    entries: dict[str, JsonObject] = {}
    listed, file = config.get("added_tokens_decoder"), folder / "added_tokens.json"
    if isinstance(listed, dict):
        for number, value in listed.items():
            if not isinstance(value, dict) or not isinstance(value.get("content"), str) or not number.isdecimal():
                raise DataError(f"{where}: added_tokens_decoder must map ids to objects with content")
            entry = _entry(value["content"], int(number), special=value.get("special") is True)
            entry.update({key: value[key] for key in (*_FLAGS, "normalized") if isinstance(value.get(key), bool)})
            entries[value["content"]] = entry
    elif file.is_file():
        for token, number in read_json(file).items():
            if type(number) is not int or number < 0:
                raise DataError(f"{file}: {token!r:.60} has id {number!r:.60}, expected a whole number")
            entries[token] = _entry(token, number, special=token in roles.values())
    special = folder / "special_tokens_map.json"
    for values in (config, read_json(special) if special.is_file() else {}):
        extra = values.get("additional_special_tokens") or values.get("extra_special_tokens") or []
        for value in extra if isinstance(extra, list) else []:
            content = token_text(value)
            if not isinstance(content, str):
                raise DataError(f"{where}: additional_special_tokens must be a list of tokens")
            last = max([len(ids) - 1, *(int(str(entry["id"])) for entry in entries.values())])
            entries.setdefault(content, _entry(content, ids.get(content, last + 1), special=True))
    entries = {**_mpnet_specials(ids), **entries} if roles is MPNET_ROLES else entries
    return sorted(entries.values(), key=lambda entry: int(str(entry["id"])))


def _mpnet_specials(ids: Mapping[str, int]) -> dict[str, JsonObject]:
    """The special tokens of MPNet; the mask takes the space before it."""
    mask = MPNET_ROLES["mask"]
    return {
        token: {**_entry(token, ids[token], special=True), "lstrip": token == mask} for token in MPNET_ROLES.values()
    }


def _entry(token: str, number: int, *, special: bool) -> JsonObject:
    flags = dict.fromkeys(_FLAGS, False)
    return {"id": number, "content": token, **flags, "normalized": not special, "special": special}


def token_text(value: object) -> object:
    """The text of a token that is written as text or as an object."""
    return value.get("content") if isinstance(value, dict) else value
