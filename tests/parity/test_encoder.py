"""Proves that the packed encoder is BERT and RoBERTa: outputs, gradients, files both ways."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minilm.model.checkpoint import read_model, write_model
from minilm.model.config import EncoderConfig
from minilm.model.metadata import read_config, read_labels, saved_head
from minilm.model.packing import pack
from minilm.model.tensor_names import to_hf

transformers = pytest.importorskip("transformers")

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
FAMILIES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
HEADS = {
    None: "Model",
    "mlm": "ForMaskedLM",
    "classification": "ForSequenceClassification",
    "span": "ForQuestionAnswering",
    "tokens": "ForTokenClassification",
}


@pytest.fixture
def make_theirs(sizes, randomized):
    """A tiny random model of transformers; its pad id and number of segments are those of the family."""

    def make(family, head, **settings):
        special = {} if family == "bert" else {"pad_token_id": 1, "type_vocab_size": 1}
        name = FAMILIES[family]
        labels = {"num_labels": 3} if head in ("classification", "tokens") else {}
        config = getattr(transformers, name + "Config")(**sizes, **special, **labels, **settings)
        return randomized(getattr(transformers, name + HEADS[head])(config))

    return make


def real_rows(values, mask):
    """`[B, S, ...]` of a padded batch -> `[T, ...]`."""
    return values[mask.bool()]


def their_scores(model, batch):
    """What our model gives for the same rows: `[T, E]`, `[T, V]`, `[B, C]`, `[T, 2]` or `[T, C]`."""
    out = model(**batch)
    mask = batch["attention_mask"]
    if "start_logits" in out:
        return real_rows(torch.stack([out.start_logits, out.end_logits], dim=-1), mask)
    if "logits" in out:
        return real_rows(out.logits, mask) if out.logits.dim() == 3 else out.logits
    return real_rows(out.last_hidden_state, mask)


def kinds_of(ids, family):
    return [np.arange(len(row)) % 2 if family == "bert" else np.zeros(len(row), dtype=int) for row in ids]


# --- files of transformers here, our files there -------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_saved_by_transformers_gives_the_same_numbers_here(
    tmp_path, caplog, ids, padded, make_theirs, family, head
):
    theirs = make_theirs(family, head)
    theirs.save_pretrained(tmp_path)
    ours = read_model(tmp_path, head=head)
    assert caplog.messages == []
    assert saved_head(tmp_path) == head
    kinds = kinds_of(ids, family)
    batch = padded(ids, kinds, theirs.config.pad_token_id)
    packed = pack(ids, segments=kinds)
    with torch.no_grad():
        torch.testing.assert_close(ours(packed), their_scores(theirs, batch), **TOLERANCE)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_written_here_gives_the_same_numbers_in_transformers(tmp_path, ids, padded, make_theirs, family, head):
    make_theirs(family, head).save_pretrained(tmp_path / "theirs")
    ours = read_model(tmp_path / "theirs", head=head)
    (tmp_path / "ours").mkdir()
    write_model(ours, tmp_path / "ours", head=head)
    loader = {
        None: "AutoModel",
        "mlm": "AutoModelForMaskedLM",
        "classification": "AutoModelForSequenceClassification",
        "span": "AutoModelForQuestionAnswering",
        "tokens": "AutoModelForTokenClassification",
    }[head]
    theirs, report = getattr(transformers, loader).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(theirs).__name__ == FAMILIES[family] + HEADS[head]
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert {name for name in report["unexpected_keys"] if "pooler" not in name} == set()
    kinds = kinds_of(ids, family)
    batch = padded(ids, kinds, theirs.config.pad_token_id)
    packed = pack(ids, segments=kinds)
    with torch.no_grad():
        torch.testing.assert_close(ours(packed), their_scores(theirs.eval(), batch), **TOLERANCE)


@pytest.mark.parametrize("num_labels", [1, 2, 5])
def test_classifiers_keep_their_number_of_classes_both_ways(tmp_path, make_theirs, num_labels):
    theirs = transformers.BertForSequenceClassification(
        transformers.BertConfig(**make_theirs("bert", None).config.to_diff_dict() | {"num_labels": num_labels})
    )
    theirs.save_pretrained(tmp_path)
    ours = read_model(tmp_path, head="classification")
    assert ours.head.out.out_features == num_labels
    assert len(read_labels(tmp_path)) in (num_labels, 0)
    again = tmp_path / "again"
    again.mkdir()
    write_model(
        ours, again, head="classification", problem="regression" if num_labels == 1 else "single_label_classification"
    )
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(again)
    assert loaded.config.num_labels == num_labels
    assert torch.equal(loaded.classifier.weight, theirs.classifier.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_configurations_agree_both_ways(tmp_path, make_theirs, family):
    theirs = make_theirs(family, None).config
    theirs.save_pretrained(tmp_path)
    ours = read_config(tmp_path)
    again = type(theirs)(**ours.to_hf())
    for key in ours.to_hf():
        if hasattr(theirs, key) and key != "architectures":
            assert getattr(again, key) == getattr(theirs, key), key
    assert EncoderConfig.from_hf(again.to_dict()) == ours


def test_a_pre_training_checkpoint_with_both_heads_loads(tmp_path, sizes, randomized, ids, padded):
    theirs = randomized(transformers.BertForPreTraining(transformers.BertConfig(**sizes)))
    theirs.save_pretrained(tmp_path)
    batch = padded(ids)
    with torch.no_grad():
        expected = real_rows(theirs(**batch).prediction_logits, batch["attention_mask"])
        torch.testing.assert_close(read_model(tmp_path, head="mlm")(pack(ids)), expected, **TOLERANCE)


def test_an_electra_discriminator_is_a_bert(tmp_path, sizes, randomized, ids, padded):
    theirs = randomized(transformers.ElectraModel(transformers.ElectraConfig(**sizes, embedding_size=32)))
    theirs.save_pretrained(tmp_path)
    batch = padded(ids)
    with torch.no_grad():
        torch.testing.assert_close(read_model(tmp_path)(pack(ids)), their_scores(theirs, batch), **TOLERANCE)


@pytest.mark.parametrize("shard_size", ["20KB"])
def test_shards_of_transformers_load(tmp_path, make_theirs, ids, padded, shard_size):
    theirs = make_theirs("bert", None)
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    with torch.no_grad():
        torch.testing.assert_close(read_model(tmp_path)(pack(ids)), their_scores(theirs, padded(ids)), **TOLERANCE)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_every_weight_agree(tmp_path, ids, padded, make_theirs, family, head):
    theirs = make_theirs(family, head, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    theirs.save_pretrained(tmp_path)
    theirs.double()
    ours = read_model(tmp_path, head=head).double()
    kinds = kinds_of(ids, family)
    found = ours(pack(ids, segments=kinds))
    expected = their_scores(theirs, padded(ids, kinds, theirs.config.pad_token_id))
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    gradients = {name: weight.grad for name, weight in ours.named_parameters() if weight.grad is not None}
    renamed = to_hf(gradients, family=ours.encoder.config.family, head=head)
    named = theirs.named_parameters(remove_duplicate=False)
    theirs_by_name = {n: w.grad for n, w in named if w.grad is not None and ".decoder." not in n}  # tied copies
    assert set(renamed) == set(theirs_by_name)
    for name, gradient in theirs_by_name.items():
        scale = max(float(gradient.abs().max()), 1e-3)
        assert float((renamed[name] - gradient).abs().max()) <= 1e-5 * scale, name


# --- real weights --------------------------------------------------------------------------------


def test_real_weights_give_the_rows_of_transformers(real_model_dir, padded):
    theirs = transformers.AutoModel.from_pretrained(real_model_dir).eval()
    ours = read_model(real_model_dir)
    generator = np.random.default_rng(1)
    ids = [np.array([101, *generator.integers(1000, 30000, size=n), 102]) for n in (0, 1, 6, 6, 30, 126, 300)]
    batch = padded(ids)
    with torch.no_grad():
        out = theirs(**batch)
        packed = pack(ids)
        torch.testing.assert_close(ours(packed), real_rows(out.last_hidden_state, batch["attention_mask"]), **TOLERANCE)
        torch.testing.assert_close(ours.encoder.pooled(packed), out.pooler_output, **TOLERANCE)


def test_real_weights_survive_writing(real_model_dir, tmp_path):
    ours = read_model(real_model_dir)
    write_model(ours, tmp_path)
    published, written = (load_file(path / "model.safetensors") for path in (real_model_dir, tmp_path))
    published.pop("embeddings.position_ids", None)
    assert set(written) == set(published)
    assert all(torch.equal(written[name], published[name]) for name in written)
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 6


# --- golden batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(4))
def test_golden_batches_are_reproduced(golden_dir, golden_file, number):
    """Hidden rows of every layer, projections, pooler and logits, computed in float64 elsewhere."""
    golden = load_file(golden_file(f"encoder/batch{number}.safetensors"))
    golden = {name: value.float() if value.is_floating_point() else value for name, value in golden.items()}
    model = read_model(golden_dir / "model", head="mlm")
    mask = golden["attention_mask"].bool()
    rows = range(len(mask))
    places = torch.arange(mask.shape[1]).expand_as(mask)
    packed = pack(
        [golden["input_ids"][row][mask[row]].numpy() for row in rows],
        segments=[golden["token_type_ids"][row][mask[row]].numpy() for row in rows],
    )
    if number == 3:  # padded on the left: positions of the padded run
        object.__setattr__(packed, "position_ids", places[mask])
    assert torch.equal(packed.position_ids, places[mask])
    encoder = model.encoder
    with torch.no_grad():
        for layers in range(len(encoder.layers) + 1):
            found = encoder._run(packed, layers)
            torch.testing.assert_close(found, golden[f"hidden_states.{layers}"][mask], **TOLERANCE)
        for layer in range(1, len(encoder.layers) + 1):
            relations = encoder.relations(packed, layer=layer)
            for part in ("query", "key", "value"):
                expected = golden.get(f"layer{layer - 1}.{part}")
                if expected is not None:
                    torch.testing.assert_close(getattr(relations, part).flatten(1), expected[mask], **TOLERANCE)
        if number != 3:  # its first row is padding, which is not computed here
            torch.testing.assert_close(encoder.pooled(packed), golden["pooler_output"], **TOLERANCE)
        if "mlm_logits" in golden:
            torch.testing.assert_close(model(packed), golden["mlm_logits"][mask], **TOLERANCE)
