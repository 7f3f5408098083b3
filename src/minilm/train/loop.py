"""The training loop: trains any objective, and resumes exactly after any interruption.

In: an `Objective` (the batch and the loss of each step) and `TrainSettings`.
Out: the objective's module, trained in place; `metrics.jsonl` and `checkpoints/` in the run folder.

A step is one optimizer update over a global batch. The objective decides how its loss is accumulated: usually over
microbatches that fit a token budget, weighted so that any split gives the same gradient (`accumulate.py`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Literal, NoReturn, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from minilm.errors import DataError, Interrupted
from minilm.files.atomic import make_folder
from minilm.files.checked import Count, PositiveInt
from minilm.files.tensors import write_safetensors
from minilm.model.compact import decay_rows_not_in_use
from minilm.model.precision import FloatPrecision
from minilm.progress import Progress
from minilm.randomness import derived_seed
from minilm.recipe.optimization import OptimizationSettings
from minilm.train.accumulate import Backward, Batch, StepLoss
from minilm.train.allocator import FreedMemory, resident_gib
from minilm.train.best import Best, BestRule, comparable, save_best
from minilm.train.distributed import ALONE, Ranks, kept_generators, sum_gradients, sum_over_ranks, wait_for_first
from minilm.train.metrics import append_metrics, keep_metrics, means
from minilm.train.optim import load_optimizer_tensors, make_optimizer, optimizer_tensors
from minilm.train.schedule import extension_note, linear_schedule
from minilm.train.state import Identity, TrainState, load_newest, save_checkpoint
from minilm.train.tensorboard import MetricsWriter, event_writer

logger = logging.getLogger(__name__)


B = TypeVar("B", bound=Batch)

# A batch is read, its gradient is there, the update is made or skipped, a checkpoint is written.
Event: TypeAlias = Literal["batch", "accumulated", "stepped", "saved"]

_SUMS = ("tokens", "seconds")  # of the metrics of a step: summed over the steps of a line, not averaged


class DivergedError(DataError):
    """Too many steps had a loss or gradient that is not finite."""


class Objective(Protocol[B]):
    """What to train. `module` holds all weights to save; `parameters` those to train."""

    @property
    def module(self) -> nn.Module:
        """The module saved in checkpoints."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters, by their names in `module`."""

    @property
    def clip_groups(self) -> Sequence[Sequence[nn.Parameter]]:
        """Groups whose gradients are clipped together (one group per independent model)."""

    def batch(self, step: int) -> B:
        """This process's share of the batch of `step`; a pure function of the step."""

    def accumulate(self, batch: B, backward: Backward) -> StepLoss:
        """The loss of a batch; calls `backward` on each part of it to accumulate the gradient."""

    def evaluate(self) -> Mapping[str, float]:
        """Held-out metrics."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(OptimizationSettings):
    """How a run is optimized, and what only the run knows.

    Attributes:
        steps: length of the run.
        warmup_steps: of these, steps of linear warmup.
        seed: decides dropout.
        label: name of the run in progress and messages.
        best: which weights are kept beside the last ones, and when to stop early.
    """

    steps: PositiveInt
    warmup_steps: Count
    seed: int
    label: str
    best: BestRule | None = None


@dataclass
class _Run:
    """The mutable state of one run."""

    settings: TrainSettings
    folder: Path | None
    identity: Identity
    optimizer: torch.optim.AdamW
    ranks: Ranks
    on_checkpoint: Callable[[int], None] | None = None
    on_event: Callable[[Event, int], None] | None = None
    more_scores: Callable[[int], Mapping[str, float]] | None = None
    is_inner: bool = False
    write_events: MetricsWriter | None = None
    memory: FreedMemory = field(default_factory=FreedMemory)
    step: int = 0
    bad_steps: int = 0
    saved_step: int = -1
    recent: list[Mapping[str, float]] = field(default_factory=list)
    held_out: Mapping[str, float] = field(default_factory=dict)
    best: Best = field(default_factory=Best)
    extended_at: Sequence[int] = ()
    interrupted: bool = False

    @property
    def tokens_per_second(self) -> float:
        """Speed of the steps that are not yet logged."""
        tokens, seconds = (sum(row[name] for row in self.recent) for name in _SUMS)
        return tokens / max(seconds, 1e-9)

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or the best value has not improved for too long."""
        rule = self.settings.best
        gave_up = rule is not None and 0 < rule.patience <= self.best.stale
        return gave_up or self.step >= self.settings.steps

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether a checkpoint is scheduled at this step, regardless of interruptions."""
        return self.is_over or self.step % self.settings.checkpoint_every == 0

    def emit(self, event: Event) -> None:
        """Call `on_event` with the number of updates so far."""
        if self.on_event is not None:
            self.on_event(event, self.step)

    @property
    def next_step(self) -> str:
        """The step being made, in messages; of an inner run with its label, because the outer one has steps, too."""
        return f"{self.settings.label}, step {self.step + 1}" if self.is_inner else f"step {self.step + 1}"

    @property
    def own_folder(self) -> Path | None:
        """The run folder, in the process that writes it; None in the others."""
        return self.folder if self.ranks.is_first else None


def train(
    objective: Objective[B],
    settings: TrainSettings,
    *,
    folder: Path | None = None,
    identity: Identity | None = None,
    ranks: Ranks = ALONE,
    on_checkpoint: Callable[[int], None] | None = None,
    on_event: Callable[[Event, int], None] | None = None,
    more_scores: Callable[[int], Mapping[str, float]] | None = None,
    is_inner: bool = False,
) -> Mapping[str, float]:
    """Run `objective` for `settings.steps` updates; after a kill, the same call ends with bit-identical weights.

    Bit-identity holds on CPUs, on the same machine with the same number of threads and the same libraries.

    Args:
        objective: what to train.
        settings: how to train it; with more steps, a finished run continues on the schedule of the new length.
        folder: run folder for metrics and checkpoints; training resumes from the newest checkpoint in it. Without a
            folder, nothing is written.
        identity: what identifies the run; a checkpoint with another identity is rejected.
        ranks: rank of this process; the objective provides its share of each batch.
        on_checkpoint: called with the step after each scheduled checkpoint, in the first process; called again for
            the checkpoint that a run resumes from.
        on_event: called in every process at each event of a step, with the number of updates so far; what it
            raises ends the run like any other error.
        more_scores: called in the first process after each update, with the number of updates so far; returns
            held-out metrics besides the objective's, or nothing.
        is_inner: this is a part of another run, which shows the progress and handles signals.

    Returns:
        The objective's held-out metrics after the last step.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        DivergedError: more than `max_bad_steps` steps had a loss or gradient that is not finite.
        AnotherRunError: the checkpoint in `folder` is of a different or longer run, or of an unfinished shorter one.
    """
    run = _Run(
        settings=settings,
        folder=folder,
        identity=identity or {},
        optimizer=make_optimizer(objective.parameters, settings),
        ranks=ranks,
        on_checkpoint=on_checkpoint,
        on_event=on_event,
        more_scores=more_scores,
        is_inner=is_inner,
    )
    if folder is not None:
        _restore(run, objective, folder)
    _train(run, objective)
    return run.held_out or objective.evaluate()


def _train(run: _Run, objective: Objective[B]) -> None:
    """All steps that are left."""
    settings = run.settings
    with (
        kept_generators(),
        contextlib.nullcontext(_Flag()) if run.is_inner else _interruptible() as interrupted,
        Progress(settings.label, silent=run.is_inner or not run.ranks.is_first) as progress,
        event_writer(run.own_folder if settings.tensorboard else None, done=run.step) as run.write_events,
    ):
        progress.begin(settings.steps, run.step)
        while not run.is_over:
            if run.interrupted or (run.ranks.world_size == 1 and interrupted.is_set):
                _stop(run, objective)
            loss = _step(run, objective, interrupted=interrupted.is_set)
            speed = f"{run.tokens_per_second:,.0f} tokens/s"
            progress.advance(status=f"loss {loss:.4f}  {speed}  {resident_gib():.1f} GiB")
            _after_step(run, objective)


def _stop(run: _Run, objective: Objective[B]) -> NoReturn:
    _save(run, objective)
    where = f" at step {run.step}; run the same command to resume" if run.folder else ""
    raise Interrupted(f"stopped by the user{where}")


def _step(run: _Run, objective: Objective[B], *, interrupted: bool) -> float:
    """Run one update and return the loss (not finite if the update was skipped)."""
    settings, started = run.settings, time.perf_counter()
    factor = linear_schedule(run.step, warmup_steps=settings.warmup_steps, total_steps=settings.steps)
    learning_rate = settings.learning_rate * factor
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate
    own = [run.ranks.rank] if run.ranks.rank else []
    torch.manual_seed(derived_seed(settings.seed, "dropout", run.step, *own))
    run.optimizer.zero_grad(set_to_none=True)
    batch = objective.batch(run.step)
    run.emit("batch")
    loss = accumulate_in(settings.precision, objective, batch)
    run.emit("accumulated")
    sum_gradients(list(objective.parameters.values()), run.ranks)
    found, norms = _read(loss, _clip(objective.clip_groups, settings.max_grad_norm))
    total, parts, tokens = _summed(run, found, batch.num_tokens, interrupted=interrupted)
    if math.isfinite(total) and all(math.isfinite(norm) for norm in norms):
        run.optimizer.step()
        decay_rows_not_in_use(objective.module, 1 - learning_rate * settings.weight_decay)
    else:
        _skip(run, batch, total)
    run.step += 1
    numbers = {"loss": total, **parts, "gradient_norm": max(norms), "learning_rate": learning_rate}
    run.recent.append({**numbers, "tokens": tokens, "seconds": time.perf_counter() - started})
    run.emit("stepped")
    return total


def accumulate_in(precision: FloatPrecision, objective: Objective[B], batch: B) -> StepLoss:
    """Loss and gradient of a batch; with bf16, only the forward pass runs in `precision`."""
    device = next(iter(objective.parameters.values())).device.type
    autocast = partial(torch.autocast, device, dtype=torch.bfloat16)

    def backward(loss: Tensor) -> Tensor:
        with autocast(enabled=False):
            loss.backward()
        torch.clear_autocast_cache()  # cached bf16 weights belong to one graph
        return loss.detach()

    objective.module.train()
    with autocast(enabled=precision == "bf16"):
        return objective.accumulate(batch, backward)


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """What is read of a step: its loss and components, of this process."""

    loss: float
    parts: Mapping[str, float]


def _read(loss: StepLoss, norms: Sequence[Tensor]) -> tuple[_Numbers, list[float]]:
    """The numbers of a step and the norms of its gradient, in one transfer: the only one that a step waits for."""
    scalars = [loss.value, *loss.parts.values(), *norms]
    value, *others = torch.stack([scalar.double() for scalar in scalars]).tolist()
    parts = dict(zip(loss.parts, others, strict=False))
    return _Numbers(loss=value, parts=parts), others[len(parts) :]


def _summed(run: _Run, found: _Numbers, tokens: int, *, interrupted: bool) -> tuple[float, Mapping[str, float], int]:
    """Loss, its components and tokens summed over all processes; also shares whether any was interrupted.

    A loss that is not finite has no components.
    """
    total, parts, all_tokens = found.loss, found.parts, tokens
    if run.ranks.world_size > 1:
        device = run.optimizer.param_groups[0]["params"][0].device
        own = [total, tokens, float(interrupted), *parts.values()]
        total, summed, stops, *others = sum_over_ranks(own, run.ranks, device)
        run.interrupted = stops > 0
        parts, all_tokens = dict(zip(parts, others, strict=True)), int(summed)
    return total, parts if math.isfinite(total) else {}, all_tokens


def _clip(groups: Sequence[Sequence[nn.Parameter]], max_norm: float) -> list[Tensor]:
    return [nn.utils.clip_grad_norm_(group, max_norm or math.inf) for group in groups]


def _skip(run: _Run, batch: Batch, loss: float) -> None:
    """Count a step without an update; past the limit, save its batch and raise."""
    run.bad_steps += 1
    logger.warning(
        "%s: loss or gradient is not finite (loss %s); update skipped (%d so far)",
        run.next_step,
        loss,
        run.bad_steps,
    )
    if run.bad_steps <= run.settings.max_bad_steps:
        return
    found = f"{run.next_step}: {run.bad_steps} steps had a loss or gradient that is not finite"
    if run.is_inner:  # the caller knows what its settings are called
        raise DivergedError(found)
    where = ""
    if run.own_folder is not None:
        where = f"; the last batch is in {_save_batch(run.own_folder, run.step + 1, batch)}"
    raise DivergedError(
        f"{found} (train.max_bad_steps is {run.settings.max_bad_steps}){where}; "
        "lower train.learning_rate or check the data"
    )


def _save_batch(folder: Path, step: int, batch: Batch) -> Path:
    """Save the tensors of a step, such as `0.token_ids` of its first microbatch, for inspection or replay."""
    file = folder / f"bad-batch-step-{step:08d}.safetensors"
    write_safetensors(file, batch.tensors())
    return file


def _after_step(run: _Run, objective: Objective[B]) -> None:
    """Log metrics, evaluate and save a checkpoint when due."""
    settings = run.settings
    last = run.step == settings.steps
    numbers = more = run.more_scores(run.step) if run.more_scores is not None and run.ranks.is_first else {}
    if last or (settings.eval_every and run.step % settings.eval_every == 0):
        run.held_out = numbers = {**objective.evaluate(), **more}
        _keep_best(run, objective, numbers)
    last = run.is_over
    if last or numbers or run.step % settings.log_every == 0:
        _log(run, numbers)
    if run.is_checkpoint_due:
        _save(run, objective)
        _notify(run)
    if last:
        run.memory.give_back()
    else:
        run.memory.after_step()


def _keep_best(run: _Run, objective: Objective[B], numbers: Mapping[str, float]) -> None:
    rule = run.settings.best
    if rule is None:
        return
    run.best = run.best.after(comparable(rule.metric, numbers[rule.metric]), run.step)
    if run.best.step == run.step and run.own_folder is not None:
        save_best(run.own_folder, objective.module.state_dict(), numbers, step=run.step)


def _log(run: _Run, held_out: Mapping[str, float]) -> None:
    sums = {name: sum(row[name] for row in run.recent) for name in _SUMS}
    last = {"learning_rate": run.recent[-1]["learning_rate"], **held_out}
    speed = {**sums, "tokens_per_second": run.tokens_per_second, "memory_gib": resident_gib()}
    row = {"step": run.step, **means(run.recent), **last, **speed, "bad_steps": run.bad_steps}
    run.recent.clear()
    if run.own_folder is not None:
        append_metrics(run.own_folder, row)
    if run.write_events is not None:
        run.write_events(row)


def _save(run: _Run, objective: Objective[B]) -> None:
    if run.own_folder is None or run.saved_step == run.step:
        wait_for_first(run.ranks)
        return
    state = TrainState(
        step=run.step,
        total_steps=run.settings.steps,
        extended_at=run.extended_at,
        bad_steps=run.bad_steps,
        identity=run.identity,
        model=objective.module.state_dict(),
        optimizer=optimizer_tensors(run.optimizer, objective.parameters),
        recent=run.recent,
        held_out=run.held_out,
        best=run.best,
    )
    save_checkpoint(run.own_folder / "checkpoints", state, keep=run.settings.keep_checkpoints)
    run.saved_step = run.step
    run.emit("saved")
    wait_for_first(run.ranks)


def _notify(run: _Run) -> None:
    if run.on_checkpoint is not None and run.own_folder is not None:
        run.on_checkpoint(run.step)
    wait_for_first(run.ranks)


def _restore(run: _Run, objective: Objective[B], folder: Path) -> None:
    """Resume from the newest checkpoint; later metrics are dropped, because the run will write them again."""
    if run.own_folder is not None:
        make_folder(folder)
    steps = run.settings.steps
    state = load_newest(folder / "checkpoints", run.identity, total_steps=steps)
    if state is not None:
        objective.module.load_state_dict(dict(state.model))
        load_optimizer_tensors(run.optimizer, objective.parameters, state.optimizer)
        run.step = run.saved_step = state.step
        run.bad_steps, run.held_out, run.best = state.bad_steps, state.held_out, state.best
        run.recent.extend(state.recent)
        run.extended_at = (*state.extended_at, *([state.step] if state.total_steps < steps else []))
        logger.info("resuming %s at step %d of %d", folder, state.step, steps)
        if run.extended_at:
            logger.warning("%s", extension_note(run.extended_at, steps))
    wait_for_first(run.ranks)  # no process writes before all have read
    if run.own_folder is not None:
        keep_metrics(folder, up_to=run.step)
    if state is not None and run.is_checkpoint_due:
        _notify(run)


@dataclass
class _Flag:
    is_set: bool = False


@contextlib.contextmanager
def _interruptible() -> Iterator[_Flag]:
    """First Ctrl-C or SIGTERM: finish the step, save, stop. Second: stop immediately."""
    flag = _Flag()

    def stop(number: int, frame: FrameType | None) -> None:
        if flag.is_set:
            raise KeyboardInterrupt
        flag.is_set = True
        logger.warning("stopping after this step; interrupt again to stop immediately, without saving")

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller handles signals
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
