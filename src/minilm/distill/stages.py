"""The stages of a chain: each is the recipe of a separate run, planned before its teacher exists.

In: the recipe of a chain. Out: a recipe and a `DistillPlan` per stage; what the rule of the MiniLM paper says about a
teacher assistant.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from minilm.distill.criteria import pair_weights
from minilm.distill.plan import DistillPlan, plan_distillation, require_inputs_outside
from minilm.distill.teacher import tokenizer_folder
from minilm.distill.teacher_cache import cache_root
from minilm.embedded import model_path
from minilm.errors import MinilmError, UsageError
from minilm.files.json import write_json
from minilm.files.tensors import write_safetensors
from minilm.model.checkpoint import write_model
from minilm.model.config import FAMILIES, EncoderConfig
from minilm.model.heads import Model
from minilm.recipe import ChainRecipe, Distillation, DistillRecipe, Loaded, LossSection
from minilm.recipe.distill import OF_INPUTS
from minilm.recipe.student_shape import TeacherSizes
from minilm.text.tokenizer import Tokenizer
from minilm.train.folder import STAGES

_BY_CHAIN = "the chain"


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage whose shapes fit; its teacher may not exist yet.

    Attributes:
        number: of the stage, from 1.
        count: of stages.
        loaded: the recipe of its run.
        plan: of that recipe.
    """

    number: int
    count: int
    loaded: Loaded[DistillRecipe]
    plan: DistillPlan

    @property
    def recipe(self) -> DistillRecipe:
        """The recipe of its run."""
        return self.loaded.recipe

    @property
    def label(self) -> str:
        """The stage in messages."""
        return f"stage {self.number} of {self.count}"

    def reading(self, corpus: Path) -> PlannedStage:
        """The stage with the corpus of the chain, and with the model that will be its teacher."""
        data = self.recipe.data.model_copy(update={"corpus": str(corpus), "inputs": [], **OF_INPUTS})
        by_chain = [f"data.{key}" for key in ("corpus", "inputs", *OF_INPUTS)]
        origins = {**self.loaded.origins, **dict.fromkeys(by_chain, _BY_CHAIN)}
        loaded = Loaded(recipe=self.recipe.model_copy(update={"data": data}), origins=origins)
        plan = replace(self.plan, teacher=model_path(self.recipe.teacher.model))
        return replace(self, loaded=loaded, plan=plan)


def stage_recipes(loaded: Loaded[ChainRecipe]) -> list[Loaded[DistillRecipe]]:
    """The recipe of each stage, with the student of a stage as the teacher of the next one."""
    chain, stages = loaded.recipe, []
    shared = {key: origin for key, origin in loaded.origins.items() if not key.startswith("stages.")}
    teacher, cache = chain.teacher, chain.cache
    if cache is not None:  # the stages have other corpora and folders by name
        cache = cache.model_copy(update={"folder": str(cache_root(chain))})
    for number, stage in enumerate(chain.stages):
        out = Path(chain.out) / STAGES / str(number + 1)
        recipe = DistillRecipe(
            kind=chain.kind,
            name=f"{chain.name}, stage {number + 1} of {len(chain.stages)}",
            seed=chain.seed,
            out=str(out),
            data=chain.data,
            teacher=teacher,
            cache=cache,
            students=stage.students,
            loss=stage.loss,
            train=stage.train,
            probe=chain.probe,
        )
        prefix = f"stages.{number}."
        own = {key.removeprefix(prefix): value for key, value in loaded.origins.items() if key.startswith(prefix)}
        by_chain = ("name", "out", *(("teacher.model", "teacher.layer") if number else ()))
        by_chain += ("cache.folder",) if cache is not None else ()
        stages.append(Loaded(recipe=recipe, origins={**shared, **own, **dict.fromkeys(by_chain, _BY_CHAIN)}))
        teacher = chain.teacher.model_copy(update={"model": str(out / "model"), "layer": "last"})
    return stages


@contextmanager
def planned(loaded: Loaded[Distillation]) -> Iterator[list[PlannedStage]]:
    """Plan every stage of a chain, or the only one of a plain recipe, before anything is computed.

    Raises:
        UsageError, DataError, SystemProblem: as for `plan_distillation`; the message names the stage.
    """
    with ExitStack() as stack:
        require_inputs_outside(loaded.recipe)  # a stage knows its own folder alone
        first = stack.enter_context(tokenizer_folder(model_path(loaded.recipe.teacher.model)))
        stages: list[PlannedStage] = []
        recipes = _recipes(loaded)
        for number, one in enumerate(recipes, start=1):
            folder, names = first, {}
            planning = one.recipe
            if stages:
                (config,) = stages[-1].plan.configs.values()
                has_head = stages[-1].recipe.loss.objective == "mlm"
                folder = stack.enter_context(_stand_in(config, stages[-1].plan.tokenizer, has_head=has_head))
                names = {str(folder): one.recipe.teacher.model}
                teacher = one.recipe.teacher.model_copy(update={"model": str(folder)})
                planning = one.recipe.model_copy(update={"teacher": teacher})
            with _about(f"stage {number}: " if len(recipes) > 1 else "", names):
                plan = plan_distillation(planning, tokenizer=folder)
                if stages:
                    _require_trained(stages[-1], one.recipe, plan)
            stages.append(PlannedStage(number=number, count=len(recipes), loaded=one, plan=plan))
        yield stages


def _require_trained(before: PlannedStage, recipe: DistillRecipe, plan: DistillPlan) -> None:
    """Require that a stage reads nothing of its teacher's last layer that is as random as the stage before began.

    Raises:
        UsageError: it does.
    """
    if any(student.init != "random" for student in before.recipe.students):
        return
    if before.recipe.loss.objective != "relations" or plan.sizes.num_layers not in plan.teacher_layers:
        return
    read, trained = _read_by(recipe.loss), _read_by(before.recipe.loss)
    if untrained := [part for part in read if part not in trained]:
        raise UsageError(
            f"the loss reads {', '.join(untrained)} of layer {plan.sizes.num_layers} of {recipe.teacher.model}, but "
            f"stage {before.number} trains only {', '.join(trained)} there, and all else stays as it was initialized: "
            "change the loss of one of the two stages"
        )


def _read_by(loss: LossSection) -> list[str]:
    """What a loss reads of a layer of its teacher."""
    if loss.objective == "relations":
        return list(dict.fromkeys(part for pair in pair_weights(loss) for part in pair))
    return ["hidden rows"] if loss.objective == "hidden" else []


def _recipes(loaded: Loaded[Distillation]) -> list[Loaded[DistillRecipe]]:
    recipe = loaded.recipe
    if isinstance(recipe, ChainRecipe):
        return stage_recipes(Loaded(recipe=recipe, origins=loaded.origins))
    assert isinstance(recipe, DistillRecipe)
    return [Loaded(recipe=recipe, origins=loaded.origins)]


@contextmanager
def _stand_in(config: EncoderConfig, tokenizer: Tokenizer, *, has_head: bool) -> Iterator[Path]:
    """A temporary folder like that of a model, but without its weights, which planning does not read.

    `has_head`: the model has one for masked tokens.
    """
    with tempfile.TemporaryDirectory(prefix="minilm-stage-") as name:
        folder, architecture = Path(name), FAMILIES[config.family].architecture
        with_head = {"architectures": [f"{architecture}ForMaskedLM"]} if has_head else {}
        write_json(folder / "config.json", {**config.to_hf(), **with_head})
        write_safetensors(folder / "model.safetensors", {"none": torch.zeros(1)})
        tokenizer.save(folder, segments=config.num_segments > 0)
        yield folder


def fill_stand_in(stage: PlannedStage, student: Model) -> None:
    """Give the stand-in for a stage's teacher weights, so that a step of that stage can be measured."""
    write_model(student, stage.plan.teacher, head=None if student.head is None else "mlm")


@contextmanager
def _about(stage: str, names: Mapping[str, str]) -> Iterator[None]:
    """Begin errors with the stage that they are about, and name what stand-ins stand for."""
    try:
        yield
    except MinilmError as error:
        text = str(error)
        for found, name in names.items():
            text = text.replace(found, name)
        raise type(error)(f"{stage}{text}") from None


def assistant_advice(stages: Sequence[PlannedStage]) -> list[str]:
    """What the paper's rule says about an assistant, for each student at the end; one note if the chain differs.

    The rule: an assistant where the student has at most half of the teacher's layers and at most half of its width; it
    has the teacher's layers and the student's width. Nothing is said of students that learn without a teacher.
    """
    if not stages[-1].recipe.loss.has_teacher:
        return []
    teacher, assistants = stages[0].plan.sizes, [stage.plan for stage in stages[:-1]]
    last = stages[-1].plan.configs
    found = [next(iter(plan.configs.values())) for plan in assistants]
    sizes = [(one.num_layers, one.hidden_size) for one in found]
    lines, wanted = [], []
    for name, config in last.items():
        is_advised = _has_assistant(config, teacher)
        wanted.append([(teacher.num_layers, config.hidden_size)] if is_advised else [])
        compared = (
            f"it has {config.num_layers} of {teacher.num_layers} layers and width {config.hidden_size} of "
            f"{teacher.hidden_size}"
        )
        if is_advised:
            lines.append(
                f"an assistant is advised for student {name!r}, by the rule of the MiniLM paper: {compared}, at most "
                f"half of both; sizes of the assistant: {teacher.num_layers} layers, width {config.hidden_size}"
            )
        else:
            lines.append(
                f"no assistant is advised for student {name!r}, by the rule of the MiniLM paper: {compared}, and the "
                "rule is at most half of both"
            )
    if sizes and sizes not in wanted:
        named = ", then ".join(f"{layers} layers, width {width}" for layers, width in sizes)
        lines.append(f"note: this chain differs from the rule: before its last stage it trains {named}")
    return lines


def _has_assistant(student: EncoderConfig, teacher: TeacherSizes) -> bool:
    return 2 * student.num_layers <= teacher.num_layers and 2 * student.hidden_size <= teacher.hidden_size
