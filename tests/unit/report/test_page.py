"""The report: self-contained, escaped, and useful with and without matplotlib."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from minilm.report import curves
from minilm.report.curves import Curve
from minilm.report.page import curve_of, duration, write_report

pytestmark = pytest.mark.usefixtures("drawn_charts")

METRICS = [{"step": s, "loss": 3 / (s + 1), "learning_rate": 1e-4, "tokens_per_second": 9e3} for s in range(5)]
METRICS[4]["heldout_loss"] = 0.5


class Tags(HTMLParser):
    """Collects tags and attributes, and checks that tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path):
    def page(**changes) -> str:
        given = {"title": "t", "table": [], "metrics": [], "notes": [], **changes}
        write_report(tmp_path, **given)
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return page


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    return tags


@pytest.mark.slow
def test_it_loads_nothing_from_elsewhere_and_runs_nothing(page):
    html = page(table=[{"a": 1}], metrics=METRICS, notes=["n"], examples=[{"in": "x"}])
    tags = parsed(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(tags.tags)
    assert "@import" not in html
    assert not any(name in ("src", "href", "onload") for name, _ in tags.attributes)
    assert "prefers-color-scheme: dark" in html


HOSTILE = '<script>alert("x")</script>&\ud800'


def test_everything_is_escaped(page):
    table = [{HOSTILE: HOSTILE}]
    html = page(title=HOSTILE, table=table, tables={HOSTILE: table}, notes=[HOSTILE], examples=table)
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;?") == 10
    parsed(html)


def test_names_of_curves_are_escaped(page):
    pytest.importorskip("matplotlib", reason="curves need minilm[plot]")
    curve = Curve(name="<script>", steps=[0.0, 1.0], values=[1.0, 2.0])
    html = page(plots={"<script> over <b>": [curve, curve]})
    assert "<script" not in html
    assert "<b>" not in html
    assert html.count("&lt;script&gt;") >= 3  # the caption and both lines of the legend
    parsed(html)


def test_template_syntax_in_a_text_stays_text(page):
    html = page(title="{{ 6 * 7 }}", notes=["{% for x in y %}", "{# gone #}"])
    assert "<h1>{{ 6 * 7 }}</h1>" in html
    assert "<li>{% for x in y %}</li>\n<li>{# gone #}</li>" in html


def test_texts_keep_their_white_space(page):
    """Cards preserve line breaks, so the template adds none."""
    assert "<dt>in</dt><dd>  a\n\n b </dd>" in page(examples=[{"in": "  a\n\n b "}])


def test_numbers_are_aligned_and_readable(page):
    html = page(table=[{"model": "a", "size": 22713216, "score": 0.81234}, {"model": "b", "size": None, "ok": True}])
    assert '<th>model</th><th class="number">size</th>' in html
    assert '<td class="number">22,713,216</td><td class="number">0.8123</td>' in html
    assert '<td class="number">–</td>' in html
    assert "<td>yes</td>" in html


def test_without_matplotlib_a_note_says_how_to_get_curves(page, monkeypatch):
    monkeypatch.setattr(curves, "find_spec", lambda name: None)
    html = page(metrics=METRICS)
    assert "<svg" not in html
    assert "No curves: matplotlib is not installed. To draw them, run: pip install &#39;minilm[plot]&#39;" in html


def test_without_metrics_there_is_no_curve_section(page):
    assert "<h2>Curves</h2>" not in page(metrics=[{"step": 1, "other": 2.0}])


@pytest.mark.slow
def test_curves_are_inline_and_follow_the_page(page):
    pytest.importorskip("matplotlib", reason="curves need minilm[plot]")
    html = page(metrics=[*METRICS, {"step": 5, "b.loss": 1.0, "$_\\bad{.loss": 2.0}])
    assert html.count("<svg") == 3
    assert "var(--c0)" in html
    assert "<metadata" not in html
    parsed(html)


def test_points_that_cannot_be_drawn_are_left_out(page):
    pytest.importorskip("matplotlib", reason="curves need minilm[plot]")
    html = page(metrics=[{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}])
    assert "<svg" not in html


def test_points_that_json_has_no_number_for_are_left_out():
    curve = curve_of("f1", [(None, 1.0), (0.5, 2.0), (0.6, None), (math.inf, 3.0), (0.7, 4.0)])
    assert (curve.steps, curve.values) == ([0.5, 0.7], [2.0, 4.0])


def test_long_runs_are_thinned_and_it_says_so(page):
    pytest.importorskip("matplotlib", reason="curves need minilm[plot]")
    html = page(metrics=[{"step": s, "loss": 1.0} for s in range(2500)])
    assert "Loss (one of every 3 points is drawn)" in html


def test_a_logarithmic_chart_has_plain_numbers_and_leaves_zeros_out(page):
    pytest.importorskip("matplotlib", reason="curves need minilm[plot]")
    curve = Curve(name="a", steps=[0.0, 1.0, 2.0], values=[0.02, 0.0, 30.0])
    html = page(plots={"Loss": [curve]}, log_axes=["Loss"])
    assert "<figcaption>Loss, logarithmic</figcaption>" in html
    labels = re.findall(r">([0-9.]+)</text>", html)
    assert {"0.1", "1", "10"} <= set(labels)
    parsed(html)


@pytest.mark.slow
def test_a_mark_is_a_line_in_the_charts_over_steps(page):
    pytest.importorskip("matplotlib", reason="curves need minilm[plot]")
    plots = {"Found over threshold": [Curve(name="a", steps=[0.0, 1.0], values=[1.0, 2.0])]}
    lines = [page(metrics=METRICS, plots=plots, marks=marks).count("stroke-dasharray") for marks in ((), (2,))]
    assert lines == [0, 3]  # loss, learning rate, tokens per second


@pytest.mark.slow
def test_many_curves_differ_in_color_or_style(page):
    pytest.importorskip("matplotlib", reason="curves need minilm[plot]")
    some = [Curve(name=str(number), steps=[0.0, 1.0], values=[1.0, number]) for number in range(7)]
    assert page(plots={"x": some[:6]}).count("stroke-dasharray") == 0
    assert page(plots={"x": some}).count("stroke-dasharray") == 2  # the line and its entry in the legend


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0321, "0.032 s"), (4.26, "4.3 s"), (38.4, "38 s"), (59.7, "60 s"), (312.2, "5 min 12 s"), (7530, "2 h 5 min")],
)
def test_a_time_is_in_the_units_that_people_use(seconds, text):
    assert duration(seconds) == text


@pytest.mark.slow
def test_a_reference_is_behind_its_curve_in_the_same_color(page):
    pytest.importorskip("matplotlib", reason="curves need minilm[plot]")
    known = {"steps": [0.0, 1.0], "values": [1.0, 2.0]}
    behind = [Curve(name="reference: loss", reference_for="loss", **known)]
    html = page(metrics=METRICS, behind={"Loss": behind, "Gradient norm": behind})
    chart = html.partition("<svg")[2].partition("</svg>")[0]
    assert "reference: loss" in chart
    assert chart.index("stroke-opacity: 0.3") < chart.index("stroke-width: 1.6"), "drawn first"
    assert len(re.findall(r"stroke: var\(--c0\)", chart)) >= 4, "both lines, in the chart and the legend"
    assert "Gradient norm" not in html, "a chart without own curves is not drawn for a reference"
