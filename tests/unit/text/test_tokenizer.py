"""The tokenizer's contract: ids, truncation, checks at load, and files that load everywhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from minilm.errors import DataError, UsageError
from minilm.text.tokenizer import Tokenizer
from minilm.text.vocabulary import NLG_RENAMES

VOCAB = "[PAD] [unused1] [unused2] [UNK] [CLS] [SEP] [MASK] a b c ##a ##b ##c É é e , x sep ##_ [ ] _ mask"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB.split()), encoding="utf-8")
    return folder


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.id_to_token(int(i)) for i in tokenizer.encode([text], special_tokens=False)[0]]


def roberta_file(folder: Path) -> Path:
    ids = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "h", "i", "hi"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=[("h", "i")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>"])
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    backend.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


# --- ids -----------------------------------------------------------------------------------------


def test_result_is_framed_int32_and_not_padded(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    short, empty, long = tokenizer.encode(["a b", "", "abc " * 700])
    assert short.tolist() == [4, 7, 8, 5]
    assert empty.tolist() == [4, 5]
    assert len(long) == 2102
    assert short.dtype == np.int32
    assert tokenizer.encode(["a b"], special_tokens=False)[0].tolist() == [7, 8]
    assert tokenizer.encode([]) == []
    ids = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id, tokenizer.unk_id)
    assert ids == (4, 5, 0, 6, 3)
    assert tokenizer.vocab_size == 24


@pytest.mark.parametrize("max_length", [2, 3, 4, 5, 6])
def test_truncation_drops_the_tail_and_keeps_the_last_sep(folder: Path, max_length: int) -> None:
    (ids,) = Tokenizer.load(folder).encode(["a b c"], max_length=max_length)
    assert ids.tolist() == [4, *[7, 8, 9][: max_length - 2], 5]


def test_truncation_is_reported_once_with_a_count(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Tokenizer.load(folder)
    for _ in range(2):
        tokenizer.encode(["a b c", "a", "b c a"], max_length=3)
    assert caplog.messages == ["truncated 2 of 3 texts to 3 tokens (first: text 0) (further cases are not reported)"]
    assert tokenizer.encode(["a b c"], max_length=1, special_tokens=False)[0].tolist() == [7]


def test_impossible_requests_are_rejected(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    with pytest.raises(UsageError, match=r"max_length=1 leaves no room for \[CLS\] and \[SEP\]: use 2 or more"):
        tokenizer.encode(["a"], max_length=1)
    with pytest.raises(UsageError, match="texts is one string, expected a list of strings"):
        tokenizer.encode("a")
    with pytest.raises(UsageError, match="texts: found NoneType, expected only strings"):
        tokenizer.encode(["a", None])  # type: ignore[list-item]
    for bad in (-1, 24):
        with pytest.raises(DataError, match=f"token id {bad} is outside the vocabulary: expected 0 to 23"):
            tokenizer.decode([bad])
        with pytest.raises(DataError, match="is outside the vocabulary"):
            tokenizer.id_to_token(bad)


def test_invalid_characters_do_no_harm(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = Tokenizer.load(folder)
    for text in ("a\0b", "a\ud800b", "a\ufffdb", "a\udfff\x07b"):
        assert tokens(tokenizer, text) == ["a", "##b"], repr(text)
    assert tokens(tokenizer, "\ud83d\ude00") == tokens(tokenizer, "😀")
    assert caplog.messages == [
        "1 of 1 texts contained lone surrogates, which were replaced (further cases are not reported)"
    ]


def test_ids_have_texts_and_names(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    (ids,) = tokenizer.encode(["abc, a"])
    assert tokenizer.decode(ids) == "abc, a"
    assert tokenizer.decode(ids, special_tokens=True) == "[CLS] abc, a [SEP]"
    assert tokenizer.token_to_id("[MASK]") == 6
    assert tokenizer.token_to_id("nope") is None


def test_tokenizers_of_roberta_models_are_read(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(roberta_file(tmp_path))
    assert [ids.tolist() for ids in tokenizer.encode(["hi hi hi", ""])] == [[0, 7, 7, 7, 2], [0, 2]]
    ids = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, tokenizer.mask_id, tokenizer.unk_id)
    assert ids == (0, 2, 1, 4, 3)
    for options in ({"lowercase": True}, {"renames": {"hi": "ho"}}):
        with pytest.raises(UsageError, match=r"does not apply to|cannot be renamed"):
            Tokenizer.load(tmp_path, **options)


# --- letter case and structural tokens -----------------------------------------------------------


def test_casing_is_the_callers_else_the_folders_else_lower(folder: Path) -> None:
    assert tokens(Tokenizer.load(folder), "É") == ["e"]
    assert tokens(Tokenizer.load(folder, lowercase=False), "É") == ["É"]
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert tokens(Tokenizer.load(folder), "É") == ["É"]
    assert tokens(Tokenizer.load(folder / "vocab.txt"), "É") == ["É"]
    assert tokens(Tokenizer.load(folder, lowercase=True), "É") == ["e"]


def test_folder_settings_win_over_tokenizer_json_and_say_so(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Tokenizer.load(folder).save(tmp_path / "saved")
    assert tokens(Tokenizer.load(tmp_path / "saved", lowercase=False), "É") == ["É"]
    assert caplog.messages == []
    (tmp_path / "saved" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert tokens(Tokenizer.load(tmp_path / "saved"), "É") == ["É"]
    assert "do_lower_case=False in tokenizer_config.json overrides" in caplog.text


def test_structural_tokens_are_never_split(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder, renames={"[unused1]": "[X_SEP]", "[unused2]": "[SEP_7]"})
    assert tokenizer.token_to_id("[X_SEP]") == 1
    assert tokens(tokenizer, "a[X_SEP]b [SEP_7] [SEP][MASK]") == [
        "a",
        "[X_SEP]",
        "b",
        "[SEP_7]",
        "[SEP]",
        "[MASK]",
    ]
    assert tokens(Tokenizer.load(folder), "[X_SEP]") == ["[", "x", "_", "sep", "]"]
    assert tokens(tokenizer, "[mask]") == ["[", "mask", "]"]


# --- checks at load ------------------------------------------------------------------------------


def change(path: Path, edit: Callable[[dict[str, dict[str, object]]], object]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v["model"]["vocab"].update(a=8), "id 8 belongs to two tokens, 'a' and 'b'"),
        (lambda v: v["model"]["vocab"].pop("x"), "no token has id 17, but there are 23 tokens up to id 23"),
        (lambda v: v["model"]["vocab"].update(a="7"), "token 'a' has id 7, expected a non-negative integer"),
        (lambda v: v["model"]["vocab"].update(a=-1), "token 'a' has id -1"),
        (
            lambda v: v["added_tokens"][0].update(id=1),
            r"token '\[PAD\]' has id 0 in the vocabulary but 1 as an added",
        ),
        (lambda v: v["added_tokens"].append(3), "'added_tokens' is not a list of objects"),
        (lambda v: v["added_tokens"].append({}), "an added token lacks its content or its id"),
        (lambda v: v.update(model=[]), "not a tokenizer.json: no model of type"),
        (lambda v: v["model"].update(vocab=3), "'model.vocab' is neither"),
        (lambda v: v["model"].update(max_input_chars_per_word="x"), "the tokenizers library rejects it"),
        (
            lambda v: v.update(post_processor=None),
            r"it frames a text with \[\], expected \[CLS\] and \[SEP\]",
        ),
    ],
)
def test_broken_definitions_are_rejected(
    folder: Path, tmp_path: Path, edit: Callable[[dict[str, dict[str, object]]], object], message: str
) -> None:
    Tokenizer.load(folder).save(tmp_path / "saved")
    (tmp_path / "saved" / "vocab.txt").unlink()
    change(tmp_path / "saved" / "tokenizer.json", edit)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path / "saved")


def test_a_duplicate_token_in_tokenizer_json_is_rejected(folder: Path, tmp_path: Path) -> None:
    Tokenizer.load(folder).save(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer.json"
    path.write_text(path.read_text().replace('"c": 9,', '"c": 9,\n      "b": 9,'))
    with pytest.raises(DataError, match=r'tokenizer\.json:\d+: key "b" appears twice'):
        Tokenizer.load(path)


def test_a_duplicate_piece_is_rejected(tmp_path: Path) -> None:
    value = {"model": {"type": "Unigram", "vocab": [["<s>", 0.0], ["a", -1.0], ["a", -2.0]]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match="piece 'a' appears twice, with ids 1 and 2"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "a\nb\n",
            "b\na\n",
            r"vocab\.txt:8: id 7 is 'b', but 'a' in tokenizer\.json: the two files do not match",
        ),
        ("mask\n", "", r"vocab\.txt has 23 tokens, but tokenizer\.json has 24"),
        ("mask\n", "mask\nextra\n", r"vocab\.txt has 25 tokens, but tokenizer\.json has 24"),
    ],
)
def test_two_files_that_disagree_are_rejected(folder: Path, old: str, new: str, message: str) -> None:
    Tokenizer.load(folder).save(folder)
    Tokenizer.load(folder)
    path = folder / "vocab.txt"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Tokenizer.load(folder)


def test_missing_files_and_tokens_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"contains neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.load(tmp_path)
    with pytest.raises(DataError, match=r"no tokenizer at .*none: give a model folder"):
        Tokenizer.load(tmp_path / "none")
    (tmp_path / "words.txt").write_text("a\n[UNK]\n")
    with pytest.raises(DataError, match=r"words\.txt lacks \[PAD\], \[CLS\], \[SEP\], \[MASK\]: not the voc"):
        Tokenizer.load(tmp_path / "words.txt")


def test_vocabulary_must_fit_the_model(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bert = Tokenizer.load(folder)
    bert.require_vocab_size(24, where="config.json")
    for size in (23, 25):
        with pytest.raises(DataError, match=rf"vocab\.txt has 24 tokens but config\.json has {size}: they do not"):
            bert.require_vocab_size(size, where="config.json")
    for size in (32, 144):  # padded to a multiple of 8, and of 16
        bert.require_vocab_size(size, where="config.json")
        assert f"config.json has {size} rows for the 24 tokens of" in caplog.text
    with pytest.raises(DataError, match=r"has 24 tokens but config\.json has 152"):  # more than 127 rows
        bert.require_vocab_size(152, where="config.json")
    roberta = Tokenizer.load(roberta_file(tmp_path))
    roberta.require_vocab_size(9, where="config.json")
    assert "config.json has 9 rows for the 8 tokens of" in caplog.text
    with pytest.raises(DataError, match=r"has 8 tokens but config\.json has 7"):
        roberta.require_vocab_size(7, where="config.json")


# --- fingerprint and saving ----------------------------------------------------------------------


def test_fingerprint_depends_on_what_determines_the_ids(folder: Path, tmp_path: Path) -> None:
    plain = Tokenizer.load(folder)
    plain.save(tmp_path / "saved")
    change(tmp_path / "saved" / "tokenizer.json", lambda v: v.update(truncation=None, padding=None))
    again = Tokenizer.load(tmp_path / "saved")
    cased = Tokenizer.load(folder, lowercase=False)
    renamed = Tokenizer.load(folder, renames={"[unused1]": "[X_SEP]"})
    assert plain.fingerprint == again.fingerprint
    assert len({plain.fingerprint, cased.fingerprint, renamed.fingerprint}) == 3


@pytest.mark.parametrize("key", ["model_max_length", "max_len"])  # the second in files of old versions
def test_saved_files_keep_the_ids_and_the_folders_length(folder: Path, tmp_path: Path, key: str) -> None:
    (folder / "tokenizer_config.json").write_text(f'{{"{key}": 128, "do_lower_case": false}}')
    Tokenizer.load(folder, renames={"[unused1]": "[X_SEP]"}).save(tmp_path / "saved")
    saved = Tokenizer.load(tmp_path / "saved")
    assert tokens(saved, "É [X_SEP]") == ["É", "[X_SEP]"]
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert (config["model_max_length"], config["do_lower_case"]) == (128, False)
    assert config["additional_special_tokens"] == ["[X_SEP]"]
    assert (tmp_path / "saved" / "vocab.txt").read_text(encoding="utf-8").split("\n")[:2] == [
        "[PAD]",
        "[X_SEP]",
    ]


def test_generation_renames_need_the_bert_slots(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no token '\[unused3\]' to rename to '\[SEP_1\]'"):
        Tokenizer.load(folder, renames=NLG_RENAMES)
    logging.getLogger("minilm").debug("nothing else is logged")
