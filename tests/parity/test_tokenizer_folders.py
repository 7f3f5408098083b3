"""Proves that a folder with a vocab.txt, and what may lie next to it, gives the ids that transformers gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minilm.corpus.tokenizing import tokenize_here
from minilm.distill.masking import Masking
from minilm.errors import DataError
from minilm.tally import Tally
from minilm.tasks.tokens.words import NO_TOKEN, WordFramer
from minilm.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

VOCAB = [
    *("[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "##c", "É", "é", "e"),
    *(",", "x", "中", "文", "中文", "##文", "e\u0301", "##e", "E", "A", "z"),
]
TEXT = "a É é 中文 ABC e, <new> never z abcabc [unused1] xyz"
NEXT = len(VOCAB)
DECODER = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
WORD = {"special": False, "normalized": True}


def make(folder: Path, config: dict[str, object] | None = None, **files: object) -> Path:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def same_ids(folder: Path) -> bool:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    return Tokenizer.load(folder).encode([TEXT])[0].tolist() == theirs


FLAGS = [
    {"do_lower_case": False},
    {"strip_accents": False},
    {"strip_accents": True, "do_lower_case": False},
    {"tokenize_chinese_chars": False},
    {"tokenize_chinese_chars": False, "strip_accents": False},
]


@pytest.mark.parametrize("config", FLAGS)
def test_flags_are_those_of_transformers(tmp_path: Path, config: dict[str, object]) -> None:
    assert same_ids(make(tmp_path, config))


@pytest.mark.parametrize("name", ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer"])
@pytest.mark.parametrize("config", FLAGS)
def test_flags_win_over_tokenizer_json(tmp_path: Path, config: dict[str, object], name: str) -> None:
    Tokenizer.load(make(tmp_path)).save(tmp_path)
    assert same_ids(make(tmp_path, {**config, "tokenizer_class": name}))


@pytest.mark.parametrize("config", FLAGS)
def test_a_class_without_flags_uses_tokenizer_json_as_it_is(tmp_path: Path, config: dict[str, object]) -> None:
    Tokenizer.load(make(tmp_path)).save(tmp_path)
    assert same_ids(make(tmp_path, {**config, "tokenizer_class": "PreTrainedTokenizerFast"}))


@pytest.mark.parametrize("written", FLAGS)
@pytest.mark.parametrize(
    ("name", "model"),
    [
        *(("BertTokenizer", "bert"), ("ElectraTokenizerFast", "electra"), ("DistilBertTokenizer", "roberta")),
        *((None, "bert"), (None, "electra"), (None, None), ("TokenizersBackend", "bert")),
    ],
)
def test_a_flag_that_is_not_given_has_the_default_of_the_class_whatever_tokenizer_json_says(
    tmp_path: Path, written: dict[str, object], name: str | None, model: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "written").mkdir()
    Tokenizer.load(make(tmp_path / "written", written)).save(tmp_path)
    assert caplog.messages == []
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name} if name else {}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model} if model else {}))
    if model is None:  # AutoTokenizer needs a model
        theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)(TEXT)["input_ids"]
        assert Tokenizer.load(tmp_path).encode([TEXT])[0].tolist() == theirs
    else:
        assert same_ids(tmp_path)
    rebuilt = model is not None and name != "TokenizersBackend"
    assert all("overrides the file's normalizer" in message for message in caplog.messages)
    assert bool(caplog.messages) is rebuilt


@pytest.mark.parametrize(
    "name",
    [
        *("BertTokenizer", "BertTokenizerFast", "ConvBertTokenizer", "DPRReaderTokenizer", "DistilBertTokenizerFast"),
        *("ElectraTokenizer", "LayoutLMTokenizer", "MobileBertTokenizerFast", "SqueezeBertTokenizer"),
    ],
)
def test_classes_that_compute_the_same_are_read(tmp_path: Path, name: str) -> None:
    assert same_ids(make(tmp_path, {"tokenizer_class": name}))


@pytest.mark.parametrize(
    ("config", "files"),
    [
        ({}, {"added_tokens": {"<new>": NEXT, "abc": NEXT + 1}}),
        ({"added_tokens_decoder": {str(NEXT): {**DECODER, "content": "<new>"}}}, {}),
        (
            {"added_tokens_decoder": {str(NEXT): {**DECODER, **WORD, "content": "Abc"}}},
            {},
        ),
        ({"additional_special_tokens": ["<new>", "[unused1]"]}, {}),
        ({}, {"special_tokens_map": {"additional_special_tokens": ["<new>"]}}),
    ],
)
def test_added_tokens_are_those_of_transformers(
    tmp_path: Path, config: dict[str, object], files: dict[str, object]
) -> None:
    assert same_ids(make(tmp_path, config, **files))
    plain = make(tmp_path / "plain" if (tmp_path / "plain").mkdir() is None else tmp_path)
    assert Tokenizer.load(tmp_path).encode([TEXT])[0].tolist() != Tokenizer.load(plain).encode([TEXT])[0].tolist()


def test_a_byte_order_mark_is_no_part_of_the_first_token_or_of_json(tmp_path: Path) -> None:
    folder = make(tmp_path, {"do_lower_case": False})
    expected = Tokenizer.load(folder).encode([TEXT])[0].tolist()
    for name in ("vocab.txt", "tokenizer_config.json", "config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert Tokenizer.load(folder).encode([TEXT])[0].tolist() == expected


@pytest.mark.parametrize("config", [{"tokenizer_class": "MPNetTokenizer"}, {}, {"do_lower_case": False}])
def test_a_vocabulary_of_mpnet_has_its_own_special_tokens(tmp_path: Path, config: dict[str, object]) -> None:
    """Those of BERT's vocabulary are ordinary tokens there: `[CLS]` in a text is split."""
    folder = make(tmp_path, config)
    (folder / "vocab.txt").write_text("\n".join(["<s>", "<pad>", "</s>", "<unk>", *VOCAB, "<mask>"]))
    (folder / "config.json").write_text('{"model_type": "mpnet"}')
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, "a <mask> b</s>c [CLS] [UNK] <unk>", ""):
        assert ours.encode([text])[0].tolist() == theirs(text)["input_ids"]
    pair, segments = ours.encode_pairs(["a b"], ["c"], max_length=20)[0]
    assert pair.tolist() == theirs("a b", "c")["input_ids"]
    assert not segments.any()
    ours.save(tmp_path / "again", segments=False)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert dict(again("a [CLS]", "c")) == dict(theirs("a [CLS]", "c"))


def test_a_vocabulary_of_mpnet_without_its_special_tokens_is_rejected(tmp_path: Path) -> None:
    folder = make(tmp_path, {"tokenizer_class": "MPNetTokenizer"})
    with pytest.raises(DataError) as caught:
        Tokenizer.load(folder)
    assert str(caught.value) == (
        f"{folder}/vocab.txt lacks <pad>, <s>, </s>, <mask>: not the vocabulary of an MPNet model"
    )


ONLY = "but from a vocab.txt only BertTokenizer and its twins are read; save the tokenizer with transformers first"
REMOVE = "remove it for these, else give a tokenizer.json that splits like the slow one"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "which splits words with a Japanese dictionary"),
        ({"word_tokenizer_type": "mecab"}, "tokenizer_class is 'BertJapaneseTokenizer', which splits words"),
        ({"tokenizer_class": "RoCBertTokenizer"}, f"tokenizer_class is 'RoCBertTokenizer', {ONLY}"),
        ({"do_basic_tokenize": False}, f"keeps their case, its fast one and transformers 5 ignore it; {REMOVE}"),
        (
            {"never_split": ["z"]},
            "never_split is ['z']: the slow BertTokenizer of transformers 4 keeps these words",
        ),
        ({"do_lower_case": "false"}, "do_lower_case is 'false'; expected true or false"),
        ({"strip_accents": "x"}, "strip_accents is 'x'; expected true or false"),
        ({"cls_token": "x"}, "cls_token is 'x', expected '[CLS]' without a tokenizer.json"),
        (
            {"unk_token": {"content": "[unused1]"}},
            "unk_token is '[unused1]', expected '[UNK]' without a tokenizer.json",
        ),
        ({"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder must map ids to objects with content"),
        ({"additional_special_tokens": [3]}, "additional_special_tokens must be a list of tokens"),
    ],
)
def test_what_would_give_other_ids_is_rejected(tmp_path: Path, config: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Tokenizer.load(make(tmp_path, config))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/tokenizer_config.json: ")


def test_the_class_may_be_named_by_the_models_configuration(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert", "tokenizer_class": "BertJapaneseTokenizer"}')
    with pytest.raises(DataError, match=r"config\.json: tokenizer_class is 'BertJapaneseTokenizer'"):
        Tokenizer.load(tmp_path)


def test_a_broken_file_of_added_tokens_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"added_tokens\.json: '<new>' has id 'x', expected a whole number"):
        Tokenizer.load(make(tmp_path, added_tokens={"<new>": "x"}))


def test_a_tokenizer_of_t5_ends_a_text_and_does_not_begin_it(tmp_path: Path) -> None:
    """Pairs, masks and [CLS], which it does not have, are refused by name."""
    special, pieces = ("<pad>", "</s>", "<unk>"), ("▁", "▁a", "▁b", "a", "b", "c", "<extra_id_1>", "<extra_id_0>")
    vocab = [*((token, 0.0) for token in special), *((piece, -2.0) for piece in pieces)]
    theirs = transformers.T5Tokenizer(vocab=vocab, extra_ids=2)
    theirs.save_pretrained(tmp_path / "t5")
    ours = Tokenizer.load(tmp_path / "t5")
    ours.save(tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    for text in ("a b c", "", " ab  </s> <extra_id_1>? <pad>"):
        assert ours.encode([text])[0].tolist() == theirs(text)["input_ids"] == again(text)["input_ids"]
    long = "a b c a b"
    assert ours.encode([long], max_length=4)[0].tolist() == theirs(long, truncation=True, max_length=4)["input_ids"]
    documents = tokenize_here(ours, [long, "", "b"], max_tokens=4)
    space, a, b, c = (ours.token_to_id(piece) for piece in ("▁", "▁a", "▁b", "c"))
    assert documents.token_ids.tolist() == [a, b, space, 1, c, a, b, 1, b, 1]
    assert (documents.lengths.tolist(), documents.empty_texts) == ([4, 4, 2], 1)
    [framed] = WordFramer(tokenizer=ours, max_tokens=3, tally=Tally()).words([["b", "a", "b"]], ["here:1"])
    assert (framed.token_ids.tolist(), framed.first.tolist()) == ([b, a, 1], [0, 1, NO_TOKEN])
    without = "it frames a text with </s> alone, as T5's does, and has no"
    with pytest.raises(DataError, match=rf"{without} \[MASK\], which is needed here: use a model whose"):
        Masking.of(ours, 0.15, seed=1)
    with pytest.raises(DataError, match=rf"{without} \[CLS\], which"):
        ours.encode_pairs(["a"], ["b"], max_length=9)
    changed = json.loads((tmp_path / "t5" / "tokenizer.json").read_text())
    changed["post_processor"]["single"].reverse()
    (tmp_path / "t5" / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(DataError, match=r"it frames a text with \['</s>'\], expected .* or </s> at its end: "):
        Tokenizer.load(tmp_path / "t5")
