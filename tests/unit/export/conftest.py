"""What the tests of quantization share: a tiny model of the native engine, texts, a machine on which int8 is faster."""

from __future__ import annotations

import random

import pytest

from minilm.kernels.encoder import library_reason


@pytest.fixture(autouse=True)
def _kernels():
    if reason := library_reason():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def faster(monkeypatch):
    """int8 takes half the time, whatever this machine says about a tiny model."""
    monkeypatch.setattr("minilm.export.quantize.best_seconds", lambda *_: (2.0, 1.0))


def write_texts(path, count, seed=0):
    """Different texts of the tiny models' words."""
    draw = random.Random(seed)
    lines = [" ".join(f"word{draw.randrange(95)}" for _ in range(draw.randint(4, 25))) for _ in range(count)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def task(new_tiny_task, tmp_path_factory):
    """A tiny encoder, labeled rows, 120 texts (`texts.txt`); nothing may be changed."""
    made = new_tiny_task(tmp_path_factory.mktemp("tiny"))
    made.distillation.write_teacher(initializer_range=0.1)
    write_texts(made.folder / "texts.txt", 120)
    return made
