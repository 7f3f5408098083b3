"""Proves that a teacher run packed in transformers gives its own projections and stops there, or is rejected."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.parity.conftest import relative_difference

from minilm.distill import projections
from minilm.distill import teacher as teacher_module
from minilm.distill.relation_loss import V1_PAIRS, V2_PAIRS, relation_loss
from minilm.distill.teacher import PACKED_ONLY_TEACHERS, default_layer, read_sizes, tokenizer_folder
from minilm.errors import DataError, SystemProblem, UsageError
from minilm.model.checkpoint import read_model
from minilm.model.config import FAMILIES
from minilm.model.packing import pack
from minilm.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

AFTER_PADDING = {"pad_token_id": 1}
OWN_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
WORKING = {
    "Bert": {},
    "Roberta": AFTER_PADDING,
    "XLMRoberta": AFTER_PADDING,
    "Electra": {"embedding_size": 16},
    "ModernBert": {"local_attention": 8, "global_attn_every_n_layers": 3, **OWN_IDS},
    "EuroBert": {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "Albert": {"embedding_size": 16},
    "Camembert": AFTER_PADDING,
    "Data2VecText": AFTER_PADDING,
    "DistilBert": {},
    "Ernie": {},
    "Gte": {},
    "JinaEmbeddingsV3": AFTER_PADDING,
    "NomicBert": {},
    "RobertaPreLayerNorm": AFTER_PADDING,
    "XLMRobertaXL": AFTER_PADDING,
}
LENGTHS = (3, 30, 1, 12, 30, 4)  # longer than ModernBERT's window of 4 to each side


def load_teacher(folder, **settings):
    """In transformers; `test_native_teacher.py` has the native engine."""
    return teacher_module.load_teacher(folder, native=False, **settings)


@pytest.fixture(scope="module")
def long_ids():
    generator = np.random.default_rng(5)
    return [generator.integers(5, 120, size=length) for length in LENGTHS]


@pytest.mark.parametrize("name", WORKING)
def test_packed_projections_are_the_models_own(save, own_projections, long_ids, name):
    folder = save(name, **WORKING[name])
    expected = [own_projections(folder, text) for text in long_ids]
    for layer in (1, 2, 3):
        teacher = load_teacher(folder, layer=layer)
        assert teacher.layer == layer
        assert teacher.engine == "transformers, packed"
        assert teacher.sizes == read_sizes(folder, layer=layer)  # from the configuration alone
        packed = pack(long_ids)
        relations = teacher.relations(packed)
        for place, part in enumerate(("query", "key", "value")):
            rows = getattr(relations, part)
            assert rows.dtype == torch.float32
            assert not rows.requires_grad
            assert relative_difference(rows, torch.cat([theirs[layer - 1][place] for theirs in expected])) < 1e-5


def test_every_teacher_that_is_listed_is_one_of_these():
    """Those of this release of transformers."""
    types = {config.model_type for name in WORKING if (config := getattr(transformers, f"{name}Config", None))}
    able = {name for name, family in FAMILIES.items() if not family.relative_positions}
    known = {name for name in (*able, *PACKED_ONLY_TEACHERS) if name in transformers.CONFIG_MAPPING}
    assert types == known


def test_the_window_of_local_attention_matters(save, long_ids):
    """The proof above covers the window: with a wide one the same weights give other numbers."""
    packed, found = pack(long_ids), []
    for window in (8, 128):
        folder = save("ModernBert", **{**WORKING["ModernBert"], "local_attention": window})
        found.append(load_teacher(folder, layer="last").relations(packed).query)
    assert float((found[0] - found[1]).abs().max()) > 0.01


def test_the_scale_of_attention_is_the_models(save, own_projections, long_ids, monkeypatch):
    """Attention is asked to scale scores as the model does, not always by 1 / sqrt(D)."""
    folder = save("Bert")
    attention = transformers.models.bert.modeling_bert.BertSelfAttention
    original = attention.__init__

    def with_other_scale(self, *rest, **settings):
        original(self, *rest, **settings)
        self.scaling = 0.05

    monkeypatch.setattr(attention, "__init__", with_other_scale)
    teacher = load_teacher(folder, layer=2)
    found = teacher.relations(pack(long_ids)).query.split(list(LENGTHS))
    for text, rows in zip(long_ids, found, strict=True):
        assert relative_difference(rows, own_projections(folder, text)[1][0]) < 1e-5


def test_the_last_layer_is_the_default_and_other_students_read_the_same_rows(save, long_ids):
    folder = save("Bert")
    teacher = load_teacher(folder)
    assert teacher.layer == 3
    assert load_teacher(folder, layer="last").layer == 3
    packed = pack(long_ids, segments=[np.arange(len(text)) % 2 for text in long_ids])
    relations, ours = teacher.relations(packed), read_model(folder).encoder.relations(packed)
    for part in ("query", "key", "value"):
        assert relative_difference(getattr(relations, part), getattr(ours, part)) < 1e-5


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_nothing_after_the_wanted_projections_is_computed(save, ids, layer):
    teacher = load_teacher(save("Bert"), layer=layer)
    calls = []
    layers = teacher._model.encoder.layer
    for number, module in enumerate(layers, start=1):
        module.register_forward_pre_hook(lambda *_, number=number: calls.append(f"layer {number}"))
        module.attention.output.register_forward_pre_hook(lambda *_, number=number: calls.append(f"out {number}"))
        module.output.register_forward_pre_hook(lambda *_, number=number: calls.append(f"ffn {number}"))
    teacher._model.pooler.register_forward_pre_hook(lambda *_: calls.append("pooler"))
    teacher.relations(pack(ids))
    before = [f"{part} {number}" for number in range(1, layer) for part in ("layer", "out", "ffn")]
    assert calls == [*before, f"layer {layer}"]


@pytest.mark.parametrize("layer", [0, -1, 4, 100])
def test_a_missing_layer_is_rejected(save, layer):
    folder = save("Bert")
    with pytest.raises(UsageError) as caught:
        load_teacher(folder, layer=layer)
    assert str(caught.value) == f"teacher.layer is {layer}; {folder} has layers 1 to 3"


def test_low_precision_weights_give_low_precision_projections(save, ids):
    folder = save("Bert", initializer_range=0.02)
    exact = load_teacher(folder).relations(pack(ids))
    half = load_teacher(folder, precision=torch.bfloat16).relations(pack(ids))
    assert half.query.dtype == torch.bfloat16
    cosine = torch.nn.functional.cosine_similarity(half.query.float().flatten(1), exact.query.flatten(1))
    assert float(cosine.min()) > 0.99


@pytest.mark.parametrize("name", ["ModernBert", "EuroBert", "NomicBert"])
def test_in_bfloat16_distant_tokens_are_turned_by_the_same_angles(save, name):
    """The frequencies of the rotary step stay in float32: rounded, they are another position after 1,000 tokens."""
    one_head = {"num_attention_heads": 1, "num_key_value_heads": 1}  # with many frequencies
    folder = save(name, **{**WORKING[name], **one_head, "max_position_embeddings": 1024})
    far = pack([np.random.default_rng(5).integers(5, 120, size=1000)])
    exact, half = (
        load_teacher(folder, layer=1, precision=one).relations(far) for one in (torch.float32, torch.bfloat16)
    )
    for part in ("query", "key", "value"):
        expected = getattr(exact, part)
        assert getattr(half, part).dtype == torch.bfloat16
        assert float((getattr(half, part).float() - expected).norm() / expected.norm()) < 0.02


# --- rejections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize("name", ["Llama", "GPT2", "Bert"])
def test_models_with_causal_attention_are_rejected(save, name, layer):
    folder = save(name, **({"is_decoder": True} if name == "Bert" else {}))
    for read in (read_sizes, load_teacher):
        with pytest.raises(DataError) as caught:
            read(folder, layer=layer)
        assert str(caught.value) == (
            f"teacher {folder}: the attention of {name}Model is causal, that of a student is not; choose a "
            "bidirectional encoder, such as BERT, as the teacher"
        )


def test_causal_attention_that_no_module_admits_is_rejected(save):
    """XLM says so in its configuration alone; here it shows in the numbers."""
    folder = save("XLM", emb_dim=32, n_layers=3, n_heads=4, causal=True)
    with pytest.raises(DataError, match="the attention of XLMModel is causal, that of a student is not; choose a bidi"):
        load_teacher(folder, layer=2)


def test_so_is_one_whose_projections_do_not_show_it(save, monkeypatch):
    """Those of the first layer are the same, packed or not, whatever attention is; the later rows are not."""
    folder = save("Bert", is_decoder=True)
    monkeypatch.setattr(teacher_module, "_require_encoder", lambda model, folder: None)  # no module admits it
    with pytest.raises(DataError, match="the attention of BertModel is causal, that of a student is not; choose a bid"):
        load_teacher(folder, layer=1)


def test_a_model_without_query_key_and_value_is_rejected(save):
    folder = save("FNet")
    for read in (read_sizes, load_teacher):
        with pytest.raises(DataError) as caught:
            read(folder)
        assert str(caught.value) == (
            f"teacher {folder}: FNetModel has no query, key and value, which relations are made of; choose a teacher "
            "with self-attention, such as BERT"
        )


def test_attention_that_is_not_known_is_rejected(save, monkeypatch):
    """As of MPNet, if no row of the table named its bias."""
    rows = {name: names for name, names in projections.FAMILIES_WITH_HOOKS.items() if name != "mpnet"}
    monkeypatch.setattr(projections, "FAMILIES_WITH_HOOKS", rows)
    with pytest.raises(DataError, match=r"the attention of MPNetModel is not the product of its queries and keys alo"):
        load_teacher(save("MPNet", pad_token_id=1))


def test_a_model_that_fails_in_its_own_code_is_one_clear_error(save):
    folder = save("Nystromformer", num_landmarks=2, segment_means_seq_len=16, inv_coeff_init_option=False)
    with pytest.raises(DataError, match=r"transformers cannot run NystromformerModel: shape "):
        load_teacher(folder)


def test_a_model_that_gives_other_numbers_packed_runs_padded(save):
    """ESM rescales embeddings by the number of masks in the row."""
    folder = save("Esm", pad_token_id=1, mask_token_id=3, token_dropout=True)
    assert load_teacher(folder).engine == "transformers, padded"


@pytest.mark.parametrize(
    ("name", "layers", "width", "version", "expected"),
    [
        ("Bert", 24, 1024, "v2", 21),
        ("Roberta", 24, 1024, "v2", 19),
        ("XLMRoberta", 24, 1024, "v2", 19),
        ("Bert", 24, 1024, "v1", 24),
        ("Bert", 12, 768, "v2", 12),
        ("Electra", 24, 1024, "v2", 24),
        ("ModernBert", 22, 768, "v2", 22),
        ("ModernBert", 24, 768, "v2", 22),  # the last two attend to a window
    ],
)
def test_the_layer_of_the_papers_is_the_default(name, layers, width, version, expected):
    config = getattr(transformers, f"{name}Config")(num_hidden_layers=layers, hidden_size=width)
    assert default_layer(config, version) == expected


def test_a_missing_folder_or_one_without_a_model_is_rejected(tmp_path):
    with pytest.raises(DataError) as caught:
        load_teacher(tmp_path / "none")
    assert str(caught.value) == f"teacher {tmp_path}/none: no such folder; expected a Hugging Face model folder"
    with pytest.raises(DataError, match=r"no configuration; expected .*config\.json$"):
        load_teacher(tmp_path)


@pytest.mark.parametrize("name", ["Bert", "Albert"])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_in_a_bin_are_read_without_unpickling(save, long_ids, name, zipped):
    """Transformers reads them as safetensors; shards too."""
    folder = save(name, **WORKING[name])
    packed = pack(long_ids)
    expected = load_teacher(folder).relations(packed)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {key: f"pytorch_model-{number % 2}.bin" for number, key in enumerate(tensors)}
    for file in sorted(set(files.values())):
        part = {key: value for key, value in tensors.items() if files[key] == file}
        torch.save(part, folder / file, _use_new_zipfile_serialization=zipped)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    found = load_teacher(folder).relations(packed)
    for part in ("query", "key", "value"):
        assert torch.equal(getattr(found, part), getattr(expected, part))


def test_a_bin_that_is_a_pointer_or_more_than_tensors_is_rejected(save):
    folder = save("Bert")
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save({"a": torch.nn.Linear(2, 2)}, path)
    with pytest.raises(DataError, match=r"pytorch_model\.bin"):
        load_teacher(folder)
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 90868376\n")
    for read in (load_teacher, read_sizes):
        with pytest.raises(DataError, match=r"pytorch_model\.bin is a Git LFS pointer to a file of 90868376 bytes"):
            read(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"no weights; expected model\.safetensors or pytorch_model\.bin"):
        load_teacher(folder)


def test_without_transformers_the_error_says_how_to_install_it(save, monkeypatch):
    folder = save("Bert")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(SystemProblem) as caught:
        load_teacher(folder)
    assert str(caught.value) == "transformers is not installed; install it with: pip install 'minilm[hf]'"


# --- teachers whose query heads share key heads --------------------------------------------------


def test_shared_key_heads_work_with_v2_and_are_rejected_by_v1(save, ids):
    teacher = load_teacher(save("EuroBert", **WORKING["EuroBert"]))
    student = read_model(save("Bert")).encoder
    packed = pack(ids)
    sides = teacher.relations(packed), student.relations(packed)
    assert sides[0].key.shape[1] * sides[0].key.shape[2] == 16
    losses = relation_loss(*sides, packed, pairs=V2_PAIRS, num_relation_heads=8)
    assert bool(torch.isfinite(losses).all())
    with pytest.raises(UsageError) as caught:
        relation_loss(*sides, packed, pairs=V1_PAIRS, num_relation_heads=8)
    assert str(caught.value) == (
        "query has width 32 but key has width 16 (shared key heads), so they have no relation; use loss.version v2"
    )
    with pytest.raises(UsageError, match=r"^32 relation heads do not divide the width 16; change loss"):
        relation_loss(*sides, packed, pairs=V2_PAIRS, num_relation_heads=32)


def test_a_truncated_weights_file_is_one_clear_error(tmp_path, save):
    folder = save("Bert")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_teacher(folder)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("Bert", "num_hidden_layers", 2**31, "expected a whole number from 1 to 1000"),
        ("Bert", "hidden_dropout_prob", 3.5, "expected a number from 0 to 1"),
        ("ModernBert", "num_hidden_layers", 2**31, "expected a whole number from 1 to 1000"),
        ("ModernBert", "num_attention_heads", 0, "transformers cannot load it: "),
    ],
)
def test_damaged_numbers_of_a_configuration_are_one_clear_error(save, name, key, value, message):
    """Those of supported families are checked before transformers builds a model; it raises anything for others."""
    folder = save(name, **WORKING.get(name, {}))
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: value}))
    with pytest.raises(DataError) as caught:
        load_teacher(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# --- what transformers reports about the weights -------------------------------------------------


def as_classifier(folder, name="Bert"):
    """Save a model with a head and without a pooler, as checkpoints of masked language models are."""
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


def test_an_ordinary_checkpoint_with_a_head_and_no_pooler_loads_without_a_report(save, monkeypatch, caplog):
    folder, said = as_classifier(save("Bert")), []
    log = logging.getLogger("transformers.modeling_utils")
    caplog.set_level(logging.WARNING, logger=log.name)
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    monkeypatch.setattr(log, "handlers", [*log.handlers, handler])
    load_teacher(folder)
    assert not said
    transformers.AutoModel.from_pretrained(folder)  # others still get it
    assert any("LOAD REPORT" in message for message in said)


def rewrite(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_weight_is_an_error(save):
    folder, name = save("Bert"), "encoder.layer.1.attention.self.key.weight"
    rewrite(folder, lambda weights: weights.pop(name))
    with pytest.raises(DataError) as caught:
        load_teacher(folder)
    assert str(caught.value) == (
        f"teacher {folder}: the weights lack 1 tensors of the model (first: {name}), which would be random; use the "
        "complete folder of the model"
    )


def test_a_weight_of_another_shape_is_an_error(save):
    folder = save("Bert")
    rewrite(folder, lambda weights: weights.update({"encoder.layer.0.output.dense.bias": torch.zeros(7)}))
    with pytest.raises(DataError, match=r"1 weights have another shape .*\.dense\.bias is \[7\], expected \[32\]"):
        load_teacher(folder)


def test_layers_that_the_configuration_leaves_out_are_reported(save, caplog):
    folder = save("Bert")
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": 2}))
    assert load_teacher(folder).layer == 2
    [record] = caplog.records
    assert "tensors are not part of the model that config.json describes and are ignored (first: encoder.layer.2." in (
        record.getMessage()
    )


# --- tokenizers that transformers converts -------------------------------------------------------


@pytest.fixture
def pieces(tmp_path):
    """An ALBERT teacher whose tokenizer is a SentencePiece model alone, and the SentencePiece model."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs: pip install 'minilm[hf]'")
    pytest.importorskip("google.protobuf", reason="needs: pip install 'minilm[hf]'")
    folder = tmp_path / "pieces"
    folder.mkdir()
    texts = [f"the {color} river runs {how} by the {place}" for color in ("red", "blue") for how in ("fast", "slowly")
             for place in ("old mill", "bridge", "harbour")]  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(tmp_path / "made"), vocab_size=60, hard_vocab_limit=False,
        minloglevel=2, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece="<pad>", unk_piece="<unk>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )  # fmt: skip
    (tmp_path / "made.model").rename(folder / "spiece.model")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.AlbertConfig(vocab_size=model.get_piece_size(), embedding_size=8, **sizes)
    transformers.AlbertModel(config).save_pretrained(folder)
    return folder, model


def test_a_sentencepiece_model_alone_gives_the_ids_of_albert(pieces):
    """Its ids are those of SentencePiece, in `[CLS]` and `[SEP]`."""
    folder, model = pieces
    with tokenizer_folder(folder) as converted:
        tokenizer = Tokenizer.load(converted)
        text = "the blue river runs slowly by the old bridge"
        assert tokenizer.encode([text])[0].tolist() == [2, *model.encode(text), 3]
    assert not converted.exists()
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "spiece.model",
    ]  # fmt: skip


def test_a_tokenizer_that_is_read_here_is_used_as_it_is(tiny, pieces):
    with tokenizer_folder(tiny.teacher) as found:
        assert found == tiny.teacher
    folder, _ = pieces
    (folder / "spiece.model").rename(folder / "sentencepiece.bpe.model")
    (folder / "config.json").write_text('{"model_type": "xlm-roberta"}')
    with tokenizer_folder(folder) as found:
        assert found == folder


def test_without_its_packages_the_conversion_says_what_to_install(pieces, monkeypatch):
    from minilm.distill import teacher as module

    def absent(*_, **__):
        raise ImportError("requires the SentencePiece library")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", absent)
    monkeypatch.setattr(module, "_is_installed", lambda name: name != "sentencepiece")
    with (
        pytest.raises(
            SystemProblem,
            match=r"needs packages that are missing; install sentencepiece with: pip install 'minilm\[hf\]'$",
        ),
        tokenizer_folder(pieces[0]),
    ):
        pass


def test_files_that_are_no_tokenizer_are_rejected(pieces):
    folder, _ = pieces
    (folder / "spiece.model").write_bytes(b"\x00nothing")
    with (
        pytest.raises(
            DataError,
            match=r"neither tokenizer\.json nor vocab\.txt, and transformers cannot convert its tokenizer \(.+\): "
            "use the complete folder of the model$",
        ),
        tokenizer_folder(folder),
    ):
        pass
