"""Words as tokens: which token is the first of a word, what a model does not read, and where words are in a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minilm.tally import Tally
from minilm.tasks.tokens.entities import tag_words
from minilm.tasks.tokens.words import NO_TOKEN, WITHOUT_TOKENS, WordFramer
from minilm.text.tokenizer import Tokenizer

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "new", "york", "##er", "##s", ".", "a"]


@pytest.fixture
def wordpiece(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT))
    return Tokenizer.load(tmp_path / "vocab.txt")


@pytest.fixture
def sentencepiece(tmp_path: Path) -> Tokenizer:
    """A unigram tokenizer whose pieces carry the space before them."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, processors

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "▁New", "▁York", "ers", ".", "▁", "a"]
    backend = Backend(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    return Tokenizer.load(tmp_path / "tokenizer.json")


def framer(tokenizer: Tokenizer, tally: Tally, *, max_tokens: int = 32) -> WordFramer:
    return WordFramer(tokenizer=tokenizer, max_tokens=max_tokens, tally=tally)


def test_a_word_is_read_at_its_first_token(wordpiece):
    tally = Tally()
    [found] = framer(wordpiece, tally).words([["New", "yorkers", "", "\u200b", "x."]], ["here:1"])
    assert [BERT[index] for index in found.token_ids] == ["[CLS]", "new", "york", "##er", "##s", "[UNK]", ".", "[SEP]"]
    assert found.first.tolist() == [1, 2, NO_TOKEN, NO_TOKEN, 5]
    assert found.words == ["New", "yorkers", "", "\u200b", "x."]
    assert found.text == "New yorkers  \u200b x."
    assert tally.sentences() == {WITHOUT_TOKENS: f"2 of 5 {WITHOUT_TOKENS} (first: here:1)"}


def test_words_beyond_the_limit_are_counted_and_tagged_o(wordpiece):
    tally = Tally()
    sentences = [["new"], ["yorkers", "york", "new", "a"]]
    found = framer(wordpiece, tally, max_tokens=6).words(sentences, ["f:1", "f:3"])
    assert [one.token_ids.tolist() for one in found] == [[2, 5, 3], [2, 6, 7, 8, 6, 3]]
    assert found[1].first.tolist() == [1, 4, NO_TOKEN, NO_TOKEN]
    what = "words were beyond the first 6 tokens of their text; they are tagged O"
    assert tally.sentences() == {what: f"2 of 5 {what} (first: f:3)"}
    tagged = tag_words(found[1], np.eye(6, 3)[:, ::-1] + [0, 0, 0.5], ["O", "B-X", "I-X"])
    assert tagged.tags == ("B-X", "I-X", "O", "O")
    assert [(one.text, one.first_word, one.end_word) for one in tagged.entities] == [("yorkers york", 0, 2)]


def test_a_plain_text_is_split_where_pieces_begin_a_word(wordpiece):
    [found] = framer(wordpiece, Tally()).texts([" New  Yorkers. q"], ["text 0"])
    assert found.words == ["New", "Yorkers", ".", "q"]
    assert found.first.tolist() == [1, 2, 5, 6]
    assert found.spans.tolist() == [[1, 4], [6, 13], [13, 14], [15, 16]]


def test_other_tokenizers_split_at_whitespace_and_spans_hold_none(sentencepiece):
    [found] = framer(sentencepiece, Tally()).texts(["New Yorkers. a New"], ["text 0"])
    assert found.words == ["New", "Yorkers.", "a", "New"]
    assert found.token_ids[found.first].tolist() == [5, 6, 9, 5]  # of `a` the space before it


def test_the_bytes_of_a_character_are_in_one_word(tmp_path):
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, processors

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Backend(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    backend.save(str(tmp_path / "tokenizer.json"))
    text = "Émile Éva."
    [found] = framer(Tokenizer.load(tmp_path / "tokenizer.json"), Tally()).texts([text], ["text 0"])
    assert found.words == ["Émile", "Éva."]
    assert [pieces[index] for index in found.token_ids[found.first]] == ["Ã", "Ġ"]
    assert len(found.token_ids) == 2 + len(text.encode())


def test_texts_and_lists_keep_their_order(wordpiece):
    parts = ["new york", ["york."], "a", []]
    found = framer(wordpiece, Tally()).parts(parts, ["1", "2", "3", "4"])
    assert [one.words for one in found] == [["new", "york"], ["york."], ["a"], []]
    assert found[3].token_ids.tolist() == [2, 3]
    assert tag_words(found[3], np.zeros((2, 1)), ["O"]).tags == ()
