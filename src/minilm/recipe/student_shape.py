"""The shape of a student, from sizes alone: nothing is loaded.

In: the student section of a recipe, the sizes of the model that it learns from or starts from.
Out: its four sizes and the layers that it copies; or one UsageError that names values that fit.

Sizes that a recipe omits follow from that model: its width and attention heads, its feed-forward in proportion to the
width, half of its layers up to the distilled one.

H heads, E hidden width, F feed-forward width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minilm.errors import UsageError
from minilm.model.config import EncoderConfig
from minilm.recipe.distill import StudentSection


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
        vocab_size: rows of its table of tokens.
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
    vocab_size: int


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
            f"{fitting_divisors([width], heads)}: set num_heads"
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


def fitting_divisors(widths: Sequence[int], wanted: int) -> str:
    """The common divisors of `widths` next to `wanted`, as `40 and 50 do`."""
    divisors = divisors_of(math.gcd(*widths))
    nearest = [*[heads for heads in divisors if heads < wanted][-1:], *[n for n in divisors if n > wanted][:1]]
    return f"{' and '.join(map(str, nearest))} {'do' if len(nearest) > 1 else 'does'}"


def divisors_of(number: int) -> list[int]:
    """All divisors of a number, in order."""
    small = [divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0]
    return sorted({*small, *(number // divisor for divisor in small)})
