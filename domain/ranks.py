"""Ranks, and correlation by ranks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from domain.errors import require

Floats = NDArray[np.float64]


def ranks(values: NDArray[np.floating]) -> Floats:
    """Return ranks from 1 on; equal values share the mean of their ranks."""
    ordered = np.sort(values)
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray((below + up_to + 1) / 2)


def spearman(a: Sequence[float] | NDArray[np.floating], b: Sequence[float] | NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation.

    NaN for fewer than 2 pairs, or if all values on one side are equal.

    Parameters
    ----------
    a, b
        Finite, of one length.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    require(
        left.ndim == 1 and left.shape == right.shape,
        f"a and b must be of one length, got {left.shape} and {right.shape}",
    )
    require(bool(np.isfinite(left).all() and np.isfinite(right).all()), "a and b must be finite")
    if len(left) < 2:
        return float("nan")
    x, y = (ranks(side) - (len(side) + 1) / 2 for side in (left, right))
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else float("nan")
