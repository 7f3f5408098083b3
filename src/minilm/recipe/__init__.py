"""Recipes: strict YAML files, validated into frozen sections, with the origin of every value.

In: a YAML file (a path, or the name of a recipe that ships with the package) and dotted overrides
such as `train.learning_rate=3e-4`.
Out: `Loaded`: the recipe, and the origin of the value of each dotted key.
Every problem is a one-line UsageError that names file:line or the override.
"""

from __future__ import annotations

from minilm.recipe.distill import (
    CacheSection,
    ChainRecipe,
    DataSection,
    Distillation,
    DistillRecipe,
    LossSection,
    Objective,
    ProbeSection,
    StageSection,
    StudentSection,
    TeacherSection,
    TrainSection,
)
from minilm.recipe.finetune import (
    EmbedSection,
    FinetuneRecipe,
    FinetuneTrainSection,
    HeadChoice,
    LabelledSection,
    RerankSection,
    Seq2SeqSection,
    SquadSection,
    SweepSection,
    TaskSection,
    TextSection,
    TokensSection,
)
from minilm.recipe.loading import Loaded, Recipe, flat_values, input_names, load_recipe, resolved_yaml
from minilm.recipe.optimization import OptimizationSettings
from minilm.recipe.sections import RunRecipe, TrainingSection
from minilm.recipe.shipped import curve_path, find_recipe, recipe_names, recipe_text

__all__ = [
    "CacheSection",
    "ChainRecipe",
    "DataSection",
    "DistillRecipe",
    "Distillation",
    "EmbedSection",
    "FinetuneRecipe",
    "FinetuneTrainSection",
    "HeadChoice",
    "LabelledSection",
    "Loaded",
    "LossSection",
    "Objective",
    "OptimizationSettings",
    "ProbeSection",
    "Recipe",
    "RerankSection",
    "RunRecipe",
    "Seq2SeqSection",
    "SquadSection",
    "StageSection",
    "StudentSection",
    "SweepSection",
    "TaskSection",
    "TeacherSection",
    "TextSection",
    "TokensSection",
    "TrainSection",
    "TrainingSection",
    "curve_path",
    "find_recipe",
    "flat_values",
    "input_names",
    "load_recipe",
    "recipe_names",
    "recipe_text",
    "resolved_yaml",
]
