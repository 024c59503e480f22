"""Wider bins: counts are summed, everything else is averaged."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.time_axis import TimeAxis, time_axis
from api.arrays.transformations.trials import LENGTH, floating, recorded_bins
from api.arrays.transformations.wording import described, refusal

COUNTS = "spikes"
"""Units of spikes per bin."""
_TOLERANCE = 1e-6


def rebin(array: LabelledArray, width_s: float, surroundings: Surroundings) -> LabelledArray:
    """Several bins as one, from the first selected bin on; what is left at the end is dropped.

    Spike counts are summed and stay integers if they are; a sum that is not whole is NaN, or 0 of integers, as past a trial's
    end. Everything else is averaged over the bins that are there.

    Parameters
    ----------
    array
        With a time axis.
    width_s
        Of the new bins, in seconds: a whole multiple of the width they have.
    surroundings
        Of the request.

    Raises
    ------
    Invalid
        If the array has no time axis, or the width is no multiple, or longer than what is selected.
    """
    time = time_axis(array, surroundings, "rebin_s")
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
        raise refusal(
            "rebin_s",
            f"expected a whole multiple of the bin width, {time.width_s:g} s; got {width_s:g} s",
            "nearest are " + " and ".join(f"{number * time.width_s:g}" for number in nearest),
        )
    if factor > time.bins:
        raise refusal(
            "rebin_s",
            f"expected at most {time.bins * time.width_s:g} s, what is selected of a trial; got {width_s:g} s",
            f"it is in seconds: did you mean {width_s / 1000:g}?" if factor >= 1000 else "it is in seconds",
        )
    return factor


def _wide_enough(dtype: np.dtype[Any], factor: int) -> np.dtype[Any]:
    """An integer type that holds a sum of so many of another."""
    if dtype.kind == "i":
        return np.dtype(np.int64)
    return np.dtype(np.min_scalar_type(min(int(np.iinfo(dtype).max) * factor, 2**64 - 1)))


def _folded(block: NDArray[Any], axis: int, factor: int) -> NDArray[Any]:
    """The time axis as two: new bins, and the old ones in each."""
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
    """Blocks of whole multiples of some rows; what is left at the end is dropped."""
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
