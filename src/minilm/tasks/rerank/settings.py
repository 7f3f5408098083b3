"""Settings of reranking: how queries and their texts are read, and what the model learns from them.

In: values from a recipe, from Python or from `task.json` of a model folder. Out: validated `RerankSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from minilm.errors import SettingsError
from minilm.files.checked import Text
from minilm.model.activations import Activation
from minilm.tasks.settings import TaskSettings

RerankLoss = Literal["bce", "mse", "margin_mse", "kl", "lambda"]
FROM_SCORES: tuple[RerankLoss, ...] = ("mse", "margin_mse", "kl")
"""Losses that learn scores, such as those of a teacher; the others learn labels."""
OVER_LISTS: tuple[RerankLoss, ...] = ("margin_mse", "kl", "lambda")
"""Losses that compare the texts of a query, which stay together; the others take each text alone."""
_ACTIVATIONS: Mapping[RerankLoss, Activation] = {"bce": "Sigmoid"}


@dataclass(frozen=True, kw_only=True)
class RerankSettings(TaskSettings):
    """A score for each pair of a query and a text, by which the texts of a query are ranked.

    A row has a query and one text or a list of them, each with a label or a score; or a query, its positive and its
    negatives. Columns that are not named have their usual names, also in the plural.

    Attributes:
        max_tokens: max tokens of a query with its text, including special tokens.
        loss: what is learned: labels of each text (bce) or of a list (lambda), or scores of each text (mse), of a list
            (kl), or their distance from that of the positive (margin_mse).
        pooling: what the score is computed from: the first token, or the mean of all.
        temperature: both distributions of kl are softened by it.
        query: column of the query.
        text: column of the text, or of the list of texts.
        positive: column of the positive, or of the list of positives.
        negatives: column of the list of negatives, or of the only one. By default also columns `negative_1`,
            `negative_2` and so on.
        label: column of the label, or of one for each text: 0 for not relevant, more for more relevant.
        score: column of the score, or of one for each text; that of the positive comes first.
        query_id: column of the id of a query, for rows with one text; without it rows with equal queries are one list.
        doc_id: column of the id of a text, for rows with one text.
        metric: metric that selects the best checkpoint.
    """

    kind: Literal["rerank"] = "rerank"
    max_tokens: Annotated[int, Ge(8)] = 512  # a short pair is not padded, so a high limit costs nothing
    loss: RerankLoss = "bce"
    pooling: Literal["cls", "mean"] = "cls"
    temperature: Annotated[float, Gt(0)] = 1.0
    query: Text = "query"
    text: Text | None = None
    positive: Text = "positive"
    negatives: Text | None = None
    label: Text | None = None
    score: Text | None = None
    query_id: Text = "query_id"
    doc_id: Text = "doc_id"
    metric: Text | None = None

    def __post_init__(self) -> None:
        """Raise SettingsError also for a temperature of a loss that has none."""
        super().__post_init__()
        if self.temperature != 1 and self.loss != "kl":
            raise SettingsError(f"found temperature {self.temperature:g} with loss {self.loss!r}, which has none")

    @property
    def longest(self) -> int:
        """Max tokens of one text in a batch; a list of texts may be longer than a batch."""
        return self.max_tokens

    @property
    def activation(self) -> Activation:
        """What turns the output of the head into a score: a probability after bce, else the output itself."""
        return _ACTIVATIONS.get(self.loss, "Identity")
