"""`minilm recipes`: what is listed can be shown, copied and run."""

from __future__ import annotations

import pytest

from minilm.cli import app
from minilm.recipe import load_recipe, recipe_names, recipe_text


@pytest.fixture
def minilm(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            app.main(arguments)
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def test_list_names_every_recipe_with_a_sentence(minilm):
    code, out, _ = minilm("recipes", "list")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert all(len(line.split()) > 3 for line in lines)


def test_show_prints_the_file(minilm):
    assert minilm("recipes", "show", "tiny-embedded") == (0, recipe_text("tiny-embedded"), "")


def test_show_suggests_a_name(minilm):
    code, out, err = minilm("recipes", "show", "tiny-embeddd")
    assert (code, out) == (2, "")
    assert "did you mean 'distill/tiny-embedded'?" in err


def test_copy_writes_a_recipe_that_loads(minilm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert minilm("recipes", "copy", "tiny-embedded")[0] == 0
    assert load_recipe(tmp_path / "tiny-embedded.yaml").recipe.name == "tiny-embedded"
    (tmp_path / "folder").mkdir()
    assert minilm("recipes", "copy", "distill/tiny-embedded", "folder")[0] == 0
    assert (tmp_path / "folder/tiny-embedded.yaml").is_file()


@pytest.mark.parametrize(("name", "command"), [("tiny-embedded", "distill"), ("xsum-l6", "finetune")])
def test_copy_names_the_command_that_runs_it(minilm, tmp_path, name, command):
    target = tmp_path / "mine.yaml"
    _, out, _ = minilm("recipes", "copy", name, str(target))
    assert out.replace("\n", "") == f"wrote {target}; run it with: minilm {command} {target}"


def test_copy_never_overwrites(minilm, tmp_path):
    target = tmp_path / "mine.yaml"
    target.write_text("precious")
    code, _, err = minilm("recipes", "copy", "tiny-embedded", str(target))
    assert code == 2
    assert err == f"error: {target} already exists: choose another name, or remove it first\n"
    assert target.read_text() == "precious"


def test_copy_into_a_missing_folder_says_so(minilm, tmp_path):
    code, _, err = minilm("recipes", "copy", "tiny-embedded", str(tmp_path / "no" / "a.yaml"))
    assert code == 2
    assert err == f"error: the folder {tmp_path / 'no'} does not exist: create it first\n"
