"""The display of a build, also of one inside a run."""

from __future__ import annotations

from minilm.corpus.build import BuildProgress
from minilm.corpus.display import build_display, status_line


def test_the_status_has_counts_and_rates():
    now = BuildProgress(bytes_done=2**20, bytes_total=4 * 2**20, texts=900, documents=1000, tokens=200_000)
    assert status_line(now, 10.0) == "1,000 documents, 200,000 tokens, 100 documents/s, 20,000 tokens/s"


def test_each_line_has_the_share_of_the_bytes_read(capsys, monkeypatch):
    monkeypatch.setattr("minilm.progress._SECONDS_BETWEEN_LINES", 0)
    with build_display() as show:
        for done in (1, 2):
            show(BuildProgress(bytes_done=done * 2**20, bytes_total=2 * 2**20, texts=900, documents=1000, tokens=200))
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("build the corpus 1.0 MiB/2.0 MiB")
    assert "1,000 documents, 200 tokens" in first
    assert last.startswith("build the corpus 2.0 MiB/2.0 MiB")
