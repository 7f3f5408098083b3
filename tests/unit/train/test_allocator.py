"""Freed memory stays in the process until it is released, which happens when too much accumulates."""

from __future__ import annotations

import pytest

from minilm.cli.app import main
from minilm.finetune.sweep import finetune
from minilm.recipe import FinetuneRecipe, find_recipe, load_recipe
from minilm.train import allocator
from minilm.train.allocator import FreedMemory


def test_memory_is_released_when_the_process_holds_half_more_than_a_step_needs(monkeypatch):
    """What a step needs: the most that was held after the first step, or the first one since a release."""
    held = [2.0, 2.9, 3.1, 1.0, 2.9, 3.1, 4.0, 5.9, 6.1]
    assert given_back_at(held, monkeypatch) == [3, 6, 9]


def test_memory_that_steps_need_is_not_released_for_ever(monkeypatch):
    assert given_back_at([1.0, *[2.0] * 20], monkeypatch) == [2]


def test_nothing_is_released_where_the_system_does_not_report_memory(monkeypatch):
    assert given_back_at([0.0] * 15, monkeypatch) == []


class Library:
    """A C library that counts its calls."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def mallopt(self, option: int, value: int) -> int:
        self.asked.append("mallopt")
        return 1

    def malloc_trim(self, pad: int) -> int:
        self.asked.append("malloc_trim")
        return 1


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setattr(allocator, "_c_library", lambda: library)
    monkeypatch.setattr(allocator, "_is_kept", False)
    return library


@pytest.mark.slow
def test_training_from_python_leaves_malloc_alone(tiny_task, library):
    loaded = load_recipe(find_recipe(str(tiny_task.recipe(steps=2))), [], kind=FinetuneRecipe)
    finetune(loaded)
    assert library.asked == []


@pytest.mark.slow
def test_the_command_that_trains_keeps_freed_memory_and_releases_it_at_the_end(tiny_task, library):
    with pytest.raises(SystemExit) as done:
        main(["finetune", str(tiny_task.recipe(steps=2))])
    assert not done.value.code
    assert library.asked == ["mallopt", "mallopt", "malloc_trim"]


def given_back_at(held, monkeypatch):
    """The 1-based steps after which memory was released, for the given GiB held after each step."""
    seen, steps = [], []
    monkeypatch.setattr(allocator, "_is_kept", True)
    monkeypatch.setattr(allocator, "resident_gib", lambda kind: seen[-1])
    monkeypatch.setattr(allocator, "give_back_freed_memory", lambda: steps.append(len(seen)))
    memory = FreedMemory()
    for gib in held:
        seen.append(gib)
        memory.after_step()
    return steps
