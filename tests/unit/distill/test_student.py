"""Student initialization: shapes from the teacher's ids, layers copied by number, seeds by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from minilm.distill.student import copyable_embedding, plan_student, random_student, student_config
from minilm.errors import DataError, UsageError
from minilm.model.checkpoint import read_model
from minilm.model.config import EncoderConfig
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding
from minilm.model.inherited import inherit_layers
from minilm.model.vector_modules import Dense, LayerNorm
from minilm.recipe import StudentSection
from minilm.recipe.student_shape import TeacherSizes
from minilm.text.tokenizer import Tokenizer

ONES = np.ones(48, np.float32)


def shape(**changes: int) -> EncoderConfig:
    return EncoderConfig(**{"hidden_size": 48, "num_layers": 2, "num_heads": 6, "intermediate_size": 96, **changes})


@pytest.fixture
def config(tiny) -> EncoderConfig:
    return student_config(shape(), teacher=tiny.teacher, tokenizer=Tokenizer.load(tiny.teacher))


def test_the_teacher_sets_vocabulary_and_positions_and_the_recipe_the_sizes(tiny, config):
    assert (config.vocab_size, config.max_positions) == (100, 64)
    assert (config.hidden_size, config.num_layers, config.num_heads, config.intermediate_size) == (48, 2, 6, 96)


def test_a_teacher_of_an_unknown_family_gives_its_vocabulary(tiny):
    file = tiny.teacher / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "another"}))
    config = student_config(shape(), teacher=tiny.teacher, tokenizer=Tokenizer.load(tiny.teacher))
    assert (config.vocab_size, config.max_positions, config.family) == (100, 512, "bert")


def test_a_student_of_mpnet_has_its_ids_and_counts_positions_as_it_does(tiny):
    """Without the bias of relative positions it is a RoBERTa, which every engine runs; its layers are not copied."""
    file = tiny.teacher / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "model_type": "mpnet", "pad_token_id": 1, "max_position_embeddings": 66}))
    tokenizer = Tokenizer.load(tiny.teacher)
    config = student_config(shape(), teacher=tiny.teacher, tokenizer=tokenizer)
    assert (config.family, config.vocab_size, config.first_position, config.max_tokens) == ("roberta", 100, 2, 64)
    sizes = TeacherSizes(num_layers=3, layer=3, hidden_size=48, intermediate_size=96, num_heads=6, query_width=48,
                         key_width=48, max_tokens=64, num_parameters=1, vocab_size=100)  # fmt: skip
    with pytest.raises(UsageError, match=r"works for bert, .*; the model_type of .* is 'mpnet': use init: random"):
        plan_student(StudentSection(init="layers"), sizes, teacher=tiny.teacher, tokenizer=tokenizer)


def test_random_students_depend_only_on_seed_and_name(config):
    def words(seed: int, name: str) -> torch.Tensor:
        return random_student(config, seed=seed, name=name).embeddings.word.weight

    assert torch.equal(words(1, "a"), words(1, "a"))
    assert not torch.equal(words(1, "a"), words(2, "a"))
    assert not torch.equal(words(1, "a"), words(1, "b"))


def test_layers_are_copied_by_number(tiny, config):
    student, teacher = random_student(config, seed=1, name="a"), read_model(tiny.teacher).encoder
    inherit_layers(student, teacher, [3, 1])
    for ours, theirs in [
        (student.embeddings, teacher.embeddings),
        (student.layers[0], teacher.layers[2]),
        (student.layers[1], teacher.layers[0]),
        (student.pooler, teacher.pooler),
    ]:
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    assert student.layers[0].qkv.weight.data_ptr() != teacher.layers[2].qkv.weight.data_ptr()


@pytest.mark.parametrize("module", [Dense(weight=np.eye(48, dtype=np.float32)), LayerNorm(weight=ONES, bias=ONES)])
def test_modules_with_weights_of_the_teacher_are_never_lost_in_silence(tiny, module):
    write_embedding(tiny.teacher, EmbeddingSettings(modules=(module,)), hidden_size=48)
    kind = type(module).__name__
    with pytest.raises(DataError, match=f"2_{kind}: {kind} has weights for the vectors of its own model and cannot be"):
        copyable_embedding(tiny.teacher)
