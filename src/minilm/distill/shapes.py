"""Which layers are compared, and the number of relation heads, from sizes alone: nothing is loaded.

In: the loss section of a recipe, the sizes of the teacher and of the students.
Out: the layers that are compared, R; or one UsageError that names values that fit.

H heads, R relation heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from minilm.errors import UsageError
from minilm.model.config import EncoderConfig
from minilm.recipe import LossSection
from minilm.recipe.student_shape import TeacherSizes, divisors_of, fitting_divisors

LayerPairs = tuple[tuple[int, int], ...]
"""Layers of a student and of its teacher that are compared, counted from 1."""

_WANTED_HEADS = 48  # of the paper, for base-size teachers


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
        return min(divisors_of(math.gcd(*widths.values())), key=lambda heads: (abs(heads - _WANTED_HEADS), -heads))
    for name, width in widths.items():
        if width % loss.relation_heads:
            raise UsageError(
                f"loss.relation_heads: {loss.relation_heads} relation heads do not divide {width}, the width of "
                f"{name}; {fitting_divisors(list(widths.values()), loss.relation_heads)}, or omit the key"
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
