"""Runs distillation and fine-tuning in forked children, kills and restarts them; torch is imported once.

Usage: python driver.py JSON, with {"recipe": path, "overrides": [..], "plan": [[kind, number], ..]}. One child
per entry of the plan, one after the other: ["call", n] kills itself at its n-th call that changes the file
system; ["within", x] at a time measured in durations of its own first step: 2.4 is 1.4 durations after the
second step began; ["steps", n] in the middle of its n-th step; ["never", 0] runs to the end. Prints one JSON
list: [exit status, calls] each.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import transformers.models.bert.modeling_bert
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import minilm.distill.run as distill_run
import minilm.finetune.run as finetune_run
import minilm.finetune.teacher_store as teacher_store
from minilm.distill.chain import run_distillation
from minilm.finetune.sweep import finetune
from minilm.recipe import load_recipe
from minilm.report import page as report_module
from minilm.train.loop import Event, train

_CALLS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def count_calls(report: int, kill_at: int) -> None:
    """Count calls of `_CALLS`; die at call number `kill_at`, alternately before and after it."""
    seen = 0

    def counted(original):
        def call(*arguments, **keywords):
            nonlocal seen
            seen += 1
            os.pwrite(report, f"{seen:8d}".encode(), 0)
            if seen == kill_at and seen % 2:
                die()
            try:
                return original(*arguments, **keywords)
            finally:
                if seen == kill_at:
                    die()

        return call

    for name in _CALLS:
        setattr(os, name, counted(getattr(os, name)))


def kill_in_training(kind: str, number: float) -> None:
    """Die in the middle of step `number` of this process, or `number` times its first step's seconds later."""
    steps, began = 0, 0.0

    def on_event(event: Event, _: int) -> None:
        nonlocal steps, began
        if event == "accumulated" and kind == "steps" and steps == number:
            die()
        if event != "batch":
            return
        steps += 1
        if kind == "within" and steps == 2:
            signal.signal(signal.SIGALRM, lambda *_: die())
            signal.setitimer(signal.ITIMER_REAL, (number - 1) * (time.monotonic() - began))
        began = time.monotonic()

    for module in (distill_run, finetune_run):
        module.train = partial(train, on_event=on_event)


def child(recipe: str, overrides: list[str], kind: str, number: float, report: int) -> None:
    status = 1
    try:
        count_calls(report, int(number) if kind == "call" else -1)
        if kind in ("within", "steps"):
            kill_in_training(kind, number)
        loaded = load_recipe(Path(recipe), overrides)
        run = run_distillation if loaded.recipe.kind == "distill" else finetune
        run(loaded)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    assert transformers.models.bert.modeling_bert, "imported before the first fork"
    get_checkpoint_conversion_mapping("bert")  # slow the first time, then cached
    teacher_store.ITEMS_PER_FILE = 64  # several files
    report_module.draw = lambda curves, **_: None  # drawing curves is slow and not under test here
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    job = json.loads(sys.argv[1])
    results = []
    report = os.memfd_create("calls")
    for kind, number in job["plan"]:
        os.pwrite(report, b"       0", 0)
        pid = os.fork()
        if pid == 0:
            child(job["recipe"], job.get("overrides", []), kind, number, report)
        _, status = os.waitpid(pid, 0)
        results.append([os.waitstatus_to_exitcode(status), int(os.pread(report, 8, 0))])
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
