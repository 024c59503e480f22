"""Smoothing along time by a Gaussian."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from api.arrays.labelled import LabelledArray
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.time_axis import time_axis
from api.arrays.transformations.trials import floating
from api.arrays.transformations.wording import described, refusal
from domain.smoothing import smoothed, smoothed_blocks

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
            return smoothed_blocks(source.blocks(), deviation)
        return (smoothed(block, deviation, time.axis) for block in source.blocks())

    return replace(
        source,
        description=described(array.description, f"smoothed by a Gaussian of {deviation_s:g} s"),
        attributes={**array.attributes, "smoothed_s": deviation_s},
        blocks=blocks,
    )
