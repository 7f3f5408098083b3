"""Fine-tuning steps against the transformers Trainer with dynamic padding: same rows, same order, same precision.

Both sides start from the same real weights with the same fresh head, without dropout, and take the same 32 rows a
step; ours is the training loop as `minilm finetune` runs it. First the loss curves of 50 steps are compared, then
blocks of steps are timed in turn. Peer rows: `tuned` runs under the allocator settings that ours sets, `as users run
it` in a separate process with the default settings.

    python benchmarks/finetune.py sst-2=glue/SST-2/train.tsv rte=glue/RTE/train.tsv
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from ab import interleaved, save
from torch.utils.data import Sampler
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from minilm.corpus.order import step_documents
from minilm.embedded import embedded_model
from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.text import ClassificationTask
from minilm.model.checkpoint import read_model, write_model
from minilm.model.config import EncoderConfig
from minilm.model.heads import Model, new_head
from minilm.model.precision import has_bf16
from minilm.tasks.text.glue import GLUE
from minilm.tasks.text.rows import read_text_rows
from minilm.text.tokenizer import Tokenizer
from minilm.train import allocator
from minilm.train.loop import TrainSettings, train

BATCH, STEPS_TIMED, STEPS_COMPARED, MAX_TOKENS, SEED = 32, 10, 50, 128, 1
RATE, WEIGHT_DECAY, EPS = 5e-5, 0.01, 1e-8


def start(folder: Path, num_labels: int) -> Path:
    """The embedded weights with a fresh head and no dropout, as a Hugging Face folder both sides read."""
    source = embedded_model()
    encoder = read_model(source, head=None).encoder
    values = {**{name: getattr(encoder.config, name) for name in EncoderConfig.__dataclass_fields__}}
    config = EncoderConfig(**{**values, "hidden_dropout": 0.0, "attention_dropout": 0.0})
    encoder.config = config
    generator = torch.Generator().manual_seed(SEED)
    head = new_head("classification", config, num_labels=num_labels, generator=generator)
    folder.mkdir(exist_ok=True)
    write_model(Model(encoder, head), folder, head="classification", labels=[str(n) for n in range(num_labels)])
    Tokenizer.load(source).save(folder)
    return folder


def task_of(name: str, file: Path, tokenizer: Tokenizer) -> ClassificationTask:
    """The training rows of a GLUE task."""
    spec = GLUE[name]
    return ClassificationTask(spec, read_text_rows(file, spec), {}, tokenizer, max_tokens=MAX_TOKENS)


class Rows(torch.utils.data.Dataset):
    """The same token ids for the Trainer, which pads them."""

    def __init__(self, task: ClassificationTask) -> None:
        self.task = task

    def __len__(self) -> int:
        return len(self.task.train)

    def __getitem__(self, row: int) -> Mapping[str, object]:
        ids, types = self.task.train.token_ids[row], self.task.train.segment_ids[row]
        return {"input_ids": ids.tolist(), "token_type_ids": types.tolist(), "labels": int(self.task.targets[row])}


class SameOrder(Sampler):
    """The rows of our steps, one after another."""

    def __init__(self, num_rows: int, steps: int) -> None:
        self.num_rows, self.steps = num_rows, steps

    def __len__(self) -> int:
        return BATCH * self.steps

    def __iter__(self) -> Iterator[int]:
        for step in range(self.steps):
            yield from step_documents(num_documents=self.num_rows, batch_size=BATCH, seed=SEED, step=step).tolist()


class Losses(TrainerCallback):
    """Records the loss of every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):  # noqa: ANN001, ANN003, ANN201
        """Record the loss."""
        if logs and "loss" in logs:
            self.found.append(logs["loss"])


def peer_trainer(
    folder: Path, task: ClassificationTask, steps: int, *, bf16: bool, log: bool
) -> tuple[Trainer, Losses]:
    """A Trainer ready to run `steps` steps from the start."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=RATE,
        weight_decay=WEIGHT_DECAY, adam_epsilon=EPS, lr_scheduler_type="linear", bf16=bf16, use_cpu=True,
        report_to=[], save_strategy="no", logging_steps=1 if log else 10**6, logging_strategy="steps",
        disable_tqdm=True, seed=SEED,
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    losses = Losses()
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Rows(task), callbacks=[losses],
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    trainer._get_train_sampler = lambda *_: SameOrder(len(task.train), steps)  # type: ignore[method-assign]
    return trainer, losses


def our_run(
    folder: Path, task: ClassificationTask, steps: int, *, bf16: bool, out: Path | None = None
) -> Callable[[], object]:
    """Our loop, ready to run from the same start."""
    model = read_model(folder, head="classification", num_labels=len(task.labels)).train()
    task.prepare(model)
    objective = FinetuneObjective(model, task, batch_size=BATCH, tokens_per_batch=16384, seed=SEED)
    settings = TrainSettings(
        steps=steps,
        warmup_steps=0,
        learning_rate=RATE,
        adam_eps=EPS,
        weight_decay=WEIGHT_DECAY,
        label="finetune",
        precision="bf16" if bf16 else "fp32",
        seed=SEED,
        log_every=1,
    )
    return lambda: train(objective, settings, folder=out)


def loss_difference(folder: Path, task: ClassificationTask, work: Path) -> float:
    """Largest difference between the two loss curves over 50 steps in fp32."""
    trainer, losses = peer_trainer(folder, task, STEPS_COMPARED, bf16=False, log=True)
    trainer.train()
    out = work / f"curve-{time.monotonic_ns()}"
    our_run(folder, task, STEPS_COMPARED, bf16=False, out=out)()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().split("\n") if line]
    found = np.array([row["loss"] for row in rows])
    return float(np.abs(found - np.array(losses.found)).max())


def untuned_peer_seconds(name: str, file: Path, *, bf16: bool) -> float:
    """The peer's seconds per block in a separate process, under the default allocator settings."""
    command = [sys.executable, __file__, "--peer", name, str(file), "bf16" if bf16 else "fp32"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.strip().splitlines()[-1])


def peer_alone(name: str, file: Path, precision: str) -> float:
    """Median seconds per block of the peer."""
    with tempfile.TemporaryDirectory() as work:
        tokenizer = Tokenizer.load(embedded_model())
        task = task_of(name, file, tokenizer)
        folder = start(Path(work) / "start", len(task.labels))
        trainer, _ = peer_trainer(folder, task, STEPS_TIMED, bf16=precision == "bf16", log=False)
        return interleaved({"peer": trainer.train}, repetitions=3)["peer"]


def never_give_memory_back() -> None:
    """Treat a block of steps as part of a long run: memory it frees is kept for the next block, on both sides."""
    allocator.keep_freed_memory()
    allocator.give_back_freed_memory = lambda: False


def main() -> None:
    """Compare each task named on the command line."""
    if sys.argv[1:2] == ["--peer"]:
        print(peer_alone(sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
        return
    files = dict(argument.split("=", 1) for argument in sys.argv[1:])
    rows: list[dict[str, object]] = []
    for name, file in files.items():
        rows += compare(name, Path(file), bf16=[False, True] if has_bf16() else [False])
    save("finetune", rows)


def compare(name: str, file: Path, *, bf16: list[bool]) -> list[dict[str, object]]:
    """Ratios of one task."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as work:
        untuned = {half: untuned_peer_seconds(name, file, bf16=half) for half in bf16}
        never_give_memory_back()
        task = task_of(name, file, Tokenizer.load(embedded_model()))
        folder = start(Path(work) / "start", len(task.labels))
        difference = loss_difference(folder, task, Path(work))
        for half in bf16:
            trainer, _ = peer_trainer(folder, task, STEPS_TIMED, bf16=half, log=False)
            run = our_run(folder, task, STEPS_TIMED, bf16=half)
            seconds = interleaved({"peer": trainer.train, "ours": run}, repetitions=5)
            examples = BATCH * STEPS_TIMED
            rows.append(
                {
                    "task": name,
                    "precision": "bf16" if half else "fp32",
                    "mean tokens": float(np.mean([len(ids) for ids in task.train.token_ids])),
                    "largest loss difference": difference,
                    "examples/s": examples / seconds["ours"],
                    "peer examples/s, tuned": examples / seconds["peer"],
                    "ratio, peer tuned": seconds["peer"] / seconds["ours"],
                    "ratio, peer as users run it": untuned[half] / seconds["ours"],
                }
            )
    return rows


if __name__ == "__main__":
    main()
