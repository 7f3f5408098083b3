"""Damage model folders and inputs at random: `python tests/fuzz/run.py [NAME ...] [--seed 0] [--seconds 60]`.

In: NAME models, a tiny classifier; int8, its scales; inputs, data files and recipes. Each case is a copy with one to
three random changes to bytes or JSON values. Models are loaded and used; inputs go through the command line
(`score`, `corpus build`, `finetune --dry-run`). Out: the number of cases, and every case that ended in anything but
success or one of minilm's own errors, or that took longer than 20 seconds; exit code 1 if there is one. Case N of a
seed is always the same.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from minilm.cli import app
from minilm.errors import MinilmError
from minilm.infer.api import load
from minilm.infer.engines.int8 import FACTS, SCALES, Int8Maps, map_names, write_int8
from minilm.kernels.encoder import library_reason
from minilm.model.checkpoint import write_model
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.model.metadata import read_config
from minilm.text.tokenizer import Tokenizer

SECONDS_PER_CASE = 20
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b"]
VALUES: tuple[object, ...] = (
    *(None, True, False, "", "x", "bert", [], {}, [[]], {"": None}),
    *(0, -1, 1, 2, 3, 7, 64, 2**31, 2**31 - 1, 2**62, 2**64, -(2**63), 10**400),
    *(0.0, -0.0, 0.5, 3.5, -0.02, 1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
)
Run = Callable[[Path], None]


def make_model(folder: Path) -> None:
    """Write a classifier of 2 layers with every file that a folder may have."""
    config = EncoderConfig(
        vocab_size=len(WORDS), hidden_size=8, num_layers=2, num_heads=2, intermediate_size=16, max_positions=16
    )
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(config)
    encoder.reset(generator)
    head = new_head("classification", config, num_labels=2, generator=generator)
    write_model(Model(encoder, head), folder, head="classification", labels=["no", "yes"])
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    Tokenizer.load(folder / "vocab.txt").save(folder)


def use_model(folder: Path) -> None:
    """Load a model and use all that it offers for two texts."""
    model = load(folder)
    model.encode(["a b", "c"])
    if model.labels:
        model.classify(["a b", "c"])


@functools.cache
def _model_beside_its_scales() -> Path:
    """A classifier, for the life of this process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    make_model(folder)
    return folder


def make_int8(folder: Path) -> None:
    """Write the two files of an int8 model; its weights lie elsewhere and stay whole, for another byte is an error."""
    model = _model_beside_its_scales()
    names = map_names(read_config(model))
    smoothing = {name: np.ones(width, dtype=np.float32) for name, width in names.items() if name != "layers.1.qkv"}
    write_int8(model, Int8Maps(smoothing=smoothing, kept=("layers.1.qkv",)), {"cosine": 1.0})
    for name in (SCALES, FACTS):
        shutil.move(model / name, folder)


def use_int8(folder: Path) -> None:
    """Load the model with these scales; vectors that are not numbers are a fault."""
    model = _model_beside_its_scales()
    for name in (SCALES, FACTS):
        (model / name).unlink(missing_ok=True)
        if (folder / name).exists():
            shutil.copy(folder / name, model)
    vectors = load(model, precision="int8", engine="native").encode(["a b", "c"])
    if not np.isfinite(vectors).all():
        raise ArithmeticError("a vector is not a number")


def make_inputs(folder: Path) -> None:
    """Write data files, and a recipe that reads them."""
    rows = [{"id": str(number), "text": "a b c" + number * " a", "label": "yes"} for number in range(6)]
    lines = [json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "rows.csv").write_text("id,text,label\n" + "".join(f"{row['id']},{row['text']},yes\n" for row in rows))
    (folder / "lines.txt").write_text("".join(f"{row['text']}\n" for row in rows))
    (folder / "run.trec").write_text("".join(f"q{number % 2} Q0 d{number} 1 {number / 7} t\n" for number in range(6)))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td2\t1\nq1\td1\t-1\nq1\td3\t2\n")
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    task = {"kind": "text", "train": ["rows.jsonl"], "dev": ["rows.csv"], "text": "text", "label": "label"}
    recipe = {"kind": "finetune", "name": "f", "out": "run", "model": "absent", "task": task, "train": {"steps": 2}}
    (folder / "recipe.json").write_text(json.dumps(recipe))


def use_inputs(folder: Path) -> None:
    """Run commands that read all of the files."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        build = ["corpus", "build", "--tokenizer", "vocab.txt", "--max-tokens", "8"]
        for arguments in (
            [*build, "--input", *map(str, [folder / "rows.jsonl", folder / "lines.txt"]), "--out", folder / "corpus"],
            [*build, "--input", folder / "rows.csv", "--out", folder / "corpus2"],
            ["score", "rouge", "--predictions", folder / "lines.txt", "--references", folder / "lines.txt"],
            ["score", "retrieval", "--predictions", folder / "run.trec", "--references", folder / "qrels.tsv"],
            ["finetune", folder / "recipe.json", "--dry-run"],
        ):
            try:
                app.main([str(argument) for argument in arguments])
            except SystemExit as done:
                if done.code not in (0, 2, 3, 4):
                    raise RuntimeError(f"exit code {done.code}: minilm {' '.join(map(str, arguments))}") from None
    finally:
        os.chdir(before)


TARGETS: dict[str, tuple[Run, Run]] = {
    "models": (make_model, use_model),
    "inputs": (make_inputs, use_inputs),
    **({} if library_reason() else {"int8": (make_int8, use_int8)}),
}


def damage(folder: Path, draw: random.Random) -> str:
    """Change one file of `folder` at random; returns what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return "no file is left"
    file = draw.choice(files)
    data = file.read_bytes()
    if file.suffix == ".json" and draw.random() < 0.7:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(data)
            if isinstance(value, dict) and value:
                done = _damage_json(value, draw)
                file.write_text(json.dumps(value))
                return f"{file.name}: {done}"
    place, kind = draw.randrange(len(data) + 1), draw.choice(("truncate", "flip", "insert", "remove", "delete"))
    count = draw.randint(1, 8)
    if kind == "delete":
        file.unlink()
    elif kind == "truncate":
        file.write_bytes(data[:place])
    elif kind == "remove":
        file.write_bytes(data[:place] + data[place + count :])
    else:
        file.write_bytes(data[:place] + draw.randbytes(count) + data[place + (count if kind == "flip" else 0) :])
    return f"{file.name}: {kind} {count} at {place}"


def _damage_json(value: dict[str, object], draw: random.Random) -> str:
    key = draw.choice(sorted(value))
    inner = value[key]
    if isinstance(inner, dict) and inner and draw.random() < 0.5:
        return f"{key}.{_damage_json(inner, draw)}"
    if draw.random() < 0.1:
        del value[key]
        return f"{key} removed"
    value[key] = draw.choice(VALUES)
    return f"{key} = {value[key]!r:.40}"


class TooSlowError(Exception):
    """A case ran past its limit."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlowError(f"not finished after {SECONDS_PER_CASE} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_PER_CASE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(name: str, *, seed: int, seconds: float = float("inf"), cases: int | None = None) -> tuple[int, list[str]]:
    """Run cases until the time or their number is used up; returns (their number, the faults)."""
    make, use = TARGETS[name]
    faults: list[str] = []
    end, number = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as temporary:
        good, bad = Path(temporary, "good"), Path(temporary, "bad")
        good.mkdir()
        make(good)
        while time.monotonic() < end and (cases is None or number < cases):
            draw = random.Random(f"{name} {seed} {number}")
            shutil.copytree(good, bad)
            done = [damage(bad, draw) for _ in range(draw.randint(1, 3))]
            output = io.StringIO()
            try:
                with _limited(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                    use(bad)
            except MinilmError:
                pass
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                last = traceback.extract_tb(error.__traceback__)[-1]
                reason = f"{type(error).__name__}: {error}".replace(str(bad), "FOLDER")
                faults.append(f"case {number}: {done}: {reason} ({last.filename}:{last.lineno})")
            shutil.rmtree(bad)
            number += 1
    return number, faults


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="|".join(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60, help="per target")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    failed = False
    for name in options.targets:
        number, faults = fuzz(name, seed=options.seed, seconds=options.seconds)
        print(f"{name}: {number} cases of seed {options.seed}, {len(faults)} faults", *faults, sep="\n  ")
        failed |= bool(faults) or not number
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
