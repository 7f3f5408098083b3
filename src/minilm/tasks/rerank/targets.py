"""What a loss learns from a list, and what a ranking is measured against.

In: a `RankedList`. Out: one number for each of its texts; a list that teaches or measures nothing is a DataError that
names it.
"""

from __future__ import annotations

from collections.abc import Sequence

from minilm.errors import DataError
from minilm.tasks.rerank.rows import RankedList
from minilm.tasks.rerank.settings import FROM_SCORES, RerankLoss

_MAX_GRADE = 100  # sums of such gains are numbers in float32


def relevance(one: RankedList) -> tuple[float, ...]:
    """How relevant each text is: its label, else its score, 0 or more.

    Raises:
        DataError: a score is negative, so that it is not a relevance.
    """
    if one.labels is not None:
        return one.labels
    assert one.scores is not None, "a row has labels or scores"
    if min(one.scores) < 0:
        raise DataError(
            f"{one.location}: a text has the score {min(one.scores):g} and no label, expected a label of 0 or more, "
            "which says how relevant it is; add a column of labels"
        )
    return one.scores


def ranked_relevance(one: RankedList) -> tuple[float, ...]:
    """The relevance of each text of a list that can be ranked.

    Raises:
        DataError: no text is relevant, or all are equally relevant.
    """
    found = relevance(one)
    if max(found) <= 0:
        raise DataError(f"{one.location}: no text of query {_shown(one)} has a label above 0; remove the query")
    if len(set(found)) == 1:
        raise DataError(
            f"{one.location}: query {_shown(one)} has {_texts(found)}, labelled {found[0]:g}, and none that is less "
            "relevant, so there is nothing to rank; add negatives or remove the query"
        )
    return found


def targets(one: RankedList, loss: RerankLoss) -> tuple[float, ...]:
    """What a loss learns of each text.

    Raises:
        DataError: the list does not have what the loss needs.
    """
    if loss == "lambda":
        found = ranked_relevance(one)
        if max(found) > _MAX_GRADE:
            raise DataError(
                f"{one.location}: a text has the label {max(found):g}, expected at most {_MAX_GRADE} with loss lambda, "
                "whose gains are powers of 2; number the grades from 0"
            )
        return found
    if loss == "bce":
        found = relevance(one)
        if max(found) > 1:
            raise DataError(
                f"{one.location}: a text has the label {max(found):g}, expected 0 to 1 with loss bce; use loss lambda "
                "for grades, or mse for scores"
            )
        return found
    found = _scores(one, loss)
    require_comparable(one, loss)
    return found


def require_comparable(one: RankedList, loss: RerankLoss) -> None:
    """Require the texts that a loss of scores compares; raises DataError if it learns nothing from the list."""
    if loss == "margin_mse" and one.num_positives != 1:
        raise DataError(
            f"{one.location}: found a list of texts or several positives, expected one positive and its negatives with "
            "loss margin_mse; use loss mse or kl for scored lists"
        )
    if loss == "kl" and len(one.texts) == 1:
        raise DataError(f"{one.location}: query {_shown(one)} has a single text, expected a list with loss kl")


def require_different(found: Sequence[float], loss: RerankLoss, first: RankedList) -> None:
    """Require targets from which a loss of single texts can learn; raises DataError if all are equal."""
    if len(set(found)) == 1:
        what = "score" if loss in FROM_SCORES else "label"
        raise DataError(
            f"all {len(found):,} training texts have the {what} {found[0]:g}, expected at least two different ones "
            f"(first: {first.location})"
        )


def _scores(one: RankedList, loss: RerankLoss) -> tuple[float, ...]:
    """The scores of a list; labels that a file states count, those of a positive and its negatives do not."""
    if one.scores is not None:
        return one.scores
    if one.num_positives or one.labels is None:
        raise DataError(
            f"{one.location}: found no scores, expected one for each text with loss {loss}; add them, name their "
            "column with task.score, or use loss bce or lambda"
        )
    return one.labels


def _shown(one: RankedList) -> str:
    return f"{one.query!r:.60}"


def _texts(found: Sequence[float]) -> str:
    return f"{len(found)} texts" if len(found) > 1 else "a single text"
