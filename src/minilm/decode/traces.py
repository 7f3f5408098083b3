"""Score traces: the complete record of a beam search, stored so that targets can be rescored without decoding again.

In: frames of searches; a minilm trace file (safetensors, or one JSON object per line); or a trace file of the
original code (pickle; nothing in it is executed). Out: the same traces.

N examples, F frames of one example, T frames of all, K beams.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from minilm.errors import DataError, UsageError
from minilm.files.atomic import atomic_write
from minilm.files.fields import kind_of
from minilm.files.json import parse_json_object, read_json_lines
from minilm.files.tensors import read_safetensors, read_safetensors_header, write_safetensors
from minilm.files.torch_bin import read_plain_pickles

_Number = TypeVar("_Number", int, float)
_FORMAT = "minilm_traces_1"
TRACE_SUFFIXES = (".safetensors", ".jsonl")
_LISTS = ("scores", "ids", "parents")
_TENSORS = {"scores": torch.float64, "ids": torch.int32, "parents": torch.int32, "frames": torch.int64}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One search, `[F][K]` each.

    Attributes:
        scores: sums of log-probabilities, including the penalties of bans.
        ids: the tokens.
        parents: for each token, the index of the beam in the previous frame that it extends; 0 in the first frame.
        complete: the search ran until every beam had ended or the maximum number of steps was reached.
    """

    scores: Sequence[Sequence[float]]
    ids: Sequence[Sequence[int]]
    parents: Sequence[Sequence[int]]
    complete: bool = True


def require_trace_name(path: Path, what: str) -> None:
    """Require a file name of a supported format; `what` names the flag or argument.

    Raises:
        UsageError: the name does not end in .safetensors or .jsonl.
    """
    if path.suffix not in TRACE_SUFFIXES:
        raise UsageError(f"{what} is {path}; expected a file name ending in {' or '.join(TRACE_SUFFIXES)}")


def write_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Write complete traces, all with the same number of beams.

    A name ending in .jsonl selects one JSON object per trace: `scores`, `ids`, `parents`, `[F][K]` each. Otherwise the
    format is safetensors: `scores`, `ids`, `parents` `[T, K]`, `frames` `[N]`.

    Raises:
        SystemProblem: the file cannot be written.
    """
    assert all(trace.complete for trace in traces), "the trace of a search that stopped early cannot be rescored"
    if path.suffix == ".jsonl":
        lines = (json.dumps({name: getattr(trace, name) for name in _LISTS}) + "\n" for trace in traces)
        atomic_write(path, "".join(lines))
        return
    beams, total = (len(traces[0].ids[0]) if traces else 0), sum(len(trace.ids) for trace in traces)
    tensors = {
        name: torch.tensor([frame for trace in traces for frame in getattr(trace, name)], dtype=kind)
        for name, kind in _TENSORS.items()
        if name != "frames"
    }
    tensors = {name: tensor.view(total, beams) for name, tensor in tensors.items()}
    tensors["frames"] = torch.tensor([len(trace.ids) for trace in traces], dtype=_TENSORS["frames"])
    write_safetensors(path, tensors, metadata={_FORMAT: json.dumps({"num_samples": len(traces)})})


def read_traces(path: Path) -> list[Trace]:
    """Read a minilm trace file; its suffix determines the format.

    Raises:
        DataError: the file is missing, truncated, not a trace file, or inconsistent.
    """
    if path.suffix == ".jsonl":
        return list(_read_lines(path))
    info, metadata = read_safetensors_header(path)
    if _FORMAT not in metadata or info.keys() != _TENSORS.keys():
        raise DataError(f"{path}: not a trace file (its header lacks {_FORMAT!r}); decode again with traces")
    count = parse_json_object(metadata[_FORMAT], path).get("num_samples")
    tensors = read_safetensors(path)
    shapes = {tuple(tensors[name].shape) for name in ("scores", "ids", "parents")}
    wrong = [name for name, kind in _TENSORS.items() if tensors[name].dtype != kind]
    frames = tensors["frames"].flatten().tolist()
    if wrong or len(shapes) != 1 or len(frames) != count:
        problem = f"wrong dtype of {', '.join(wrong)}" if wrong else "tensor shapes do not match"
        raise DataError(f"{path}: damaged: {problem}; decode again")
    rows, *beams = shapes.pop()
    if len(beams) != 1 or (frames and (min(frames) < 1 or beams[0] < 1)) or sum(frames) != rows:
        raise DataError(f"{path}: damaged: the frame counts do not match the tensors; decode again")
    parts = zip(*(tensors[name].split(frames) for name in ("scores", "ids", "parents")), strict=True)
    traces = [
        Trace(scores=scores.tolist(), ids=ids.tolist(), parents=parents.tolist()) for scores, ids, parents in parts
    ]
    for number, trace in enumerate(traces):
        _require_valid(trace, f"{path}: example {number}")
    return traces


def _read_lines(path: Path) -> Iterator[Trace]:
    """Read traces stored as one JSON object per line."""
    for number, record in read_json_lines(path):
        yield _checked_lists(*map(record.get, _LISTS), names=_LISTS, where=f"{path}:{number}")


def read_original_traces(path: Path) -> Iterator[Trace]:
    """Read a `.trace.pickle` of the original code, one example at a time, without trailing padding.

    Raises:
        DataError: not a trace file, truncated, or it contains more than plain data; nothing in it is executed.
    """
    records = read_plain_pickles(path)
    header = next(records, None)
    count = header.get("num_samples") if isinstance(header, dict) else None
    if type(count) is not int or count < 0:
        raise DataError(f"{path}: not a trace file: its first record has no num_samples")
    for number in range(count):
        record = next(records, None)
        if record is None:
            raise DataError(f"{path}: truncated: found {number} of {count} examples; copy it again")
        yield _checked(record, f"{path}: example {number}")
    if next(records, None) is not None:
        raise DataError(f"{path}: damaged: found more than the {count} examples declared in its header; copy it again")


def _checked(record: object, where: str) -> Trace:
    """Parse the original's `{scores, wids, ptrs}`; padding frames are all zeros."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected scores, wids and ptrs, found {kind_of(record)}")
    names = ("scores", "wids", "ptrs")
    trace = _checked_lists(*map(record.get, names), names=names, where=where)
    used = len(trace.scores)
    while used > 1 and not any((*trace.scores[used - 1], *trace.ids[used - 1], *trace.parents[used - 1])):
        used -= 1
    return Trace(scores=trace.scores[:used], ids=trace.ids[:used], parents=trace.parents[:used])


def _checked_lists(scores: object, ids: object, parents: object, *, names: tuple[str, str, str], where: str) -> Trace:
    """Validate lists read from a file."""
    frames = _frames(scores, float)
    tokens, beams = _frames(ids, int), _frames(parents, int)
    if not frames or not list(map(len, frames)) == list(map(len, tokens)) == list(map(len, beams)):
        raise DataError(
            f"{where}: {', '.join(names)} must be lists of lists of numbers of equal sizes; decode again with traces"
        )
    trace = Trace(scores=frames, ids=tokens, parents=beams)
    _require_valid(trace, where)
    return trace


def _frames(value: object, kind: type[_Number]) -> list[list[_Number]]:
    """The value if it is a list of non-empty lists of `kind`, else an empty list."""
    if not isinstance(value, list) or not all(isinstance(frame, list) and frame for frame in value):
        return []
    return value if all(type(number) is kind for frame in value for number in frame) else []


def _require_valid(trace: Trace, where: str) -> None:
    """Require finite scores, non-negative ids, and parents that are beams of the previous frame."""
    beams = len(trace.ids[0])
    for number, (scores, ids, parents) in enumerate(zip(trace.scores, trace.ids, trace.parents, strict=True)):
        if len(ids) != beams or not all(math.isfinite(score) for score in scores) or min(ids) < 0:
            raise DataError(f"{where}, frame {number}: expected {beams} finite scores and non-negative token ids")
        if min(parents) < 0 or max(parents) >= beams:
            raise DataError(f"{where}, frame {number}: parents must be beams 0 to {beams - 1}; the file is damaged")
