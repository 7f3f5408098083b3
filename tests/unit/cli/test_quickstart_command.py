"""`minilm quickstart` prints both tables; the work itself is tested in tests/unit/quickstart."""

from __future__ import annotations

import pytest

from minilm.cli import app
from minilm.quickstart import run
from minilm.quickstart.run import Row, Tables
from minilm.quickstart.vectors import VectorsRow
from minilm.train import allocator


def row(name):
    return Row(
        name=name,
        parameters=22_713_216,
        megabytes=90.9,
        sentences_per_second=173.2,
        heldout_loss=-1e-9,
        accuracy=0.772,
    )


def vectors(name, *speeds):
    fp32, int8, library = speeds
    return VectorsRow(
        name=name,
        parameters=17_389_824,
        correlation=0.8301,
        nearest=0.65,
        fp32=fp32,
        int8=int8,
        sentence_transformers=library,
    )


def test_both_tables_and_a_dash_where_nothing_was_measured(monkeypatch, tmp_path, capsys):
    tables = Tables(rows=[row("teacher")], vectors=[vectors("student", 1241.9, 688.8, None)])
    monkeypatch.setattr(run, "quickstart", lambda text, out: tables)
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: None)
    book = tmp_path / "book.txt"
    book.write_text("\n".join(f"line {number} of the only book that this village ever had" for number in range(300)))
    with pytest.raises(SystemExit) as caught:
        app.main(["quickstart", "--out", str(tmp_path), "--text", str(book)])
    assert caught.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split() for line in printed]
    assert ["teacher", "22.7", "M", "90.9", "173", "0.000", "77.2%"] in lines
    assert ["student", "17.4", "M", "0.830", "65.0%", "1,242", "689", "-"] in lines
    assert printed[-1] == f"everything is in {tmp_path} (summary.json, report.html, run folders)"
