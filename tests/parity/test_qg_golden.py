"""Proves that BLEU, METEOR and ROUGE-L equal those of pycocoevalcap and nqg, and BART-HLQG's published ones."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from minilm.files.meteor_java import meteor_counts
from minilm.score.generation import METEOR_NUMBERS, FloatArray, ScoredText, generation_metrics, pool, sums_of

BLEU = [f"Bleu_{order}" for order in (1, 2, 3, 4)]
PUBLISHED = {"Bleu_1": 56.57, "Bleu_2": 40.25, "Bleu_3": 30.62, "Bleu_4": 23.88, "METEOR": 25.64, "ROUGE_L": 51.68}


def rows(path: Path) -> list[dict[str, object]]:
    data = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).split(b"\n") if line]


@pytest.fixture(scope="module")
def stored(golden_dir: Path) -> dict[str, dict[str, object]]:
    return json.loads((golden_dir / "metrics" / "coco_nqg_scores.json").read_text())


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, list[ScoredText]]:
    """The two stored sets; the sentences of a summary are one text."""
    folder = golden_dir / "metrics"
    qg = [(row["hyp"], row["refs"]) for row in rows(folder / "qg_pairs.jsonl")]
    summary = [(" ".join(row["hyp"]), [" ".join(row["ref"])]) for row in rows(folder / "summary_pairs.jsonl")]
    return {
        name: pool([text for text, _ in pairs], [references for _, references in pairs])
        for name, pairs in (("qg", qg), ("summary", summary))
    }


@pytest.fixture(scope="module")
def bart(data_dir: Path) -> list[ScoredText]:
    table = rows(data_dir / "qg" / "du_test.jsonl.gz")
    outputs = rows(data_dir / "qg" / "system_outputs" / "bart_hlqg_du_test.jsonl.gz")
    return pool(
        [row["output"] for row in outputs],
        [[row["question_tok"]] for row in table],
        [row["sentence_tok"] for row in table],
    )


@pytest.mark.parametrize("name", ["qg", "summary"])
def test_bleu_and_rouge_l_equal_the_originals(golden, stored, name):
    """For the corpus and for each pair."""
    sums, theirs = sums_of(golden[name]), stored[name]
    corpus = generation_metrics(sums.sum(axis=0), len(sums))
    assert [corpus[key] for key in BLEU] == pytest.approx(
        [100 * value for value in theirs["bleu_corpus_1to4"]], abs=1e-9
    )
    assert corpus["ROUGE_L"] == pytest.approx(100 * theirs["rouge_l_coco_mean"], abs=1e-9)
    single = [generation_metrics(row, 1) for row in sums]
    found = np.array([[one[key] / 100 for key in BLEU] for one in single])
    assert np.abs(found - theirs["bleu_per_pair_1to4"]).max() < 1e-12
    assert np.abs(np.array([one["ROUGE_L"] / 100 for one in single]) - theirs["rouge_l_coco_per_pair"]).max() < 1e-12


def test_bart_hlqg_has_its_published_scores(bart):
    assert len(bart) == 6652
    sums = sums_of(bart)
    found = generation_metrics(sums.sum(axis=0), len(sums))
    assert {key: found[key] for key in PUBLISHED if key != "METEOR"} == pytest.approx(
        {key: value for key, value in PUBLISHED.items() if key != "METEOR"}, abs=0.006
    )


@pytest.fixture(scope="module")
def meteor(request: pytest.FixtureRequest, golden: dict[str, list[ScoredText]]) -> dict[str, FloatArray]:
    """Java reads its tables once, for all sets together: the golden ones and, if the data is there, BART's outputs."""
    if shutil.which("java") is None or find_spec("pycocoevalcap") is None:
        pytest.skip("METEOR needs Java and pip install 'minilm[meteor]'")
    sets = dict(golden)
    if os.environ.get("MINILM_SHARED"):
        sets["bart"] = request.getfixturevalue("bart")
    counts = meteor_counts(
        [(one.text, one.references) for items in sets.values() for one in items], num_counts=METEOR_NUMBERS
    )
    ends = np.cumsum([len(items) for items in sets.values()])[:-1]
    return {
        name: sums_of(items, part) for (name, items), part in zip(sets.items(), np.split(counts, ends), strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qg", "summary"])
def test_meteor_equals_the_program(meteor, stored, name):
    """For the corpus, in which texts that match as a whole count without their chunk, and for each pair."""
    sums, theirs = meteor[name], stored[name]
    corpus = generation_metrics(sums.sum(axis=0), len(sums))["METEOR"]
    assert corpus == pytest.approx(100 * theirs["meteor_corpus"], abs=1e-9)
    found = np.array([generation_metrics(row, 1)["METEOR"] / 100 for row in sums])
    assert np.abs(found - theirs["meteor_per_pair"]).max() < 1e-12


@pytest.mark.slow
def test_bart_hlqg_has_its_published_meteor(bart, meteor):
    sums = meteor["bart"]
    assert generation_metrics(sums.sum(axis=0), len(sums))["METEOR"] == pytest.approx(PUBLISHED["METEOR"], abs=0.006)
