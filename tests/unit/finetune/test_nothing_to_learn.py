"""Training files and batches from which a loss of vectors or of a reranker can learn nothing are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minilm.errors import DataError, UsageError
from minilm.finetune.run import check_files
from minilm.recipe import FinetuneRecipe, load_recipe


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(recipe: Path, train: Path) -> None:
    check_files(load_recipe(recipe, [f"task.train=[{train}]"], kind=FinetuneRecipe).recipe, afresh=False)


@pytest.mark.parametrize("kind", ["embed", "rerank"])
@pytest.mark.parametrize("loss", ["margin_mse", "kl"])
def test_lists_of_equal_scores(tiny_task, kind, loss):
    """Each list has one score; another one in another list does not help."""
    recipe = {"embed": tiny_task.embed_recipe, "rerank": tiny_task.rerank_recipe}[kind](loss)
    lists = [{"query": f"word{n}", "positive": "word7", "negatives": ["word8"], "scores": [n, n]} for n in range(9)]
    file = write(tiny_task.folder / "lists.jsonl", lists)
    message = r"in each of the 9 training lists all texts have the same score, .* \(first: .*lists.jsonl:1\)"
    with pytest.raises(DataError, match=message):
        check(recipe, file)
    check(recipe, write(file, [*lists, {**lists[0], "scores": [1, 2]}]))


@pytest.mark.parametrize(
    ("rows", "is_enough"),
    [
        ([("word1", "word2", [])] * 3, False),
        ([("word1", "word2", []), ("word3", "word2", [])], False),  # one positive for all
        ([("word1", "word2", []), ("word1", "word3", [])], False),  # one query
        ([("word1", "word2", ["word1", "word2"])], False),
        ([("word1", "word1", [])] * 2, False),
        ([("word1", "word2", []), ("word2", "word1", [])], False),  # the only other text is the query itself
        ([("word1", "word2", ["word3"])], True),
        ([("word1", "word2", []), ("word3", "word4", [])], True),
    ],
)
def test_pairs_without_any_negative(tiny_task, rows, is_enough):
    lines = [{"query": query, "positive": text, "negatives": others} for query, text, others in rows]
    file = write(tiny_task.folder / "pairs.jsonl", lines)
    recipe = tiny_task.embed_recipe("infonce", task={"symmetric": True})
    if is_enough:
        check(recipe, file)
        return
    with pytest.raises(DataError, match=r"pairs.jsonl:1: no text of the training files is a negative of any query"):
        check(recipe, file)


@pytest.mark.parametrize("loss", ["infonce", "cosent", "similarities"])
def test_batches_of_one_row_where_rows_are_compared(tiny_task, loss):
    recipe = tiny_task.embed_recipe(loss)
    for key, change in (("train", "train.batch_size=1"), ("sweep", "sweep={batch_size: [4, 1]}")):
        with pytest.raises(UsageError, match=rf"found {key}.batch_size 1, expected 2 or more: loss {loss} compares"):
            load_recipe(recipe, [change], kind=FinetuneRecipe)
    load_recipe(recipe, ["train.batch_size=1", "sweep={batch_size: [4, 2]}"], kind=FinetuneRecipe)
    load_recipe(tiny_task.embed_recipe("kl"), ["train.batch_size=1"], kind=FinetuneRecipe)
