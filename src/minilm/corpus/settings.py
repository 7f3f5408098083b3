"""How texts become documents of a corpus: the settings that a recipe, the command line and Python share.

In: values. Out: `CorpusSettings`, checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from minilm.files.checked import PositiveInt, Settings, Text


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(Settings):
    """How a corpus is built.

    Attributes:
        field: name of the text column; not used for .txt files.
        max_tokens: max tokens per document, special tokens included.
        workers: processes that tokenize; 1 tokenizes in this process, with threads on all cores.
        max_bad_rows: max share of all rows of the input that may be bad; with more, no corpus is made.
    """

    field: Text = "text"
    max_tokens: Annotated[int, Ge(3)] = 512
    workers: PositiveInt = 1
    max_bad_rows: Annotated[float, Ge(0), Le(1)] = 0.01
