"""What a tokenizer_config.json changes in the definition of a tokenizer next to it, as in transformers.

In: the content of a tokenizer.json, and the files beside it. Out: the same, changed in place; or one `DataError` for
what would give other ids or segments here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from minilm.errors import DataError
from minilm.text.vocab_folder import AS_WRITTEN, BERT_ROLES, MPNET_ROLES, ROBERTA_ROLES, added_tokens, token_text

JsonObject = dict[str, object]

logger = logging.getLogger(__name__)


def apply_config(
    definition: JsonObject, tokens: Sequence[str], folder: Path, config: Mapping[str, object], *, where: Path
) -> None:
    """Add the tokens that the files beside a tokenizer.json list, and set what they say about spaces.

    Raises:
        DataError: a special token has another name than in the definition, or spaces are read differently by versions
            of transformers.
    """
    source = folder / "tokenizer_config.json"
    roles = next(
        (one for one in (MPNET_ROLES, ROBERTA_ROLES) if one["cls"] in tokens and one["unk"] in tokens), BERT_ROLES
    )
    added = cast("list[JsonObject]", definition["added_tokens"])
    known = {entry["content"] for entry in added}
    more = [one for one in added_tokens(folder, config, tokens, roles, where=source) if one["content"] not in known]
    if more:
        logger.info("%s: %d tokens are added by the files beside it", where, len(more))
        definition["added_tokens"] = sorted([*added, *more], key=lambda entry: int(str(entry["id"])))
    if config.get("tokenizer_class") not in (None, *AS_WRITTEN):
        _set_prefix_space(definition, config, where=source)
        _require_roles(definition, config, where=source)


def require_known_reading(config: Mapping[str, object], *, where: Path) -> None:
    """Raise DataError if texts that are too long would lose their beginning, or special tokens would be split."""
    if config.get("truncation_side") == "left":
        raise DataError(
            f"{where}: truncation_side is 'left', so long texts would lose their beginning; here they lose their end: "
            "set it to 'right' if that is what you want"
        )
    if config.get("split_special_tokens"):
        raise DataError(
            f"{where}: split_special_tokens is true, so a [SEP] in a text would be read as characters; here it is the "
            "special token: set it to false if that is what you want"
        )


def leave_out_segments(definition: JsonObject, config: Mapping[str, object]) -> None:
    """Set the segments of pairs to 0 if `model_input_names` leaves them out."""
    names, frame = config.get("model_input_names"), definition.get("post_processor")
    if names is None and config.get("tokenizer_class") == "TokenizersBackend":  # of transformers 5: no segments
        names = []
    if isinstance(names, list) and "token_type_ids" not in names and isinstance(frame, dict):
        for part in frame.get("pair") or [] if frame.get("type") == "TemplateProcessing" else []:
            for value in part.values():
                value["type_id"] = 0


def is_unsure_of_segments(config: Mapping[str, object]) -> bool:
    """Whether versions of transformers give the second text of a pair different segments."""
    return config.get("tokenizer_class") == "PreTrainedTokenizerFast" and config.get("model_input_names") is None


def _set_prefix_space(definition: JsonObject, config: Mapping[str, object], *, where: Path) -> None:
    wanted, splitter = config.get("add_prefix_space"), definition.get("pre_tokenizer")
    if not isinstance(wanted, bool) or not isinstance(splitter, dict):
        return
    for part in splitter.get("pretokenizers") or [splitter]:
        if part.get("type") == "ByteLevel" and part.get("add_prefix_space") is not wanted:
            logger.warning("%s: add_prefix_space=%s overrides that of tokenizer.json", where, wanted)
            part["add_prefix_space"] = wanted
        if part.get("type") == "Metaspace" and not wanted:
            raise DataError(
                f"{where}: add_prefix_space is false, which transformers 5 obeys and transformers 4 ignores for this "
                "tokenizer; remove it for the latter, else save a tokenizer.json of PreTrainedTokenizerFast"
            )


def _require_roles(definition: JsonObject, config: Mapping[str, object], *, where: Path) -> None:
    """Reject a class that would frame texts with other tokens than the definition."""
    frame = definition.get("post_processor")
    if not isinstance(frame, dict):
        return
    if frame.get("type") == "TemplateProcessing":
        single = [part["SpecialToken"]["id"] for part in frame.get("single") or [] if "SpecialToken" in part]
        found = dict(zip(("cls_token", "sep_token"), single, strict=False)) if len(single) == 2 else {}
    else:
        found = {f"{role}_token": (frame.get(role) or [None])[0] for role in ("cls", "sep")}
    for key, token in found.items():
        named = token_text(config.get(key, token))
        if named is not None and named != token:
            raise DataError(
                f"{where}: {key} is {named!r:.60}, but tokenizer.json frames texts with {token!r:.60}: transformers "
                "frames them anew; make the two agree"
            )
