"""Freed memory stays in the process until it is released, which happens when too much accumulates."""

from __future__ import annotations

import pytest

from minilm.cli.app import main
from minilm.finetune.sweep import finetune
from minilm.recipe import FinetuneRecipe, find_recipe, load_recipe
from minilm.train import allocator
from minilm.train.allocator import FreedMemory


def test_memory_is_released_when_the_process_has_grown_by_half(monkeypatch):
    """The level is the maximum of ten steps: one long batch among short ones is not growth."""
    first, second = [1.0, 2.0, *[1.0] * 8, 1.0, 3.0, 3.1], [2.2, *[2.0] * 9, 3.2, 3.4]
    given_back = given_back_at([*first, *second], monkeypatch)
    assert given_back == [len(first), len(first) + len(second)]


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
    monkeypatch.setattr(allocator, "resident_gib", lambda: seen[-1])
    monkeypatch.setattr(allocator, "give_back_freed_memory", lambda: steps.append(len(seen)))
    memory = FreedMemory()
    for gib in held:
        seen.append(gib)
        memory.after_step()
    return steps
