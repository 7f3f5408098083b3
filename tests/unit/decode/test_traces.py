"""Traces: written and read back, scored by other rules, the original's pickles, and damage in both."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from minilm.decode.rescore import RescoreSettings, best_hypotheses, rescored
from minilm.decode.traces import Trace, read_original_traces, read_traces, write_traces
from minilm.errors import DataError, UsageError
from minilm.files.tensors import read_safetensors, read_safetensors_header, write_safetensors

END, PAD = 3, 0
# b ends first and short; a goes on and ends in the last frame, in which all have ended
TRACE = Trace(
    scores=[[-1.0, -1.5], [-1.4, -2.0], [-2.1, -2.3]],
    ids=[[7, 8], [END, 9], [END, END]],
    parents=[[0, 0], [1, 0], [1, 1]],
)
OPEN = Trace(scores=[[-1.0, -2.0], [-3.0, -4.0]], ids=[[7, END], [8, 9]], parents=[[0, 0], [0, 0]])


def chosen(trace, **options):
    return rescored(trace, RescoreSettings(**options), end_id=END, pad_id=PAD)


def test_selected_hypotheses_are_those_found_by_hand():
    assert best_hypotheses(TRACE, end_id=END, length_penalty=0.0)[0].ids == (8, END)
    ranked = best_hypotheses(TRACE, end_id=END, length_penalty=0.0, n_best=3)
    assert [one.ids for one in ranked] == [(8, END), (7, 9, END), (7, 9, END)]
    assert [one.score for one in ranked] == [-1.4, -2.1, -2.3]
    longer = best_hypotheses(TRACE, end_id=END, length_penalty=4.0)[0]
    assert (longer.ids, longer.score) == ((7, 9, END), pytest.approx(-2.1 / (8 / 6) ** 4))
    # in the last frame an open end counts, before it does not
    assert [one.ids for one in best_hypotheses(OPEN, end_id=END, length_penalty=0.0, n_best=9)] == [
        (END,),
        (7, 8),
        (7, 9),
    ]


def test_only_ended_hypotheses_of_a_stopped_search_count():
    stopped = Trace(scores=OPEN.scores, ids=OPEN.ids, parents=OPEN.parents, complete=False)
    assert [one.ids for one in best_hypotheses(stopped, end_id=END, length_penalty=0.0, n_best=9)] == [(END,)]
    with pytest.raises(UsageError, match="the search stopped early, so its trace cannot be rescored; decode"):
        chosen(stopped)


def test_equal_scores_go_to_the_first():
    trace = Trace(scores=[[-1.0, -1.0], [-1.0, -1.0]], ids=[[7, END], [END, END]], parents=[[0, 0], [0, 0]])
    assert best_hypotheses(trace, end_id=END, length_penalty=0.0)[0].ids == (END,)
    assert chosen(trace) == (END,)


def test_other_rules_choose_other_hypotheses():
    assert chosen(TRACE) == (8, END)
    assert chosen(TRACE, alpha=4.0) == (7, 9, END)
    assert chosen(TRACE, length_penalty=0.8) == (7, 9, END)  # -2.1 + 2.4 against -1.4 + 1.6
    assert chosen(TRACE, length_penalty=0.8, alpha=9.0) == (7, 9, END)
    assert chosen(TRACE, length_penalty=1.0, expect=2.0) == (8, END)
    assert chosen(TRACE, length_penalty=1.0, expect=3.0) == (7, 9, END)
    assert chosen(OPEN) == (END,)
    assert chosen(OPEN, length_penalty=1.5) == (7, 8)  # -3 + 3 against -2 + 1.5


def test_the_swapped_rule_drops_the_frame_of_ends():
    """Without it the frame before is the last, whose open end counts; if there is none, only ends count."""
    scores = [[-1.0, -1.3], [-1.4, -1.2], [-2.1, -2.3]]
    trace = Trace(scores=scores, ids=TRACE.ids, parents=TRACE.parents)
    assert chosen(trace) == (8, END)
    assert chosen(trace, swapped=True) == (7, 9)
    never = Trace(scores=[[-1.0, -2.0]], ids=[[7, 8]], parents=[[0, 0]])
    assert chosen(never, swapped=True) == ()
    assert chosen(never) == (7,)


@pytest.mark.parametrize("name", ["alpha", "length_penalty", "expect"])
def test_invalid_numbers_are_rejected(name):
    with pytest.raises(UsageError, match=f"^{name} is nan; expected a finite number or None$"):
        RescoreSettings(**{name: float("nan")})


def test_an_exponent_whose_powers_overflow_is_rejected():
    with pytest.raises(UsageError, match=r"^alpha is 400\.0; expected 100 or less$"):
        RescoreSettings(alpha=400.0)


# --- our files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("traces", [[TRACE, OPEN], [OPEN], []])
def test_written_traces_are_read_again(tmp_path, traces):
    path = tmp_path / "t.trace.safetensors"
    write_traces(path, traces)
    assert read_traces(path) == traces
    _, header = read_safetensors_header(path)
    assert header == {"minilm_traces_1": f'{{"num_samples": {len(traces)}}}'}


@pytest.mark.parametrize("traces", [[TRACE, OPEN], []])
def test_traces_as_json_lines_are_read(tmp_path, traces):
    path = tmp_path / "t.trace.jsonl"
    write_traces(path, traces)
    assert read_traces(path) == traces
    assert [json.loads(line).keys() for line in path.read_text().splitlines()] == [{"scores", "ids", "parents"}] * len(
        traces
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"scores": [[-1.0, -2.0]], "ids": [[1, 2]], "parents": [[0', r"t\.jsonl:2.*JSON"),
        ('{"scores": [[-1.0, -2.0]], "ids": [[1, 2]]}', r"t\.jsonl:2: scores, ids, parents must be lists of lists"),
        (
            '{"scores": [[-1.0]], "ids": [["a"]], "parents": [[0]]}',
            r"t\.jsonl:2: scores, ids, parents must be lists of",
        ),
        ('{"scores": [[-1.0]], "ids": [[1]], "parents": [[1]]}', r"t\.jsonl:2, frame 0: parents must be beams 0 to 0"),
        ('{"scores": [[NaN]], "ids": [[1]], "parents": [[0]]}', r"t\.jsonl:2"),
        ("\xff", r"t\.jsonl:2: byte 0xff is not UTF-8"),
    ],
)
def test_damaged_json_lines_are_rejected(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    write_traces(path, [TRACE])
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(DataError, match=message):
        read_traces(path)


def rewritten(path, **tensors):
    """The file with some tensors replaced."""
    write_traces(path, [TRACE, OPEN])
    _, header = read_safetensors_header(path)
    write_safetensors(path, {**read_safetensors(path), **tensors}, metadata=header)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"frames": torch.tensor([3, 9])}, "the frame counts do not match the tensors"),
        ({"frames": torch.tensor([5, 0])}, "the frame counts do not match the tensors"),
        ({"frames": torch.tensor([6, -1])}, "the frame counts do not match the tensors"),
        ({"frames": torch.tensor([2**62, 2**62])}, "the frame counts do not match the tensors"),
        ({"frames": torch.tensor([5])}, "tensor shapes do not match"),
        ({"frames": torch.tensor([3.0, 2.0])}, "damaged: wrong dtype of frames; decode again"),
        ({"ids": torch.zeros(5, 3, dtype=torch.int32)}, "tensor shapes do not match"),
        (
            {"ids": torch.full((5, 2), -1, dtype=torch.int32)},
            "example 0, frame 0: expected 2 finite scores and non-neg",
        ),
        ({"parents": torch.full((5, 2), 2, dtype=torch.int32)}, "example 0, frame 0: parents must be beams 0 to 1"),
        ({"scores": torch.full((5, 2), torch.nan, dtype=torch.float64)}, "expected 2 finite scores"),
    ],
)
def test_damaged_traces_are_rejected(tmp_path, tensors, message):
    path = tmp_path / "t.trace.safetensors"
    rewritten(path, **tensors)
    with pytest.raises(DataError, match=message):
        read_traces(path)


def test_other_files_are_rejected(tmp_path):
    path = tmp_path / "t.safetensors"
    write_safetensors(path, {"ids": torch.zeros(1)})
    with pytest.raises(DataError, match=r"not a trace file .its header lacks 'minilm_traces_1'.; decode again"):
        read_traces(path)
    write_traces(path, [TRACE])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"is not a complete safetensors file"):
        read_traces(path)
    with pytest.raises(DataError, match=r"cannot read .*absent"):
        read_traces(tmp_path / "absent")


# --- the original's pickles --------------------------------------------------------------------------


def pickled(path, *records):
    path.write_bytes(b"".join(pickle.dumps(record) for record in records))
    return path


def record(trace, padding=4):
    """As the original writes it: padded with zeros."""
    zeros = [[0] * 2] * padding
    return {
        "scores": [*trace.scores, *([[0.0] * 2] * padding)],
        "wids": [*trace.ids, *zeros],
        "ptrs": [*trace.parents, *zeros],
    }


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_pickled_traces_lose_their_padding(tmp_path, protocol):
    records = [{"version": 0.0, "num_samples": 2}, record(TRACE), record(OPEN, padding=0)]
    path = tmp_path / "t.trace.pickle"
    path.write_bytes(b"".join(pickle.dumps(one, protocol=protocol) for one in records))
    assert list(read_original_traces(path)) == [TRACE, OPEN]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([[1, 2]], "not a trace file: its first record has no num_samples"),
        ([{"num_samples": "2"}], "its first record has no num_samples"),
        ([{"num_samples": 2}, record(TRACE)], "truncated: found 1 of 2 examples; copy it again"),
        ([{"num_samples": 0}, record(TRACE)], "found more than the 0 examples declared in its header"),
        ([{"num_samples": 1}, [1]], "example 0: expected scores, wids and ptrs, found a list"),
        ([{"num_samples": 1}, {"scores": []}], "scores, wids, ptrs must be lists of lists of numbers of equal sizes"),
        (
            [{"num_samples": 1}, record(TRACE) | {"wids": [[7, 8]]}],
            "scores, wids, ptrs must be lists of lists of numbers of equal sizes",
        ),
        (
            [{"num_samples": 1}, record(TRACE) | {"ptrs": [["a", 1]] * 7}],
            "scores, wids, ptrs must be lists of lists of numbers",
        ),
        ([{"num_samples": 1}, record(TRACE) | {"ptrs": [[5, 0]] * 7}], "frame 0: parents must be beams 0 to 1"),
        (
            [{"num_samples": 1}, record(TRACE) | {"wids": [[-5, 0]] * 7}],
            "frame 0: expected 2 finite scores and non-neg",
        ),
    ],
)
def test_damaged_pickles_are_rejected(tmp_path, records, message):
    with pytest.raises(DataError, match=message):
        list(read_original_traces(pickled(tmp_path / "t.trace.pickle", *records)))


def test_truncated_pickles_are_rejected(tmp_path):
    path = pickled(tmp_path / "t.trace.pickle", {"num_samples": 1}, record(TRACE))
    whole = path.read_bytes()
    for length in (0, 1, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            list(read_original_traces(path))
