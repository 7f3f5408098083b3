"""A model named as on the Hugging Face hub is found in the cache; only what is allowed is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import minilm
from minilm.cli.app import main
from minilm.embedded import model_path
from minilm.errors import DataError, SystemProblem
from minilm.hub import base_name, downloads, is_hub_name

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")
errors = pytest.importorskip("huggingface_hub.errors")

NAME = "owner/tiny-model"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, an empty current folder, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "cache"


@pytest.fixture
def fetched(monkeypatch):
    """What was fetched, with the files of a model that has only a `.bin`; nothing reaches the network."""
    original, calls = huggingface_hub.snapshot_download, []

    def snapshot_download(name, *, local_files_only=False, allow_patterns=None):
        if local_files_only:
            return original(name, local_files_only=True)
        calls.append((name, tuple(allow_patterns)))
        folder = Path("snapshot").absolute()
        folder.mkdir(exist_ok=True)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def put_into(cache: Path, name: str, model: Path) -> Path:
    """Store a model as the hub's library does."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123abcd")
    shutil.copytree(model, folder / "snapshots" / "0123abcd")
    return folder / "snapshots" / "0123abcd"


@pytest.mark.parametrize("name", [NAME, "bert-tiny_v1.5"])
def test_a_model_in_the_cache_is_loaded_by_its_name(cache, tiny_task, name):
    tiny_task.write_classifier("theirs", seed=1, num_labels=2)
    folder = put_into(cache, name, tiny_task.folder / "theirs")
    assert minilm.load(name).folder == folder
    assert model_path(name) == model_path(f"{name}/") == folder


def test_a_path_that_exists_is_a_path(cache, tmp_path):
    put_into(cache, NAME, tmp_path / "here")
    Path(NAME).mkdir(parents=True)
    assert model_path(NAME) == Path(NAME)
    for name in ("/abs/path", "a/b/c", "../up", "./here", "weights.bin", "a/vocab.txt", "my.yaml", ""):
        assert not is_hub_name(name)


def test_what_is_not_in_the_cache_is_not_downloaded(fetched, capsys):
    with pytest.raises(DataError) as caught:
        minilm.load(f"{NAME}/")
    message = (
        f"{NAME}: no such model folder, and the Hugging Face cache has no model of that name; download it with "
        f"--allow-download (in Python allow_download=True), or with 'hf download {NAME} --local-dir DIR' and give DIR"
    )
    assert str(caught.value) == message
    Path("in.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(SystemExit, match="3"):
        main(["predict", NAME, "--input", "in.jsonl", "--output", "out.jsonl"])
    assert capsys.readouterr().err == f"error: {message}\n"
    assert fetched == []


def test_allowed_downloads_fetch_only_the_files_that_are_read(fetched):
    with downloads(allowed=True), downloads(allowed=False):  # an inner block does not forbid
        assert model_path(NAME).name == "snapshot"
    few = ("*.json", "*.txt", "*.model", "*.safetensors")
    assert fetched == [(NAME, few), (NAME, (*few, "*.bin"))]
    with pytest.raises(DataError, match="no such model folder, and the Hugging Face cache"):
        model_path(NAME)


def test_a_snapshot_without_weights_is_completed_if_downloads_are_allowed(cache, fetched, tmp_path):
    part = tmp_path / "part"
    part.mkdir()
    (part / "config.json").write_text("{}")
    folder = put_into(cache, NAME, part)
    assert model_path(NAME) == folder
    with downloads(allowed=True):
        assert model_path(NAME).name == "snapshot"
    assert len(fetched) == 2


@pytest.mark.parametrize("arguments", [["--allow-download", "predict", NAME], ["predict", NAME, "--allow-download"]])
def test_the_flag_may_be_anywhere_in_the_command(fetched, arguments, capsys):
    Path("in.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(SystemExit, match="3"):
        main([*arguments, "--input", "in.jsonl", "--output", "out.jsonl"])
    assert len(fetched) == 2
    assert "snapshot" in capsys.readouterr().err


def test_from_python_too(fetched):
    with pytest.raises(DataError, match="snapshot"):
        minilm.load(NAME, allow_download=True)
    assert len(fetched) == 2


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionError("no route"), SystemProblem, r"cannot be downloaded \(no route\); check the connection"),
        (
            errors.HFValidationError("bad name"),
            DataError,
            r"no such model folder, and no such model on the hub \(bad name\)",
        ),
    ],
)
def test_a_download_that_fails_says_why(monkeypatch, error, kind, message):
    def fail(name, *, local_files_only=False, allow_patterns=None):
        raise errors.LocalEntryNotFoundError("none") if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with downloads(allowed=True), pytest.raises(kind, match=message):
        model_path(NAME)


def test_a_card_names_a_hub_model_in_full_and_a_folder_by_its_name(tmp_path):
    assert base_name("owner/some-model") == "owner/some-model"
    assert base_name(str(tmp_path / "runs" / "mine")) == "mine"
