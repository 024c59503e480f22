"""Smoothing along time by a Gaussian."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from api.arrays.labelled import LabelledArray
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.time_axis import time_axis
from api.arrays.transformations.trials import floating
from api.arrays.transformations.wording import described, refusal

_TRUNCATE = 4.0
"""Standard deviations, after which the Gaussian is cut off."""
_MOST_BINS = 1000
"""Standard deviation, at most: the work of a bin grows with it."""


def smooth(array: LabelledArray, deviation_s: float, surroundings: Surroundings) -> LabelledArray:
    """Weighted means over the bins around each, weighted by a Gaussian and normalised over the bins that are there.

    So neither the edges of a trial nor NaN pull at their neighbours; what was NaN stays so.

    Parameters
    ----------
    array
        With a time axis.
    deviation_s
        Standard deviation of the Gaussian, in seconds; it is cut off at four of them.
    surroundings
        Of the request.

    Raises
    ------
    Invalid
        If the array has no time axis, or the Gaussian is wider than it.
    """
    time = time_axis(array, surroundings, "smooth_s")
    deviation = deviation_s / time.width_s
    widest = min(time.bins, _MOST_BINS)
    if deviation > widest:
        raise refusal(
            "smooth_s",
            f"expected at most {widest * time.width_s:g} s, {widest} bins; got {deviation_s:g} s",
            f"it is in seconds: did you mean {deviation_s / 1000:g}?",
        )
    source = floating(array)

    def blocks() -> Iterator[NDArray[Any]]:
        if time.axis == 0:
            return _in_pieces(source.blocks(), deviation)
        return (smoothed(block, deviation, time.axis) for block in source.blocks())

    return replace(
        source,
        description=described(array.description, f"smoothed by a Gaussian of {deviation_s:g} s"),
        attributes={**array.attributes, "smoothed_s": deviation_s},
        blocks=blocks,
    )


def smoothed(values: NDArray[Any], deviation: float, axis: int) -> NDArray[Any]:
    """Floating-point values smoothed along an axis, by a Gaussian with a standard deviation in bins."""
    if not values.size or _reach(deviation) == 0:  # no neighbour has weight; tiny deviations divide by zero
        return values
    there = np.isfinite(values)
    weights, filled = there, values
    if there.all():  # then the weights depend on time alone
        weights = np.ones([size if place == axis else 1 for place, size in enumerate(values.shape)])
    else:
        filled = np.where(there, values, 0.0)
    total, weight = (
        gaussian_filter1d(part, deviation, axis, output=np.float64, mode="constant", truncate=_TRUNCATE)
        for part in (filled, weights.astype(np.float64))
    )
    np.divide(total, weight, out=total, where=there)
    return np.where(there, total, values).astype(values.dtype)


def _reach(deviation: float) -> int:
    """Bins to either side that have weight."""
    return int(_TRUNCATE * deviation + 0.5)


def _in_pieces(blocks: Iterator[NDArray[Any]], deviation: float) -> Iterator[NDArray[Any]]:
    """Smooth along the axis by which blocks are cut: each piece is smoothed with as many bins around it as have weight."""
    reach = _reach(deviation)
    held: NDArray[Any] | None = None
    done = 0  # bins of what is held that are written already
    for block in blocks:
        held = block if held is None else np.concatenate((held, block))
        ready = len(held) - reach
        if ready > done:
            yield smoothed(held, deviation, 0)[done:ready]
            cut = max(0, ready - reach)
            held, done = held[cut:], ready - cut
    if held is not None and len(held) > done:
        yield smoothed(held, deviation, 0)[done:]
