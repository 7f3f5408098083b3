"""What README and docs tell readers to type works: blocks run; commands, flags, keys and links exist.

A page's ```python blocks and its ```bash blocks marked `run` are executed in order, in one folder with the files
that the pages assume: texts, labeled texts, tagged words, official GLUE and SQuAD files, teacher/, Microsoft's files.
Other bash blocks (slow, or installing something) may only name commands that exist.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer
from pydantic import BaseModel

from minilm.cli.app import _ANYWHERE, VERBS, build_app
from minilm.recipe import DistillRecipe, FinetuneRecipe, StageSection, StudentSection, load_recipe
from minilm.recipe.strict_yaml import dump_scalar
from minilm.tasks.embed.settings import EmbedSettings, LossName
from minilm.tasks.rerank.settings import RerankLoss, RerankSettings

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
NAMES = [page.relative_to(REPO).as_posix() for page in PAGES]
BIN = "minilm-l12-h384-uncased"
each_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


@dataclass(frozen=True)
class Block:
    """A fenced block: info string, number of its first line, text."""

    info: str
    line: int
    text: str

    @property
    def runs(self) -> bool:
        return self.info in ("python", "bash run")


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```([^\n`]*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(info=m[1].strip(), line=text.count("\n", 0, m.start()) + 1, text=m[2]) for m in found]


# --- blocks that run -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def environment(forked: Path) -> dict[str, str]:
    """Environment in which `python` is this Python and `minilm` this checkout, installed or not; all offline."""
    return {
        **os.environ,
        "PATH": f"{forked}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(REPO / "src"),
        "HF_HUB_OFFLINE": "1",
    }


def sentences() -> Iterator[str]:
    for who in ("The river", "An old clock", "The baker", "My neighbour", "A small dog", "Her letter"):
        for what in ("waits near", "slowly passes", "reminds me of", "never reaches", "stands behind"):
            for where in ("the bridge", "a quiet harbour", "the market", "an empty house", "the mountains"):
                yield f"{who} {what} {where}."


PLACES = ("bridge", "harbour", "market", "house", "mountains")


def lay_out_labelled(folder: Path) -> None:
    """Write labeled texts, tagged words, and RTE and SQuAD in their official layouts, a few rows each."""
    rows = list(sentences())[::4]
    parts = [(text, text.rstrip(".").split()) for text in rows[:4]]
    asked = [
        {"passage": text, "answer": " ".join(words[:2]), "question": f"Who {' '.join(words[2:])}?"}
        for text, words in parts
    ]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in asked), encoding="utf-8")
    (folder / "stsb").mkdir(exist_ok=True)
    judged = [{"sentence1": rows[0], "sentence2": text, "score": 5 - i} for i, text in enumerate(rows[:4])]
    (folder / "stsb" / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in judged), encoding="utf-8")
    for name, part in (("train", rows[:24]), ("dev", rows[24:])):
        words = [[f"{word} {'B-PLACE' if word in PLACES else 'O'}\n" for word in text[:-1].split()] for text in part]
        conll = "\n".join("".join(sentence) + ". O\n" for sentence in words)
        (folder / f"{name}.conll").write_text(conll, encoding="utf-8")
        lines = [f"{text},{'thing' if 'river' in text or 'clock' in text else 'person'}\n" for text in part]
        (folder / f"{name}.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")
        (folder / "glue" / "RTE").mkdir(parents=True, exist_ok=True)
        pairs = [f"{i}\t{text}\t{text}\t{'entailment' if i % 2 else 'not_entailment'}\n" for i, text in enumerate(part)]
        official = "index\tsentence1\tsentence2\tlabel\n" + "".join(pairs)
        (folder / "glue" / "RTE" / f"{name}.tsv").write_text(official, encoding="utf-8")
        (folder / "squad").mkdir(exist_ok=True)
        questions = [
            {"id": f"{name}{i}", "question": "Who?", "is_impossible": i % 2 == 1, "answers": [] if i % 2 else answers}
            for i, answers in enumerate([[{"text": part[0][:9], "answer_start": 0}]] * 6)
        ]
        paragraph = {"context": " ".join(part[:3]), "qas": questions}
        squad = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [paragraph]}]}
        (folder / "squad" / f"{name}-v2.0.json").write_text(json.dumps(squad), encoding="utf-8")


def lay_out_files(folder: Path, model: Path) -> None:
    """Write the files that the pages assume; teacher/ and Microsoft's model are small, with the real vocabulary."""
    import torch

    from minilm.distill.student import random_student, save_student
    from minilm.files.tensors import read_safetensors
    from minilm.model.checkpoint import write_model
    from minilm.model.config import EncoderConfig
    from minilm.model.heads import Model
    from minilm.text.tokenizer import Tokenizer

    rows = list(sentences())
    (folder / "my.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "reviews.csv").write_text("id,body\n1,The market was full.\n2,We came back.\n", encoding="utf-8")
    lay_out_labelled(folder)
    shape = EncoderConfig(num_layers=6, hidden_size=96, num_heads=12, intermediate_size=192)
    teacher = random_student(shape, seed=0, name="teacher")
    save_student(teacher, folder / "teacher", teacher=model, tokenizer=Tokenizer.load(model), card="")
    (folder / "vocab.txt").symlink_to(model / "vocab.txt")
    shape = EncoderConfig(hidden_size=24, num_layers=1, num_heads=2, intermediate_size=48)
    made = folder / ".made"
    made.mkdir()
    write_model(Model(random_student(shape, seed=0, name="original")), made)
    (made / "config.json").rename(folder / f"{BIN}-config.json")
    tensors = read_safetensors(made / "model.safetensors")
    torch.save({f"bert.{name.removeprefix('bert.')}": rows for name, rows in tensors.items()}, folder / f"{BIN}.bin")


@pytest.mark.timeout(900)  # a page starts up to a hundred processes
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.runs for b in blocks_of(page))], ids=lambda page: page.stem
)
def test_the_blocks_of_a_page_run_in_order(
    page: Path, tmp_path: Path, real_model_dir: Path, environment: dict[str, str]
) -> None:
    pytest.importorskip("transformers", reason="distillation needs it: pip install 'minilm[hf]'")
    pytest.importorskip("bm25s", reason="mining by words needs it: pip install 'minilm[search]'")
    lay_out_files(tmp_path, real_model_dir)
    for block in blocks_of(page):
        if not block.runs:
            continue
        shell = ["python", "-c"] if block.info == "python" else ["bash", "-euo", "pipefail", "-c"]
        done = subprocess.run(
            ["env", *shell, block.text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{page.name}:{block.line}\n{done.stdout}\n{done.stderr}"
    if page.stem == "how-to":
        assert losses_of_runs(tmp_path / "runs") == {"embed": {*get_args(LossName)}, "rerank": {*get_args(RerankLoss)}}


def losses_of_runs(runs: Path) -> dict[str, set[str]]:
    """The losses that were trained with, by kind of task, of tasks that have a choice."""
    found: dict[str, set[str]] = {}
    for path in runs.glob("*/recipe.resolved.yaml"):
        recipe = load_recipe(path).recipe
        if isinstance(recipe, FinetuneRecipe) and isinstance(recipe.task, EmbedSettings | RerankSettings):
            found.setdefault(recipe.task.kind, set()).add(recipe.task.loss)
    return found


def test_python_blocks_use_only_public_names() -> None:
    """Readers may rely on `minilm.NAME`; modules below it may move."""
    blocks = [(page.name, block) for page in PAGES for block in blocks_of(page) if block.info == "python"]
    assert len(blocks) > 10
    deeper = [
        f"{name}:{block.line}: {line}"
        for name, block in blocks
        for line in block.text.splitlines()
        if re.search(r"\b(from|import) minilm\.", line)
    ]
    assert not deeper


# --- what the other blocks and the reference name ------------------------------------------------


def commands_of(page: Path) -> list[list[str]]:
    texts = [block.text.replace("\\\n", " ") for block in blocks_of(page) if block.info.startswith("bash")]
    lines = [line for text in texts for line in text.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith(("make ", "minilm "))]
    return [one for one in words if one]


def options_of(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each command's name and the spellings of each of its options."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from options_of(inner, (*path, name))
    if not hasattr(command, "commands"):
        parameters = command.params  # type: ignore[attr-defined]
        yield " ".join(path), [one.opts for one in parameters if one.param_type_name == "option"]


COMMANDS = dict(options_of(typer.main.get_command(build_app())))


@each_page
def test_make_targets_and_flags_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for words in commands_of(page):
        if words[0] == "make":
            assert set(words[1:]) <= targets, words
            continue
        name = next((name for name in COMMANDS if words[1:][: len(name.split())] == name.split()), None)
        assert name is not None, f"no such command: {words}"
        known = {"--help", *_ANYWHERE}.union(*COMMANDS[name])
        assert {word for word in words if word.startswith("--")} <= known, words


def test_the_two_commands_of_the_first_screen_are_makefile_targets() -> None:
    assert ["make", "quickstart"] in commands_of(REPO / "README.md")
    assert ["make", "test"] in commands_of(REPO / "README.md")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_flag_is_in_the_reference(name: str) -> None:
    text = (REPO / "docs" / "reference.md").read_text(encoding="utf-8")
    assert f"`minilm {name}" in text
    for spellings in COMMANDS[name]:
        assert f"`{spellings[0]}" in text, f"minilm {name} {spellings[0]}"
    assert set(re.findall(r"`minilm ([a-z]+)", text)) <= {*VERBS}


def sections_of(name: str, annotation: object) -> list[type]:
    """The sections that a key can hold, optional ones included; none for a plain value."""
    if name == "students":
        return [StudentSection]
    kinds = [one for part in (annotation, *get_args(annotation)) for one in (part, *get_args(part))]
    found = [kind for kind in kinds if isinstance(kind, type) and (is_dataclass(kind) or issubclass(kind, BaseModel))]
    return list(dict.fromkeys(found))


def values_of(section: type) -> Iterator[tuple[str, object, object]]:
    """Name, annotation and default of each key of a section; `...` for a required key."""
    if issubclass(section, BaseModel):
        for name, field in section.model_fields.items():
            yield name, field.annotation, ... if field.is_required() else field.get_default(call_default_factory=True)
        return
    hints = get_type_hints(section)
    for one in fields(section):
        assert one.default_factory is MISSING
        yield one.name, hints[one.name], ... if one.default is MISSING or one.name == "kind" else one.default


def recipe_rows(section: type, prefix: str = "") -> dict[str, str]:
    """Every key with its default as shown in the table; where kinds of task differ, the others in brackets."""
    rows: dict[str, str] = {}
    for name, annotation, default in values_of(section):
        if inner := sections_of(name, annotation):
            for kind in inner:
                found = recipe_rows(kind, f"{prefix}{name}{'.N' if name == 'students' else ''}.")
                for key, shown in found.items():
                    other = rows.setdefault(key, shown)
                    if other != shown:
                        rows[key] = f"{other} (`{kind.kind}`: {shown})"  # type: ignore[attr-defined]
        elif default is ...:
            rows[prefix + name] = "required"
        elif default is None:
            rows[prefix + name] = "none"
        elif isinstance(default, str | int | float):
            rows[prefix + name] = f"`{dump_scalar(default)}`"
        else:
            rows[prefix + name] = f"`[{', '.join(map(dump_scalar, default))}]`"  # type: ignore[call-overload]
    return rows


def rows_between(begin: str, end: str) -> list[tuple[str, str]]:
    """Keys and defaults in the part of the reference between two headings."""
    text = (REPO / "docs" / "reference.md").read_text(encoding="utf-8")
    table = text[text.index(f"\n{begin}\n") : text.index(f"\n{end}\n")]
    return re.findall(r"^\| `([a-zN0-9_.]+)` \|[^|]*\| ([^|]*?) \|", table, flags=re.MULTILINE)


def test_the_tables_of_recipe_keys_match_the_schemas() -> None:
    """The second table omits rows that equal the first table's."""
    distillation = sorted(recipe_rows(DistillRecipe).items())
    assert sorted(rows_between("### Distillation", "### Chains")) == distillation
    stage = [f"stages.N.{name}" for name in StageSection.model_fields]
    assert [key for key, _ in rows_between("### Chains", "### Fine-tuning")] == stage
    own = sorted(row for row in recipe_rows(FinetuneRecipe).items() if row not in distillation)
    assert sorted(rows_between("### Fine-tuning", "## Run folder")) == own


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@each_page
def test_links_lead_to_existing_targets(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
    for target, fragment in links:
        file = (page.parent / target).resolve() if target else page
        assert file.is_file(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert not fragment or fragment in map(anchor, headings), f"{target}#{fragment}"


def test_benchmark_tables_are_between_markers() -> None:
    text = (REPO / "README.md").read_text(encoding="utf-8")
    for name in ("quickstart table", "speed table"):
        assert text.index(f"<!-- {name} -->") < text.index(f"<!-- /{name} -->")
