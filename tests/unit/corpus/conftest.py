"""A tiny vocabulary and a helper that writes input files."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = list(string.ascii_lowercase + string.digits)
WORDS = ["the", "cat", "dog", "sat", "on", "mat", "."]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(SPECIAL + LETTERS + [f"##{letter}" for letter in LETTERS] + WORDS) + "\n")
    return path
