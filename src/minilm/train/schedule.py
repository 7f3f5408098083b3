"""Learning rate schedule: linear warmup, then linear decay to zero.

In: a step. Out: the factor on the peak learning rate. A pure function, so it has no state to restore on resume.
"""

from __future__ import annotations


def linear_schedule(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Factor for update `step` (0-based): rises to 1 at the end of warmup, reaches 0 after the last update.

    As in BERT: the first update of a warmup has factor 0.
    """
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))
