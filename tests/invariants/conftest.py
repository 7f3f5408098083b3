"""A model in Microsoft's file format, SQuAD questions, and launchers for one or several processes."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from minilm.files.tensors import read_safetensors
from minilm.model.checkpoint import write_model
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model

REPO = Path(__file__).resolve().parents[2]
WORDS = [f"word{number}" for number in range(95)]
NAME = "minilm-l12-h384-uncased"


@dataclass(frozen=True, kw_only=True)
class SquadFiles:
    """`folder` contains Microsoft's three files and `data/` with a training and a dev file."""

    folder: Path

    @property
    def model_flags(self) -> list[str]:
        paths = {"model_name_or_path": self.model, "config_name": self.config, "tokenizer_name": self.vocab}
        flags = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
        return ["--model_type", "bert", *flags, "--do_lower_case"]

    @property
    def model(self) -> Path:
        return self.folder / "weights" / f"{NAME}.bin"

    @property
    def config(self) -> Path:
        return self.folder / "shapes" / f"{NAME}-config.json"

    @property
    def vocab(self) -> Path:
        return self.folder / "words" / "vocab.txt"


def write_model_files(folder: Path) -> None:
    """A random BERT with hidden size 32, 2 layers, no dropout; each file in a separate folder."""
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 64}
    config = EncoderConfig(**sizes, vocab_size=5 + len(WORDS), hidden_dropout=0.0, initializer_range=0.2)
    encoder = Encoder(config)
    encoder.reset(torch.Generator().manual_seed(3))
    weights, shapes, words = (folder / name for name in ("weights", "shapes", "words"))
    for part in (weights, shapes, words):
        part.mkdir()
    write_model(Model(encoder), shapes)
    tensors = read_safetensors(shapes / "model.safetensors")
    torch.save({f"bert.{name.removeprefix('bert.')}": rows for name, rows in tensors.items()}, weights / f"{NAME}.bin")
    (shapes / "model.safetensors").unlink()
    (shapes / "config.json").rename(shapes / f"{NAME}-config.json")
    (words / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")


def questions(draw: random.Random, contexts: int) -> dict[str, object]:
    """Three questions for each of several contexts of 20 to 60 words; the last of the three has no answer."""
    paragraphs = []
    for number in range(contexts):
        words = [word.capitalize() for word in draw.choices(WORDS, k=draw.randint(20, 60))]
        context, asked = " ".join(words), []
        for place in range(3):
            first = draw.randrange(len(words) - 3)
            text = " ".join(words[first : first + draw.randint(1, 3)])
            start = len(" ".join(words[:first])) + (first > 0)
            gold = [{"text": text, "answer_start": start}] if place < 2 else []
            words_asked = " ".join(draw.choices(WORDS, k=draw.randint(2, 5)))
            asked.append(
                {"id": f"q{number}-{place}", "question": words_asked, "answers": gold, "is_impossible": not gold}
            )
        paragraphs.append({"context": context, "qas": asked})
    return {"version": "v2.0", "data": [{"title": "words", "paragraphs": paragraphs}]}


@pytest.fixture(scope="session")
def squad_files(tmp_path_factory: pytest.TempPathFactory) -> SquadFiles:
    folder = tmp_path_factory.mktemp("microsoft")
    write_model_files(folder)
    draw = random.Random(5)
    (folder / "data").mkdir()
    for name, contexts in (("train-v2.0.json", 12), ("dev-v2.0.json", 5)):
        (folder / "data" / name).write_text(json.dumps(questions(draw, contexts)))
    return SquadFiles(folder=folder)


def environment() -> Mapping[str, str]:
    """One thread on the CPU, so that every start computes the same bits."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **quiet, "PYTHONPATH": str(REPO / "src")}


def launcher(module: str) -> list[str]:
    """Two processes on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ["-m", module, "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(port)]


@pytest.fixture(scope="session")
def largest_difference() -> Callable[..., float]:
    """`largest_difference(folder, folder, besides=endings)`: over all weights of two models without these endings."""

    def measure(one: Path, other: Path, *, besides: tuple[str, ...]) -> float:
        ours, theirs = (read_safetensors(folder / "model.safetensors") for folder in (one, other))
        assert ours.keys() == theirs.keys()
        compared = [name for name in ours if not name.endswith(besides)]
        return max(float((ours[name] - theirs[name]).abs().max()) for name in compared)

    return measure


@pytest.fixture(scope="session")
def start(forked: Path) -> Callable[..., subprocess.Popen[str]]:
    """`start(arguments, by=module)`: Python with these arguments; `by` is a launcher of two processes."""

    def run(arguments: Sequence[str], *, by: str | None = None) -> subprocess.Popen[str]:
        command = [str(forked / "python"), *(launcher(by) if by else []), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, **pipes, text=True, env=environment())

    return run


@pytest.fixture(scope="session")
def finish(start) -> Callable[..., str]:
    """Like `start`, but waits for success and returns standard output."""

    def run(arguments: Sequence[str], *, by: str | None = None) -> str:
        process = start(arguments, by=by)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return output

    return run
