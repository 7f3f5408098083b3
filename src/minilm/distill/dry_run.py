"""What `minilm distill --dry-run` says: that everything fits, what the run will cost, and whether it can learn.

In: a recipe, with or without stages. Out: sentences with a label each, as they are found; nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from minilm.distill.cache_filling import require_room
from minilm.distill.costs import (
    RUN_PARTS,
    corpus_bytes,
    folder_bytes,
    shown_size,
    step_flops,
    trained_bytes,
)
from minilm.distill.measure import UPDATES, Measured, Sample, measure, sample_corpus
from minilm.distill.plan import described, described_data
from minilm.distill.probing import MakeProbe, probe_of
from minilm.distill.room import Room, held_bytes
from minilm.distill.run import this_device
from minilm.distill.stages import PlannedStage, assistant_advice, fill_stand_in, planned
from minilm.distill.teacher_cache import cached_teacher
from minilm.recipe import CacheSection, Distillation, Loaded
from minilm.report.page import duration
from minilm.train.folder import STAGES, require_run_folder

Label = Literal["checked", "planned", "warning"]


def dry_run(loaded: Loaded[Distillation], *, make_probe: MakeProbe | None = None) -> Iterator[tuple[Label, str]]:
    """Check the files, then measure a step of each stage.

    Args:
        loaded: the recipe.
        make_probe: reads the data of the recipe's probe, if it has one.

    Raises:
        UsageError, DataError, SystemProblem: as for `planned`, `findings` and `load_teacher`; the disk is too small.
    """
    with planned(loaded) as stages:
        for sentence in findings(loaded.recipe, stages):
            yield "checked", sentence
        probe = probe_of(stages[0].recipe, stages[0].plan, make_probe)
        if probe is not None:
            yield "checked", probe.description
        sample = sample_corpus(stages[0].recipe, stages[0].plan)
        heldout, documents = stages[0].recipe.data.heldout_documents, sample.lengths.documents
        if documents <= heldout:
            yield (
                "warning",
                f"data.heldout_documents is {heldout:,}, but the data seems to have {documents:,.0f} documents",
            )
        room = Room()
        yield _disk(loaded.recipe, stages, sample, room)
        total = 0.0
        for number, stage in enumerate(stages):
            about = _about(stage)
            recipe = stage.recipe
            label = f"measure {stage.label}" if stage.count > 1 else "measure"
            found = measure(recipe, stage.plan, sample.shards, label=label)
            if number + 1 < len(stages):
                fill_stand_in(stages[number + 1], next(iter(found.students.values())))
            for sentence in _costs(stage, sample, found):
                yield "planned", about + sentence
            tokens = recipe.train.batch_size * sample.lengths.mean
            total += recipe.train.steps * found.speed.of_step(tokens, cached=recipe.cache is not None)
            if recipe.cache is not None:
                sentence, seconds = _cache(stage, sample, found, recipe.cache, room)
                total += seconds
                yield "planned", about + sentence
            label, sentence = _learning(stage, found)
            yield label, about + sentence
        if len(stages) > 1:
            yield "planned", f"time of all stages: {_hours(total)}"
        yield "planned", _written(loaded.recipe, stages)


def findings(recipe: Distillation, stages: Sequence[PlannedStage]) -> list[str]:
    """What can be said without weights, a sentence each.

    Raises:
        UsageError, DataError, SystemProblem: as for `require_run_folder`, and for a corpus that does not fit.
    """
    require_run_folder(Path(recipe.out))
    first = stages[0]
    return [
        *(_about(stage) + line for stage in stages for line in described(stage.recipe, stage.plan)),
        described_data(first.recipe, first.plan),
        *assistant_advice(stages),
    ]


def _about(stage: PlannedStage) -> str:
    return f"stage {stage.number}: " if stage.count > 1 else ""


def _costs(stage: PlannedStage, sample: Sample, found: Measured) -> list[str]:
    """Tokens, time, operations and memory, each with its source."""
    train, known = stage.recipe.train, sample.lengths
    tokens = train.batch_size * known.mean
    cached = stage.recipe.cache is not None
    seconds, kind = found.speed.of_step(tokens, cached=cached), "a step without the teacher" if cached else "a step"
    flops = step_flops(stage.recipe, stage.plan, known)
    epochs = train.steps * train.batch_size / max(known.documents, 1)
    engine, share = "no teacher", ""
    if found.computed_by is not None:
        engine, share = (
            f"the teacher by {found.computed_by.engine}",
            f", {found.speed.teacher_share:.0%} of the time in the teacher",
        )
    return [
        f"tokens: {tokens:,.0f} a step, {_big(tokens * train.steps, '')} in {train.steps:,} steps, {epochs:.3g} "
        f"epochs; {known.mean:.1f} tokens a document, {known.source}",
        f"time: {duration(seconds)} {kind}, {_hours(seconds * train.steps)} in all, {tokens / seconds:,.0f} tokens/s; "
        f"measured here in one process, {train.precision} on {this_device()}, {engine}, on "
        f"{found.speed.tokens:,} tokens{share}; without held-out losses and probes",
        f"operations: {_big(flops, 'FLOP')} a step, {_big(flops * train.steps, 'FLOP')} in all, "
        f"{_big(flops / seconds, 'FLOP/s')}; "
        "matrix products by their shapes, a backward pass as two forward passes",
        f"memory: {found.peak_gib:.1f} GiB, the peak of this process while it measured; of these "
        f"{trained_bytes(stage.recipe, stage.plan) / 2**30:.2g} GiB are weights, gradients and optimizer state of the "
        "students",
    ]


def _cache(stage: PlannedStage, sample: Sample, found: Measured, limits: CacheSection, room: Room) -> tuple[str, float]:
    """What is stored of the teacher, and the seconds that it takes before the first step.

    Raises:
        UsageError, SystemProblem: it is too large, see `require_room`.
        DataError: what is stored already is damaged.
    """
    corpus, sizes, known = sample.shards, stage.plan.sizes, sample.lengths
    cached = cached_teacher(
        stage.recipe, stage.plan, corpus.manifest, corpus.lengths, computed_by=found.computed_by, device=this_device()
    )
    assert cached is not None
    if cached.is_complete:
        return f"cache: {cached.folder} is filled already", 0.0
    tokens = known.documents * known.mean
    width = sizes.query_width + 2 * sizes.key_width
    sentence = require_room(cached, room, tokens=tokens, width=width, limits=limits)
    seconds = found.speed.of_teacher(tokens)
    return f"{sentence}; filled before the first step, in {_hours(seconds)}", seconds


def _learning(stage: PlannedStage, found: Measured) -> tuple[Label, str]:
    documents, tokens = found.batch
    change = (
        f"{found.updates} updates on one batch ({documents} documents, {tokens:,} tokens) at the peak learning rate "
        f"changed its loss from {found.first_loss:.4g} to {found.last_loss:.4g}"
    )
    if found.learns:
        return "checked", change
    if found.updates < UPDATES:
        return "warning", f"{change}; time was up before {UPDATES} updates, so this says little"
    rate = stage.recipe.train.learning_rate
    least = "half" if stage.recipe.loss.objective == "relations" else "nine tenths"
    return "warning", (
        f"{change}, more than {least} of it: train.learning_rate {rate:g} may be too low or too high, or the student "
        "starts close to its teacher"
    )


def _disk(recipe: Distillation, stages: Sequence[PlannedStage], sample: Sample, room: Room) -> tuple[Label, str]:
    """What the run folder will hold, beside what is free.

    Raises:
        SystemProblem: it does not fit.
    """
    out, known = Path(recipe.out), sample.lengths
    parts: dict[str, float] = {}
    if recipe.data.corpus is None:
        vocab_size = stages[0].plan.tokenizer.vocab_size
        parts["corpus"] = corpus_bytes(known.documents * known.mean, known.documents, vocab_size=vocab_size)
    for stage in stages:
        for name, size in folder_bytes(stage.recipe, stage.plan).items():
            parts[name] = parts.get(name, 0.0) + size
    if len(stages) > 1:  # the students of the last stage are copied
        parts["models"] += folder_bytes(stages[-1].recipe, stages[-1].plan)["models"]
    needed = sum(parts.values())
    replaced = [*RUN_PARTS, STAGES, *(["corpus"] if "corpus" in parts else [])]
    listed = ", ".join(f"{name} {shown_size(size)}" for name, size in parts.items())
    sentence = f"disk: at most {shown_size(needed)} in {out} ({listed}), by shapes and the length of the data"
    held = held_bytes(*(out / name for name in replaced))
    ways_out = "choose another out folder, or lower train.keep_checkpoints"
    return "planned", room.require(out, needed, held=held, what=sentence, ways_out=ways_out)


def _written(recipe: Distillation, stages: Sequence[PlannedStage]) -> str:
    names = list(stages[-1].plan.students)
    models = "model/" if len(names) == 1 else ", ".join(f"model/{name}/" for name in names)
    corpus = "" if recipe.data.corpus is not None else "corpus/, "
    if len(stages) > 1:
        each = f"stages/1/ to stages/{len(stages)}/ (a run folder each)"
        return f"written into {recipe.out}: {corpus}{each}, {models} and report.html"
    return f"written into {recipe.out}: {corpus}checkpoints/, metrics.jsonl, {models} and report.html"


def _hours(seconds: float) -> str:
    days = f" ({seconds / 86400:,.1f} days)" if seconds > 172_800 else ""
    return duration(seconds) + days


def _big(number: float, unit: str) -> str:
    """A number with three digits, the prefix of its unit, and the unit."""
    prefix = ""
    for larger in ("k", "M", "G", "T", "P", "E", "Z"):
        if number < 1000:
            break
        number, prefix = number / 1000, larger
    return f"{number:.3g} {prefix}{unit}".rstrip()
