"""The tables of the docs that say what is read, what is rejected and which model is for what are the code's own tables.

`python tests/docs/test_supported_table.py` writes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import get_args

import pytest

from minilm.decode.traces import TRACE_SUFFIXES
from minilm.distill.teacher import PACKED_ONLY_TEACHERS, PADDED_ONLY_TEACHERS
from minilm.files.formats import ROW_READERS
from minilm.files.sentence_modules import ROUTER
from minilm.files.texts import TEXT_READERS
from minilm.infer.predictions import _DOES
from minilm.model.activations import Activation
from minilm.model.config import _ALIASES, _SAME_FUNCTIONS, FAMILIES, SUPPORTED_VALUES, Family, FeedForwardActivation
from minilm.model.embedding import PoolingMode
from minilm.model.embedding_files import _READERS
from minilm.model.metadata import ARCHITECTURES, WEIGHTS, ProblemType
from minilm.model.routes import ROLES
from minilm.tasks.tokens.conll import CONLL_SUFFIXES
from minilm.tasks.tokens.rows import TABLES
from minilm.tasks.tokens.schemes import Scheme
from minilm.text.sentencepiece_layout import _LAYOUTS, SENTENCEPIECE
from minilm.text.vocab_folder import _MPNET, _SAME, AS_WRITTEN

DOCS = Path(__file__).resolve().parents[2] / "docs"


def code(values: Iterable[object]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def rows_of(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |\n" for row in (header, *rows)]
    return "".join([lines[0].replace("|  |", "| |"), f"|{'---|' * len(header)}\n", *lines[1:]])


def models() -> str:
    """The rows: a family, which of the four jobs it can do, and what runs it."""

    def jobs(family: Family) -> tuple[str, ...]:
        counted = "no" if family.relative_positions else "yes"
        teacher = (
            "padded"
            if family.relative_positions
            else "native"
            if "embedding_size" not in family.keys
            else "native, packed"
        )
        narrow = "; torch where the embeddings are narrower" if "embedding_size" in family.keys else ""
        teacher = "padded" if family.relative_positions else "packed"
        return teacher, "yes", "yes", counted, "torch" if family.relative_positions else f"native{narrow}"

    header = ["`model_type`", "teacher", "encode", "fine-tune: labels, answers", "fine-tune to generate", "engine"]
    rows = [[f"`{name}`", *jobs(family)] for name, family in FAMILIES.items()]
    others = [
        [code(sorted(set(names) - set(FAMILIES))), way, "no", "no", "no", "transformers"]
        for names, way in ((PACKED_ONLY_TEACHERS, "packed"), (PADDED_ONLY_TEACHERS, "padded"))
    ]
    return rows_of(header, [*rows, *others])


def heads() -> str:
    """The rows: a head, and what it does."""
    names = {
        wanted: code(f"…{suffix}" for suffix, head in ARCHITECTURES.items() if head == wanted)
        for wanted in (*_DOES, None)
    }
    rows = [(names[head], what, by) for head, (what, by) in _DOES.items()]
    last = (f"{names[None]}, any other", "encode texts", "any of these")
    return rows_of(["`architectures`", "what it can do", "train it with"], [*rows, last])


def table() -> str:
    """The rows: what, what is read, what is rejected by name."""
    everywhere = {**SUPPORTED_VALUES, **FAMILIES["bert"].fixed}
    fixed = [(key, value, "") for key, value in everywhere.items()] + [
        (key, value, f" in `{name}`")
        for name, family in FAMILIES.items()
        for key, value in family.fixed.items()
        if key not in everywhere
    ]

    shown = [f"`{key}` other than `{json.dumps(value).strip(chr(34))}`{where}" for key, value, where in fixed]
    activations = ", ".join(f"`{name}`" for name in (*get_args(FeedForwardActivation), *_SAME_FUNCTIONS))
    keys = ", ".join([*shown, f"`hidden_act` (`activation` in `distilbert`) other than {activations}"])
    rows = [
        (
            "weights",
            f"{code(WEIGHTS)}, each also in shards with `.index.json`; Microsoft's `.bin`",
            "quantized weights; a Git LFS pointer; a `.bin` that is more than a state dict; TensorFlow and Flax files",
        ),
        (
            "`model_type`",
            f"{code(FAMILIES)}; as `bert` also {code(_ALIASES)}",
            "any other, in `minilm.load` and `minilm finetune`; as a teacher, FNet and causal models",
        ),
        (
            "`config.json`",
            "sizes and dropout rates, each checked against its range, the sizes also against the weights",
            f"{keys}, `embedding_size` other than `hidden_size` except in `electra`; `tie_word_embeddings: false` "
            "where the mlm head is needed",
        ),
        (
            "`architectures`",
            code(f"…{name}" for name, head in ARCHITECTURES.items() if head),
            "another head is not read; the encoder is",
        ),
        ("`problem_type`", code(get_args(ProblemType)), "any other, and one that does not fit the number of labels"),
        (
            "tokenizer",
            f"`tokenizer.json` ({code(AS_WRITTEN)}: unchanged by flags); `vocab.txt` of "
            f"{code([*(f'{name}Tokenizer' for name in _SAME), _MPNET[0]])}; `{SENTENCEPIECE}` of "
            f"{code(name for name in _LAYOUTS if name.endswith('Tokenizer'))}",
            "`BertJapaneseTokenizer`; with only a `vocab.txt`, any other class, `do_basic_tokenize: false`, "
            "`never_split`",
        ),
        ("pooling", code(get_args(PoolingMode)) + ", and several of them", "any other mode"),
        ("modules after pooling", f"{code(_READERS)}, `Dropout` (no effect)", "any other module or key; adapters"),
        ("asymmetric models", f"a `{ROUTER}` with the routes {code(ROLES)}", "any other route; `route_mappings`"),
        ("activation of `Dense`, of a cross-encoder with one score", code(get_args(Activation)), "any other"),
        (
            "texts of a corpus",
            f"{code(TEXT_READERS)}, all but `.parquet` also `.gz`",
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
            "`.csv`, `.tsv`; tags without a prefix, or in none of these schemes; the first bad row is an error",
        ),
        (
            "score traces",
            f"{code(TRACE_SUFFIXES)}; the original's `.trace.pickle`",
            "a pickle that is more than plain data",
        ),
    ]
    return rows_of(["", "read", "rejected"], rows)


SECTIONS: dict[str, tuple[Path, Callable[[], str]]] = {
    "supported": (DOCS / "reference.md", table),
    "models": (DOCS / "models.md", models),
    "heads": (DOCS / "models.md", heads),
}
"""Name of a section -> its page, and what is between its two comments."""


def page_with(name: str) -> str:
    page, rows = SECTIONS[name]
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: written by tests/docs/test_supported_table.py -->", f"<!-- /{name} -->"
    assert text.count(begin) == text.count(end) == 1
    before, _, rest = text.partition(f"{begin}\n")
    return f"{before}{begin}\n{rows()}{end}{rest.partition(end)[2]}"


@pytest.mark.parametrize("name", SECTIONS)
def test_the_table_is_that_of_the_code(name):
    """If not, run `python tests/docs/test_supported_table.py`."""
    assert SECTIONS[name][0].read_text(encoding="utf-8") == page_with(name)


if __name__ == "__main__":
    for section, (file, _) in SECTIONS.items():
        file.write_text(page_with(section), encoding="utf-8")
