"""What a distillation recipe will do, from the files that it names: checked before anything is computed.

In: a recipe. Out: a `DistillPlan`, from configurations, the tokenizer and the first text of each data file; every shape
that does not fit is an error here. A run starts with it; `minilm distill --dry-run` then measures a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from minilm.corpus.shards import Shards
from minilm.distill.masked_language import require_trained_head
from minilm.distill.masking import Masking
from minilm.distill.objective import num_trained_documents
from minilm.distill.shapes import LayerPairs, compared_layers, relation_heads
from minilm.distill.student import StudentPlan, copyable_embedding, plan_student
from minilm.distill.teacher import read_sizes
from minilm.embedded import model_path
from minilm.errors import DataError, UsageError
from minilm.files.texts import has_text
from minilm.model.config import EncoderConfig
from minilm.recipe import Distillation, DistillRecipe, LossSection
from minilm.recipe.student_shape import TeacherSizes
from minilm.text.tokenizer import Tokenizer
from minilm.train.folder import require_outside
from minilm.train.tensorboard import require_tensorboard


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """A recipe with its configurations read and its sizes resolved.

    Attributes:
        teacher: its folder.
        sizes: its sizes.
        tokenizer: its tokenizer.
        tokenizer_folder: where that was read; a temporary folder if it was converted.
        students: by name.
        relation_heads: R; 0 if no relations are compared.
        layers: of each student, which of its layers is compared with which of the teacher's.
    """

    teacher: Path
    sizes: TeacherSizes
    tokenizer: Tokenizer
    tokenizer_folder: Path
    students: Mapping[str, StudentPlan]
    relation_heads: int
    layers: Mapping[str, LayerPairs]

    @property
    def configs(self) -> Mapping[str, EncoderConfig]:
        """The configuration of each student."""
        return {name: student.config for name, student in self.students.items()}

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """The layers of the teacher that are compared, in order."""
        return tuple(sorted({theirs for pairs in self.layers.values() for _, theirs in pairs}))


def plan_distillation(recipe: DistillRecipe, *, tokenizer: Path) -> DistillPlan:
    """Read the configurations that a recipe names, the `tokenizer` of its teacher, and the beginning of its data.

    Raises:
        UsageError: sizes of teacher, students, relation heads or documents do not fit, and the message names those that
            do; or the run would replace what it reads.
        DataError: a file is missing or damaged, or cannot be used.
        SystemProblem: transformers, the embedded model, or TensorBoard that the recipe wants is not installed.
    """
    require_tensorboard(wanted=recipe.train.tensorboard)
    require_inputs_outside(recipe)
    teacher = model_path(recipe.teacher.model)
    sizes = read_sizes(teacher, layer=recipe.teacher.layer, version=recipe.loss.layer_rule)
    copyable_embedding(teacher)
    if recipe.loss.labels == "soft":
        require_trained_head(teacher)
    loaded = Tokenizer.load(tokenizer)
    loaded.require_vocab_size(sizes.vocab_size, where=str(teacher))
    if recipe.loss.masked_share is not None:
        Masking.of(loaded, recipe.loss.masked_share, seed=recipe.seed)  # a tokenizer may lack [MASK]
    students = {
        section.name: plan_student(section, sizes, teacher=teacher, tokenizer=loaded) for section in recipe.students
    }
    configs = {name: one.config for name, one in students.items()}
    plan = DistillPlan(
        teacher=teacher,
        sizes=sizes,
        tokenizer=loaded,
        tokenizer_folder=tokenizer,
        students=students,
        relation_heads=relation_heads(recipe.loss, sizes, configs),
        layers=compared_layers(recipe.loss, sizes, configs),
    )
    _require_positions(recipe, plan)
    _require_text(recipe)
    return plan


def described(recipe: DistillRecipe, plan: DistillPlan) -> list[str]:
    """One sentence about each model of a run, its loss and its length."""
    teacher = plan.sizes
    return [
        f"teacher {recipe.teacher.model}: {teacher.num_layers} layers, width {teacher.hidden_size}, "
        f"{teacher.num_heads} heads, feed-forward {teacher.intermediate_size}; "
        f"{described_layers(recipe.loss, plan)}",
        *(f"student {name!r}: {_described(student)}" for name, student in plan.students.items()),
        f"loss {described_loss(recipe.loss, plan)}",
        f"{recipe.train.steps:,} steps of {recipe.train.batch_size} documents",
    ]


def described_layers(loss: LossSection, plan: DistillPlan) -> str:
    """What students learn from the teacher."""
    if not loss.has_teacher:
        return "it is not run, students have its tokenizer"
    if loss.objective == "mlm":
        return "students learn what its head says of masked tokens"
    layers = plan.teacher_layers
    listed = ", ".join(map(str, layers))
    return f"layer {listed} is distilled" if len(layers) == 1 else f"layers {listed} are distilled"


def described_loss(loss: LossSection, plan: DistillPlan) -> str:
    """A loss in a few words, with how its rows are averaged."""
    return f"{_described_terms(loss, plan)}; normalized per {loss.normalization}"


def _described_terms(loss: LossSection, plan: DistillPlan) -> str:
    masked = "" if loss.masked_share is None else f"; {loss.masked_share:.4g} of the tokens are masked"
    if loss.objective == "mlm":
        return f"mlm: {loss.labels} labels{masked}"
    if loss.objective == "hidden":
        return f"hidden: mean squared error through a learnt matrix{masked}"
    pairs = ", ".join(f"{pair} x {weight:g}" for pair, weight in (loss.pairs or {}).items())
    heads = f"{plan.relation_heads} {'attention' if loss.version == 'v1' else 'relation'} heads"
    return f"{loss.version}: {heads}{pairs and f'; {pairs}'}{masked}"


def open_corpus(recipe: DistillRecipe, folder: Path, plan: DistillPlan, *, verify: bool) -> Shards:
    """Open a built corpus.

    Raises:
        DataError: it is damaged, or was built with another tokenizer.
        UsageError: it was split at another length.
    """
    shards = Shards.open(folder, verify=verify)
    if shards.manifest.tokenizer != plan.tokenizer.fingerprint:
        raise DataError(
            f"the corpus {folder} was built with a different tokenizer than that of the teacher ({plan.teacher}); "
            f"rebuild it with --tokenizer {plan.teacher}"
        )
    if shards.manifest.max_tokens != recipe.data.max_tokens:
        raise UsageError(
            f"data.max_tokens is {recipe.data.max_tokens}, but the corpus was split at {shards.manifest.max_tokens} "
            f"tokens; set data.max_tokens to {shards.manifest.max_tokens} or rebuild the corpus"
        )
    return shards


def _require_positions(recipe: DistillRecipe, plan: DistillPlan) -> None:
    limit = min(plan.sizes.max_tokens, *(config.max_tokens for config in plan.configs.values()))
    if recipe.data.max_tokens > limit:
        raise UsageError(
            f"data.max_tokens is {recipe.data.max_tokens}, but teacher and students have positions for {limit} tokens; "
            f"set it to at most {limit}{' and rebuild the corpus' if recipe.data.corpus else ''}"
        )


def _require_text(recipe: DistillRecipe) -> None:
    """Check the beginning of each file; that of a built corpus was checked when it was built."""
    data = recipe.data
    found = [has_text(Path(name), field=data.field) for name in data.inputs]
    if data.inputs and not any(found):
        raise DataError(f"data.inputs: no text in {', '.join(data.inputs)}; check the files")


def require_inputs_outside(recipe: Distillation) -> None:
    """Require that what a run or a chain reads is not among the results that it replaces; raises UsageError."""
    require_outside(recipe, builds_corpus=recipe.data.corpus is None)


def _described(student: StudentPlan) -> str:
    config = student.config
    return (
        f"{config.num_layers} layers, width {config.hidden_size}, {config.num_heads} heads, feed-forward "
        f"{config.intermediate_size}, {config.num_parameters():,} parameters; {student.start}"
    )


def described_data(recipe: DistillRecipe, plan: DistillPlan) -> str:
    """One sentence about the data; raises the errors of `open_corpus`."""
    data = recipe.data
    if data.corpus is None:
        return f"data: the beginning of {', '.join(data.inputs)}; documents of at most {data.max_tokens} tokens"
    shards = open_corpus(recipe, Path(data.corpus), plan, verify=False)
    num_trained_documents(shards, data.heldout_documents)
    return (
        f"corpus {data.corpus}: {len(shards):,} documents, {shards.manifest.tokens:,} tokens, "
        f"{data.heldout_documents} documents held out"
    )
