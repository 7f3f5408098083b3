"""Every shipped recipe of a distillation fits the teacher that it names, is planned, and runs with a tiny one.

Stand-ins for the teachers have their published sizes and no weights, which the checks of shapes do not read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tests.conftest import TinyDistillation, checked

from minilm.distill.chain import run_distillation
from minilm.distill.dry_run import dry_run
from minilm.recipe import (
    ChainRecipe,
    Distillation,
    DistillRecipe,
    find_recipe,
    load_recipe,
    recipe_names,
    recipe_text,
    resolved_yaml,
)

NAMES = [name for name in recipe_names() if name.startswith("distill/")]
# Teacher -> model_type, layers, width, heads.
SIZES = {
    "embedded": ("bert", 6, 384, 12),
    "models/bert-base-uncased": ("bert", 12, 768, 12),
    "models/bert-large-uncased": ("bert", 24, 1024, 16),
    "models/minilm-l12-h384-uncased": ("bert", 12, 384, 12),
    "models/roberta-large": ("roberta", 24, 1024, 16),
    "models/xlm-roberta-base": ("xlm-roberta", 12, 768, 12),
    "models/xlm-roberta-large": ("xlm-roberta", 24, 1024, 16),
    "models/your-base-teacher": ("bert", 12, 768, 12),
    "runs/v1-xlmr-base-to-l12-h384/model": ("xlm-roberta", 12, 384, 12),
    "teacher": ("bert", 5, 200, 10),
}


ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write_roberta_tokenizer(file: Path, *words: str) -> None:
    """A tokenizer with the special tokens of RoBERTa and whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {token: number for number, token in enumerate([*ROBERTA_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(file))


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Path]:
    """A folder with the configuration and a small tokenizer of a teacher, and a file of weights without any."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers", reason="distillation needs it: pip install 'minilm[hf]'")
    from minilm.files.tensors import write_safetensors
    from minilm.model.config import EncoderConfig

    def make(model_type: str, layers: int, width: int, heads: int) -> Path:
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if model_type == "bert" else ROBERTA_TOKENS
        config = EncoderConfig(
            num_layers=layers,
            hidden_size=width,
            num_heads=heads,
            intermediate_size=4 * width,
            vocab_size=len(names),
            max_positions=512 if model_type == "bert" else 514,
            pad_token_id=0 if model_type == "bert" else 1,
            family=model_type,
        )
        folder = tmp_path / "teacher"
        folder.mkdir()
        values = {**config.to_hf(), "architectures": ["BertForMaskedLM"]}  # with its head, as published
        (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
        write_safetensors(folder / "model.safetensors", {"none": torch.zeros(1)})
        if model_type == "bert":
            (folder / "vocab.txt").write_text("\n".join(names), encoding="utf-8")
            return folder
        write_roberta_tokenizer(folder / "tokenizer.json")
        return folder

    return make


def test_there_are_recipes():
    assert len(NAMES) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_it_fits_its_teacher_and_resolves_to_an_equal_recipe(name, tmp_path, stand_in):
    (tmp_path / "my.txt").write_text("a text\n", encoding="utf-8")
    recipe = load_recipe(find_recipe(name)).recipe
    overrides = [
        f"teacher.model={stand_in(*SIZES[recipe.teacher.model])}",
        f"data.inputs=[{tmp_path / 'my.txt'}]",
        f"out={tmp_path / 'run'}",
    ]
    loaded = load_recipe(find_recipe(name), overrides, kind=Distillation)
    said = "\n".join(checked(loaded))
    for stage in getattr(recipe, "stages", [recipe]):
        assert f"student {stage.students[0].name!r}: " in said
    assert "note: " not in said, "a shipped chain follows the rule"
    assert not (tmp_path / "run").exists()
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(resolved_yaml(loaded), encoding="utf-8")
    assert load_recipe(resolved).recipe == loaded.recipe
    assert recipe.name == name.removeprefix("distill/")


@pytest.mark.parametrize("sizes", [("bert", 5, 200, 10), ("roberta", 1, 48, 4), ("bert", 24, 1024, 16)])
def test_the_recipe_for_a_teacher_of_ones_own_fits_any(sizes, tmp_path, stand_in):
    (tmp_path / "my.txt").write_text("a text\n", encoding="utf-8")
    overrides = [f"teacher.model={stand_in(*sizes)}", f"data.inputs.0={tmp_path / 'my.txt'}"]
    said = "\n".join(checked(load_recipe(find_recipe("own-teacher"), overrides, kind=Distillation)))
    distilled = {24: 21}.get(sizes[1], sizes[1])  # that of the papers, of BERT-large
    assert f"student 'half': {-(-distilled // 2)} layers, width {sizes[2]}, {sizes[3]} heads" in said


def tiny_overrides(recipe: DistillRecipe | ChainRecipe, tiny: TinyDistillation) -> list[str]:
    """The recipe in small: three steps, students of one layer, of two where the recipe compares all layers."""
    changed = [
        f"teacher.model={tiny.teacher}",
        *(["teacher.layer=3"] if recipe.teacher.layer != "last" else []),
        f"data.inputs=[{tiny.text}]",
        "data.heldout_documents=4",
        "data.max_tokens=32",
    ]
    short = {"steps": 3, "warmup_steps": 1, "batch_size": 4, "tokens_per_batch": 64}
    stages = {f"stages.{number}.": stage for number, stage in enumerate(getattr(recipe, "stages", []))}
    for place, stage in (stages or {"": recipe}).items():
        student = stage.students[0]
        changed += [f"{place}train.{key}={value}" for key, value in short.items()]
        small = {"name": student.name, "init": student.init, "num_layers": 1 if stage.loss.layers == "last" else 2}
        if student.init == "random":
            small |= {"hidden_size": 192}
        changed.append(f"{place}students=[{json.dumps(small)}]")
    return changed


@pytest.fixture(scope="module")
def tiny_of(tmp_path_factory) -> Callable[[str], TinyDistillation]:
    """Text, and a teacher of random weights, of a family, whose width fits the relation heads of every recipe."""
    pytest.importorskip("transformers", reason="distillation needs it: pip install 'minilm[hf]'")

    @cache
    def make(family: str) -> TinyDistillation:
        tiny = TinyDistillation(tmp_path_factory.mktemp("teacher")).make()
        own = {} if family == "bert" else {"pad_token_id": 1, "num_segments": 1}
        shape = {"num_heads": 12, "hidden_size": 192, "intermediate_size": 24, "initializer_range": 0.05}
        tiny.write_teacher(family=family, **shape, **own)
        tiny.give_head()
        if family != "bert":
            for file in ("vocab.txt", "tokenizer_config.json"):
                (tiny.teacher / file).unlink()
            write_roberta_tokenizer(tiny.teacher / "tokenizer.json", *tiny.words)
        return tiny

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_planned_and_runs_three_steps_in_small(name, tiny_of, tmp_path):
    """With a tiny teacher of the family of its own: the whole dry run, then the run."""
    recipe = load_recipe(find_recipe(name)).recipe
    family = SIZES[recipe.teacher.model][0]
    overrides = tiny_overrides(recipe, tiny_of(family))
    loaded = load_recipe(find_recipe(name), [*overrides, f"out={tmp_path / 'run'}"], kind=Distillation)
    labels = [label for label, _ in dry_run(loaded)]
    assert {"checked", "planned"} <= set(labels)
    result = run_distillation(loaded)
    assert all((folder / "model.safetensors").is_file() for folder in result.folders.values())
    families = {json.loads((folder / "config.json").read_text())["model_type"] for folder in result.folders.values()}
    assert families == {family}
    assert all(math.isfinite(loss) for loss in result.metrics.values())


@pytest.mark.parametrize("name", [name for name in NAMES if "/v" in name])
def test_a_recipe_names_its_source_and_the_published_number(name):
    text = recipe_text(name)
    assert "# Source: arXiv " in text
    assert "# Published" in text


@pytest.mark.parametrize(
    ("name", "batch_size", "learning_rate", "steps", "betas"),
    [
        ("v1-bert-base-to-l6-h768", 1024, 5e-4, 400_000, (0.9, 0.999)),
        ("v1-bert-base-to-l6-h384", 256, 3e-4, 400_000, (0.9, 0.999)),
        ("v1-base-to-l12-h384", 2048, 6e-4, 400_000, (0.9, 0.98)),
        ("v1-l12-h384-to-l6-h384", 512, 4e-4, 400_000, (0.9, 0.999)),
        ("v1-xlmr-base-to-l12-h384", 256, 3e-4, 1_000_000, (0.9, 0.999)),
        ("v1-xlmr-l12-h384-to-l6-h384", 512, 6e-4, 400_000, (0.9, 0.999)),
        ("v2-bert-base-to-l6-h768", 256, 6e-4, 400_000, (0.9, 0.999)),
        ("v1-bert-base-to-l6-h384-with-assistant", 256, 3e-4, 400_000, (0.9, 0.999)),
        ("v2-bert-base-to-l6-h384-with-assistant", 256, 6e-4, 400_000, (0.9, 0.999)),
    ],
)
def test_hyper_parameters_are_those_published(name, batch_size, learning_rate, steps, betas):
    recipe = load_recipe(find_recipe(name)).recipe
    for stage in getattr(recipe, "stages", [recipe]):
        train = stage.train
        assert (train.batch_size, train.learning_rate, train.steps, train.adam_betas) == (
            batch_size,
            learning_rate,
            steps,
            betas,
        )
        assert train.warmup_steps == 4000


@pytest.mark.parametrize(
    ("teacher", "layer", "heads"),
    [("bert-base", "last", 48), ("bert-large", 21, 64), ("roberta-large", 19, 64)],
)
def test_v2_layer_and_relation_heads_are_those_published(teacher, layer, heads):
    recipe = load_recipe(find_recipe(f"v2-{teacher}-to-l6-h384")).recipe
    assert (recipe.teacher.layer, recipe.loss.relation_heads) == (layer, heads)
