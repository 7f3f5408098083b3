"""The score of a model on a labeled file, as `minilm predict` and `minilm score` give it.

In: a loaded model with the settings of its task, a file. Out: the number that selected its weights, times 100.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minilm.errors import UsageError
from minilm.files.source import Source
from minilm.infer.api import LoadedModel
from minilm.infer.batching import TEXTS_PER_CHUNK, chunked
from minilm.infer.predictions import Classified, answer_part, classify_part, tag_part
from minilm.model.metadata import is_cross_encoder
from minilm.score.entities import METRICS, entity_metrics
from minilm.score.glue import compute_metrics
from minilm.score.multi_label import multi_label_metrics
from minilm.score.squad import SquadReference, squad_metrics
from minilm.tally import Tally
from minilm.tasks.rerank.settings import RerankSettings
from minilm.tasks.squad.read import read_squad
from minilm.tasks.squad.settings import SquadSettings
from minilm.tasks.text.glue import COMBINED, text_task
from minilm.tasks.text.rows import TextRow, TextTask, read_text_rows
from minilm.tasks.text.settings import TextSettings
from minilm.tasks.tokens.rows import read_tagged, require_known
from minilm.tasks.tokens.settings import TokensSettings

NamedScore = tuple[str, float]


def require_scored(model: LoadedModel) -> None:
    """Raise UsageError unless the folder states a task whose score is known here."""
    if isinstance(model.task, RerankSettings) or (not (model.task or model.labels) and is_cross_encoder(model.folder)):
        raise UsageError(
            f"--labelled: {model.folder} is a reranker, whose labeled files are not scored here; remove --labelled, "
            "then compare the runs that minilm predict --precision fp32 and int8 write with the new folder by minilm "
            "score retrieval"
        )
    if not isinstance(model.task, TextSettings | TokensSettings | SquadSettings):
        raise UsageError(
            f"--labelled: {model.folder} has no task.json that names the columns of labeled texts, words or questions; "
            "remove --labelled, or use a model that minilm finetune trained"
        )


def task_score(model: LoadedModel, source: Source, tally: Tally) -> NamedScore:
    """Name and value of the main score of the model's task on a file; `tally` counts what is truncated.

    Raises:
        UsageError: the folder has no such task, or the path is of an unknown kind.
        DataError: a row cannot be read, or its label is unknown; names the line.
    """
    require_scored(model)
    task = model.task
    if isinstance(task, TokensSettings):
        sentences = read_tagged(source, task)
        require_known(sentences, model.labels)
        locations = [one.location for one in sentences]
        tagged = tag_part(model, [one.words for one in sentences], locations=locations, tally=tally)
        numbers = entity_metrics([one.tags for one in sentences], [one.tags for one in tagged])
        return METRICS[0], numbers[METRICS[0]]
    if isinstance(task, SquadSettings):
        questions = read_squad(source)
        answers = answer_part(model, questions, settings=None, tally=tally)
        references = [
            SquadReference(id=one.id, answers=tuple(answer.text for answer in one.answers)) for one in questions
        ]
        return "f1", squad_metrics(references, {one.id: one.text for one in answers})["f1"]
    assert isinstance(task, TextSettings)
    spec = replace(text_task(task), labels=tuple(model.labels))
    return _text_score(model, read_text_rows(source, spec), spec, tally)


def _text_score(model: LoadedModel, rows: list[TextRow], spec: TextTask, tally: Tally) -> NamedScore:
    found: list[Classified] = []
    for chunk in chunked(rows, TEXTS_PER_CHUNK):
        pairs = [row.text_pair or "" for row in chunk] if spec.columns.text_pair is not None else None
        locations = [row.location for row in chunk]
        found += classify_part(model, [row.text for row in chunk], pairs, locations=locations, tally=tally)
    if spec.multi_label:
        right = [[index in row.labels for index in range(len(spec.labels))] for row in rows]
        given = [[name in one.labels for name in spec.labels] for one in found]
        return spec.main, multi_label_metrics(np.array(right), np.array(given))[spec.main]
    predicted = [float(spec.labels.index(one.label)) if spec.labels else one.score for one in found]
    numbers = compute_metrics(spec.metrics, [float(row.label or 0) for row in rows], predicted)
    if spec.main == COMBINED:
        return COMBINED, float(np.mean([numbers[name] for name in spec.metrics]))
    return spec.main, numbers[spec.main]
