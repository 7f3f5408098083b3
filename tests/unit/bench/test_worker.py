"""A side of a comparison spends its time on what is measured."""

from __future__ import annotations

import json

import numpy as np

from minilm.bench.worker import Side


def test_the_fastest_variant_is_looked_for_once(tmp_path):
    """Twice with each variant before the first run; every run after that is only what is measured."""
    calls = {"a": 0, "b": 0}

    def variant(name):
        def run(texts):
            calls[name] += 1
            return np.zeros((len(texts), 1))

        return run

    side = Side([variant("a"), variant("b")])
    (tmp_path / "w.json").write_text(json.dumps({"bulk": [["text"] * 9]}))
    side.answer({"workloads": str(tmp_path / "w.json")})
    for rounds in (1, 2, 3):
        side.answer({"run": "bulk"})
        assert sum(calls.values()) == 4 + rounds
