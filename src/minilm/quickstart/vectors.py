"""Text vectors: a student of half the layers learns those of its teacher, and is compared with its start.

In: plain texts, held-out texts, the folders of the teacher and of the layers of it that the student starts as. Out: the
run folder `vectors`, int8 copies of the models that pass the gate; a row for each model.

B held-out texts, E hidden width.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from minilm.errors import UsageError
from minilm.export.gate import GateFailed, overlap
from minilm.export.quantize import quantize
from minilm.files.atomic import atomic_write
from minilm.finetune.run import finetune_once
from minilm.infer.api import load
from minilm.infer.similarity import similarities
from minilm.model.metadata import read_config
from minilm.quickstart.speeds import texts_per_second
from minilm.recipe import FinetuneRecipe, Loaded, find_recipe, load_recipe, resolved_yaml
from minilm.score.glue import compute_metrics
from minilm.train.folder import RECIPE
from minilm.train.metrics import read_metrics

logger = logging.getLogger(__name__)

TEACHER, DISTILLED, UNDISTILLED = "teacher", "student, distilled", "student, not distilled"
_SECONDS = 60.0  # of the teacher's pass and of training; with int8 and all speeds less than two minutes on two cores
_TIMED_STEPS = 5  # after as many that are not timed
_TIMED_TEXTS = 128  # of the held-out ones
_LIBRARY = "sentence_transformers"


@dataclass(frozen=True, kw_only=True)
class VectorsRow:
    """One row of the table of text vectors.

    Attributes:
        name: of the model.
        parameters: of its encoder.
        correlation: Spearman's, of its similarities of all pairs of held-out texts and the teacher's.
        nearest: the share of the ten nearest texts of each text that also are in the teacher.
        fp32: texts per second of `encode`; None: not measured, because another row is of the same shape.
        int8: the same in int8; None also if that did not pass the gate.
        sentence_transformers: the same of that library's `encode`, in fp32; None also if it is not installed.
    """

    name: str
    parameters: int
    correlation: float
    nearest: float
    fp32: float | None
    int8: float | None
    sentence_transformers: float | None


def compare_vectors(
    texts: Sequence[str], heldout: Sequence[str], out: Path, *, teacher: Path, start: Path, seed: int
) -> list[VectorsRow]:
    """Train the student on the first of the texts, and compare it; after an interruption, the same call resumes.

    Args:
        texts: to learn from, in an order without meaning; as many are read as there is time for.
        heldout: texts that are not among them.
        out: folder of the runs.
        teacher: the embedded model.
        start: a model of the layers of it that the student starts as.
        seed: of the order of the training texts in each epoch.

    Raises:
        SystemProblem: a file cannot be written.
        Interrupted: Ctrl-C; finished steps are kept.
    """
    run = out / "vectors"
    loaded = _recipe_of(texts, run, **{"seed": seed, "train.steps": _num_steps(texts, run, seed=seed)})
    finetune_once(loaded.recipe, resolved=resolved_yaml(loaded), label="learn text vectors")
    folders = {TEACHER: teacher, DISTILLED: run / "model", UNDISTILLED: start}
    vectors = {name: load(folder).encode(heldout) for name, folder in folders.items()}
    speeds = _speeds({TEACHER: teacher, DISTILLED: folders[DISTILLED]}, heldout[:_TIMED_TEXTS], out / "int8")
    return [
        VectorsRow(
            name=name,
            parameters=read_config(folder).num_parameters(),
            correlation=correlation(vectors[name], vectors[TEACHER]),
            nearest=overlap(vectors[name], vectors[TEACHER]),
            fp32=speeds.get(f"{name}, fp32"),
            int8=speeds.get(f"{name}, int8"),
            sentence_transformers=speeds.get(f"{name}, {_LIBRARY}"),
        )
        for name, folder in folders.items()
    ]


def correlation(found_BE: NDArray[np.float32], expected_BE: NDArray[np.float32]) -> float:
    """Spearman's rank correlation of the cosines of all pairs of texts."""
    pairs = np.triu_indices(len(found_BE), k=1)
    found, expected = (similarities(vectors, vectors, "cosine")[pairs].tolist() for vectors in (found_BE, expected_BE))
    return compute_metrics(("spearmanr",), expected, found)["spearmanr"] / 100


def _recipe_of(texts: Sequence[str], run: Path, **train: int) -> Loaded[FinetuneRecipe]:
    """The recipe of a run in the folder `run`; what it reads is beside that, each text once if there are enough."""
    file, shipped = run.with_suffix(".jsonl"), find_recipe("embed/quickstart-vectors")
    values = {"out": str(run), "task.train": [str(file)], **train}
    loaded = load_recipe(shipped, [f"{key}={json.dumps(value)}" for key, value in values.items()], kind=FinetuneRecipe)
    section = loaded.recipe.train
    read = texts[: (section.steps or 1) * section.batch_size]
    atomic_write(file, "".join(json.dumps({"text": text}) + "\n" for text in read))
    return loaded


def _num_steps(texts: Sequence[str], run: Path, *, seed: int) -> int:
    """The steps that fit into `_SECONDS` here, by those of a short run; once the run has begun, its own."""
    begun = run / RECIPE
    if begun.is_file() and (steps := load_recipe(begun, [], kind=FinetuneRecipe).recipe.train.steps):
        return steps
    settings = {"seed": seed, "train.steps": 2 * _TIMED_STEPS, "train.log_every": _TIMED_STEPS}
    with TemporaryDirectory(prefix="timed-", dir=run.parent) as folder:
        loaded = _recipe_of(texts, Path(folder) / "run", **settings)
        finetune_once(loaded.recipe, resolved=resolved_yaml(loaded), label="measure a step")
        of_steps = read_metrics(Path(loaded.recipe.out))[-1]["seconds"] / _TIMED_STEPS
    batch_size = loaded.recipe.train.batch_size
    started = time.perf_counter()
    load(loaded.recipe.model).encode(texts[: _TIMED_STEPS * batch_size])
    of_teacher = (time.perf_counter() - started) / _TIMED_STEPS
    logger.info("a step takes %.2f s, the teacher of its texts %.2f s", of_steps, of_teacher)
    return max(1, int(_SECONDS / (of_steps + of_teacher)))


def _speeds(folders: Mapping[str, Path], texts: Sequence[str], copies: Path) -> dict[str, float]:
    """Texts per second of each model as it is, in int8 where that passes the gate, and in sentence-transformers."""
    sides: dict[str, Callable[[], object]] = {}
    for name, folder in folders.items():
        sides[f"{name}, fp32"] = partial(load(folder).encode, texts)
        if (int8 := _in_int8(folder, copies / name.replace(", ", "-"))) is not None:
            sides[f"{name}, int8"] = partial(load(int8, precision="int8").encode, texts)
        if find_spec(_LIBRARY) is not None:
            from sentence_transformers import SentenceTransformer

            library = SentenceTransformer(str(folder), device="cpu")
            sides[f"{name}, {_LIBRARY}"] = partial(library.encode, list(texts), show_progress_bar=False)
    return texts_per_second(sides, num_texts=len(texts))


def _in_int8(folder: Path, copy: Path) -> Path | None:
    """A copy of the model that loads in int8, calibrated with texts that ship; None, and why, if there is none."""
    if not copy.is_dir():
        try:
            quantize(folder, copy)
        except (GateFailed, UsageError) as reason:
            logger.warning("%s", reason)
            return None
    return copy
