"""Settings of training text vectors: which columns are read, what the loss is, what becomes of the vectors.

In: values from a recipe or from Python. Out: validated `EmbedSettings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from minilm.errors import SettingsError
from minilm.files.checked import InputPath, PositiveInt, Share, Text
from minilm.model.embedding import PoolingMode
from minilm.tasks.settings import NEGATIVES, TaskSettings

LossName = Literal["vectors", "similarities", "infonce", "cosent", "cosine", "margin_mse", "kl"]
RowKind = Literal["texts", "pairs", "scored pairs", "scored lists"]

ROWS_OF: Mapping[LossName, RowKind] = {
    "vectors": "texts",
    "similarities": "texts",
    "infonce": "pairs",
    "cosent": "scored pairs",
    "cosine": "scored pairs",
    "margin_mse": "scored lists",
    "kl": "scored lists",
}
"""What a row of the training files is, by loss."""
WHOLE_BATCH: Sequence[LossName] = ("similarities", "infonce", "cosent")
"""Losses of all vectors of a batch; the others are a sum over rows."""
TEMPERATURES: Mapping[LossName, float] = {"infonce": 0.05, "cosent": 0.05, "kl": 1.0}
"""Default temperatures, those of sentence-transformers; other losses have none."""
_LOSSES_WITH: Mapping[str, Sequence[LossName]] = {
    **dict.fromkeys(("teacher", "cache"), ("vectors", "similarities", "margin_mse", "kl")),
    **dict.fromkeys(("distance", "projection"), ("vectors",)),
    "symmetric": ("infonce",),
    "temperature": tuple(TEMPERATURES),
}
"""Keys that do not apply to every loss."""


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(TaskSettings):
    """Vectors of texts, which are compared by cosines; by dot products with scored lists unless `normalize` is set.

    Attributes:
        loss: `vectors` of a teacher, its matrix of `similarities`, `infonce` with the other rows of a batch as
            negatives, `cosent` or `cosine` for scored pairs, `margin_mse` or `kl` for scored lists.
        max_tokens: max tokens of a text, including special tokens; of the trained model too, and of the teacher of
            plain texts; None: that of the model.
        pooling: over the tokens of a text; None: that of the model.
        normalize: the trained model scales its vectors to length 1.
        dropout: rate in training; None: that of the model.
        query_prompt: text before queries, which are the first texts of pairs and lists; None: that of the model.
        document_prompt: text before the other texts of pairs and lists; None: that of the model.
        role: of plain texts, for the prompts of the teacher and of the trained model, and for the encoder of an
            asymmetric teacher; None: their default prompts.
        teacher: the model whose vectors or similarities of plain texts are learned, or its scores of lists; None: the
            rows of lists have scores.
        cache: folder for the vectors and scores of teachers; None: beside the first training file.
        distance: of a vector and the teacher's: 1 - cosine, or the squared Euclidean distance before `normalize`.
        projection: the map to the teacher's width: `auto` keeps it in the model if the widths differ; `drop` leaves it
            out of the model after training; `keep` has one also for equal widths.
        temperature: divides similarities; None: 0.05 for infonce and cosent, 1 for kl.
        symmetric: infonce also finds the query of each positive, and takes the mean of both directions.
        dimensions: the loss is summed over vectors cut to these lengths (Matryoshka); empty: whole vectors only.
        texts: columns of plain texts; each one that a row has is a separate text.
        query: column of the first text of pairs and lists.
        positive: column of the text that belongs to the query.
        negatives: columns of texts that do not, or lists of such texts; those that a row lacks are left out. By default
            also `negative_1`, `negative_2` and so on.
        scores: column of the scores of a list, that of the positive first; without a teacher. A list for kl may have a
            column `texts` instead of a positive and negatives.
        sentence1: column of the first text of scored pairs, also in held-out files.
        sentence2: column of the second one.
        score: column of their score.
        metric: metric that selects the best checkpoint.
    """

    kind: Literal["embed"] = "embed"
    loss: LossName
    max_tokens: Annotated[int, Ge(3)] | None = None
    pooling: PoolingMode | None = None
    normalize: bool = True
    dropout: Share | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    role: Literal["query", "document"] | None = None
    teacher: InputPath | None = None
    cache: InputPath | None = None
    distance: Literal["cosine", "l2"] = "cosine"
    projection: Literal["auto", "keep", "drop"] = "auto"
    temperature: Annotated[float, Gt(0)] | None = None
    symmetric: bool = False
    dimensions: Sequence[PositiveInt] = ()
    texts: Sequence[Text] = ("text",)
    query: Text = "query"
    positive: Text = "positive"
    negatives: Sequence[Text] = NEGATIVES
    scores: Text = "scores"
    sentence1: Text = "sentence1"
    sentence2: Text = "sentence2"
    score: Text = "score"
    metric: Literal["spearmanr", "pearson"] = "spearmanr"

    def __post_init__(self) -> None:
        """Raise SettingsError also for keys that the loss does not have."""
        super().__post_init__()
        defaults = {one.name: one.default for one in fields(EmbedSettings)}
        for key, losses in _LOSSES_WITH.items():
            if self.loss not in losses and getattr(self, key) != defaults[key]:
                raise SettingsError(f"found {key} with loss {self.loss}; it is for {', '.join(losses)}: remove it")
        if self.teacher is None and self.rows == "texts":
            raise SettingsError(f"loss {self.loss} learns from a teacher; set teacher to a model folder")
        if self.cache is not None and self.teacher is None:
            raise SettingsError("found cache without teacher, whose scores it would hold: remove it")
        if self.teacher is not None and self.scores != defaults["scores"]:
            raise SettingsError("found both scores and teacher, expected one source of scores: remove one of them")
        if self.role is not None and self.rows != "texts":
            raise SettingsError(f"found role with loss {self.loss}, whose rows have both roles: remove it")
        if not self.texts:
            raise SettingsError("texts is empty; name at least one column")
        if len(set(self.dimensions)) < len(self.dimensions):
            raise SettingsError(f"dimensions is {list(self.dimensions)}; expected each length once")
        if self.dimensions and self.projection == "drop":
            raise SettingsError(
                "found dimensions with projection drop: they would cut vectors after the map that is left out of the "
                "model; set projection to auto, or remove dimensions"
            )

    @property
    def rows(self) -> RowKind:
        """What a row of the training files is."""
        return ROWS_OF[self.loss]

    @property
    def loss_temperature(self) -> float:
        """What divides the similarities: `temperature`, or the default of the loss."""
        return self.temperature if self.temperature is not None else TEMPERATURES.get(self.loss, 1.0)

    @property
    def longest(self) -> int:
        """Max tokens of one text in a batch; 0 if the model decides."""
        return self.max_tokens or 0
