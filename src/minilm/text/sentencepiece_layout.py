"""A `sentencepiece.bpe.model` as a tokenizer.json: the layouts of CamemBERT and XLM-R, which share fairseq's ids.

In: the model file and the files next to it. Out: the content of a tokenizer.json, as transformers converts it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from minilm.errors import DataError
from minilm.files.json import read_json
from minilm.files.sentencepiece import SentencePieces, read_sentencepieces
from minilm.text.vocab_folder import ROBERTA_ROLES, added_tokens, check_flags

JsonObject = dict[str, object]

SENTENCEPIECE = "sentencepiece.bpe.model"


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Which ids come before the pieces of the model, and how many of these they replace."""

    before: tuple[tuple[str, float], ...]
    replaced: int


_XLM_R = _Layout(before=(("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)), replaced=3)
_CAMEMBERT = _Layout(
    before=(("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)),
    replaced=1,
)
_LAYOUTS: Mapping[str, _Layout] = {
    "CamembertTokenizer": _CAMEMBERT,
    "XLMRobertaTokenizer": _XLM_R,
    "camembert": _CAMEMBERT,
    "xlm-roberta": _XLM_R,
}
_UNK_ID = 3  # in both
_SPECIAL = tuple(ROBERTA_ROLES.values())
_FLAGS = dict.fromkeys(("single_word", "rstrip", "normalized"), False)


def sentencepiece_definition(path: Path, config: Mapping[str, object]) -> JsonObject:
    """The tokenizer of the folder with the model `path` and this `tokenizer_config.json`.

    Raises:
        DataError: the file is damaged, neither the class of the tokenizer nor the family of the model says how its
            ids are laid out, or a special token has another name.
    """
    config_path = path.with_name("tokenizer_config.json")
    check_flags(config, ROBERTA_ROLES, where=config_path)
    layout = _layout(path.parent, config)
    model = read_sentencepieces(path)
    vocab = [[*piece] for piece in (*layout.before, *model.scores[layout.replaced :], ("<mask>", 0.0))]
    ids = {str(piece): number for number, (piece, _) in enumerate(vocab)}
    missing = [token for token in _SPECIAL if token not in ids]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}: not the tokenizer of a CamemBERT or XLM-R model")
    added = _added(model, ids)
    known = {entry["content"] for entry in added}
    more = added_tokens(path.parent, config, list(ids), ROBERTA_ROLES, where=config_path)
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    charsmap = base64.b64encode(model.charsmap).decode()
    return {
        "version": "1.0",
        "added_tokens": [*added, *(entry for entry in more if entry["content"] not in known)],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap} if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "post_processor": _frame(ids),
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": _UNK_ID, "vocab": vocab, "byte_fallback": False},
    }


def has_known_layout(folder: Path) -> bool:
    """Whether the folder has a SentencePiece model that `sentencepiece_definition` reads."""
    file = folder / "tokenizer_config.json"
    config = read_json(file) if file.is_file() else {}
    return (folder / SENTENCEPIECE).is_file() and _named(folder, config)[1] in _LAYOUTS


def _named(folder: Path, config: Mapping[str, object]) -> tuple[Path, str]:
    """The class of the tokenizer, else the family of the model, and the file that names it."""
    where, named = folder / "tokenizer_config.json", config.get("tokenizer_class")
    if named is None:
        where = folder / "config.json"
        named = read_json(where).get("model_type") if where.is_file() else None
    return where, str(named).removesuffix("Fast")


def _layout(folder: Path, config: Mapping[str, object]) -> _Layout:
    where, named = _named(folder, config)
    layout = _LAYOUTS.get(named)
    if layout is None and not where.is_file():
        families = " or ".join(name for name in _LAYOUTS if name.islower())
        raise DataError(
            f"{folder}: there is no config.json, which says whose pieces {SENTENCEPIECE} has; put the "
            f"config.json of its model beside it, with the model_type {families}"
        )
    if layout is None:
        raise DataError(
            f"{where}: a {SENTENCEPIECE} is read for {', '.join(_LAYOUTS)}; found {named!r:.60}; save the tokenizer "
            "with transformers first, which writes tokenizer.json"
        )
    return layout


def _added(model: SentencePieces, ids: Mapping[str, int]) -> list[JsonObject]:
    special = {*_SPECIAL, *(piece for piece in model.control if piece in ids)}
    tokens = sorted({*special, *model.user_defined} & ids.keys(), key=lambda token: ids[token])
    return [
        {"id": ids[token], "content": token, **_FLAGS, "lstrip": token == "<mask>", "special": token in special}
        for token in tokens
    ]


def _frame(ids: Mapping[str, int]) -> JsonObject:
    """<s> a </s></s> b </s>, without segments."""
    start, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    return {
        "type": "TemplateProcessing",
        "single": [start, first, end],
        "pair": [start, first, end, end, second, end],
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("<s>", "</s>")},
    }
