"""`minilm score retrieval`: rankings of documents against judgments, as trec_eval scores them.

In: a run and judgments, matched by query and document. Out: a table, or one JSON object with `--json`; each number has
a signature that states how it was computed. `minilm.files.trec` reads the files, `minilm.score.retrieval` computes the
numbers. The command is registered in `score.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from minilm.cli.score_options import AsJson, Confidence, about, read_gains, warn
from minilm.cli.score_output import Report, show_report
from minilm.cli.streams import InputFormatOption, sources_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from minilm.score.retrieval import RetrievalScores

_Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME@K",
        help="ndcg, mrr, map, recall or precision of the first K documents; without @K of all (precision needs it). "
        "May be repeated.",
        show_default="ndcg@10, mrr@10, map, recall@100, precision@10",
    ),
]
GainsOption = Annotated[
    str | None,
    typer.Option(metavar="GRADE=GAIN,...", help="Gains of the grades above 0.", show_default="the grades"),
]


def retrieval(
    *,
    predictions: Annotated[
        str, typer.Option(metavar="FILE", help="A TREC run, or rows with a query, a document and a score.")
    ],
    references: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="TREC qrels, rows with a query, a document and a grade, or a folder in BEIR's layout."
        ),
    ],
    metrics: _Metrics = None,
    gains: GainsOption = None,
    confidence: Confidence = False,
    input_format: InputFormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Score rankings of documents by nDCG, MRR, MAP, recall and precision, from 0 to 1, as trec_eval does.

    Rows are .jsonl, .csv, .tsv (with a header) or .parquet; any other file has TREC's columns; all but .parquet may be
    .gz; - is standard input. A judged query without results counts as 0.

    Examples:
      minilm score retrieval --predictions run.trec --references beir/scifact

      minilm score retrieval --predictions run.jsonl --references cranfield.qrels --gains 1=4,2=3,3=2,4=1 --json
    """
    from minilm.files.trec import judgments_file, read_run
    from minilm.score.matching import match_ids
    from minilm.score.retrieval import DEFAULT_METRICS, parse_gains, parse_metric, retrieval_scores, unjudged_finding

    asked = list(dict.fromkeys(map(parse_metric, metrics or DEFAULT_METRICS)))
    table = parse_gains(gains)
    found, right = sources_of([("--predictions", predictions), ("--references", references)], input_format)
    right = judgments_file(right)
    judgments = read_gains(right, table)
    run = read_run(found)
    with about(found):
        match = match_ids(judgments, run, what="ranking")
    warn(found, match.missing_finding("count as 0"), match.extra_finding(), unjudged_finding(run, judgments))
    with about(right):
        scores = retrieval_scores(run, judgments, asked)
    show_report(_report(scores, table, unranked=len(match.missing), confidence=confidence), as_json=as_json)


def _report(scores: RetrievalScores, gains: Mapping[int, float], *, unranked: int, confidence: bool) -> Report:
    from minilm import __version__
    from minilm.score.bootstrap import interval, resampled_sums

    size = len(scores.queries)
    gain = ",".join(f"{grade}={value:g}" for grade, value in gains.items()) or "grade"
    scope = f"gain:{gain}|ties:score in single precision, then id, both descending|queries:{size}"
    means = resampled_sums(scores.values_QM) / size if confidence else None
    return Report(
        values=scores.means(),
        counts={"queries": size, "queries_without_results": unranked},
        signatures={
            str(metric): f"minilm:{__version__}|as:trec_eval 9, {metric.definition}|{scope}, {unranked} without results"
            for metric in scores.metrics
        },
        intervals={}
        if means is None
        else {str(metric): interval(means[:, column]) for column, metric in enumerate(scores.metrics)},
    )
