"""A model card has metadata that the hub's own library reads, a use that runs, and asks for the license."""

from __future__ import annotations

import re

import pytest
import yaml

import minilm
from minilm.finetune.sweep import finetune
from minilm.recipe import FinetuneRecipe, load_recipe
from minilm.report.card import _USES, model_card


@pytest.mark.parametrize("kind", _USES)
def test_the_metadata_is_that_of_the_hub(kind):
    hub = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install 'minilm[hub]'")
    text = model_card("A: title", kind=kind, base='odd: "name"', tags=["a: b"], pairs=False, sections=["One.", "Two."])
    card = hub.ModelCard(text)
    assert card.data.to_dict() == {
        "library_name": "minilm",
        "pipeline_tag": _USES[kind][0],
        "base_model": 'odd: "name"',
        "license": "unknown",
        "tags": ["minilm", "a: b"],
    }
    assert card.text.strip().startswith("# A: title\n\nOne.\n\nTwo.\n\n## Use\n")


@pytest.mark.slow
def test_the_use_of_a_fine_tuned_model_runs(tiny_task, capsys):
    recipe = load_recipe(tiny_task.recipe(steps=1), kind=FinetuneRecipe)
    finetune(recipe)
    model = tiny_task.folder / "run" / "model"
    text = (model / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "text-classification"
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.startswith("import minilm\n")
    exec(code.replace("FOLDER", str(model)), {})
    assert capsys.readouterr().out == f"{minilm.load(model).classify(['a text'])}\n"
