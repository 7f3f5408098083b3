"""`minilm score tokens`: the tags of words, as entities.

In: predictions and references, matched by id. Out: seqeval's numbers, default and strict, over all entities, by type
and averaged over types; as a table, or one JSON object with `--json`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from minilm.cli.score_options import AsJson, TaskRecipe, about, listed_names, task_section, warn
from minilm.cli.score_output import by_first_cell, show, table
from minilm.cli.streams import InputFormatOption, sources_of
from minilm.errors import UsageError

if TYPE_CHECKING:
    from minilm.score.entities import Tags
    from minilm.tasks.tokens.schemes import Scheme
    from minilm.tasks.tokens.settings import TokensSettings

_SIGNATURES = {
    "default": "as seqeval and conlleval; an I- tag that continues nothing begins an entity",
    "strict": "as seqeval with mode='strict', scheme=IOB2; only a B- tag begins an entity",
}

_Labels = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...",
        help="Tags in the order of their numbers, if references have numbers.",
        show_default="none",
    ),
]
_Scheme = Annotated[
    Literal["IOB1", "IOB2", "IOBES"] | None,
    typer.Option(help="How both files mark entities.", show_default="found in the references; IOB2 in the predictions"),
]


def tokens(
    *,
    predictions: Annotated[
        str, typer.Option(metavar="FILE", help="Rows with an id and tags, as minilm predict writes them; or .conll.")
    ],
    references: Annotated[
        str, typer.Option(metavar="FILE", help="Tagged words: .conll, .bio or .txt columns, or rows with lists.")
    ],
    task: TaskRecipe = None,
    labels: _Labels = None,
    scheme: _Scheme = None,
    input_format: InputFormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Score predicted tags of words as seqeval does, by default and strictly; every number is times 100.

    Rows are .jsonl, .json or .parquet (predictions also .csv, .tsv); - is standard input, where text is a column file.
    Without an id, sentences are numbered from 0, as minilm predict does. A missing prediction counts as O.

    Examples:
      minilm score tokens --predictions predictions.jsonl --references test.conll

      minilm score tokens --predictions p.jsonl --references test.jsonl --task ner.yaml --json
    """
    from minilm.score.matching import match_ids
    from minilm.tasks.tokens.predicted import read_predicted_tags, tags_for
    from minilm.tasks.tokens.rows import read_tagged

    given, right = sources_of([("--predictions", predictions), ("--references", references)], input_format)
    settings = _settings(task, labels, scheme)
    sentences = read_tagged(right, settings)
    tags = read_predicted_tags(given, id_column=settings.id)
    with about(given):
        match = match_ids([one.id for one in sentences], tags)
        found = tags_for(sentences, tags, None if settings.scheme == "auto" else settings.scheme)
    warn(given, match.missing_finding("their words count as O"), match.extra_finding())
    gold = [one.tags for one in sentences]
    _show(gold, found, as_json=as_json)


def _show(gold: Tags, found: Tags, *, as_json: bool) -> None:
    from minilm.score.entities import entity_averages, entity_metrics, entity_rows

    rows = entity_rows(gold, found)
    show(
        {**entity_metrics(gold, found), "sentences": len(gold), "words": sum(map(len, gold))},
        as_json=as_json,
        blocks=[table(rows), "\n".join(f"{name}: {how}" for name, how in _SIGNATURES.items())],
        more={
            **entity_averages(gold, found),
            "types": by_first_cell([row for row in rows if not str(row["type"]).endswith(" average")]),
            "signature": _SIGNATURES,
        },
    )


def _settings(task: str | None, labels: str | None, scheme: Scheme | None) -> TokensSettings:
    """How the references are read: the task of a recipe, or what the flags say."""
    from minilm.errors import SettingsError
    from minilm.recipe import TokensSection
    from minilm.tasks.tokens.settings import TokensSettings

    if task is not None:
        return task_section(task, TokensSection, {"--labels": labels, "--scheme": scheme})
    try:
        return TokensSettings(name="tokens", labels=listed_names(labels), scheme=scheme or "auto")
    except SettingsError as error:
        raise UsageError(f"--labels {labels}: {error}") from None
