# ruff: noqa: E501 - one message per line
"""The loss of a recipe: keys that do not apply are rejected by name, pairs are read and written with their weights."""

from __future__ import annotations

import json

import pytest
from tests.unit.recipe.conftest import RECIPE

from minilm.errors import UsageError
from minilm.recipe import load_recipe, resolved_yaml


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"objective": "hidden", "version": "v1"}, "found version with objective hidden, which does not use it: remove it or use objective relations"),
        ({"objective": "mlm", "pairs": {"key-key": 1}}, "found pairs with objective mlm, which does not use it: remove it or use objective relations"),
        ({"objective": "hidden", "relation_heads": 12}, "found relation_heads with objective hidden, which does not use it: remove it or use objective relations"),
        ({"objective": "mlm", "layers": "all"}, "found layers with objective mlm, which does not use it: remove it or use objective relations or hidden"),
        ({"labels": "soft"}, "found labels with objective relations, which does not use it: remove it or use objective mlm"),
        ({"version": "v1", "pairs": {"query-key": 1, "key-key": 1}}, "found the pair key-key with version v1, which compares query-key and value-value: remove it or use v2"),
        ({"version": "v1", "relation_heads": 12}, "found relation_heads with version v1, which uses the attention heads: remove it or use v2"),
    ],
)  # fmt: skip
def test_keys_that_do_not_apply_are_rejected_by_name(recipe, loss, message):
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe, [f"loss={json.dumps(loss)}"])
    assert str(caught.value) == f"--set: loss: {message}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.pairs={}", "loss.pairs: found a section (key: value lines), expected 1 or more"),
        ("loss.pairs=3", "loss.pairs: found 3, expected a section (key: value lines)"),
        ("loss.pairs={key-key: 0}", "loss.pairs.key-key: found 0, expected more than 0"),
        ("loss.pairs={key-kez: 1}", "loss.pairs.key-kez: found the text 'key-kez', expected 'query-query', 'query-key',"),
        ("loss.layers=first", "loss.layers: found the text 'first', expected 'last' or 'all' or a list"),
        ("loss.layers=[]", "loss.layers: found a list of 0, expected 'last' or 'all' or 1 or more"),
        ("loss.mask_tokens=1", "loss.mask_tokens: found 1, expected less than 1"),
    ],
)  # fmt: skip
def test_values_that_are_not_allowed_are_rejected(recipe, override, message):
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe, [override])
    assert str(caught.value).startswith(f"--set: {message}")


def test_pairs_are_written_as_they_are_read(recipe, tmp_path):
    loaded = load_recipe(recipe, ["loss.pairs={key-value: 0.5, query-query: 2}", "loss.layers=[2, 4, 6]"])
    text = resolved_yaml(loaded)
    assert "  pairs: {key-value: 0.5, query-query: 2.0}  # from --set\n" in text
    assert "  layers: [2, 4, 6]  # from --set\n" in text
    again = tmp_path / "again.yaml"
    again.write_text(text)
    assert load_recipe(again).recipe == loaded.recipe
    assert list(load_recipe(again).recipe.loss.pairs) == ["key-value", "query-query"]
    assert load_recipe(recipe, ["loss.pairs.key-key=3"]).recipe.loss.pairs == {"key-key": 3.0}


def test_what_a_loss_needs(recipe):
    def loss(**values):
        return load_recipe(recipe, [f"loss={json.dumps(values)}"]).recipe.loss

    assert loss(version="v1").compares_attention
    assert not loss(version="v1", pairs={"value-value": 1}).compares_attention
    assert not loss(pairs={"query-key": 1}).compares_attention
    assert [loss(**one).layer_rule for one in ({}, {"version": "v1"}, {"objective": "hidden"})] == ["v2", "v1", "v1"]
    assert not loss(objective="mlm").has_teacher
    assert loss(objective="mlm", labels="soft").has_teacher
    assert [loss(objective="mlm").masked_share, loss(objective="mlm", mask_tokens=0.3).masked_share] == [0.15, 0.3]
    assert loss().masked_share is None
