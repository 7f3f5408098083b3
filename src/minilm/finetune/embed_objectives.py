"""What the vectors of a batch are compared with, for each loss: tensors of its rows, and the loss as a function.

In: settings, encoded rows, the rows of a batch, whose texts are consecutive. Out: targets by name, a `VectorLoss`.

R rows, W width of a vector, M documents of the batch, K candidates of a row.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from minilm.finetune.embed_batch import VectorLoss
from minilm.finetune.embed_data import EncodedRows, Int64s
from minilm.finetune.embed_losses import (
    Excluded,
    cosent,
    cosine_mse,
    infonce,
    list_kl,
    margin_mse,
    similarity_distance,
    unit,
    vector_distance,
)
from minilm.finetune.teacher_vectors import TeacherVectors
from minilm.tasks.embed.settings import EmbedSettings

Targets = dict[str, Tensor]


def targets_of(
    settings: EmbedSettings,
    rows: EncodedRows,
    chosen: Int64s,
    *,
    teacher: TeacherVectors | None = None,
    positives: Mapping[int, set[int]] | None = None,
) -> Targets:
    """The targets of the chosen rows, by name."""
    if settings.rows == "texts":
        assert teacher is not None, "the settings require a teacher"
        return {"teacher": torch.from_numpy(teacher.rows(rows.firsts[chosen]))}
    if settings.rows == "scored pairs":
        return {"scores": torch.from_numpy(rows.scores[rows.score_firsts[chosen]])}
    sizes = np.diff(rows.firsts)[chosen]
    begins = np.cumsum(sizes) - sizes
    if settings.rows == "pairs":
        assert positives is not None, "a task with pairs has them"
        return _pair_targets(rows, chosen, begins, positives)
    candidates = np.zeros((len(chosen), int(sizes.max()) - 1), dtype=np.int64)
    scores = np.full(candidates.shape, np.nan, dtype=np.float32)
    for place, (row, begin, size) in enumerate(zip(chosen, begins, sizes, strict=True)):
        candidates[place, : size - 1] = begin + 1 + np.arange(size - 1)
        scores[place, : size - 1] = rows.scores_of(row)
    found = {"queries": begins, "candidates": candidates, "scores": scores}
    return {name: torch.from_numpy(array) for name, array in found.items()}


def _pair_targets(rows: EncodedRows, chosen: Int64s, begins: Int64s, positives: Mapping[int, set[int]]) -> Targets:
    """Places of queries and documents, and the documents that are not negatives of a query.

    Those are its known positives, and a document that is the query itself.
    """
    texts = [np.array(rows.texts_of(row)) for row in chosen]
    negatives = [begin + 2 + np.arange(len(own) - 2) for begin, own in zip(begins, texts, strict=True)]
    documents = np.concatenate([begins + 1, *negatives])
    distinct, numbers = np.unique(rows.identities[np.concatenate(texts)], return_inverse=True)
    number_of = {identity: number for number, identity in enumerate(distinct.tolist())}
    pairs = [
        (number_of[query], number_of[text])
        for query in distinct[np.unique(numbers[begins])].tolist()
        for text in sorted((number_of.keys() & positives[query]) | {query})
    ]
    found = {
        "queries": begins,
        "documents": documents,
        "query texts": numbers[begins],
        "document texts": numbers[documents],
        "excluded": np.array(pairs, dtype=np.int64),
    }
    return {name: torch.from_numpy(array) for name, array in found.items()}


def loss_of(settings: EmbedSettings, *, count: int) -> VectorLoss:
    """The loss as a function of vectors and targets, in the precision of the vectors, whatever autocast says.

    With `dimensions`, it is summed over vectors cut to each.

    Args:
        settings: of the task.
        count: of how many terms the loss of a step is the mean, unless it is of a whole batch.
    """

    def whole(vectors: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            return _loss(settings, vectors, targets, count)

    def summed(vectors: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        cut = settings.loss == "vectors"  # the teacher's vectors too, but its similarities stay whole
        return torch.stack(
            [
                whole(
                    vectors[:, :size],
                    {**targets, "teacher": targets["teacher"][:, :size]} if cut else targets,
                )
                for size in settings.dimensions
            ]
        ).sum()

    return summed if settings.dimensions else whole


def _loss(settings: EmbedSettings, vectors: Tensor, targets: Mapping[str, Tensor], count: int) -> Tensor:
    if settings.rows == "texts":
        teacher = targets["teacher"].to(vectors.dtype)
        if settings.loss == "similarities":
            return similarity_distance(vectors, teacher)
        return vector_distance(vectors, teacher, squared=settings.distance == "l2", count=count)
    if settings.rows == "scored pairs":
        scores = targets["scores"].to(vectors.dtype)
        cosines = (unit(vectors[0::2]) * unit(vectors[1::2])).sum(1)
        if settings.loss == "cosine":
            return cosine_mse(cosines, scores, count=count)
        return cosent(cosines, scores, temperature=settings.loss_temperature)
    if settings.rows == "pairs":
        return infonce(
            vectors[targets["queries"]],
            vectors[targets["documents"]],
            Excluded(
                rows=targets["query texts"],
                columns=targets["document texts"],
                pairs=targets["excluded"],
                num_texts=len(vectors),
            ),
            temperature=settings.loss_temperature,
            symmetric=settings.symmetric,
        )
    made = unit(vectors) if settings.normalize else vectors
    similarities_RK = torch.einsum("rw,rkw->rk", made[targets["queries"]], made[targets["candidates"]])
    scores = targets["scores"].to(vectors.dtype)
    if settings.loss == "margin_mse":
        return margin_mse(similarities_RK, scores, count=count)
    return list_kl(similarities_RK, scores, temperature=settings.loss_temperature, count=count)
