"""Proves that everything in a sentence-transformers folder that changes a vector is computed as that library does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import minilm
from minilm.errors import DataError, UsageError
from minilm.model.embedding_files import read_embedding, write_embedding

sentence_transformers = pytest.importorskip(
    "sentence_transformers", reason="sentence-transformers is not installed: pip install sentence-transformers"
)
modules = pytest.importorskip("sentence_transformers.models")

WORDS = ["a", "b", "c", "d", "e", "f", "query", ":", "A", "B", "##b", "##y", "quer"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
TEXTS = ["a b c", "", "d", "A B é [MASK]", "f e d c b a " * 9, "query : a", "a"]
PROMPTS = {"query": "query: ", "passage": "e f ", "sts": "c "}
WIDTH = 16


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory, write_encoder):
    """A tiny random BERT of transformers whose tokenizer keeps upper case."""
    return write_encoder(tmp_path_factory.mktemp("encoder"), vocabulary=VOCAB, width=WIDTH)


@pytest.fixture(scope="module")
def save(encoder_dir, tmp_path_factory):
    """`save(...)`: a folder that sentence-transformers saves, one for each model."""
    folders = {}

    def write(folder, *after, pooling, include_prompt, encoder, **settings):
        first = modules.Transformer(str(encoder_dir), **(encoder or {}))
        for seed, module in enumerate(after):
            generator = torch.Generator().manual_seed(seed)
            for weight in module.parameters():
                weight.data = torch.randn(weight.shape, generator=generator)
        pool = modules.Pooling(WIDTH, pooling, include_prompt=include_prompt)
        model = sentence_transformers.SentenceTransformer(modules=[first, pool, *after], device="cpu", **settings)
        model.save(str(folder))

    def make(*after, **settings):
        model = repr((after, settings))
        if model not in folders:
            folders[model] = tmp_path_factory.mktemp("saved")
            write(folders[model], *after, **settings)
        return folders[model]

    return make


@pytest.fixture
def saved(save, tmp_path):
    """A copy of such a folder: the encoder, a pooling, other modules, settings."""

    def make(*after, pooling="mean", include_prompt=True, encoder=None, **settings):
        settings |= {"pooling": pooling, "include_prompt": include_prompt, "encoder": encoder}
        return shutil.copytree(save(*after, **settings), tmp_path / "saved")

    return make


def theirs_of(folder):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def assert_same(folder, theirs=None, **options):
    """The vectors of both libraries are equal, and differ from text to text."""
    expected = (theirs or theirs_of(folder).encode)(TEXTS)
    found = minilm.load(folder).encode(TEXTS, **options)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=1e-5)
    return found


def changed(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.parametrize("pooling", [*MODES, ("mean", "max"), ("lasttoken", "cls", "weightedmean"), tuple(MODES)])
def test_every_pooling_mode_and_several_together(saved, pooling):
    assert assert_same(saved(pooling=pooling)).shape == (7, WIDTH * (1 if isinstance(pooling, str) else len(pooling)))


OLD = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]


@pytest.mark.parametrize(
    "chosen", [*([key] for key in OLD), ["mean_tokens", "cls_token"], ["lasttoken", "max_tokens"], []]
)
def test_the_older_dialect_of_pooling(saved, chosen):
    folder = saved()
    values = {"word_embedding_dimension": WIDTH, **{f"pooling_mode_{key}": key in chosen for key in OLD}}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(values))
    assert_same(folder)


def test_the_newer_key_counts_where_both_are_there(saved):
    folder = saved()
    changed(folder / "1_Pooling" / "config.json", pooling_mode="max", pooling_mode_cls_token=True)
    assert_same(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"pooling_mode": "median"},
            r"pooling_mode is 'median'; expected one or several of cls, max, mean, .*lasttoken",
        ),
        ({"pooling_mode": []}, "expected one or several of"),
        (
            {"pooling_mode_median_tokens": True},
            r"config.json: unknown key pooling_mode_median_tokens with value True; ",
        ),
        ({"include_prompt": "no"}, "include_prompt is 'no'; expected true or false"),
    ],
)
def test_other_poolings_are_rejected_by_name(saved, values, message):
    folder = saved()
    changed(folder / "1_Pooling" / "config.json", **values)
    with pytest.raises(DataError, match=message):
        minilm.load(folder)


# --- modules after pooling -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Identity", "Tanh", "ReLU", "Sigmoid", "SiLU", "GELU"])
def test_a_dense_layer_with_every_activation(saved, name):
    activation = getattr(torch.nn, name)()
    assert assert_same(saved(modules.Dense(WIDTH, 6, activation_function=activation))).shape == (7, 6)


@pytest.mark.parametrize("out", [5, WIDTH])
@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_with_a_residual_connection(saved, out, bias):
    assert_same(saved(modules.Dense(WIDTH, out, bias=bias, use_residual=True)))


def test_modules_in_any_order(saved):
    folder = saved(
        modules.LayerNorm(2 * WIDTH),
        modules.Normalize(),
        modules.Dense(2 * WIDTH, 20),
        modules.Dropout(0.5),
        modules.LayerNorm(20),
        modules.Dense(20, 8, activation_function=torch.nn.Identity()),
        modules.Normalize(),
        pooling=("cls", "mean"),
    )
    assert assert_same(folder).shape == (7, 8)
    assert minilm.load(folder).encode([]).shape == (0, 8)


def test_weights_of_modules_in_the_older_format(saved):
    folder = saved(modules.Dense(WIDTH, 6))
    from safetensors.torch import load_file

    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), folder / "2_Dense" / "pytorch_model.bin")
    weights.unlink()
    assert_same(folder)
    (folder / "2_Dense" / "pytorch_model.bin").unlink()
    with pytest.raises(DataError, match=r"2_Dense: no weights; expected model.safetensors or pytorch_model.bin$"):
        minilm.load(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"activation_function": "torch.nn.modules.activation.Mish"},
            r"activation_function is '.*Mish'; expected one of",
        ),
        ({"activation_function": "my.Tanh"}, r"activation_function is 'my.Tanh'; expected one of torch.nn: Identity, "),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'; expected 'sentence_emb"),
        (
            {"init_scale": 2},
            r"2_Dense/config.json: unknown key init_scale with value 2; remove it if no vector depends",
        ),
        ({"in_features": 15}, r"model.safetensors: tensors .*; expected \{'linear.weight': \(6, 15\)"),
        ({"out_features": -1}, "out_features is -1; expected a positive whole number"),
        ({"bias": 1}, "bias is 1; expected true or false"),
    ],
)
def test_a_dense_layer_that_would_be_computed_differently_is_rejected(saved, values, message):
    folder = saved(modules.Dense(WIDTH, 6))
    changed(folder / "2_Dense" / "config.json", **values)
    with pytest.raises(DataError, match=message):
        minilm.load(folder)


@pytest.mark.parametrize("key", ["module_input_name", "module_output_name"])
def test_normalized_tokens_are_rejected(saved, key):
    folder = saved(modules.Normalize())
    (folder / "2_Normalize").mkdir(exist_ok=True)
    (folder / "2_Normalize" / "config.json").write_text(json.dumps({key: "token_embeddings"}))
    with pytest.raises(DataError, match=f"{key} is 'token_embeddings'; expected 'sentence_embedding'"):
        minilm.load(folder)


def test_modules_of_two_models_are_rejected(saved):
    folder = saved(modules.LayerNorm(WIDTH))
    changed(folder / "1_Pooling" / "config.json", pooling_mode=["cls", "max"])
    with pytest.raises(DataError, match=r"2_LayerNorm: LayerNorm expects vectors of width 16, but .* have width 32; "):
        minilm.load(folder)


TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": "", "name": "0"}
POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling", "name": "1"}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"a": 1}, "expected a list of modules"),
        ([1], "expected a list of modules"),
        ([TRANSFORMER], "modules Transformer; expected one Transformer, one Pooling, then any of Dense, LayerNorm"),
        ([TRANSFORMER, POOLING, {**POOLING, "name": "2"}], "modules Transformer, Pooling, Pooling; expected one"),
        ([TRANSFORMER, POOLING, POOLING], "two modules have the name '1'; give each module its own name"),
        (
            [TRANSFORMER, {**POOLING, "type": "sentence_transformers.models.WordWeights"}],
            "module 'WordWeights'; expected",
        ),
        (
            [TRANSFORMER, {**POOLING, "type": "my_code.Pooling"}],
            "module 'my_code.Pooling'; expected Transformer, Pooling",
        ),
        ([{**TRANSFORMER, "path": "../x"}, POOLING], "path '../x' leads out of the model folder"),
        ([{**TRANSFORMER, "path": "/x"}, POOLING], "path '/x' leads out of the model folder"),
        ([{**TRANSFORMER, "path": 3}, POOLING], "expected a text for each of type and path"),
        ([TRANSFORMER, {**POOLING, "kwargs": ["task"]}], r"Pooling has kwargs \['task'\], which is not supported"),
    ],
)
def test_other_modules_are_rejected_by_name(saved, listed, message):
    folder = saved()
    (folder / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=rf"modules.json: .*{message}"):
        minilm.load(folder)


@pytest.mark.parametrize("text", ["[\n{", "[" * 100_000])
def test_a_damaged_list_of_modules_is_rejected(saved, text):
    folder = saved()
    (folder / "modules.json").write_text(text)
    with pytest.raises(DataError, match=r"modules.json(:\d)?: not JSON \(.*\); expected a list of modules"):
        minilm.load(folder)


# --- the encoder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["0_Transformer", "nested/encoder"])
def test_the_encoder_may_be_in_a_folder_of_its_own(saved, path):
    folder = saved(modules.Normalize())
    inner = folder / path
    inner.mkdir(parents=True)
    for file in [one for one in folder.iterdir() if one.is_file() and one.name not in ("modules.json", "README.md")]:
        file.rename(inner / file.name)
    (inner / "config_sentence_transformers.json").rename(folder / "config_sentence_transformers.json")
    changed(inner / "sentence_bert_config.json", do_lower_case=True, max_seq_length=9)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = path
    (folder / "modules.json").write_text(json.dumps(listed))
    assert_same(folder)
    assert minilm.load(folder).embedding.max_tokens == 9


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_do_lower_case_lowercases_what_the_tokenizer_does_not(saved, name):
    folder = saved()
    assert_same(folder)
    before = minilm.load(folder).encode(TEXTS)
    (folder / "sentence_bert_config.json").rename(folder / name)
    changed(folder / name, do_lower_case=True)
    found = assert_same(folder)
    assert not np.allclose(found[3], before[3])  # upper case; accents and [MASK] are kept
    np.testing.assert_allclose(found[[0, 1, 2]], before[[0, 1, 2]])


@pytest.mark.parametrize("existing", [{"type": "Lowercase"}, {"type": "NFC"}, None])
def test_do_lower_case_before_any_normalizer(saved, existing):
    folder = saved()
    changed(folder / "sentence_bert_config.json", do_lower_case=True)
    rest = [existing] if existing else []
    changed(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": rest} if rest else None)
    changed(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    assert_same(folder)


@pytest.mark.parametrize(("own", "tokenizers"), [(7, 20), (20, 7), (None, 7), (None, 1e30), (30, 1e30)])
def test_the_limit_of_the_encoder_counts_before_that_of_the_tokenizer(saved, own, tokenizers):
    folder = saved()
    changed(folder / "sentence_bert_config.json", max_seq_length=own)
    changed(folder / "tokenizer_config.json", model_max_length=tokenizers)
    assert theirs_of(folder).max_seq_length == minilm.load(folder).embedding.max_tokens
    assert_same(folder)


def test_the_older_name_of_the_limit_of_the_tokenizer_is_read(saved):
    folder = saved()
    changed(folder / "sentence_bert_config.json", max_seq_length=None)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("model_max_length", None)
    file.write_text(json.dumps({**config, "max_len": 9}))
    assert minilm.load(folder).embedding.max_tokens == 9
    assert_same(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"transformer_task": "fill-mask"},
            "transformer_task is 'fill-mask'; expected 'feature-extraction'; encode with",
        ),
        ({"module_output_name": "scores"}, "module_output_name is 'scores'; expected 'token_embeddings'"),
        ({"query_length": 8}, "query_length is 8; expected None"),
        ({"tokenizer_args": {"padding_side": "left"}}, r"tokenizer_args is .*left.*; expected \{\}"),
        ({"new_switch": "on"}, "unknown key new_switch with value 'on'; remove it if no vector depends on it"),
        ({"do_lower_case": "yes"}, "do_lower_case is 'yes'; expected true or false"),
        ({"max_seq_length": -1}, "max_seq_length is -1; expected a positive whole number or null"),
    ],
)
def test_settings_of_the_encoder_that_are_not_computed_are_rejected(saved, values, message):
    folder = saved()
    changed(folder / "sentence_bert_config.json", **values)
    with pytest.raises(DataError, match=rf"sentence_bert_config.json: {message}"):
        minilm.load(folder)


def test_settings_with_the_only_supported_value_are_accepted(saved):
    folder = saved()
    changed(folder / "sentence_bert_config.json", tokenizer_args={}, query_length=None, unpad_inputs=False)
    assert_same(folder)


def test_adapters_are_rejected(saved):
    folder = saved()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"adapter_config.json: adapters are not supported; merge it into the model"):
        minilm.load(folder)


def test_without_modules_the_other_files_are_ignored_and_reported(saved, caplog):
    folder = saved(prompts=PROMPTS, default_prompt_name="sts", truncate_dim=4)
    changed(folder / "sentence_bert_config.json", do_lower_case=True, max_seq_length=7)
    (folder / "modules.json").unlink()
    assert assert_same(folder).shape == (7, WIDTH)
    assert [one for one in caplog.messages if "ignore" in one] == [
        f"{folder} has no modules.json: text vectors ignore config_sentence_transformers.json and "
        "sentence_bert_config.json"
    ]


def test_a_cross_encoder_is_pooled_as_sentence_transformers_converts_it(encoder_dir, tmp_path, caplog):
    sentence_transformers.CrossEncoder(str(encoder_dir), device="cpu", num_labels=1).save_pretrained(
        str(tmp_path / "x")
    )
    assert_same(tmp_path / "x")
    assert f"{tmp_path / 'x'} is a CrossEncoder; its text vectors are means over tokens" in caplog.messages


@pytest.mark.parametrize("kind", ["SparseEncoder", "MultiVectorEncoder"])
def test_models_of_other_kinds_are_rejected(saved, kind):
    folder = saved()
    changed(folder / "config_sentence_transformers.json", model_type=kind)
    with pytest.raises(DataError, match=f"model_type is '{kind}'; expected SentenceTransformer; use sentence-tr"):
        minilm.load(folder)


# --- prompts and roles ---------------------------------------------------------------------------


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", MODES)
def test_a_prompt_is_put_before_each_text(saved, include_prompt, pooling):
    folder = saved(pooling=pooling, include_prompt=include_prompt)
    for prompt in ("query: ", "b", "", "c d e f " * 20):
        assert_same(folder, lambda texts, put=prompt: theirs_of(folder).encode(texts, prompt=put), prompt=prompt)


@pytest.mark.parametrize("pooling", MODES)
def test_a_prompt_that_merges_with_the_text(saved, pooling):
    """`quer` + `y` is the one token `query`: the prompt alone has as many tokens as prompt and text."""
    folder = saved(pooling=pooling, include_prompt=False)
    found = minilm.load(folder).encode(["y"], prompt="quer")
    np.testing.assert_allclose(found, theirs_of(folder).encode(["y"], prompt="quer"), atol=2e-5)


@pytest.mark.parametrize(
    "prompts", [{}, PROMPTS, {"corpus": "d "}, {"document": "d ", "passage": "e "}, {"query": None}]
)
@pytest.mark.parametrize("default", [None, "query"])
def test_roles_fall_back_as_in_sentence_transformers(saved, prompts, default):
    folder = saved()
    changed(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default)
    theirs = theirs_of(folder)
    assert_same(folder)
    assert_same(folder, theirs.encode_query, role="query")
    assert_same(folder, theirs.encode_document, role="document")
    for role in prompts:
        if role != "document":
            assert_same(folder, lambda texts, name=role: theirs.encode(texts, prompt_name=name), role=role)
    assert_same(folder, lambda texts: theirs.encode(texts, prompt=""), prompt="")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"role": "question"},
            "role is 'question'; this model has 'query', 'document', 'passage', 'sts'; or pass prompt=",
        ),
        ({"role": "query", "prompt": "a"}, "found both prompt and role; expected one of the two"),
        ({"prompt": b"a"}, "prompt: found bytes, expected a text"),
    ],
)
def test_unknown_roles_and_two_prompts_are_rejected(saved, options, message):
    with pytest.raises(UsageError, match=message):
        minilm.load(saved(prompts=PROMPTS)).encode(["a"], **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"default_prompt_name": "other"}, "default_prompt_name is 'other'; expected a key of prompts, which has "),
        ({"prompts": {"query": 3}}, "prompts is .*3.*; expected a text for each role"),
        ({"prompts": ["query: "]}, "prompts is .*; expected a text for each role"),
        ({"truncate_dim": 0}, "truncate_dim is 0; expected a positive whole number or null"),
        ({"quantize": "int8"}, "unknown key quantize with value 'int8'; remove it if no vector depends on it"),
    ],
)
def test_settings_of_the_model_that_are_not_computed_are_rejected(saved, values, message):
    folder = saved(prompts=PROMPTS)
    changed(folder / "config_sentence_transformers.json", **values)
    with pytest.raises(DataError, match=rf"config_sentence_transformers.json: {message}"):
        minilm.load(folder)


@pytest.mark.parametrize("truncate_dim", [3, 100])
def test_vectors_are_truncated_after_all_modules(saved, truncate_dim):
    folder = saved(modules.Normalize(), truncate_dim=truncate_dim)
    assert assert_same(folder).shape == (7, min(truncate_dim, WIDTH))


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", [*MODES, ("cls", "mean"), ("mean", "cls")])
def test_what_is_written_back_gives_the_same_vectors_in_both_libraries(saved, encoder_dir, tmp_path, pooling):
    first = saved(
        modules.Normalize(),
        pooling=pooling,
        include_prompt=False,
        prompts=PROMPTS,
        default_prompt_name="sts",
        truncate_dim=9,
        similarity_fn_name="euclidean",
    )
    changed(first / "sentence_bert_config.json", do_lower_case=True, max_seq_length=17)
    settings = read_embedding(first, model_max_tokens=32)
    second = tmp_path / "second"
    shutil.copytree(encoder_dir, second)
    write_embedding(second, settings, hidden_size=WIDTH)
    assert read_embedding(second, model_max_tokens=32) == settings
    np.testing.assert_allclose(assert_same(second), assert_same(first), atol=1e-6)
    assert theirs_of(second).similarity_fn_name == "euclidean"
