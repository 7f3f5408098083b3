"""docs/results.md matches the stored numbers: means and deviations per setting, and nothing that is not measured."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).resolve().parents[2]
MACHINE = {"cpu": "Some CPU", "threads": 2, "torch": "9.9"}


@pytest.fixture(scope="module")
def results_page() -> ModuleType:
    """The script as a module; dataclasses look up their module by name."""
    spec = importlib.util.spec_from_file_location("results_page", REPO / "benchmarks" / "results_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run_of(side: str, seed: int, main: float, *, epochs: float = 3) -> dict[str, object]:
    """A run as benchmarks/glue.py stores it."""
    setting = {"epochs": epochs, "learning_rate": 5e-5, "batch_size": 32, "precision": "fp32"}
    return {**setting, "side": side, "seed": seed, "best": {"main": main}, "machine": MACHINE}


def test_the_page_matches_the_stored_numbers(results_page):
    """If not, run `python benchmarks/results_page.py`."""
    written = (REPO / "docs" / "results.md").read_text(encoding="utf-8")
    assert written == results_page.page(results_page.RESULTS)


def sections(page: str) -> list[str]:
    """The titles of the sections, each of which the list on top links to."""
    titles = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
    assert re.findall(r"^- \[(.*)\]\(#.*\)$", page, flags=re.MULTILINE) == titles
    return titles


def test_a_page_without_numbers_has_no_sections(results_page, tmp_path):
    page = results_page.page(tmp_path)
    assert sections(page) == []
    assert "|" not in page
    assert "measured yet" not in page


def test_the_page_begins_with_what_most_readers_look_for(results_page):
    """A new kind of result needs a place among them; later sections are those that compare with the paper."""
    found = sections(results_page.page(results_page.RESULTS))
    assert found[:2] == ["The quickstart", "Small embedding models"]
    assert found[-3:] == ["GLUE", "SQuAD", "Generation"]


def test_published_numbers_are_beside_measured_ones(results_page, tmp_path):
    published = {"sst-2": "91.5", "cola": "47.5", "rte": "68.8", "mrpc": "88.9", "sts-b": None}
    (tmp_path / "glue").mkdir()
    for task in published:
        (tmp_path / "glue" / f"{task}.json").write_text(json.dumps({"task": task, "runs": [run_of("ours", 1, 40.0)]}))
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "2.0.json").write_text(json.dumps({"runs": [run_of("ours", 1, 40.0)]}))
    page = results_page.page(tmp_path)
    assert sections(page) == ["GLUE", "SQuAD"]
    for number in (*filter(None, published.values()), "75.6"):
        assert f"| MiniLM-L6xH384, the paper's weights | {number} | | 4 |" in page
    assert page.count("| minilm | 40.0 |") == 6
    assert "| transformers |" not in page
    assert "twelve layers with every second one dropped" in " ".join(page.split())


def test_mean_and_deviation_of_each_side_and_setting_are_shown(results_page, tmp_path):
    runs = [run_of("ours", 1, 40.0), run_of("ours", 2, 44.0), run_of("transformers", 1, 30.0)]
    runs.append(run_of("ours", 1, float("nan"), epochs=4))
    stored = {"task": "cola", "train sha256": ["aa"], "dev sha256": ["bb"], "runs": runs}
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue" / "cola.json").write_text(json.dumps(stored))
    page = results_page.page(tmp_path)
    assert "| minilm | 42.0 | 2.8 | 2 | 3 | 5e-05 | 32 | fp32 |\n" in page
    assert "standard error" not in page.partition("## CoLA")[2]  # of one seed nothing is known
    assert "| transformers | 30.0 | | 1 | 3 | 5e-05 | 32 | fp32 |\n" in page
    assert "| minilm | undefined | | 1 | 4 | 5e-05 | 32 | fp32 |\n" in page
    assert page.count("| transformers |") == 1
    assert "Measured on Some CPU, 2 threads, torch 9.9. SHA-256: train file `aa`, dev file `bb`.\n" in page


def test_a_difference_comes_with_its_error(results_page, tmp_path):
    scores = {"ours": (40.0, 44.0), "transformers": (41.0, 42.0, 46.0)}
    runs = [run_of(side, seed, main) for side, both in scores.items() for seed, main in enumerate(both)]
    runs += [run_of(side, seed, float("nan"), epochs=4) for side in scores for seed in range(2)]
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue" / "cola.json").write_text(json.dumps({"task": "cola", "runs": runs}))
    # variances 8 / 2 and 7 / 3
    assert [line for line in results_page.page(tmp_path).splitlines() if line.startswith("minilm - ")] == [
        "minilm - transformers (3 epochs, 5e-05): -1.0, standard error 2.5."
    ]


def test_generated_texts_are_shown_beside_their_references(results_page, tmp_path):
    examples = [{"source": "s", "reference": f"a|b {n}", "prediction": f"two\nlines {n}"} for n in range(20)]
    stored = {
        "scores": {"rouge1": 20.126, "rouge2": 3.0, "rougeL": 99.0, "rougeLsum": 15.5},
        "training examples": 1097, "test examples": 1900, "epochs": 10.0, "precision": "fp32",
        "decoding": "--beam-size 5", "examples": examples, "machine": MACHINE,
    }  # fmt: skip
    (tmp_path / "generation").mkdir()
    (tmp_path / "generation" / "xsum.json").write_text(json.dumps(stored))
    page = results_page.page(tmp_path)
    assert "| minilm | 20.13 | 3.00 | 15.50 | 1,097 | 10 |\n" in page
    assert "| MiniLM-L6xH384, the paper's weights and training set | 38.79 | 16.39 | 31.10 | 204,045 | 50 |\n" in page
    assert "1,900 test examples; `minilm generate --beam-size 5`. Measured on Some CPU, 2 threads" in page
    assert [line for line in page.splitlines() if "two lines" in line] == [
        f"| a\\|b {n} | two lines {n} |" for n in (0, 4, 8, 12, 16)
    ]


def test_a_number_that_could_not_be_measured_is_named(results_page, tmp_path):
    stored = {
        "scores": {"Bleu_4": 5.0, "METEOR": None, "ROUGE_L": 30.0}, "training examples": 9, "test examples": 9,
        "epochs": 1, "precision": "fp32", "decoding": "--ban-ignore '.|[X_SEP]'", "examples": [], "machine": MACHINE,
    }  # fmt: skip
    (tmp_path / "generation").mkdir()
    (tmp_path / "generation" / "qg.json").write_text(json.dumps(stored))
    assert "| minilm | 5.00 | not measured | 30.00 | 9 | 1 |\n" in results_page.page(tmp_path)


def test_speeds_are_shown_per_machine(results_page, tmp_path):
    machine = {"cpu": "Some CPU", "versions": {"minilm": "0.1.0", "torch": "9.9"}}
    facts = {"machine": machine, "threads": 2, "instruction set": "avx2", "peaks": {"fp32": 190.4}}
    workloads = [
        {"name": "400 in one call", "used by others": 0.031},
        {"name": "10 tokens, p50", "used by others": None},
    ]
    rows = [
        {
            "side": "native fp32",
            "workload": "400 in one call",
            "tokens_per_second": 8000.4,
            "p50_ms": None,
            "share": 0.9,
        },
        {"side": "native fp32", "workload": "10 tokens, p50", "tokens_per_second": 90.0, "p50_ms": 1.23, "share": 0.1},
    ]
    sides = [{"name": "native fp32", "least_cosine": 0.9999999}]
    encoded = {**facts, "workloads": workloads, "rows": rows, "sides": sides}
    shape = {"shape": "BERT-Base", "engine": "native", "tokens": 128, "sequences": 8, "seconds": 0.05, "ratio": 1.0}
    shapes = {**facts, "published": {"BERT-Base": 1.0}, "rows": [shape]}
    for name, stored in (("encode", encoded), ("shapes", shapes)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "some-cpu.json").write_text(json.dumps(stored))
    page = results_page.page(tmp_path)
    assert "| | 400 in one call | 10 tokens, p50 | of peak | least cosine |\n|---|---:|---:|---:|---:|\n" in page
    assert "| native fp32 | 8,000 | 1.23 | 90% | 1.000000 |\n" in page
    assert "| BERT-Base | 1.0x | 50.0 (1.0x) |\n" in page
    assert "Some CPU, 2 threads, kernels for avx2; measured peak in 10^9 operations a second: fp32 190;" in page
    assert "minilm 0.1.0, torch 9.9. Other processes used at most 3% of the processors.\n" in page
    assert sections(page) == ["Speed of encoding", "Speed of the published shapes"]


def test_the_relation_loss_is_shown_beside_its_twin(results_page, tmp_path):
    own = {"tokens": 512, "sequences": 4, "precision": "fp32"}
    rows = [
        {**own, "side": "compiled", "seconds": 0.08, "memory_mib": 14.2, "share": 0.4, "ratio": 6.25},
        {**own, "side": "torch", "seconds": 0.5, "memory_mib": 63.5, "share": 0.06, "ratio": 1.0},
    ]
    facts = {"machine": {"cpu": "Some CPU", "versions": {"torch": "9.9"}}, "threads": 2, "instruction set": "avx2"}
    (tmp_path / "relation_loss").mkdir()
    (tmp_path / "relation_loss" / "one.json").write_text(json.dumps({**facts, "peaks": {"fp32": 190.0}, "rows": rows}))
    page = results_page.page(tmp_path)
    assert "| fp32, 4 x 512 tokens | 500 | 80 | 6.2x | 40% | 64 | 14 |\n" in page


def test_a_distillation_step_is_shown_beside_the_padded_way(results_page, tmp_path):
    own = {"max tokens": 128, "real share": 0.396, "precision": "fp32", "tokens/s": 1234.5, "share of peak": 0.5}
    own["loss difference"] = 0.000219
    row = {**own, "ratio to padded same": 3.94, "ratio to padded fp32": 3.94, "two students to two runs": 0.655}
    facts = {"machine": {"cpu": "Some CPU", "versions": {"torch": "9.9"}}, "threads": 2, "instruction set": "avx2"}
    (tmp_path / "distill_step").mkdir()
    (tmp_path / "distill_step" / "one.json").write_text(json.dumps({**facts, "peaks": {}, "rows": [row]}))
    page = results_page.page(tmp_path)
    assert "| at most 128 tokens, fp32 | 40% | 1,234 | 3.9x | 7.9x | 3.9x | 0.0002 | 50% | 0.66x |\n" in page


def test_distillations_are_shown_with_their_seeds(results_page, tmp_path):
    rows = {
        seed: [
            {"name": name, "accuracy": accuracy, "heldout_loss": loss}
            for name, accuracy, loss in (("teacher", 0.8, 0.0), ("student", student, 0.25))
        ]
        for seed, student in (("1", 0.74), ("2", 0.78))
    }
    scores = [
        {"objective": objective, "student": "small", "task": "CoLA", "seed": seed, "score": score + seed / 100}
        for objective, score in (("v2", 0.3), ("none", 0.1))
        for seed in (1, 2)
    ]
    ablation = {"distilled": {"v2": {"tokens": 1_540_000}}, "scores": scores}
    for name, stored in (("quickstart", {"seeds": rows}), ("ablation", ablation)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "some-cpu.json").write_text(json.dumps({"machine": MACHINE, **stored}))
    page = results_page.page(tmp_path)
    assert "| teacher | 80.0 ± 0.0 | 100.0% | 0.000 | 2 |\n" in page
    assert "| student | 76.0 ± 2.8 | 95.0% | 0.250 | 2 |\n" in page
    assert "| student, objective | million tokens | CoLA | seeds |\n" in page
    assert "| small, v2 | 1.5 | 31.5 ± 0.7 | 2 |\n" in page
    assert "| small, none | 0.0 | 11.5 ± 0.7 | 2 |\n" in page


def test_a_bigger_teacher_is_shown_with_its_curves(results_page, tmp_path):
    points = [
        {"step": 20, "tokens": 1_234_567.0, "heldout_loss": 0.98765, "sst-2.accuracy": 81.25},
        {"step": 25, "tokens": 2e6, "heldout_loss": 0.5},
    ]
    stored = {"machine": MACHINE, "distilled": {"direct": {"student": {"steps": 25, "curve": points}}}, "scores": []}
    (tmp_path / "bigger_teacher").mkdir()
    (tmp_path / "bigger_teacher" / "some-cpu.json").write_text(json.dumps(stored))
    page = results_page.page(tmp_path)
    assert "| direct, student | 1.23 | 0.988 | 81.2 |\n| direct, student | 2.00 | 0.500 | |\n" in page


def test_steps_and_files_of_vectors_are_shown(results_page, tmp_path):
    step = {"lengths": "drawn", "pairs": 1024, "real share": 0.28, "tokens/s": 1999.6, "loss difference": 2.5e-7}
    step |= {"ratio to sentence-transformers": 3.08, "peak MiB": 1000.4, "peak MiB of sentence-transformers": 2000.4}
    rate = {"what": "rate", "rows": 8192, "precision": "fp32", "command tokens/s": 7000.0, "engine tokens/s": 7500.0}
    rate |= {"share": 0.933, "peak MiB": 700.0}
    memory = {"what": "memory", "rows": 1_000_000, "peak MiB": 400.0, "bound MiB": 600.0}
    for name, rows in (("infonce_step", [step]), ("embed_files", [rate, memory])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "some-cpu.json").write_text(json.dumps({"machine": MACHINE, "rows": rows}))
    page = results_page.page(tmp_path)
    assert "| 1,024, drawn | 28% | 2,000 | 3.1x | 1,000 | 2,000 | 2e-07 |\n" in page
    assert "| 8,192 passages, fp32 | 7,000 | 7,500 | 93% | 700 | |\n" in page
    assert "| 1,000,000 short rows and one of a MiB, one random layer | | | | 400 | 600 |\n" in page


def test_small_embedding_models_are_shown_with_what_their_training_took(results_page, tmp_path):
    scores = {"stsb": {"spearman": 80.0}, "squad": {"ndcg@10": 0.7}}
    training = {
        "loss": "vectors",
        "steps": 654,
        "texts of a step": 128,
        "learning rate": 5e-4,
        "precision": "bf16",
        "seconds": 1218.8,
    }
    training["stsb dev"] = {"start": 76.1, "curve": [{"step": 654, "tokens": 3.28e6, "spearmanr": 86.4}]}
    half = {"start": {"init": "layers", "teacher_layers": [2, 4, 6]}, **training, **scores}
    models = {"embedded": scores, "3 layers": half, "again": half}
    stored = {"machine": MACHINE, "texts": {"count": 83782}, "models": models, "speed": dict.fromkeys(models, 9.0)}
    (tmp_path / "embedding_students").mkdir()
    (tmp_path / "embedding_students" / "family.json").write_text(json.dumps(stored))
    page = results_page.page(tmp_path)
    curve = "76.1, 86.4, 86.4, 86.4"
    assert f"| 3 layers | layers 2, 4, 6 | 3.3 | 20 | {curve} | 80.00 (100.0%) | 70.00 (100.0%) | 1.00x |\n" in page
    assert (
        "Trained on 83,782 texts: the teacher's vectors, 654 steps of 128 texts, learning rate 0.0005, bf16.\n\n![Small"
        in page
    )
    assert "[embedding_students/family.json](../benchmarks/results/embedding_students/family.json)" in page


def test_rerankers_are_shown_beside_the_search(results_page, tmp_path):
    searched = {"squad": {"ndcg@10": 0.7841}, "cranfield": {"ndcg@10": 0.3832}}
    trained = {"held out": {"1": 72.2, "2": 89.24, "3": 94.0, "4": 95.0, "5": 95.0}}
    trained["squad"] = {"ndcg@10": 0.8837, "difference": {"ndcg@10": [0.057, 0.1481]}}
    trained["cranfield"] = {"ndcg@10": 0.33, "difference": {"ndcg@10": [-0.0835, -0.0269]}}
    (tmp_path / "rerankers").mkdir()
    stored = {"machine": MACHINE, "models": {"embedded": searched, "6 layers": trained}}
    (tmp_path / "rerankers" / "some-cpu.json").write_text(json.dumps(stored))
    page = results_page.page(tmp_path)
    assert "| embedded, not reranked | | 78.4 | | 38.3 | |\n" in page
    assert "| 6 layers | 72.2, 89.2, 94.0, 95.0 | 88.4 | +5.7 to +14.8 | 33.0 | -8.3 to -2.7 |\n" in page
