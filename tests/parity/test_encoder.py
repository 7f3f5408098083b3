"""Proves that the packed encoder is that of every family: outputs, gradients, dropout, files both ways."""

from __future__ import annotations

import inspect
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minilm.errors import DataError
from minilm.model.checkpoint import read_model, write_model
from minilm.model.config import EncoderConfig
from minilm.model.metadata import read_config, read_labels, saved_head
from minilm.model.packing import pack
from minilm.model.relative import buckets
from minilm.model.tensor_names import to_hf
from minilm.train.optim import is_decayed

transformers = pytest.importorskip("transformers")

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
SPECIAL = {"pad_token_id": 1, "type_vocab_size": 1}
FAMILIES = {
    "bert": ("Bert", {}),
    "roberta": ("Roberta", SPECIAL),
    "xlm-roberta": ("XLMRoberta", SPECIAL),
    "camembert": ("Camembert", SPECIAL),
    "distilbert": ("DistilBert", {}),
    "electra": ("Electra", {"embedding_size": 20}),
    "mpnet": ("MPNet", {}),
}
"""What the classes of transformers start with, and settings with which the family is seen to be itself."""
DISTILBERT_KEYS = {
    "intermediate_size": "hidden_dim",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "classifier_dropout": "seq_classif_dropout",
}
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
        name, special = FAMILIES[family]
        labels = {"num_labels": 3} if head in ("classification", "tokens") else {}
        values = {**sizes, **special, **labels, **settings}
        if family == "distilbert":
            values = {DISTILBERT_KEYS.get(key, key): value for key, value in values.items()}
        config = getattr(transformers, name + "Config")(**values)
        return randomized(getattr(transformers, name + HEADS[head])(config))

    return make


def real_rows(values, mask):
    """`[B, S, ...]` of a padded batch -> `[T, ...]`."""
    return values[mask.bool()]


def their_scores(model, batch):
    """What our model gives for the same rows: `[T, E]`, `[T, V]`, `[B, C]`, `[T, 2]` or `[T, C]`."""
    takes = inspect.signature(model.forward).parameters
    out = model(**{name: value for name, value in batch.items() if name in takes})
    mask = batch["attention_mask"]
    if "start_logits" in out:
        return real_rows(torch.stack([out.start_logits, out.end_logits], dim=-1), mask)
    if "logits" in out:
        return real_rows(out.logits, mask) if out.logits.dim() == 3 else out.logits
    return real_rows(out.last_hidden_state, mask)


def kinds_of(ids, family):
    """Segment ids; a family without segments must ignore them."""
    alone = family in ("roberta", "xlm-roberta", "camembert")
    return [np.zeros(len(row), dtype=int) if alone else np.arange(len(row)) % 2 for row in ids]


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


def same_after_changes(folder, ids, padded, family, **values):
    """Whether both read the same model from a folder of an encoder whose `config.json` is changed."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    kinds = kinds_of(ids, family)
    with torch.no_grad():
        expected = their_scores(theirs, padded(ids, kinds, theirs.config.pad_token_id))
        return torch.allclose(read_model(folder)(pack(ids, segments=kinds)), expected, **TOLERANCE)


@pytest.mark.parametrize("name", sorted(transformers.activations.ACT2CLS))
@pytest.mark.parametrize(("family", "key"), [("bert", "hidden_act"), ("distilbert", "activation")])
def test_an_activation_is_computed_as_theirs_or_rejected(tmp_path, ids, padded, make_theirs, family, key, name):
    make_theirs(family, None).save_pretrained(tmp_path)
    if name in ("gelu", "gelu_python", "gelu_new", "gelu_pytorch_tanh", "relu"):
        assert same_after_changes(tmp_path, ids, padded, family, **{key: name})
        return
    with pytest.raises(DataError, match=f"{key} is '{name}'; this encoder supports 'gelu', 'gelu_py"):
        EncoderConfig.from_hf({"model_type": family, key: name})


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@pytest.mark.parametrize("head", [None, "mlm"])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_activations_of_every_family_and_its_mlm_head(
    tmp_path, ids, padded, make_theirs, family, head, activation
):
    """Some families have erf GELU in the mlm head whatever the rest has; the activation is kept in a folder."""
    key = "activation" if family == "distilbert" else "hidden_act"
    theirs = make_theirs(family, head, **{key: activation})
    theirs.save_pretrained(tmp_path / "theirs")
    ours = read_model(tmp_path / "theirs", head=head)
    kinds = kinds_of(ids, family)
    with torch.no_grad():
        expected = their_scores(theirs, padded(ids, kinds, theirs.config.pad_token_id))
        found = ours(pack(ids, segments=kinds))
    torch.testing.assert_close(found, expected, **TOLERANCE)
    (tmp_path / "ours").mkdir()
    write_model(ours, tmp_path / "ours", head=head)
    written = json.loads((tmp_path / "ours" / "config.json").read_text())[key]
    assert written == {"gelu_new": "gelu_pytorch_tanh"}.get(activation, activation)
    assert read_config(tmp_path / "ours") == read_config(tmp_path / "theirs")


@pytest.mark.parametrize(
    "values",
    [
        {"n_heads": 8, "num_attention_heads": 2},
        {"n_layers": 9, "num_hidden_layers": 3},
        {"dim": 99, "hidden_size": 32},
        {"hidden_dim": 40, "intermediate_size": 99},
        {"dropout": 0.1, "hidden_dropout_prob": 0.9, "activation": "gelu", "hidden_act": "relu"},
    ],
)
def test_of_two_keys_of_distilbert_the_one_of_transformers_wins(tmp_path, ids, padded, make_theirs, values):
    make_theirs("distilbert", None).save_pretrained(tmp_path)
    assert same_after_changes(tmp_path, ids, padded, "distilbert", **values)


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
    assert type(theirs).__name__ == FAMILIES[family][0] + HEADS[head]
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
    theirs = make_theirs(family, None, classifier_dropout=0.4).config
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


@pytest.mark.parametrize("embedding_size", [32, 48])
def test_an_electra_with_embeddings_of_any_width(tmp_path, make_theirs, ids, padded, embedding_size):
    theirs = make_theirs("electra", None, embedding_size=embedding_size)
    theirs.save_pretrained(tmp_path)
    ours = read_model(tmp_path)
    assert (ours.encoder.embeddings.project is None) == (embedding_size == 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(pack(ids)), their_scores(theirs, padded(ids)), **TOLERANCE)


def test_an_electra_discriminator_has_no_masked_language_model(tmp_path, caplog, sizes, randomized, ids, padded):
    theirs = randomized(transformers.ElectraForPreTraining(transformers.ElectraConfig(**sizes)))
    theirs.save_pretrained(tmp_path)
    assert saved_head(tmp_path) is None
    with torch.no_grad():
        found, expected = read_model(tmp_path)(pack(ids)), their_scores(theirs.electra, padded(ids))
        torch.testing.assert_close(found, expected, **TOLERANCE)
    assert caplog.messages == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_with_a_bin_file_gives_the_same_numbers(tmp_path, ids, padded, make_theirs, family):
    theirs = make_theirs(family, "classification")
    theirs.config.architectures = [type(theirs).__name__]
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    kinds = kinds_of(ids, family)
    with torch.no_grad():
        found = read_model(tmp_path, head="classification")(pack(ids, segments=kinds))
        expected = their_scores(theirs, padded(ids, kinds, theirs.config.pad_token_id))
        torch.testing.assert_close(found, expected, **TOLERANCE)


def test_relative_positions_of_every_distance_have_the_bucket_of_mpnet():
    offsets = torch.arange(-1100, 1101)
    theirs = transformers.models.mpnet.modeling_mpnet.MPNetEncoder.relative_position_bucket(offsets)
    assert torch.equal(buckets(offsets), theirs)


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
    tied = re.compile(r".*\.decoder\..*|(vocab_projector|generator_lm_head)\.weight")
    theirs_by_name = {n: w.grad for n, w in named if w.grad is not None and not tied.fullmatch(n)}
    assert set(renamed) == set(theirs_by_name)
    for name, gradient in theirs_by_name.items():
        scale = max(float(gradient.abs().max()), 1e-3)
        assert float((renamed[name] - gradient).abs().max()) <= 1e-5 * scale, name


@pytest.mark.parametrize(
    ("head", "settings"),
    [("classification", {}), ("classification", {"classifier_dropout": 0.4}), ("span", {})],
    ids=["classification", "classifier_dropout", "span"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_of_every_rate_is_where_transformers_has_it(
    tmp_path, monkeypatch, ids, padded, make_theirs, family, head, settings
):
    """With dropout that scales by its rate instead of drawing, a missing, added or moved one shows in the scores."""
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.0, **settings}
    theirs = make_theirs(family, head, **rates)
    theirs.save_pretrained(tmp_path)
    ours = read_model(tmp_path, head=head)
    scaled = lambda rows, p=0.5, training=True, inplace=False: rows * (1 - p) if training else rows  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "dropout", scaled)
    kinds = kinds_of(ids, family)
    with torch.no_grad():
        found = ours.train()(pack(ids, segments=kinds))
        assert not torch.allclose(found, ours.eval()(pack(ids, segments=kinds)))
        expected = their_scores(theirs.train(), padded(ids, kinds, theirs.config.pad_token_id))
        torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_weight_decay_leaves_out_what_the_trainer_of_transformers_leaves_out(tmp_path, make_theirs, family):
    from transformers.trainer_pt_utils import get_parameter_names

    theirs = make_theirs(family, "classification")
    theirs.save_pretrained(tmp_path)
    ours = read_model(tmp_path, head="classification").state_dict()
    decayed = to_hf(
        {name: weight for name, weight in ours.items() if is_decayed(name)}, family=family, head="classification"
    )
    names = get_parameter_names(theirs, [torch.nn.LayerNorm], ["bias", "layernorm", "_norm"])  # as the Trainer does
    assert set(decayed) == set(names)


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
