"""Pairs are framed and truncated as in the tokenizers library; offsets refer to the original text."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from minilm.errors import DataError, UsageError
from minilm.text.pairs import longest_first
from minilm.text.tokenizer import Tokenizer

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c ##a ##b ##c cafe x ,"


@pytest.fixture
def bert(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB.split()))
    return Tokenizer.load(tmp_path / "vocab.txt")


def roberta(folder: Path, processor: processors.PostProcessor | None = None) -> Tokenizer:
    ids = {
        token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "Ġa", "Ġ", "Ã", "©"])
    }
    backend = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=[("Ġ", "a")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processor or processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>"])
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder / "tokenizer.json")


def as_lists(rows: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[list[int], list[int]]]:
    return [(ids.tolist(), segments.tolist()) for ids, segments in rows]


def test_bert_frames_a_pair_with_two_segments(bert: Tokenizer) -> None:
    rows = bert.encode_pairs(["a b", ""], ["c", "c x"], max_length=128)
    assert as_lists(rows) == [
        ([2, 5, 6, 3, 7, 3], [0, 0, 0, 0, 1, 1]),
        ([2, 3, 7, 12, 3], [0, 0, 1, 1, 1]),
    ]
    assert all(array.dtype == np.int32 for row in rows for array in row)
    assert bert.pair_frame.num_special == 3
    assert bert.pair_frame.second_at(2) == 4


def test_roberta_frames_a_pair_with_one_segment(tmp_path: Path) -> None:
    tokenizer = roberta(tmp_path)
    assert as_lists(tokenizer.encode_pairs(["a a"], ["b"], max_length=9)) == [([0, 5, 7, 2, 2, 6, 2], [0] * 7)]
    assert (tokenizer.pair_frame.num_special, tokenizer.pair_frame.second_at(2)) == (4, 5)


def test_without_second_texts_the_frame_is_the_single_one(bert: Tokenizer) -> None:
    texts = ["a b c", ""]
    rows = bert.encode_pairs(texts, None, max_length=4)
    assert [ids.tolist() for ids, _ in rows] == [ids.tolist() for ids in bert.encode(texts, max_length=4)]
    assert [segments.tolist() for _, segments in rows] == [[0] * 4, [0] * 2]


@pytest.mark.slow
def test_truncation_equals_the_library(bert: Tokenizer, tmp_path: Path) -> None:
    bert.save(tmp_path / "saved")
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    texts, pairs = zip(*(("a " * m, "b " * n) for m in range(9) for n in range(9)), strict=True)
    for max_length in range(3, 20):
        library.enable_truncation(max_length, strategy="longest_first")
        expected = [(item.ids, item.type_ids) for item in library.encode_batch(list(zip(texts, pairs, strict=True)))]
        assert as_lists(bert.encode_pairs(texts, pairs, max_length=max_length)) == expected


def test_two_long_texts_are_truncated_quickly() -> None:
    """The library would build every combination of the overflowing pieces: gigabytes for 3,000 tokens each."""
    assert longest_first(10**9, 10**9, room=125) == (62, 63)
    assert longest_first(10**9, 20, room=125) == (105, 20)


def test_truncation_is_reported_once_with_count_and_first(bert: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        bert.encode_pairs(["a", "a b", "a b c"], ["c", "c", "c"], max_length=5)
    assert caplog.messages == ["truncated 2 of 3 texts to 5 tokens (first: text 1) (further cases are not reported)"]
    assert caplog.records[0].levelno == logging.WARNING


def test_impossible_pairs_are_rejected(bert: Tokenizer) -> None:
    with pytest.raises(UsageError, match="found 2 texts and 1 second texts, expected equal numbers"):
        bert.encode_pairs(["a", "b"], ["c"], max_length=9)
    with pytest.raises(UsageError, match="max_length=2 leaves no room for the special tokens: use 1 more"):
        bert.encode_pairs(["a"], ["c"], max_length=2)
    assert bert.encode_pairs([], [], max_length=3) == []


@pytest.mark.parametrize(
    "processor",
    [
        processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]),
        processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        ),
        processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $B </s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        ),
    ],
    ids=["no pair", "no separator", "wrong order"],
)
def test_a_processor_without_pairs_is_an_error_once_a_pair_is_given(
    tmp_path: Path, processor: processors.PostProcessor
) -> None:
    tokenizer = roberta(tmp_path, processor)
    assert tokenizer.encode(["a"])[0].tolist() == [0, 5, 2]
    with pytest.raises(DataError, match=r"tokenizer\.json: it frames two texts as \[.*\], expected \[CLS\] a \[SEP\]"):
        tokenizer.encode_pairs(["a"], ["b"], max_length=9)


# --- offsets ---------------------------------------------------------------------------------------


def test_offsets_name_the_text_before_normalization(bert: Tokenizer) -> None:
    text = "\u202fCAFÉ\u0000, \ud800X  [SEP]Abc"
    ((ids, offsets),) = bert.encode_with_offsets([text])
    assert [text[start:end] for start, end in offsets] == ["CAFÉ", ",", "X", "[SEP]", "A", "b", "c"]
    assert ids.tolist() == [11, 13, 12, 3, 5, 9, 10]
    assert ids.dtype == offsets.dtype == np.int32


def test_offsets_of_many_texts_are_those_of_each(bert: Tokenizer) -> None:
    texts = ["", "a", "b, ab " * 3] * 200
    for text, (ids, offsets) in zip(texts, bert.encode_with_offsets(texts), strict=True):
        assert ids.tolist() == bert.encode([text], special_tokens=False)[0].tolist()
        assert offsets.shape == (len(ids), 2)


def test_a_character_of_two_tokens_is_named_by_both(tmp_path: Path) -> None:
    ((ids, offsets),) = roberta(tmp_path).encode_with_offsets(["aé a"])
    assert ids.tolist() == [5, 9, 10, 7]
    assert offsets.tolist()[:3] == [[0, 1], [1, 2], [1, 2]]


def test_offsets_require_strings(bert: Tokenizer) -> None:
    for wrong in ("a", ["a", 5]):
        with pytest.raises(UsageError, match="texts must be a list of strings"):
            bert.encode_with_offsets(wrong)  # type: ignore[arg-type]


def test_words_are_what_wordpiece_gets(bert: Tokenizer, tmp_path: Path) -> None:
    assert bert.words(" Café,\tx-X [SEP]") == ["cafe", ",", "x", "-", "x", "[", "sep", "]"]
    bert.save(folder := tmp_path / "saved")
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["normalizer"] = definition["pre_tokenizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    assert Tokenizer.load(folder / "tokenizer.json").words("A  b") == ["A", "b"]
    with pytest.raises(UsageError, match=r"tokenizer\.json is not a WordPiece tokenizer"):
        roberta(tmp_path).words("a")
