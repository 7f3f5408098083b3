"""The reference names every pooling mode, module, activation and key that the code reads from a sentence folder."""

from __future__ import annotations

from typing import get_args

from minilm.model.activations import Activation
from minilm.model.embedding import PoolingMode
from minilm.model.embedding_files import _READERS


def test_the_table_names_what_the_code_reads(repo_dir):
    text = (repo_dir / "docs" / "reference.md").read_text(encoding="utf-8")
    section = text.partition("### Text vectors")[2].partition("\n## ")[0]
    words = set(
        section.replace("`", " ").replace(",", " ").replace(";", " ").replace("|", " ").replace(":", " ").split()
    )
    assert {*get_args(PoolingMode), *get_args(Activation), *_READERS} <= words
    assert {
        "include_prompt",
        "do_lower_case",
        "max_seq_length",
        "prompts",
        "default_prompt_name",
        "truncate_dim",
    } <= words
