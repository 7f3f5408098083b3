"""`minilm doctor`: the same facts as a table and as JSON, and no failure where the system reports little."""

from __future__ import annotations

import json

import pytest

from minilm import __version__
from minilm.cli import app


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        app.main(["doctor", *arguments])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_json_and_table_show_the_same_facts(capsys):
    facts = json.loads(call(capsys, "--json"))
    table = call(capsys)
    assert list(facts) == ["versions", "cpu", "threads", "memory", "devices", "malloc", "optional", "kernels"]
    assert facts["versions"]["minilm"] == __version__
    for section, rows in facts.items():
        assert f"\n{section}\n" in f"\n{table}"
        for name in rows:
            assert f"  {name} " in table
