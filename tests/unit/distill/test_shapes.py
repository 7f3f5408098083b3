"""Sizes that a recipe omits follow from the teacher; sizes that do not fit are named with those that do."""

from __future__ import annotations

import pytest

from minilm.distill.shapes import relation_heads
from minilm.errors import UsageError
from minilm.model.config import EncoderConfig
from minilm.recipe import LossSection, StudentSection
from minilm.recipe.student_shape import TeacherSizes, copied_layers, student_shape


def teacher(width: int = 384, heads: int = 12, **changes: int) -> TeacherSizes:
    sizes = {
        "num_layers": 6,
        "layer": 6,
        "intermediate_size": 4 * width,
        "key_width": width,
        "max_tokens": 512,
        "num_parameters": 9,
        "vocab_size": 9,
    }
    return TeacherSizes(hidden_size=width, query_width=width, num_heads=heads, **{**sizes, **changes})


def shape(section: StudentSection, of: TeacherSizes) -> tuple[int, int, int, int]:
    config = student_shape(section, of)
    return config.num_layers, config.hidden_size, config.num_heads, config.intermediate_size


@pytest.mark.parametrize(
    ("values", "of", "expected"),
    [
        ({}, teacher(), (3, 384, 12, 1536)),
        ({}, teacher(200, 10, num_layers=5, layer=5, intermediate_size=512), (3, 200, 10, 512)),
        ({}, teacher(num_layers=24, layer=21), (11, 384, 12, 1536)),
        ({"hidden_size": 192}, teacher(768, 12), (3, 192, 12, 768)),
        ({"hidden_size": 192, "num_heads": 4, "num_layers": 2, "intermediate_size": 10}, teacher(), (2, 192, 4, 10)),
        ({"preset": "L6-H384"}, teacher(1024, 16, num_layers=24, layer=24), (6, 384, 12, 1536)),
        ({"init": "layers", "teacher_layers": [1, 6]}, teacher(), (2, 384, 12, 1536)),
        ({"init": "layers"}, teacher(num_layers=1, layer=1), (1, 384, 12, 1536)),
    ],
)
def test_omitted_sizes_follow_from_the_teacher(values, of, expected):
    assert shape(StudentSection(**values), of) == expected


@pytest.mark.parametrize(
    ("depth", "layer", "expected"), [(3, 6, (2, 4, 6)), (5, 12, (2, 4, 7, 9, 12)), (6, 21, (3, 7, 10, 14, 17, 21))]
)
def test_omitted_layers_are_spaced_evenly_and_end_with_the_distilled_one(depth, layer, expected):
    section = StudentSection(init="layers")
    assert copied_layers(section, depth, teacher(num_layers=24, layer=layer)) == expected
    assert copied_layers(StudentSection(), depth, teacher()) == ()


def problem(values: dict, of: TeacherSizes) -> str:
    section = StudentSection(**values)
    with pytest.raises(UsageError) as caught:
        copied_layers(section, student_shape(section, of).num_layers, of)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"hidden_size": 200},
            "student 'student': 12 attention heads do not divide hidden_size 200; 10 and 20 do: set num_heads",
        ),
        (
            {"init": "layers", "hidden_size": 24, "intermediate_size": 50},
            "student 'student': init 'layers' copies weights and requires the teacher's widths; found hidden_size 24 "
            "(teacher 384), intermediate_size 50 (teacher 1536); omit these keys, or use init: random",
        ),
        (
            {"init": "layers", "teacher_layers": [1, 7]},
            "student 'student': teacher_layers is [1, 7]; the teacher has layers 1 to 6",
        ),
        (
            {"init": "layers", "num_layers": 7},
            "student 'student': num_layers is 7, but the teacher has 6 layers up to the distilled one; use at most 6, "
            "name teacher_layers, or use init: random",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_rejected_with_those_that_do(values, message):
    assert problem(values, teacher()) == message


def student(width: int, heads: int = 12) -> EncoderConfig:
    return EncoderConfig(hidden_size=width, num_heads=heads, num_layers=1, intermediate_size=8)


@pytest.mark.parametrize(
    ("width", "students", "heads"),
    [
        (768, [384], 48),
        (1024, [384], 64),  # the number of the paper: of two that are as near, the larger
        (200, [200], 50),
        (312, [312], 52),
        (200, [384], 8),
        (768, [384, 192], 48),
    ],
)
def test_omitted_relation_heads_are_the_common_divisor_nearest_to_48(width, students, heads):
    configs = {str(number): student(one, 4) for number, one in enumerate(students)}
    assert relation_heads(LossSection(), teacher(width), configs) == heads


@pytest.mark.parametrize(
    ("of", "heads", "message"),
    [
        (teacher(200, 10), 48, "48 relation heads do not divide 200, the width of the teacher; 40 and 50 do"),
        (teacher(384), 48, "48 relation heads do not divide 200, the width of student 'a'; 8 does"),
        (
            teacher(400, key_width=100),
            40,
            "40 relation heads do not divide 100, the width of the keys of the teacher; 25 and 50 do",
        ),
    ],
)
def test_relation_heads_that_do_not_fit_are_rejected_with_those_that_do(of, heads, message):
    with pytest.raises(UsageError) as caught:
        relation_heads(LossSection(relation_heads=heads), of, {"a": student(200, 10)})
    assert str(caught.value) == f"loss.relation_heads: {message}, or omit the key"


def test_v1_needs_the_attention_heads_of_the_teacher_and_keys_as_wide_as_queries():
    v1 = LossSection(version="v1")
    assert relation_heads(v1, teacher(), {"a": student(384)}) == 12
    with pytest.raises(UsageError, match=r"the teacher has 12 and student 'a' has 4; change its num_heads, or use v2"):
        relation_heads(v1, teacher(), {"a": student(384, 4)})
    with pytest.raises(UsageError, match=r"queries have width 384 but its keys 96 \(shared key heads\).* use loss"):
        relation_heads(v1, teacher(key_width=96), {"a": student(384)})
