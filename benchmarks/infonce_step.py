"""One contrastive training step of 1,024 pairs against sentence-transformers, equal loss: time and peak memory.

The other side is CachedMultipleNegativesRankingLoss, AdamW and the same weights; both encode a batch in parts, twice,
without dropout. Lengths are drawn as those of questions (6 to 64 tokens, 18 on average), or are all 64, where nothing
is padded. Steps alternate in one process; peak memory is that of a process with one side alone.

    python benchmarks/infonce_step.py --json benchmarks/results/infonce_step/MACHINE.json
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ab import interleaved, json_file, machine, show

from minilm.embedded import embedded_model
from minilm.files.json import write_json
from minilm.finetune.embed import EmbedTask
from minilm.finetune.make import make_task, task_tokenizer
from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.start import start_model
from minilm.recipe import EmbedSection, OptimizationSettings
from minilm.text.tokenizer import Tokenizer
from minilm.train.allocator import keep_freed_memory
from minilm.train.loop import accumulate_in
from minilm.train.optim import make_optimizer

MAX_TOKENS, SCALE = 64, 20.0
SETTINGS = OptimizationSettings(learning_rate=1e-5)
Step = Callable[[], float]


def drawn_pairs(count: int, lengths: str) -> list[dict[str, str]]:
    """Pairs of texts whose words are one token each."""
    draw, tokenizer = np.random.default_rng(3), Tokenizer.load(embedded_model())
    words = [tokenizer.id_to_token(number) for number in range(2000, 20000)]
    words = [word for word in words if word.isascii() and word.isalpha() and len(word) > 3]

    def text() -> str:
        size = MAX_TOKENS if lengths == "64" else int(np.clip(draw.lognormal(2.75, 0.5), 6, MAX_TOKENS))
        return " ".join(draw.choice(words, size - 2))

    return [{"query": text(), "positive": text()} for _ in range(count)]


def our_step(pairs: list[dict[str, str]]) -> Step:
    """One update by the objective that a recipe trains."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pairs.jsonl")
        file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        section = EmbedSection(
            name="step",
            loss="infonce",
            temperature=1 / SCALE,
            dropout=0.0,
            max_tokens=MAX_TOKENS,
            train=[str(file)],
        )
        model = embedded_model()
        task = make_task(section, task_tokenizer(section, model, lowercase=None), model=model)
    assert isinstance(task, EmbedTask)
    start = start_model(model, task, seed=0)
    task.prepare(start)
    objective = FinetuneObjective(start, task, batch_size=len(pairs), tokens_per_batch=4096, seed=0)
    optimizer = make_optimizer(objective.parameters, SETTINGS)

    def step() -> float:
        optimizer.zero_grad()
        loss = accumulate_in("fp32", objective, objective.batch(0))
        optimizer.step()
        return float(loss.value)

    return step


def their_step(pairs: list[dict[str, str]]) -> Step:
    """One update by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = SentenceTransformer(str(embedded_model()), device="cpu").train()
    model.max_seq_length = MAX_TOKENS
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss_of = CachedMultipleNegativesRankingLoss(model, scale=SCALE, mini_batch_size=64)
    optimizer = make_optimizer(dict(model.named_parameters()), SETTINGS)
    texts = [[pair[side] for pair in pairs] for side in ("query", "positive")]

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of([model.preprocess(side) for side in texts], None)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


SIDES = {"ours": our_step, "sentence-transformers": their_step}


def peak_mib(side: str, lengths: str, pairs: int) -> float:
    """Peak memory of a process that makes two steps of one side."""
    command = [sys.executable, __file__, "--side", side, "--lengths", lengths, "--pairs", str(pairs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
    return float(done.stdout.split()[-1])


def compare(lengths: str, count: int, repetitions: int) -> dict[str, object]:
    """The ratio of times and memory for one kind of lengths."""
    pairs = drawn_pairs(count, lengths)
    steps = {name: make(pairs) for name, make in SIDES.items()}
    first = {name: step() for name, step in steps.items()}
    seconds = interleaved(steps, repetitions=repetitions)
    memory = {name: peak_mib(name, lengths, count) for name in SIDES}
    tokens = sum(len(text.split()) + 2 for pair in pairs for text in pair.values())
    return {
        "lengths": lengths,
        "pairs": count,
        "real share": tokens / (2 * count * MAX_TOKENS),
        "loss": first["ours"],
        "loss difference": abs(first["ours"] - first["sentence-transformers"]),
        "tokens/s": tokens / seconds["ours"],
        "ratio to sentence-transformers": seconds["sentence-transformers"] / seconds["ours"],
        "peak MiB": memory["ours"],
        "peak MiB of sentence-transformers": memory["sentence-transformers"],
    }


def main() -> None:
    """Measure both kinds of lengths, print a line per row and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--lengths", choices=["drawn", "64"])
    parser.add_argument("--side", choices=[*SIDES])
    given = parser.parse_args()
    if given.json:
        json_file(parser, given.json)
    keep_freed_memory()
    if given.side:
        step = SIDES[given.side](drawn_pairs(given.pairs, given.lengths))
        step(), step()
        status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage also counts the parent's memory
        print(float(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)  # type: ignore[index]
        return
    measure = partial(compare, count=given.pairs, repetitions=given.repetitions)
    rows = [measure(lengths) for lengths in ([given.lengths] if given.lengths else ["drawn", "64"])]
    show(rows)
    if given.json:
        write_json(given.json, {"machine": machine(), "rows": rows})


if __name__ == "__main__":
    main()
