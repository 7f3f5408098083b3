"""Reads the rows of GLUE from the Hugging Face hub, through the package `datasets` (the extra `hub`).

In: an address such as `hub:glue/cola/train`; nothing else in minilm uses the network. Out: the same `Row`s as from a
file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from minilm.errors import SystemProblem, UsageError, one_line
from minilm.files.rows import Row
from minilm.score.glue import glue_name

_PREFIX = "hub:"
_REPOSITORY = "nyu-mll/glue"


def is_hub_address(path: str) -> bool:
    """Whether `path` names a data set on the hub, not a file."""
    return path.startswith(_PREFIX)


def read_hub_rows(address: str, *, labels: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of one split, numbered from 1.

    The hub stores labels as numbers in its own order; if their names are among `labels`, the rows contain the names.

    Args:
        address: `hub:glue/TASK/SPLIT`; the splits are train, validation and test (for mnli, validation_matched etc.).
        labels: names of the task's labels.

    Raises:
        UsageError: the address is invalid, or there is no such split.
        SystemProblem: `datasets` is not installed, or the hub cannot be reached.
    """
    parts = address.removeprefix(_PREFIX).split("/")
    if len(parts) != 3 or parts[0] != "glue":
        raise UsageError(f"{address}: expected hub:glue/TASK/SPLIT, such as hub:glue/cola/train")
    return _rows(address, glue_name(parts[1]).replace("-", ""), parts[2], labels)


def _rows(address: str, task: str, split: str, labels: Sequence[str]) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise SystemProblem(
            "the package datasets is not installed; install it with: pip install 'minilm[hub]'"
        ) from None
    try:
        table = datasets.load_dataset(_REPOSITORY, task, split=split)
    except ValueError as error:
        raise UsageError(f"{address}: {one_line(error)}; check the split's name") from error
    except Exception as error:  # each version of datasets raises different errors if the hub is unreachable
        raise SystemProblem(
            f"{address}: cannot be fetched ({one_line(error)}); check the connection, or use a file"
        ) from error
    names = getattr(table.features.get("label"), "names", None) or []
    known = names if set(names) <= set(labels) else []
    for number, values in enumerate(table, 1):
        yield Row(line=number, values=_named(values, known))


def _named(values: Mapping[str, object], names: Sequence[str]) -> Mapping[str, object]:
    label = values.get("label")
    if not isinstance(label, int) or label not in range(len(names)):
        return values
    return {**values, "label": names[label]}
