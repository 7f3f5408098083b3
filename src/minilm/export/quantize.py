"""Quantization: an ordinary model folder in, the same folder with the scales of int8 out, if the gate lets it pass.

In: a model that the native engine runs; texts, half of which calibrate and half are compared; labeled files. Out: a
folder that loads with any precision, also int8; what the gate measured.

Maps that int8 hurts most stay as they are where the quality asks for it: the most sensitive first, at most half.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minilm import __version__
from minilm.environment import examine
from minilm.errors import DataError, UsageError
from minilm.export.answers import Answers, Inputs, answers_of, inputs_of, run
from minilm.export.calibration import all_smoothing, largest_inputs
from minilm.export.folder import copy_model
from minilm.export.gate import POINTS_LOST, GateFailed, Measure, best_seconds, compare
from minilm.export.labelled import require_scored, task_score
from minilm.export.rows import read_rows
from minilm.files.atomic import atomic_folder, reject_existing, require_writable
from minilm.files.sentence_modules import transformer_folder
from minilm.files.source import Source
from minilm.infer.api import LoadedModel, load
from minilm.infer.engines.int8 import Int8Maps, write_int8
from minilm.infer.engines.native import load_native_engine
from minilm.infer.engines.protocol import CannotRun
from minilm.infer.engines.scorer import PooledScorer
from minilm.infer.engines.threads import num_threads
from minilm.kernels.encoder import chosen_isa
from minilm.model.metadata import num_scores
from minilm.model.weights import encoder_arrays
from minilm.progress import Progress
from minilm.tally import Tally, reporting_tally

logger = logging.getLogger(__name__)

Smoothing = Mapping[str, NDArray[np.float32]]

_SENSITIVITY_TOKENS = 4096  # of the first calibration texts, for each map
_SPEED_TOKENS = 4096  # of the compared texts
_SAME = 1e-6  # of the largest score: what float32 rounds


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What was written.

    Attributes:
        calibrated: number of texts that calibrated.
        compared: number of texts that were compared.
        kept: maps that are not int8.
        num_maps: all maps.
        measures: the table of the gate.
    """

    calibrated: int
    compared: int
    kept: Sequence[str]
    num_maps: int
    measures: Sequence[Measure]


def quantize(
    model: Path | str,
    out: Path,
    *,
    texts: Source | None = None,
    field: str = "text",
    labelled: Sequence[Source] = (),
    threads: int | None = None,
) -> Quantized:
    """Write a copy of a model folder with the scales of int8.

    Args:
        model: the folder, `embedded`, or a name in Hugging Face's cache.
        out: the new folder.
        texts: texts like those the model will read; None: those that ship.
        field: name of the text in a file with names.
        labelled: files of the model's task whose score must not drop.
        threads: of the native engine.

    Raises:
        UsageError: `out` exists, the native engine cannot run the model, or it has no task for labeled files.
        GateFailed: the tolerance is missed, or int8 is slower; nothing was written.
        DataError: a file is damaged or has too few texts, or the model gives all of them the same score.
        SystemProblem: `out` cannot be written.
    """
    reject_existing(out)
    require_writable(out)
    trial = _Trial(_fp32(model, threads), threads)
    if labelled:
        require_scored(trial.model)
    rows = read_rows(texts, field=field)
    logger.info("%d texts calibrate, %d are compared", len(rows.calibration), len(rows.compared))
    with reporting_tally() as tally:
        scores = [task_score(trial.model, source, tally) for source in labelled]
        calibration, compared = (inputs_of(trial.model, part, tally) for part in (rows.calibration, rows.compared))
    smoothing = trial.smoothing(calibration)
    expected = answers_of(trial.model, compared)
    numbers = expected.numbers if expected.vectors is None else expected.vectors
    _require_finite(trial.model.folder, "its answers", numbers)
    _require_different(trial.model.folder, expected)
    kept, measures = trial.passing(smoothing, calibration, compared, expected)
    maps = Int8Maps(smoothing={name: smoothing[name] for name in smoothing if name not in kept}, kept=kept)
    int8 = trial.int8(maps)
    for source, (name, before) in zip(labelled, scores, strict=True):
        lost = before - task_score(int8, source, Tally())[1]
        measures.append(Measure(name=f"points of {name} lost on {source}", value=lost, most=POINTS_LOST))
    measures.append(trial.speed(int8, compared.first(_SPEED_TOKENS)))
    _require(measures, trial.model.folder)
    found = Quantized(
        calibrated=len(rows.calibration),
        compared=len(rows.compared),
        kept=kept,
        num_maps=len(smoothing),
        measures=measures,
    )
    with atomic_folder(out) as aside:
        copy_model(trial.model.folder, aside)
        write_int8(transformer_folder(aside), maps, _facts(found, trial.threads))
    return found


def _fp32(model: Path | str, threads: int | None) -> LoadedModel:
    """The model on the native engine; raises UsageError if that cannot run it, DataError if it has two encoders."""
    try:
        loaded = load(model, engine="native", threads=threads)
    except UsageError as error:
        if not isinstance(error.__cause__, CannotRun):
            raise
        raise UsageError(
            f"{model} cannot be quantized: int8 needs the native engine, which cannot run it: {error.__cause__}"
        ) from None
    transformer_folder(loaded.folder)  # raises for an asymmetric model
    return loaded


class _Trial:
    """A model in fp32, and what becomes of it with some maps in int8."""

    def __init__(self, model: LoadedModel, threads: int | None) -> None:
        self.model = model
        self.threads = num_threads(threads)
        self._scorer = model.engine if isinstance(model.engine, PooledScorer) else None
        self._head = None if self._scorer is not None else model.head  # that of the encoder

    def int8(self, maps: Int8Maps) -> LoadedModel:
        """The same model with another engine."""
        changed = copy.copy(self.model)
        engine = load_native_engine(self.model.folder, self._head, "int8", self.threads, int8=maps)
        changed.engine = engine if self._scorer is None else self._scorer.over(engine)
        return changed

    def smoothing(self, calibration: Inputs) -> Smoothing:
        """The factors of every map; raises DataError if fp32 gives numbers that are not finite."""
        folder, head = self.model.folder, self._head
        largest = largest_inputs(folder, calibration.token_ids, calibration.segment_ids)
        for name, inputs in largest.items():
            _require_finite(folder, f"the inputs of {name}", inputs)
        arrays = encoder_arrays(
            transformer_folder(folder), self.model.config, head, num_labels=num_scores(folder, head)
        )
        return all_smoothing(largest, arrays)

    def passing(
        self, smoothing: Smoothing, calibration: Inputs, compared: Inputs, expected: Answers
    ) -> tuple[tuple[str, ...], list[Measure]]:
        """The maps that are kept so that the quality passes, and its measures; raises GateFailed if none suffice."""
        measures = compare(answers_of(self.int8(Int8Maps(smoothing=smoothing)), compared), expected)
        if all(one.passes for one in measures):
            return (), measures
        order = self._most_sensitive(smoothing, calibration)
        kept: tuple[str, ...] = ()
        for name in order[: len(order) // 2]:
            kept = (*kept, name)
            part = {key: factors for key, factors in smoothing.items() if key not in kept}
            measures = compare(answers_of(self.int8(Int8Maps(smoothing=part, kept=kept)), compared), expected)
            if all(one.passes for one in measures):
                return tuple(key for key in smoothing if key in kept), measures
        _require(measures, self.model.folder)
        raise AssertionError("measures that pass were returned")

    def _most_sensitive(self, smoothing: Smoothing, calibration: Inputs) -> list[str]:
        """The maps by how far the answers to calibration texts move if it alone is int8, the furthest first."""
        count = len(calibration.first(_SENSITIVITY_TOKENS).token_ids)
        few = inputs_of(self.model, calibration.texts[:count], Tally())
        expected = answers_of(self.model, few)
        far: dict[str, float] = {}
        with Progress("sensitivity", unit="maps") as progress:
            progress.begin(len(smoothing))
            for name, factors in smoothing.items():
                alone = Int8Maps(smoothing={name: factors}, kept=[other for other in smoothing if other != name])
                far[name] = answers_of(self.int8(alone), few).distance(expected)
                progress.advance(1)
        return sorted(far, key=lambda name: -far[name])

    def speed(self, int8: LoadedModel, inputs: Inputs) -> Measure:
        """How many times faster int8 is than fp32 on the same tokens."""
        fp32, other = best_seconds(lambda: run(self.model, inputs), lambda: run(int8, inputs))
        logger.info("fp32 %.0f tokens/s, int8 %.0f", inputs.num_tokens / fp32, inputs.num_tokens / other)
        return Measure(name="speed, int8 over fp32", value=fp32 / other, least=1.0)


def _require_finite(folder: Path, what: str, numbers: NDArray[np.floating]) -> None:
    if not np.isfinite(numbers).all():
        raise DataError(
            f"{folder} cannot be quantized: in fp32 {what} are not all finite numbers, because weights before them are "
            "damaged or too large"
        )


def _require_different(folder: Path, expected: Answers) -> None:
    """Raise DataError if a model with one score gives all texts the same: nothing can correlate with that."""
    scores = expected.numbers
    if expected.vectors is None and expected.labels is None and np.ptp(scores) <= _SAME * np.abs(scores).max():
        raise DataError(
            f"{folder} cannot be quantized: in fp32 it gives all {len(scores)} texts that are compared the same score, "
            f"{scores[0]:.6g}, so that their correlation with those of int8 is undefined; use a model whose scores "
            "differ, or give texts like those it will read (--texts)"
        )


def _require(measures: Sequence[Measure], folder: Path) -> None:
    """Raise GateFailed, with the table, if a measure misses its limit."""
    failed = [one for one in measures if not one.passes]
    missed = [f"{one.name} is {one.value:.5f}, expected {one.limit or 'a number'}" for one in failed]
    if missed:
        raise GateFailed(
            f"{folder} is not written in int8: {'; '.join(missed)}; use fp32, or calibrate with texts like those the "
            "model will read (--texts)",
            measures,
        )


def _facts(found: Quantized, threads: int) -> dict[str, object]:
    """What the gate measured and where, for the folder."""
    return {
        "texts": {"calibrated": found.calibrated, "compared": found.compared},
        "measures": {one.name: {"value": one.value, "limit": one.limit} for one in found.measures},
        "machine": {"cpu": examine()["cpu"]["model"], "instructions": chosen_isa(), "threads": threads},
        "minilm": __version__,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
