"""`minilm score rouge` and `minilm score qg`: compare generated texts with references, matched by position.

In: two files (for `qg` also one of sources) with the same number of items. Out: a table, or one JSON object with
`--json`; each number has a signature that states how it was computed. `minilm.files.by_location` reads the files,
`minilm.score` computes the numbers. The commands are registered in `score.py`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from minilm.cli.score_options import AsJson, Confidence, column
from minilm.cli.score_output import Report, show_report
from minilm.cli.streams import InputFormatOption, sources_of
from minilm.errors import DataError, SystemProblem, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from minilm.files.by_location import AlignedTexts
    from minilm.files.source import Source
    from minilm.score.generation import ScoredText

logger = logging.getLogger(__name__)

_Predictions = Annotated[str, typer.Option(metavar="FILE", help="Generated texts, one per line; or rows.")]
_References = Annotated[str, typer.Option(metavar="FILE", help="Their references, one per line; or rows.")]
_PREDICTION_FIELDS = ("prediction", "output")
_REFERENCE_FIELDS = ("reference", "references")
_SOURCE_FIELDS = ("source", "src")
_PredictionField = Annotated[str | None, column("text in rows", "prediction or output")]
_ReferenceField = Annotated[
    str | None, column("reference in rows; a list holds several references", "reference or references")
]


def rouge(
    *,
    predictions: _Predictions,
    references: _References,
    prediction_field: _PredictionField = None,
    reference_field: _ReferenceField = None,
    task: Annotated[
        Literal["xsum", "cnndm", "gigaword"] | None,
        typer.Option(help="Prepare the texts as in UniLM's evaluation of this data set.", show_default="none"),
    ] = None,
    trunc_len: Annotated[
        int | None,
        typer.Option(
            min=0, help="With --task: max words of a prediction; 0: all.", show_default="60 for cnndm, else 0"
        ),
    ] = None,
    duplicate_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="With --task cnndm: drop a sentence if a larger share of its words came before.",
            show_default="0.7",
        ),
    ] = None,
    cut_references: Annotated[
        bool, typer.Option("--cut-references", help="Ignore the references after the last prediction.")
    ] = False,
    confidence: Confidence = False,
    input_format: InputFormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Score summaries by ROUGE-1, -2 and -L, with the numbers of ROUGE-1.5.5.

    Files are text, one item per line, or rows (.jsonl, .csv, .tsv, .parquet); all but .parquet also .gz; - is standard
    input. rougeL treats a text as one sentence, rougeLsum joins over sentences, which are separated by newlines (in
    rows), [X_SEP], <S_SEP> or <t>.

    Examples:
      minilm score rouge --predictions ckpt-108000.test --references test.target --task xsum

      minilm score rouge --predictions p.jsonl --references r.jsonl --reference-field summary --confidence --json
    """
    from minilm.score.rouge.scores import report_wordless, rouge_scores
    from minilm.score.rouge.stemming import rouge_stem

    _require_use(task, trunc_len, duplicate_rate)
    sides = sources_of([("--predictions", predictions), ("--references", references)], input_format)
    given, expected = _read_pairs(sides, prediction_field, reference_field, cut_references=cut_references)
    texts, golds = _prepared(given, expected, task, trunc_len=trunc_len, duplicate_rate=duplicate_rate)
    report_wordless(texts, golds, what="pairs")
    scores = rouge_scores(texts, golds, stem=rouge_stem)
    show_report(
        _rouge_report(scores, _preparation(task, trunc_len, duplicate_rate), confidence=confidence), as_json=as_json
    )


def qg(
    *,
    predictions: _Predictions,
    references: _References,
    sources: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What was asked about, one per line; or rows. Rows with the same source are one item: it has all "
            "their references, and its last prediction counts.",
            show_default="none: every row is an item",
        ),
    ] = None,
    prediction_field: _PredictionField = None,
    reference_field: _ReferenceField = None,
    source_field: Annotated[str | None, column("source in rows", "source or src")] = None,
    confidence: Confidence = False,
    input_format: InputFormatOption = None,
    as_json: AsJson = False,
) -> None:
    """Score generated questions by BLEU-1 to -4, METEOR and ROUGE-L, as Du et al. and UniLM do.

    Files are text, one item per line, or rows (.jsonl, .csv, .tsv, .parquet); all but .parquet also .gz; - is standard
    input. Words are separated by spaces: tokenize and lower-case both sides alike. METEOR needs Java and takes about a
    minute.

    Examples:
      minilm score qg --predictions test.out --references tgt-test.txt --sources src-test.txt

      minilm score qg --predictions p.jsonl --references r.jsonl --reference-field questions --json
    """
    from minilm.files.by_location import read_aligned
    from minilm.score.generation import pool, sums_of

    more = [] if sources is None else [("--sources", sources)]
    files = sources_of([("--predictions", predictions), ("--references", references), *more], input_format)
    given, expected = _read_pairs(files[:2], prediction_field, reference_field, cut_references=False)
    keys = None
    if sources is not None:
        asked = read_aligned(files[2], fields=(source_field,) if source_field else _SOURCE_FIELDS)
        _require_equal(given, asked, "sources", "check that the files belong together")
        keys = [text for (text,) in asked.texts]
    elif source_field is not None:
        raise UsageError(f"--source-field {source_field} names a column of --sources: add that file, or remove it")
    items = pool([text for (text,) in given.texts], expected.texts, keys)
    _warn_of_items(given, expected, items)
    rows = sums_of(items, _meteor(items))
    counts = {"rows": len(given.texts), "items": len(items)}
    show_report(_qg_report(rows, counts, pooled=keys is not None, confidence=confidence), as_json=as_json)


def _warn_of_items(given: AlignedTexts, expected: AlignedTexts, items: Sequence[ScoredText]) -> None:
    """Warn if predictions are ignored, and if letter case differs between the two sides."""
    if len(items) < len(given.texts):
        logger.warning(
            "%s: %d of %d predictions are scored: the last of the rows with the same source, against the references "
            "of all of them",
            given.path,
            len(items),
            len(given.texts),
        )
    if _has_capitals(one for row in expected.texts for one in row) and not _has_capitals(one.text for one in items):
        logger.warning(
            "%s has capitals and %s has none, so few words match: tokenize and lower-case both alike",
            expected.path,
            given.path,
        )


def _has_capitals(texts: Iterable[str]) -> bool:
    return any(text != text.lower() for text in texts)


def _read_pairs(
    sides: Sequence[Source],
    prediction_field: str | None,
    reference_field: str | None,
    *,
    cut_references: bool,
) -> tuple[AlignedTexts, AlignedTexts]:
    """Read both sides, warn about empty texts, and require equal numbers of both."""
    from dataclasses import replace

    from minilm.files.by_location import read_aligned

    predictions, references = sides
    given = read_aligned(predictions, fields=(prediction_field,) if prediction_field else _PREDICTION_FIELDS)
    expected = read_aligned(
        references, fields=(reference_field,) if reference_field else _REFERENCE_FIELDS, several=True
    )
    fix = "check that the files belong together"
    size = len(given.texts)
    if cut_references and size < len(expected.texts):
        logger.warning(
            "%s: the last %s of %s references have no prediction and are ignored (first: line %d)",
            references,
            f"{len(expected.texts) - size:,}",
            f"{len(expected.texts):,}",
            expected.lines[size],
        )
        expected = replace(expected, texts=expected.texts[:size], lines=expected.lines[:size])
    elif size < len(expected.texts):
        fix += "; `score rouge --cut-references` ignores the last ones"
    _require_equal(given, expected, "references", fix)
    for finding in (given.empty_finding("predictions"), expected.empty_finding("references")):
        if finding:
            logger.warning("%s", finding)
    return given, expected


def _require_equal(given: AlignedTexts, other: AlignedTexts, what: str, fix: str) -> None:
    if len(given.texts) != len(other.texts):
        raise DataError(
            f"{given.path} holds {len(given.texts):,} predictions and {other.path} holds {len(other.texts):,} {what}; "
            f"expected the same number: {fix}"
        )


def _require_use(task: str | None, trunc_len: int | None, duplicate_rate: float | None) -> None:
    if task is None and trunc_len is not None:
        raise UsageError(f"--trunc-len {trunc_len} needs --task xsum, cnndm or gigaword; else nothing is truncated")
    if task != "cnndm" and duplicate_rate is not None:
        raise UsageError(f"--duplicate-rate {duplicate_rate:g} needs --task cnndm; no other task drops sentences")


def _prepared(
    given: AlignedTexts,
    expected: AlignedTexts,
    task: str | None,
    *,
    trunc_len: int | None,
    duplicate_rate: float | None,
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the texts to score: predictions, and the references of each."""
    from minilm.score.rouge.postprocess import (
        plain_sentences,
        prepare_prediction,
        prepare_reference,
        without_bracket_codes,
    )

    predictions = [text for (text,) in given.texts]
    if task is None:
        return [plain_sentences(text) for text in predictions], [
            tuple(map(plain_sentences, several)) for several in expected.texts
        ]
    texts = [prepare_prediction(text, task, trunc_len=trunc_len, duplicate_rate=duplicate_rate) for text in predictions]
    emptied = [n for n, text in enumerate(texts) if not text.strip() and predictions[n].strip()]
    if emptied:
        logger.warning(
            "%s: --task %s leaves nothing of %d predictions, so they match nothing (first: line %d)",
            given.path,
            task,
            len(emptied),
            given.lines[emptied[0]],
        )
    golds = [tuple(prepare_reference(text, task) for text in several) for several in expected.texts]
    return [*map(without_bracket_codes, texts)], [tuple(map(without_bracket_codes, several)) for several in golds]


def _preparation(task: str | None, trunc_len: int | None, duplicate_rate: float | None) -> str:
    """How texts were prepared, for the signature."""
    from minilm.score.rouge.postprocess import SUMMARY_TASKS

    if task is None:
        return "task:none"
    own = SUMMARY_TASKS[task]
    length = own.trunc_len if trunc_len is None else trunc_len
    rate = own.duplicate_rate if duplicate_rate is None else duplicate_rate
    return f"task:{task}|bracket codes:no words|trunc_len:{length}" + (
        f"|duplicate_rate:{rate:g}" if task == "cnndm" else ""
    )


def _rouge_report(scores: NDArray[np.float64], preparation: str, *, confidence: bool) -> Report:
    from minilm import __version__
    from minilm.score.bootstrap import interval, resampled_sums
    from minilm.score.rouge.scores import ROUGE_METRICS, ROUGE_PARTS, rouge_metrics

    metrics = rouge_metrics(scores)
    common = (
        f"minilm:{__version__}|as:ROUGE-1.5.5|f:harmonic|stem:Porter of ROUGE-1.5.5 + WordNet 2.0, words over 3 letters"
        f"|words:[a-z0-9]+ lower-cased|{preparation}|pairs:{len(scores)}"
    )
    sentences = {"rougeL": "|sentences:taken as one", "rougeLsum": "|sentences:joined"}
    intervals: dict[str, tuple[float, float]] = {}
    if confidence:
        means = 100.0 * resampled_sums(scores[:, :, ROUGE_PARTS.index("f")]) / len(scores)
        intervals = {name: interval(means[:, column]) for column, name in enumerate(ROUGE_METRICS)}
    return Report(
        values={name: metrics[name] for name in ROUGE_METRICS},
        counts={"pairs": len(scores)},
        signatures={name: f"{common}{sentences.get(name, '')}" for name in ROUGE_METRICS},
        intervals=intervals,
        parts={part: {name: metrics[f"{name}_{part}"] for name in ROUGE_METRICS} for part in ("precision", "recall")},
    )


def _meteor(items: Sequence[ScoredText]) -> NDArray[np.float64] | None:
    from minilm.files.meteor_java import meteor_counts
    from minilm.score.generation import METEOR_NUMBERS

    try:
        return meteor_counts([(item.text, item.references) for item in items], num_counts=METEOR_NUMBERS)
    except SystemProblem as problem:
        logger.warning("METEOR is skipped: %s", problem)
        return None


def _qg_report(rows: NDArray[np.float64], counts: Mapping[str, int], *, pooled: bool, confidence: bool) -> Report:
    from minilm import __version__
    from minilm.score.bootstrap import interval, resampled_sums
    from minilm.score.generation import generation_metrics

    values = generation_metrics(rows.sum(axis=0), len(rows))
    samples = [generation_metrics(sums, len(rows)) for sums in resampled_sums(rows)] if confidence else []
    known = [name for name, value in values.items() if not math.isnan(value)]
    scope = f"items:{'by source, last prediction' if pooled else 'rows'}|n:{len(rows)}"
    own = f"minilm:{__version__}|as:pycocoevalcap 1.2|stem:none|words:between spaces, case kept"
    meteor = f"minilm:{__version__}|counts:METEOR 1.5 jar|task:rank|words:-norm, lower-cased"
    how = {
        "METEOR": f"{meteor}|matches:exact, stem, synonym, paraphrase",
        "ROUGE_L": f"{own}|f:beta 1.2, best precision and recall",
    }
    bleu = f"{own}|corpus:clipped, closest reference length"
    return Report(
        values=values,
        counts=counts,
        signatures={name: f"{how.get(name, bleu)}|{scope}" for name in known},
        intervals={name: interval([sample[name] for sample in samples]) for name in known} if samples else {},
    )
