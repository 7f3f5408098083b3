"""Proves that a folder with only a `sentencepiece.bpe.model` gives the ids that transformers gives for its pieces."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from minilm.errors import DataError
from minilm.files.sentencepiece import read_sentencepieces
from minilm.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

UNKNOWN, CONTROL, USER_DEFINED, NORMAL = 2, 3, 4, 1
WORDS = [
    ("▁", -2.5),
    ("▁the", -3.25),
    ("▁mar", -4.5),
    ("ket", -5.0),
    ("s", -3.0),
    ("t", -6.0),
    ("é", -7.0),
    ("▁t", -5.5),
]
PIECES = [
    *(("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL), ("<sep_user>", 0.0, USER_DEFINED)),
    *((text, score, NORMAL) for text, score in WORDS),
]
KEPT = [("<sep_user>", 0.0), *WORDS]
VOCABULARIES = {
    "camembert": [
        *(("<s>NOTUSED", 0.0), ("<pad>", 0.0), ("</s>NOTUSED", 0.0), ("<unk>", 0.0), ("<unk>NOTUSED", -100.0)),
        *(("<s>", 0.0), ("</s>", 0.0), *KEPT, ("<mask>", 0.0)),
    ],
    "xlm-roberta": [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *KEPT, ("<mask>", 0.0)],
}
CLASSES = {"camembert": "CamembertTokenizer", "xlm-roberta": "XLMRobertaTokenizer"}
TEXTS = [
    "the market",
    "",
    "  thé  markets<mask> the",
    "<s> x </s> <pad>",
    "t <unk> ts",
    "日本 the<sep_user>s",
]


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def message_fields(pieces=PIECES, kind: int = 1, charsmap: bytes = b"") -> list[bytes]:
    """A model as the library writes it, with fields that nobody reads."""
    entries = [
        bytes_field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + varint(3 << 3) + varint(number)
        for text, score, number in pieces
    ]
    trainer = bytes_field(1, b"corpus.txt" * 30) + varint(3 << 3) + varint(kind)
    normalizer = bytes_field(1, b"nmt_nfkc") + bytes_field(2, charsmap)
    return [*(bytes_field(1, entry) for entry in entries), bytes_field(2, trainer), bytes_field(3, normalizer)]


def model(pieces=PIECES, **settings) -> bytes:
    return b"".join(message_fields(pieces, **settings))


def folder_of(folder: Path, family: str, content: bytes, **config: object) -> Path:
    (folder / "sentencepiece.bpe.model").write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("named", [False, True])
def test_ids_of_texts_and_pairs_are_those_of_transformers(tmp_path, family, named):
    config = {"tokenizer_class": CLASSES[family]} if named else {}
    ours = Tokenizer.load(folder_of(tmp_path, family, model(), **config))
    theirs = getattr(transformers, CLASSES[family])(vocab=VOCABULARIES[family])
    theirs.add_tokens(["<sep_user>"])
    assert ours.vocab_size == len(VOCABULARIES[family])
    assert [ids.tolist() for ids in ours.encode(TEXTS)] == theirs(TEXTS)["input_ids"]
    pairs = ours.encode_pairs(TEXTS, TEXTS[::-1], max_length=64)
    assert [ids.tolist() for ids, _ in pairs] == theirs(TEXTS, TEXTS[::-1])["input_ids"]
    assert not any(segments.any() for _, segments in pairs)
    ours.save(tmp_path / "again", segments=False)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "again")(TEXTS) == theirs(TEXTS)


def test_files_next_to_it_add_tokens_and_must_not_rename_special_ones(tmp_path):
    folder = folder_of(tmp_path, "camembert", model(), additional_special_tokens=["<s>NOTUSED", "<new>"])
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode(["<new><s>NOTUSED"], special_tokens=False)[0].tolist() == [
        len(VOCABULARIES["camembert"]),
        0,
    ]
    with pytest.raises(DataError, match=r"cls_token is '\[CLS\]', expected '<s>' without a tokenizer.json"):
        Tokenizer.load(folder_of(tmp_path, "camembert", model(), cls_token="[CLS]"))


def test_the_table_of_the_normalizer_is_kept(tmp_path):
    (tmp_path / "m").write_bytes(model(charsmap=b"\x00\x01\xff"))
    assert read_sentencepieces(tmp_path / "m").charsmap == b"\x00\x01\xff"


def test_a_file_that_ends_inside_a_field_is_one_clear_error(tmp_path):
    fields = message_fields()
    content = b"".join(fields)
    between = {sum(map(len, fields[:number])) for number in range(len(fields) + 1)}
    for end in set(range(len(content))) - between:
        (tmp_path / "m").write_bytes(content[:end])
        with pytest.raises(DataError, match="m: not a SentencePiece model, or damaged: get the file again"):
            read_sentencepieces(tmp_path / "m")


def test_pieces_alone_do_not_say_whose_they_are(tmp_path):
    file = tmp_path / "sentencepiece.bpe.model"
    file.write_bytes(model())
    for path in (tmp_path, file):
        with pytest.raises(DataError) as caught:
            Tokenizer.load(path)
        assert str(caught.value) == (
            f"{tmp_path}: there is no config.json, which says whose pieces sentencepiece.bpe.model has; put the "
            "config.json of its model beside it, with the model_type camembert or xlm-roberta"
        )
    (tmp_path / "config.json").write_text('{"model_type": "xlm-roberta"}')
    tokenizer = Tokenizer.load(file)
    assert repr(tokenizer) == f"<minilm tokenizer of {tokenizer.vocab_size:,} tokens>"


@pytest.mark.parametrize(
    ("family", "content", "message"),
    [
        ("camembert", b"{}", "not a SentencePiece model, or damaged: get the file again"),
        ("camembert", b"", "a SentencePiece model without pieces: get the file again"),
        ("camembert", model(kind=2), "not a unigram model, which is the only kind read here"),
        ("camembert", model(PIECES[:1]), "lacks <s>, </s>: not the tokenizer of a CamemBERT or XLM-R model"),
        ("bert", model(), "is read for CamembertTokenizer, XLMRobertaTokenizer, camembert, xlm-roberta; found 'bert'"),
    ],
)
def test_what_cannot_be_read_is_rejected(tmp_path, family, content, message):
    with pytest.raises(DataError) as caught:
        Tokenizer.load(folder_of(tmp_path, family, content))
    assert message in str(caught.value)
