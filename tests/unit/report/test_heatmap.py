"""Heat maps: a cell for each share in its shade, labels that are escaped, and some rows of many."""

from __future__ import annotations

import math
import re

from minilm.report.heatmap import HeatMap, draw_map
from minilm.report.page import write_report


def heat_map(values: list[list[float]], *, name: str = "step") -> HeatMap:
    rows = [str(10 * number) for number in range(len(values))]
    columns = [str(number + 1) for number in range(len(values[0]))]
    return HeatMap(title="agreement", columns=("head", columns), rows=(name, rows), values=values)


def cells(svg: str) -> dict[str, int]:
    """Opacity -> number of cells, without the five of the legend."""
    found = re.findall(r'fill-opacity="([\d.]+)"[^>]* d="([^"]+)"', svg)
    return {level: path.count("M") for level, path in found[:-5]}


def test_there_is_a_cell_for_each_share_in_its_shade():
    svg = draw_map(heat_map([[0.0, 0.5, 0.51], [1.0, math.nan, 1.2]]))
    assert cells(svg) == {"0.00": 1, "0.50": 2, "1.00": 2}
    assert all(f">{text}<" in svg for text in ("head", "step", "1", "2", "3", "0", "10", "0%", "100%"))
    assert "var(--c0)" in svg, "its color follows the page"


def test_of_many_rows_some_are_drawn_with_the_first_and_the_last():
    svg = draw_map(heat_map([[0.5]] * 1000))
    assert cells(svg) == {"0.50": 24}
    assert ">0<" in svg
    assert ">9990<" in svg


def test_many_heads_stay_small():
    assert len(draw_map(heat_map([[head / 64 for head in range(64)]] * 24))) < 50_000


def test_it_is_in_the_page_also_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setattr("minilm.report.page.draw", lambda *_, **__: None)
    metrics = [{"step": 1, "loss": 1.0}]
    write_report(tmp_path, title="t", table=[], metrics=metrics, notes=[], maps=[heat_map([[0.5]], name="<b>")])
    page = (tmp_path / "report.html").read_text()
    assert "No curves" in page
    assert "<figcaption>agreement</figcaption>" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
