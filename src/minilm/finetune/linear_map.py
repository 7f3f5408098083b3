"""The start of a linear map from a model's pooled rows to the vectors of a teacher: the best one for some texts.

In: rows and vectors of the same texts. Out: weights and bias of the map with the least squared error.

N texts, E width of a row, W width of a vector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RIDGE = 1e-3  # of the mean variance of a dimension: few texts do not decide the directions in which rows hardly differ


def least_squares(
    rows_NE: NDArray[np.floating], vectors_NW: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit `vectors = rows @ weights.T + bias`; returns weights `[W, E]` and bias `[W]`, computed in float64."""
    rows, vectors = rows_NE.astype(np.float64), vectors_NW.astype(np.float64)
    mean_row, mean_vector = rows.mean(0), vectors.mean(0)
    rows -= mean_row
    squares_EE = rows.T @ rows
    ridge = _RIDGE * max(np.trace(squares_EE) / len(squares_EE), np.finfo(np.float32).tiny)
    weights_EW = np.linalg.solve(squares_EE + ridge * np.eye(len(squares_EE)), rows.T @ (vectors - mean_vector))
    return weights_EW.T, mean_vector - mean_row @ weights_EW
