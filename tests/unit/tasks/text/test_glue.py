"""The nine GLUE tasks: real files in both layouts give the stated number of rows, and equal ones."""

from __future__ import annotations

import gzip
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from minilm.errors import SystemProblem, UsageError
from minilm.files.formats import read_file
from minilm.score.glue import GLUE_TASKS
from minilm.tasks.text.glue import GLUE, find_glue_task, glue_text_task
from minilm.tasks.text.rows import TextRow, read_rows_and_labels, read_text_rows

FOLDERS = {
    **{"cola": "CoLA", "sst-2": "SST-2", "mrpc": "MRPC", "sts-b": "STS-B"},
    **{"qnli": "QNLI", "rte": "RTE", "wnli": "WNLI"},
}
# shared data: its README's row counts; a file called test has no labels in the official layout
JSONL = [
    *(("cola", "train", 8551), ("cola", "dev", 1043), ("cola", "test_unlabelled", 1063)),
    *(("sst-2", "train", 67349), ("sst-2", "dev", 872), ("sst-2", "test_unlabelled", 1821)),
    *(("mrpc", "train", 3668), ("mrpc", "dev", 408), ("mrpc", "test", 1725)),
    *(("sts-b", "train", 5749), ("sts-b", "dev", 1500), ("sts-b", "test", 1379)),
    *(("qqp", "train_subset", 2000), ("qqp", "dev_subset", 7600)),
    *(("mnli", "train_subset", 12811), ("mnli", "dev_matched_partial", 9085), ("mnli", "dev_mismatched_subset", 1000)),
    *(("qnli", "train_subset", 2000), ("qnli", "dev", 5463), ("qnli", "test_unlabelled", 5463)),
    *(("rte", "train", 2490), ("rte", "dev", 277), ("rte", "test_unlabelled", 3000)),
    *(("wnli", "train", 635), ("wnli", "dev", 71)),
]
OFFICIAL = [
    *(("cola", "train", 8551), ("cola", "dev", 1043), ("cola", "test", 1063)),
    *(("sst-2", "train", 67349), ("sst-2", "dev", 872), ("sst-2", "test", 1821)),
    *(("mrpc", "train", 3668), ("mrpc", "dev", 408), ("mrpc", "test", 1725)),
    *(("sts-b", "train", 5749), ("sts-b", "dev", 1500), ("sts-b", "test", 1379)),
    *(("qnli", "dev", 5463), ("qnli", "test", 5463)),
    *(("rte", "train", 2490), ("rte", "dev", 277), ("rte", "test", 3000)),
    *(("wnli", "train", 635), ("wnli", "dev", 71), ("wnli", "test", 146)),
]
POSITIONS = {  # of text, second text and label in train and dev files: spec section 5
    **{"cola": (3, None, 1), "sst-2": (0, None, 1), "mrpc": (3, 4, 0), "sts-b": (7, 8, 9)},
    **{"qnli": (1, 2, 3), "rte": (1, 2, 3), "wnli": (1, 2, 3)},
}
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
    "\tsentence1\tsentence2\tlabel1\tgold_label\n"
)


def jsonl_file(data_dir: Path, task: str, part: str) -> Path:
    return data_dir / task.replace("-", "") / f"{part}.jsonl.gz"


def official_file(data_dir: Path, task: str, part: str) -> Path:
    return data_dir / "official_layout" / "glue" / FOLDERS[task] / f"{part}.tsv.gz"


def contents(rows: list[TextRow]) -> list[tuple[object, ...]]:
    return [(row.text, row.text_pair, row.label, row.id) for row in rows]


def stripped(rows: list[TextRow]) -> list[TextRow]:
    return [replace(row, text=row.text.strip(), text_pair=(row.text_pair or "").strip()) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "part", "count"), JSONL)
def test_json_lines_files_have_the_stated_rows(task, part, count, data_dir, caplog):
    rows = read_text_rows(jsonl_file(data_dir, task, part), GLUE[task], labelled="unlabelled" not in part)
    assert len(rows) == len({row.id for row in rows}) == count
    assert caplog.messages == []


@pytest.mark.slow
@pytest.mark.parametrize(("task", "part", "count"), OFFICIAL)
def test_official_files_have_the_same_rows(task, part, count, data_dir, caplog):
    labelled = part != "test"
    rows = read_text_rows(official_file(data_dir, task, part), GLUE[task], labelled=labelled)
    assert len(rows) == count
    assert caplog.messages == []
    twin = next(
        (file for name in (part, f"{part}_unlabelled") if (file := jsonl_file(data_dir, task, name)).exists()), None
    )
    if twin is not None:
        theirs = read_text_rows(twin, GLUE[task], labelled=labelled)
        if (task, part) == ("sts-b", "test"):  # from another release, which differs in leading and trailing spaces
            rows, theirs = stripped(rows), stripped(theirs)
        assert contents(rows) == contents(theirs)


@pytest.mark.parametrize("task", POSITIONS)
def test_official_columns_are_where_the_glue_processors_look(task, data_dir):
    text, pair, label = POSITIONS[task]
    file = official_file(data_dir, task, "dev")
    lines = read_file(file).decode().rstrip("\n").split("\n")[task != "cola" :]
    rows = read_text_rows(file, GLUE[task])
    labels = GLUE[task].labels
    for line, row in zip(lines, rows, strict=True):
        cells = line.split("\t")
        assert (cells[text], None if pair is None else cells[pair]) == (row.text, row.text_pair)
        assert row.label == (labels.index(cells[label]) if labels else float(cells[label]))


def test_qqp_skips_short_rows_and_counts_them(tmp_path, caplog):
    train, test = tmp_path / "train.tsv", tmp_path / "test.tsv"
    train.write_text(f"{QQP}7\t1\t2\tA?\tB?\t1\n8\t1\t2\tbroken\nby a newline\tB?\t0\n9\t3\t4\tC?\tD?\t0\n")
    assert contents(read_text_rows(train, GLUE["qqp"])) == [("A?", "B?", 1, "7"), ("C?", "D?", 0, "9")]
    assert caplog.messages == [
        f"2 rows with more or fewer columns than expected skipped (first: {train}:3: 4 columns, expected 6)"
    ]
    test.write_text("id\tquestion1\tquestion2\n0\tA?\tB?\n")
    assert contents(read_text_rows(test, GLUE["qqp"], labelled=False)) == [("A?", "B?", None, "0")]


def test_mnli_skips_rows_without_agreement_and_counts_them(tmp_path, caplog):
    dev = tmp_path / "dev_matched.tsv"
    row = "1\t1\t1a\tfiction\t( A )\t( B )\t(ROOT A)\t(ROOT B)\tA\tB\tneutral\t"
    dev.write_text(f"{MNLI}{row}neutral\n{row}-\n{row}contradiction\n")
    assert [label for *_, label, _ in contents(read_text_rows(dev, GLUE["mnli"]))] == [2, 0]
    assert caplog.messages == [
        f"1 rows without a label skipped (first: {dev}:3: label '-')",
        f"{dev}:4: column 'index': id '1' is already at {dev}:2; the rows of this file are numbered from 0 instead",
    ]


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("cola", "cola"), ("CoLA", "cola"), ("SST-2", "sst-2"), ("sst2", "sst-2"), ("STS-B", "sts-b"), ("sts_b", "sts-b")],
)
def test_names_of_the_folders_are_known_too(spelling, name):
    assert glue_text_task(spelling) is find_glue_task(spelling) is GLUE[name]


def test_another_name_is_not_a_glue_task():
    assert find_glue_task("imdb") is None
    with pytest.raises(UsageError, match=r"^unknown GLUE task 'sst-3': did you mean 'sst-2'\?$"):
        glue_text_task("sst-3")
    with pytest.raises(UsageError, match=r"^unknown GLUE task 'imdb'; expected one of cola, .*, wnli$"):
        glue_text_task("imdb")


def test_labels_and_metrics_are_those_that_are_scored():
    assert set(GLUE) == set(GLUE_TASKS)
    for name, task in GLUE.items():
        assert (task.name, task.labels, task.metrics) == (name, GLUE_TASKS[name].labels, GLUE_TASKS[name].metrics)
    main = {name: task.main for name, task in GLUE.items()}
    assert main.pop("cola") == "matthews_correlation"
    assert main.pop("sts-b") == "combined"
    assert set(main.values()) == {"accuracy"}


@pytest.mark.slow
def test_the_labels_of_a_real_file_are_found(data_dir):
    assert (
        read_rows_and_labels([jsonl_file(data_dir, "mnli", "train_subset")], GLUE["mnli"])[0].labels
        == GLUE["mnli"].labels
    )
    with pytest.raises(UsageError, match=r"train\.jsonl\.gz:\d+: found label '3\.8', a number with decimals"):
        read_rows_and_labels([jsonl_file(data_dir, "sts-b", "train")], GLUE["sts-b"])


class FakeHub(ModuleType):
    """A stand-in for the package `datasets`: one split with named labels."""

    def __init__(self, rows: list[dict[str, object]], names: list[str] | None = None) -> None:
        super().__init__("datasets")
        self.rows, self.names, self.calls = rows, names, []

    def load_dataset(self, *address: str, split: str) -> FakeTable:
        self.calls.append((*address, split))
        if split == "dev":
            raise ValueError('Unknown split "dev".\nShould be one of ["train"].')
        if split == "offline":
            raise ConnectionError("Couldn't reach the Hub")
        return FakeTable(self.rows, self.names)


class FakeTable(list):
    def __init__(self, rows: list[dict[str, object]], names: list[str] | None) -> None:
        super().__init__(rows)
        self.features = {"label": SimpleNamespace(names=names) if names else SimpleNamespace()}


@pytest.fixture
def hub(monkeypatch):
    def install(rows: list[dict[str, object]], names: list[str] | None = None) -> FakeHub:
        fake = FakeHub(rows, names)
        monkeypatch.setitem(sys.modules, "datasets", fake)
        return fake

    return install


def test_the_hub_numbers_labels_in_its_own_order(hub, caplog):
    names = ["entailment", "neutral", "contradiction"]
    rows = [{"premise": "p", "hypothesis": "h", "label": label, "idx": 10 + label} for label in (0, 1, 2, -1)]
    fake = hub(rows, names)
    found = read_text_rows(Path("hub:glue/MNLI/train"), GLUE["mnli"])
    assert [GLUE["mnli"].labels[int(row.label or 0)] for row in found] == names
    assert [(row.id, row.location) for row in found][:1] == [("10", "hub:glue/MNLI/train:1")]
    assert fake.calls == [("nyu-mll/glue", "mnli", "train")]
    assert caplog.messages == ["1 rows without a label skipped (first: hub:glue/MNLI/train:4: label '-1')"]


def test_other_tasks_of_the_hub_keep_their_numbers(hub):
    hub([{"sentence": "s", "label": 1, "idx": 0}], ["unacceptable", "acceptable"])
    assert contents(read_text_rows("hub:glue/cola/train", GLUE["cola"])) == [("s", None, 1, "0")]
    fake = hub([{"sentence1": "a", "sentence2": "b", "label": 3.8, "idx": 0}])
    assert contents(read_text_rows("hub:glue/sts-b/validation", GLUE["sts-b"])) == [("a", "b", 3.8, "0")]
    assert fake.calls == [("nyu-mll/glue", "stsb", "validation")]


def test_nothing_but_a_hub_address_goes_online(hub, tmp_path):
    fake = hub([])
    (tmp_path / "dev.tsv.gz").write_bytes(gzip.compress(b"sentence\tlabel\nx\t1\n"))
    assert len(read_text_rows(tmp_path / "dev.tsv.gz", GLUE["sst-2"])) == 1
    with pytest.raises(UsageError, match="no such file"):
        read_text_rows(tmp_path / "glue.tsv", GLUE["sst-2"])
    assert fake.calls == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hub:glue/cola", "hub:glue/cola: expected hub:glue/TASK/SPLIT, such as hub:glue/cola/train"),
        ("hub:imdb/plain/train", "hub:imdb/plain/train: expected hub:glue/TASK/SPLIT, such as hub:glue/cola/train"),
        ("hub:glue/coal/train", "unknown GLUE task 'coal': did you mean 'cola'?"),
        (
            "hub:glue/cola/dev",
            'hub:glue/cola/dev: Unknown split "dev". Should be one of ["train"].; check the split\'s name',
        ),
    ],
)
def test_a_wrong_hub_address_says_what_is_right(address, message, hub):
    hub([])
    with pytest.raises(UsageError) as caught:
        read_text_rows(address, GLUE["cola"])
    assert str(caught.value) == message


def test_a_hub_out_of_reach_is_a_system_problem(hub):
    hub([])
    message = (
        r"^hub:glue/cola/offline: cannot be fetched \(Couldn't reach the Hub\); check the connection, or use a file$"
    )
    with pytest.raises(SystemProblem, match=message):
        read_text_rows("hub:glue/cola/offline", GLUE["cola"])


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SystemProblem, match=r"^the package datasets is not installed; .* pip install 'minilm\[hub\]'$"):
        read_text_rows("hub:glue/cola/train", GLUE["cola"])
