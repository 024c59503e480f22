"""Transformations along time: smoothing by a Gaussian, and wider bins."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.axes import LENGTH, TimeAxis, floating, recorded_bins, time_axis
from api.arrays.groups import ReadContext
from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.messages import described, invalid_parameter
from domain.smoothing import smoothed, smoothed_blocks

COUNTS = "spikes"
"""Units of spikes per bin."""
_MOST_BINS = 1000
"""Largest standard deviation: the work of a bin grows with it."""
_TOLERANCE = 1e-6


def smooth(array: LabelledArray, deviation_s: float, context: ReadContext) -> LabelledArray:
    """Return weighted means over the bins around each bin; values that are NaN stay NaN.

    Parameters
    ----------
    array
        With a time axis.
    deviation_s
        Standard deviation of the Gaussian, in seconds; it is cut off at four of them.
    context
        Context of the request.

    Raises
    ------
    Invalid
        If the array has no time axis, or the Gaussian is wider than it.
    """
    time = time_axis(array, context, "smooth_s")
    deviation = deviation_s / time.width_s
    widest = min(time.bins, _MOST_BINS)
    if deviation > widest:
        raise invalid_parameter(
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


def rebin(array: LabelledArray, width_s: float, context: ReadContext) -> LabelledArray:
    """Return the array in wider bins, from the first selected bin on; bins at the end that fill no wider bin are dropped.

    Spike counts are summed and stay integers if they are. A sum over bins of which some were not recorded is NaN, or 0 of
    integers. Everything else is averaged over the recorded bins.

    Parameters
    ----------
    array
        With a time axis.
    width_s
        Width of the new bins, in seconds: a multiple of the present width.
    context
        Context of the request.

    Raises
    ------
    Invalid
        If the array has no time axis, or the width is no multiple, or longer than what is selected.
    """
    time = time_axis(array, context, "rebin_s")
    factor = _factor(width_s, time)
    bins = time.bins // factor
    is_count, is_integer = array.units == COUNTS, array.dtype.kind in "ui"
    keeps_integer = is_count and is_integer
    source = array if keeps_integer else floating(array)
    dtype = _wide_enough(array.dtype, factor) if keeps_integer else source.dtype
    lengths = recorded_bins(array) if keeps_integer else None

    def blocks() -> Iterator[NDArray[Any]]:
        row = 0
        for block in _cut_to_multiples(source.blocks(), factor) if time.axis == 0 else source.blocks():
            made = (_sums if is_count else _means)(_folded(block, time.axis, factor), time.axis + 1, dtype)
            if lengths is not None:
                ends = lengths[row : row + len(block), None] // factor
                made[np.arange(bins) >= ends] = 0
            row += len(block)
            yield made

    return replace(
        source,
        shape=tuple(bins if place == time.axis else size for place, size in enumerate(array.shape)),
        dtype=dtype,
        coordinates=tuple(_rebinned(one, time, factor, is_count) for one in array.coordinates),
        description=described(
            array.description, f"{'summed' if is_count else 'averaged'} over {factor} bins"
        ),
        attributes={
            **array.attributes,
            "bin_width_s": time.width_s * factor,
            "rebinned": "sum" if is_count else "mean",
            "bins_dropped": time.bins - bins * factor,
        },
        blocks=blocks,
    )


def _factor(width_s: float, time: TimeAxis) -> int:
    exact = width_s / time.width_s
    factor = round(min(exact, 2.0**40))
    if factor < 1 or abs(exact - factor) > _TOLERANCE * factor:
        nearest = sorted({max(1, int(np.floor(min(exact, 2.0**40)))), factor + (factor <= exact)})
        raise invalid_parameter(
            "rebin_s",
            f"expected a whole multiple of the bin width, {time.width_s:g} s; got {width_s:g} s",
            "nearest are " + " and ".join(f"{number * time.width_s:g}" for number in nearest),
        )
    if factor > time.bins:
        raise invalid_parameter(
            "rebin_s",
            f"expected at most {time.bins * time.width_s:g} s, what is selected of a trial; got {width_s:g} s",
            f"it is in seconds: did you mean {width_s / 1000:g}?" if factor >= 1000 else "it is in seconds",
        )
    return factor


def _wide_enough(dtype: np.dtype[Any], factor: int) -> np.dtype[Any]:
    """Return an integer type that holds a sum of `factor` values of another type."""
    if dtype.kind == "i":
        return np.dtype(np.int64)
    return np.dtype(np.min_scalar_type(min(int(np.iinfo(dtype).max) * factor, 2**64 - 1)))


def _folded(block: NDArray[Any], axis: int, factor: int) -> NDArray[Any]:
    """Return a block with the time axis as two axes: new bins, and the old bins in each."""
    bins = block.shape[axis] // factor
    kept = block[(slice(None),) * axis + (slice(bins * factor),)]
    return kept.reshape(*block.shape[:axis], bins, factor, *block.shape[axis + 1 :])


def _sums(values: NDArray[Any], axis: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    accumulator = dtype if dtype.kind in "ui" else np.dtype(np.float64)
    return np.asarray(values.sum(axis=axis, dtype=accumulator)).astype(dtype)


def _means(values: NDArray[Any], axis: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    there = ~np.isnan(values)
    number = there.sum(axis=axis)
    total = values.sum(axis=axis, dtype=np.float64, where=there)
    means = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    found: NDArray[Any] = means.astype(dtype)
    return found


def _cut_to_multiples(blocks: Iterator[NDArray[Any]], factor: int) -> Iterator[NDArray[Any]]:
    """Yield blocks whose lengths are multiples of a number of rows; the rest at the end is dropped."""
    held: NDArray[Any] | None = None
    for block in blocks:
        held = block if held is None or not len(held) else np.concatenate((held, block))
        whole = len(held) // factor * factor
        if whole:
            yield held[:whole]
        held = held[whole:]


def _rebinned(coordinate: Coordinate, time: TimeAxis, factor: int, is_count: bool) -> Coordinate:
    if coordinate.dim == time.dim:
        return coordinate.taken(slice(0, time.bins // factor * factor, factor))
    if coordinate.name == LENGTH and time.axis == 1:
        # a sum needs all of its bins, a mean any of them
        return replace(coordinate, values=(coordinate.values + (0 if is_count else factor - 1)) // factor)
    return coordinate
