"""Shapes of the students and the number of relation heads, from sizes alone: nothing is loaded.

In: sections of a recipe, the sizes of the teacher.
Out: the four sizes of each student, the layers that it copies, those that are compared, R; or one UsageError that names
values that fit.

Sizes that a recipe omits follow from the teacher: its width and attention heads, its feed-forward in proportion to the
width, half of its layers up to the distilled one.

H heads, E hidden width, F feed-forward width, R relation heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minilm.errors import UsageError
from minilm.model.config import EncoderConfig
from minilm.recipe import LossSection, StudentSection

LayerPairs = tuple[tuple[int, int], ...]
"""Layers of a student and of its teacher that are compared, counted from 1."""

_WANTED_HEADS = 48  # of the paper, for base-size teachers


@dataclass(frozen=True, kw_only=True)
class TeacherSizes:
    """Sizes of a teacher.

    Attributes:
        num_layers: all layers.
        layer: the distilled one, counted from 1.
        hidden_size: E.
        intermediate_size: F.
        num_heads: H of the queries.
        query_width: width of the queries of a token.
        key_width: width of its keys and values; smaller where heads share keys.
        max_tokens: max tokens of a document.
        num_parameters: its weights, without a head.
    """

    num_layers: int
    layer: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    query_width: int
    key_width: int
    max_tokens: int
    num_parameters: int


def student_shape(section: StudentSection, teacher: TeacherSizes) -> EncoderConfig:
    """The sizes of a student, without the vocabulary and positions that its teacher gives it.

    Raises:
        UsageError: the attention heads do not divide the width, or layers cannot be copied into this shape.
    """
    given = section.sizes
    width, heads = given.get("hidden_size", teacher.hidden_size), given.get("num_heads", teacher.num_heads)
    if width % heads:
        raise UsageError(
            f"student {section.name!r}: {heads} attention heads do not divide hidden_size {width}; "
            f"{_fitting([width], heads)}: set num_heads"
        )
    default_depth = len(section.teacher_layers) or math.ceil(teacher.layer / 2)
    shape = EncoderConfig(
        num_layers=given.get("num_layers", default_depth),
        hidden_size=width,
        num_heads=heads,
        intermediate_size=given.get(
            "intermediate_size", max(1, teacher.intermediate_size * width // teacher.hidden_size)
        ),
    )
    if section.init == "layers":
        _require_widths_of(teacher, shape, section.name)
    return shape


def copied_layers(section: StudentSection, num_layers: int, teacher: TeacherSizes) -> tuple[int, ...]:
    """The teacher's layers, counted from 1, that `init: layers` copies; none for another `init`.

    Omitted, they are evenly spaced and end with the distilled layer.

    Raises:
        UsageError: a layer does not exist, or the student has more layers than there are to copy.
    """
    if section.init != "layers":
        return ()
    if section.teacher_layers:
        wrong = [layer for layer in section.teacher_layers if layer > teacher.num_layers]
        if wrong:
            raise UsageError(
                f"student {section.name!r}: teacher_layers is {section.teacher_layers}; the teacher has layers 1 to "
                f"{teacher.num_layers}"
            )
        return tuple(section.teacher_layers)
    if num_layers > teacher.layer:
        raise UsageError(
            f"student {section.name!r}: num_layers is {num_layers}, but the teacher has {teacher.layer} layers up to "
            f"the distilled one; use at most {teacher.layer}, name teacher_layers, or use init: random"
        )
    return tuple((number + 1) * teacher.layer // num_layers for number in range(num_layers))


def compared_layers(
    loss: LossSection, teacher: TeacherSizes, students: Mapping[str, EncoderConfig]
) -> dict[str, LayerPairs]:
    """For each student, which of its layers is compared with which of the teacher's.

    Of all layers, layer m of M goes with layer ceil(m L / M) of the teacher, where L is its distilled layer.

    Raises:
        UsageError: `loss.layers` names a layer that does not exist, or not one for each layer of a student.
    """
    if loss.layers == "last":
        return {name: ((config.num_layers, teacher.layer),) for name, config in students.items()}
    if loss.layers == "all":
        return {
            name: tuple(
                (number, -(-number * teacher.layer // config.num_layers)) for number in range(1, config.num_layers + 1)
            )
            for name, config in students.items()
        }
    if wrong := [layer for layer in loss.layers if layer > teacher.num_layers]:
        raise UsageError(f"loss.layers names layer {wrong[0]}; the teacher has layers 1 to {teacher.num_layers}")
    for name, config in students.items():
        if config.num_layers != len(loss.layers):
            raise UsageError(
                f"loss.layers is {loss.layers}, expected one layer of the teacher for each of the {config.num_layers} "
                f"layers of student {name!r}; use loss.layers all for even distances"
            )
    return {name: tuple(enumerate(loss.layers, start=1)) for name in students}


def relation_heads(loss: LossSection, teacher: TeacherSizes, students: Mapping[str, EncoderConfig]) -> int:
    """R: the attention heads (v1), or `loss.relation_heads`, by default the fitting number that is nearest to 48.

    0 where no relations are compared.

    Raises:
        UsageError: the number does not fit the teacher or a student, and the message names numbers that do; or the
            sides of a pair differ in width.
    """
    if loss.objective != "relations":
        return 0
    if loss.version == "v1":
        return _common_heads(teacher, students)
    unequal = [pair for pair in loss.pairs or () if len({side == "query" for side in pair.split("-")}) > 1]
    if unequal and teacher.query_width != teacher.key_width:
        raise UsageError(
            f"loss.pairs: the teacher's queries have width {teacher.query_width} but its keys and values "
            f"{teacher.key_width} (shared key heads), so {unequal[0]} is not a relation; use pairs of equal widths, "
            "such as key-value"
        )
    widths = {
        "the teacher": teacher.query_width,
        "the keys of the teacher": teacher.key_width,
        **{f"student {name!r}": config.hidden_size for name, config in students.items()},
    }
    if loss.relation_heads is None:
        return min(_divisors(math.gcd(*widths.values())), key=lambda heads: (abs(heads - _WANTED_HEADS), -heads))
    for name, width in widths.items():
        if width % loss.relation_heads:
            raise UsageError(
                f"loss.relation_heads: {loss.relation_heads} relation heads do not divide {width}, the width of "
                f"{name}; {_fitting(list(widths.values()), loss.relation_heads)}, or omit the key"
            )
    return loss.relation_heads


def _common_heads(teacher: TeacherSizes, students: Mapping[str, EncoderConfig]) -> int:
    """The teacher's number of attention heads, which v1 requires in every student."""
    if teacher.query_width != teacher.key_width:
        raise UsageError(
            f"the teacher's queries have width {teacher.query_width} but its keys {teacher.key_width} (shared key "
            "heads), so they have no relation; use loss.version v2"
        )
    for name, config in students.items():
        if config.num_heads != teacher.num_heads:
            raise UsageError(
                f"loss.version v1 compares attention heads one by one, but the teacher has {teacher.num_heads} and "
                f"student {name!r} has {config.num_heads}; change its num_heads, or use v2"
            )
    return teacher.num_heads


def _require_widths_of(teacher: TeacherSizes, shape: EncoderConfig, name: str) -> None:
    differing = [
        f"{key} {getattr(shape, key)} (teacher {getattr(teacher, key)})"
        for key in ("hidden_size", "num_heads", "intermediate_size")
        if getattr(shape, key) != getattr(teacher, key)
    ]
    if differing:
        raise UsageError(
            f"student {name!r}: init 'layers' copies weights and requires the teacher's widths; "
            f"found {', '.join(differing)}; omit these keys, or use init: random"
        )


def _fitting(widths: Sequence[int], wanted: int) -> str:
    """The common divisors of `widths` next to `wanted`, as `40 and 50 do`."""
    divisors = _divisors(math.gcd(*widths))
    nearest = [*[heads for heads in divisors if heads < wanted][-1:], *[n for n in divisors if n > wanted][:1]]
    return f"{' and '.join(map(str, nearest))} {'do' if len(nearest) > 1 else 'does'}"


def _divisors(number: int) -> list[int]:
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})
