"""The floor of a measurement: what the units of this processor can do, from registers alone.

In: a number of threads. Out: 10^9 operations a second of each precision.
"""

from __future__ import annotations

from minilm.kernels.encoder import chosen_isa, library_reason, peak

_TRIES = 3  # another process may disturb one


def unit_peaks(threads: int) -> dict[str, float]:
    """The peak of each precision that the units have; none without the kernels."""
    if library_reason():
        return {}
    found = {name: max(peak(name, threads) for _ in range(_TRIES)) for name in ("fp32", "bf16", "int8")}
    return {name: value for name, value in found.items() if value}


def instruction_set() -> str | None:
    """What the kernels use; None without them."""
    return None if library_reason() else chosen_isa()
