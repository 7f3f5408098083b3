"""The report of a run: one HTML file that opens anywhere and loads nothing.

In: a title, rows of results, rows of metrics over steps, notes, examples.
Out: `report.html` with a table, curves as inline SVG (drawn when matplotlib is installed) and examples.
Everything that came from the run is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from minilm.files.atomic import atomic_write
from minilm.report.curves import Curve, draw

# Chart title -> the metrics it shows, by name or by "<student>." plus name.
_CHARTS: Mapping[str, tuple[str, ...]] = {
    "Loss": ("loss", "heldout_loss"),
    "Learning rate": ("learning_rate",),
    "Tokens per second": ("tokens_per_second",),
}
_MAX_POINTS = 1000
_NO_PLOT = "No curves: matplotlib is not installed. To get them: pip install 'minilm[plot]', then run again"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #dcdfe4; --back: #ffffff;
  --card: #f6f7f9;
  --c0: #2563c9; --c1: #c2560c; --c2: #1f8a4c; --c3: #8a3fc0; --c4: #b3261e; --c5: #0f7f8c; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e8eb; --soft: #9ba1a9; --line: #33373d; --back: #15171a;
  --card: #1e2125;
  --c0: #79a9ff; --c1: #f0a060; --c2: #6fd49a; --c3: #c99bf5; --c4: #ff8a80; --c5: #66cbd6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 46rem; padding: 2.5rem 1.25rem 4rem; background: var(--back);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .75rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
figure { margin: 0 0 1.5rem; }
figcaption { color: var(--soft); font-size: .9rem; }
svg { width: 100%; height: auto; display: block; }
.card { background: var(--card); border-radius: .5rem; padding: .25rem 1rem; margin: 0 0 .75rem; }
dt { color: var(--soft); font-size: .85rem; margin-top: .5rem; }
dd { margin: 0 0 .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
li { margin: .25rem 0; overflow-wrap: anywhere; }
"""


def write_report(
    folder: Path,
    *,
    title: str,
    table: Sequence[Mapping[str, object]],
    metrics: Sequence[Mapping[str, float]],
    notes: Sequence[str],
    scores: Sequence[str] = (),
    tables: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
    plots: Mapping[str, Sequence[Curve]] | None = None,
    examples: Sequence[Mapping[str, str]] = (),
) -> None:
    """Write `folder/report.html`.

    Args:
        folder: an existing folder.
        title: heading of the page.
        table: rows of results; the columns are the keys, in the order they first appear.
        metrics: rows with a `step` and any of loss, heldout_loss, learning_rate, tokens_per_second, each also
            as `<student>.loss` and so on; other keys are not drawn.
        notes: sentences for the reader, one item each.
        scores: more keys of `metrics`, drawn into one chart.
        tables: more tables, each under its title.
        plots: more curves by title, whose x is named after the last " over " of the title.
        examples: a few named texts each, such as an input and an output.

    Raises:
        SystemProblem: the file cannot be written.
    """
    charts = {**_CHARTS, "Held-out scores": tuple(scores)}
    figures = {title: _chart_curves(metrics, names) for title, names in charts.items()}
    sections = [_section("Results", _table(table)), _section("Curves", _figures({**figures, **(plots or {})}))]
    sections += [_section(escape(heading), _table(rows)) for heading, rows in (tables or {}).items()]
    sections += [_section("Examples", _examples(examples)), _section("Notes", _notes(notes))]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{''.join(sections)}</body>\n</html>\n"
    )
    atomic_write(folder / "report.html", page.encode("utf-8", "replace"))


def _section(heading: str, body: str) -> str:
    return f"<h2>{heading}</h2>\n{body}\n" if body else ""


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return ""
    numeric = {key: all(_is_number(row[key]) for row in rows if row.get(key) is not None) for key in columns}
    head = "".join(_cell("th", key, number=numeric[key]) for key in columns)
    body = "".join(
        "<tr>" + "".join(_cell("td", _text(row.get(key)), number=numeric[key]) for key in columns) + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def _cell(tag: str, text: str, *, number: bool) -> str:
    kind = ' class="number"' if number else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 and math.isfinite(value) else f"{value:.4g}"
    return str(value)


def _figures(charts: Mapping[str, Sequence[Curve]]) -> str:
    figures = []
    for title, curves in charts.items():
        if not curves:
            continue
        svg = draw(curves, x_label=title.rpartition(" over ")[2] if " over " in title else "step")
        if svg is None:
            return f"<p>{escape(_NO_PLOT)}</p>"
        figures.append(f"<figure>\n<figcaption>{escape(title)}{_thinned(curves)}</figcaption>\n{svg}</figure>\n")
    return "".join(figures)


def _thinned(curves: Sequence[Curve]) -> str:
    stride = max(curve.stride for curve in curves)
    return f" (one of every {stride} points is drawn)" if stride > 1 else ""


def _chart_curves(metrics: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[Curve]:
    keys = dict.fromkeys(key for row in metrics for key in row if key.rpartition(".")[2] in names)
    curves = (_curve(metrics, key) for key in keys)
    return [curve for curve in curves if curve.steps]


def _curve(metrics: Sequence[Mapping[str, float]], key: str) -> Curve:
    rows = [(row["step"], row[key]) for row in metrics if _is_number(row.get(key)) and "step" in row]
    return curve_of(key, rows)


def curve_of(name: str, points: Sequence[tuple[float, float]]) -> Curve:
    """A line through the finite ones of `points` (x, y), thinned to what can be seen."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    stride = max(1, math.ceil(len(finite) / _MAX_POINTS))
    drawn = finite[::stride]
    return Curve(name=name, steps=[x for x, _ in drawn], values=[y for _, y in drawn], stride=stride)


def _notes(notes: Sequence[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{escape(note)}</li>\n" for note in notes) + "</ul>" if notes else ""


def _examples(examples: Sequence[Mapping[str, str]]) -> str:
    cards = []
    for example in examples:
        items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n" for name, text in example.items())
        cards.append(f'<div class="card"><dl>\n{items}</dl></div>\n')
    return "".join(cards)
