"""What `minilm search` prints for people is one line for each document, whatever its id and text hold."""

from __future__ import annotations

import json

from tests.commands import minilm


def test_ids_and_texts_stay_on_their_line(generator_dir, tmp_path, capsys):
    rows = [{"id": "a\n\x1b[31m" + "b" * 120, "text": "w1\n\x1b[2J"}, {"id": "c", "text": "w2 w3"}]
    (tmp_path / "docs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert minilm("index", generator_dir, "--input", tmp_path / "docs.jsonl", "--output", tmp_path / "idx") == 0
    capsys.readouterr()
    assert minilm("search", tmp_path / "idx", "w1") == 0
    lines = capsys.readouterr().out.strip().split("\n")
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)
    [odd] = [line for line in lines if "bbb" in line]
    assert odd.split("  ")[1:] == ["a \\x1b[31m" + "b" * 120, "w1 \\x1b[2J"]
