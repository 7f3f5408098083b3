"""Options that several commands have.

In: nothing. Out: annotated types, one for each option.
"""

from __future__ import annotations

from typing import Annotated

import typer

from minilm.model.precision import Precision

PrecisionOption = Annotated[Precision, typer.Option(help="bf16 is faster where the machine computes in it.")]
