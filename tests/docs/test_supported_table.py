"""The table of docs/reference.md that says what is read and what is rejected comes from the code's own tables.

`python tests/docs/test_supported_table.py` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from minilm.decode.traces import TRACE_SUFFIXES
from minilm.files.formats import _TEXT_READERS, ROW_READERS
from minilm.model.config import _ALIASES, FAMILIES, SUPPORTED_VALUES
from minilm.model.embedding import PoolingMode
from minilm.model.embedding_files import _READERS
from minilm.model.metadata import ARCHITECTURES, WEIGHTS, ProblemType
from minilm.model.vector_modules import Activation
from minilm.tasks.tokens.conll import CONLL_SUFFIXES
from minilm.tasks.tokens.rows import TABLES
from minilm.tasks.tokens.schemes import Scheme
from minilm.text.vocab_folder import _AS_WRITTEN, _SAME

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"
BEGIN, END = "<!-- supported: written by tests/docs/test_supported_table.py -->", "<!-- /supported -->"


def code(values: Iterable[object]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def table() -> str:
    """The rows: what, what is read, what is rejected by name."""
    keys = ", ".join(f"`{key}` other than `{str(value).lower()}`" for key, value in SUPPORTED_VALUES.items())
    rows = [
        (
            "weights",
            f"{code(WEIGHTS)}, each also in shards with `.index.json`; Microsoft's `.bin`",
            "a Git LFS pointer; a `.bin` that is more than a state dict; TensorFlow and Flax files",
        ),
        (
            "`model_type`",
            f"{code(FAMILIES)}; as `bert` also {code(_ALIASES)}",
            "any other, in `minilm.load` and `minilm finetune`; as a teacher, one that cannot run packed",
        ),
        (
            "`config.json`",
            "the sizes, each checked against its range and the weights",
            f"{keys}; `embedding_size` other than `hidden_size`",
        ),
        ("`architectures`", code(f"…{name}" for name in ARCHITECTURES), "another head is not read; the encoder is"),
        ("`problem_type`", code(get_args(ProblemType)), "any other, and one that does not fit the number of labels"),
        (
            "tokenizer",
            f"`tokenizer.json` ({code(_AS_WRITTEN)}: unchanged by flags); `vocab.txt` of "
            f"{code(f'{name}Tokenizer' for name in _SAME)}",
            "`BertJapaneseTokenizer`; with only a `vocab.txt`, any other class, `do_basic_tokenize: false`, "
            "`never_split`",
        ),
        ("pooling", code(get_args(PoolingMode)) + ", and several of them", "any other mode"),
        ("modules after pooling", f"{code(_READERS)}, `Dropout` (no effect)", "any other module or key; adapters"),
        ("activation of `Dense`", code(get_args(Activation)), "any other"),
        (
            "texts of a corpus",
            f"{code(_TEXT_READERS)}, all but `.parquet` also `.gz`",
            "UTF-16; columns with another separator (semicolons, tabs); more than 1% bad rows, such as values that are "
            "not texts",
        ),
        (
            "labeled rows, questions",
            f"{code(('.tsv', *ROW_READERS))}, all but `.parquet` also `.gz`",
            "the same; the first bad row is an error",
        ),
        (
            "tagged words",
            f"{code(CONLL_SUFFIXES)}: one word per line, its tag last; lists in {code(TABLES)}; all but `.parquet` "
            f"also `.gz`; tags in {code(get_args(Scheme))}",
            "`.csv`, `.tsv`; tags without a prefix, or in no one of these schemes; the first bad row is an error",
        ),
        (
            "score traces",
            f"{code(TRACE_SUFFIXES)}; the original's `.trace.pickle`",
            "a pickle that is more than plain data",
        ),
    ]
    lines = ["| | read | rejected |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def page_with(rows: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(f"{BEGIN}\n")
    return f"{before}{BEGIN}\n{rows}{END}{rest.partition(END)[2]}"


def test_the_table_is_that_of_the_code():
    """If not, run `python tests/docs/test_supported_table.py`."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text == page_with(table())


if __name__ == "__main__":
    PAGE.write_text(page_with(table()), encoding="utf-8")
