"""Learning rate schedule: linear warmup, then linear decay to zero.

In: a step. Out: the factor on the peak learning rate. A pure function, so it has no state to restore on resume.
"""

from __future__ import annotations

from collections.abc import Sequence


def linear_schedule(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Factor for update `step` (0-based): rises to 1 at the end of warmup, reaches 0 after the last update.

    As in BERT: the first update of a warmup has factor 0.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def extension_note(extended_at: Sequence[int], steps: int) -> str:
    """What to say of a run of `steps` steps that had finished after each of `extended_at` and was made longer."""
    points = f"step{'s' if len(extended_at) > 1 else ''} {', '.join(f'{step:,}' for step in extended_at)}"
    return (
        f"extended at {points}: the learning rate had decayed to zero there and continues on the schedule of "
        f"{steps:,} steps, so this is not one run of {steps:,} steps"
    )
