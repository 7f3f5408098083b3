"""What the files beside a tokenizer.json change is what they change in transformers, or is rejected by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from minilm.errors import DataError
from minilm.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "[", "]", "unused", "##1", "1", "paris", "new", "<", ">"]
TEXT, PAIR = "hello [unused1] paris", "<new> hello"


def bert(folder: Path) -> Path:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in BERT))
    Tokenizer.load(folder / "vocab.txt").save(folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return folder


def roberta(folder: Path) -> Path:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = {token: number for number, token in enumerate([*special, *alphabet])}
    backend.model = models.BPE(vocab=vocab, merges=[], unk_token="<unk>")
    backend.add_special_tokens(special)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    return folder


def configured(folder: Path, config: dict[str, object], **files: object) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def assert_same(folder: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.load(folder)
    assert ours.encode([TEXT])[0].tolist() == theirs(TEXT)["input_ids"]
    [(ids, segments)] = ours.encode_pairs([TEXT], [PAIR], max_length=64)
    pair = theirs(TEXT, PAIR)
    assert ids.tolist() == pair["input_ids"]
    assert segments.tolist() == pair.get("token_type_ids", [0] * len(ids))


NEW = {"content": "<new>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}


@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({"additional_special_tokens": ["[unused1]"]}, {}),
        ({"extra_special_tokens": ["<new>"]}, {}),
        ({"added_tokens_decoder": {str(len(BERT)): NEW}}, {}),
        ({}, {"special_tokens_map": {"additional_special_tokens": ["<new>"]}}),
        ({"model_input_names": ["input_ids", "attention_mask"]}, {}),
        ({"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}, {}),
    ],
)
@pytest.mark.parametrize("name", ["BertTokenizer", "ElectraTokenizerFast"])
def test_tokens_and_segments_are_those_of_transformers(tmp_path, name, config, files):
    assert_same(configured(bert(tmp_path), {"tokenizer_class": name, **config}, **files))


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("name", ["RobertaTokenizer", "RobertaTokenizerFast"])
def test_spaces_before_a_text_are_those_of_transformers(tmp_path, name, prefix):
    assert_same(configured(roberta(tmp_path), {"tokenizer_class": name, "add_prefix_space": prefix}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"truncation_side": "left"}, "truncation_side is 'left', so long texts would lose their beginning"),
        ({"split_special_tokens": True}, r"split_special_tokens is true, so a \[SEP\] in a text would be read as"),
        ({"cls_token": "hello"}, r"cls_token is 'hello', but tokenizer\.json frames texts with '\[CLS\]'"),
        ({"sep_token": {"content": "paris"}}, "sep_token is 'paris', but"),
    ],
)
def test_what_would_be_computed_differently_is_rejected(tmp_path, config, message):
    folder = configured(bert(tmp_path), {"tokenizer_class": "BertTokenizer", **config})
    with pytest.raises(DataError, match=message):
        Tokenizer.load(folder)


def test_a_metaspace_without_its_prefix_is_rejected(tmp_path):
    folder = roberta(tmp_path)
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    configured(folder, {"tokenizer_class": "XLMRobertaTokenizer", "add_prefix_space": False})
    with pytest.raises(DataError, match="add_prefix_space is false, which transformers 5 obeys and transformers 4"):
        Tokenizer.load(folder)


def test_a_pair_whose_segments_versions_disagree_about_is_rejected(tmp_path):
    folder = configured(bert(tmp_path), {"tokenizer_class": "PreTrainedTokenizerFast"})
    tokenizer = Tokenizer.load(folder)
    assert len(tokenizer.encode_pairs([TEXT], None, max_length=64)) == 1
    with pytest.raises(
        DataError, match="no model_input_names: transformers 4 gives the second text of a pair segment 1"
    ):
        tokenizer.encode_pairs([TEXT], [PAIR], max_length=64)
    assert_same(configured(folder, {"tokenizer_class": "TokenizersBackend"}))
