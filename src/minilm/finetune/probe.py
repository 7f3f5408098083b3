"""A probe of a distillation: a copy of a student is fine-tuned on a few rows of a GLUE task and scored.

In: the probe section of a recipe, a student. Out: the score of the copy on the held-out rows. Nothing is written, and
neither the student nor any random stream changes.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence

import numpy as np

from minilm.errors import UsageError
from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.start import with_fresh_head
from minilm.finetune.text import ClassificationTask
from minilm.model.encoder import Encoder
from minilm.randomness import derived_seed, generator
from minilm.recipe import FinetuneTrainSection, ProbeSection
from minilm.tasks.text.glue import GLUE, find_glue_task
from minilm.tasks.text.rows import TextRow, read_text_rows
from minilm.tasks.text.settings import TextSettings
from minilm.text.tokenizer import Tokenizer
from minilm.train.distributed import kept_generators
from minilm.train.loop import DivergedError, TrainSettings, train
from minilm.train.settings import train_settings

logger = logging.getLogger(__name__)


class GlueProbe:
    """A GLUE task with its rows read, the same for every student and step."""

    def __init__(self, section: ProbeSection, tokenizer: Tokenizer, *, seed: int, max_tokens: int) -> None:
        """Read and tokenize the rows, of a file with more than `max_rows` as many, drawn by the seed.

        Args:
            section: of the recipe.
            tokenizer: of the students.
            seed: decides rows, head and order.
            max_tokens: positions that all students have.

        Raises:
            UsageError: there is no such task or file.
            DataError: a file is damaged.
        """
        spec = find_glue_task(section.task)
        if spec is None:
            raise UsageError(f"probe.task is {section.task!r}, expected one of {', '.join(GLUE)}")
        self._section, self._seed = section, seed
        found = {"train": read_text_rows(section.train, spec), "dev": read_text_rows(section.dev, spec)}
        rows = {part: _drawn(read, section.max_rows, seed, part) for part, read in found.items()}
        dev = {"dev": rows["dev"]}
        max_tokens = min(max_tokens, TextSettings.max_tokens)
        self._task = ClassificationTask(spec, rows["train"], dev, tokenizer, max_tokens=max_tokens)
        self.description = (
            f"probe {spec.name}: {_of(rows['train'], found['train'])} training rows, "
            f"{_of(rows['dev'], found['dev'])} rows to score; every {section.every:,} steps a copy of each student is "
            f"fine-tuned for {section.steps:,} steps"
        )

    def score(self, student: Encoder) -> dict[str, float]:
        """Fine-tune a copy and score it: the main metric of the task, NaN if the copy diverges."""
        device = next(student.parameters()).device
        encoder = copy.deepcopy(student)
        encoder.attention_dropout = FinetuneTrainSection.attention_dropout
        with kept_generators():  # torch draws for new modules before they are initialized
            model = with_fresh_head(encoder, self._task, seed=derived_seed(self._seed, "probe")).to(device)
        self._task.prepare(model)
        objective = FinetuneObjective(
            model,
            self._task,
            batch_size=FinetuneTrainSection.batch_size,
            tokens_per_batch=FinetuneTrainSection.tokens_per_batch,
            seed=self._seed,
        )
        try:
            numbers = train(objective, self._settings(), is_inner=True)
            if not math.isfinite(numbers["heldout_loss"]):
                raise DivergedError(f"its loss on the held-out rows is {numbers['heldout_loss']}")
        except DivergedError as error:  # the run itself goes on
            logger.warning(
                "probe %s: no score, the copy of the student diverged (%s); lower probe.learning_rate (%g)",
                self._section.task,
                error,
                self._section.learning_rate,
            )
            return {self._task.main_metric: math.nan}
        return {self._task.main_metric: numbers[self._task.main_metric]}

    def _settings(self) -> TrainSettings:
        """Those of any fine-tuning, except for length and learning rate."""
        steps = self._section.steps
        section = FinetuneTrainSection(steps=steps, learning_rate=self._section.learning_rate)
        warmup = section.num_warmup_steps(steps)
        label = f"probe {self._section.task}"
        return train_settings(section, steps=steps, warmup_steps=warmup, eval_every=0, seed=self._seed, label=label)


def _drawn(rows: Sequence[TextRow], count: int, seed: int, part: str) -> list[TextRow]:
    """At most `count` rows, in the order of the file."""
    if len(rows) <= count:
        return list(rows)
    chosen = generator(seed, "probe rows", part).permutation(len(rows))[:count]
    return [rows[index] for index in np.sort(chosen)]


def _of(used: Sequence[TextRow], found: Sequence[TextRow]) -> str:
    return f"{len(used):,} of {len(found):,}" if len(used) < len(found) else f"{len(used):,}"
