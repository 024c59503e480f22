"""Gaussian smoothing along time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.cancellation import cancellation_point

Floats = NDArray[np.float64]

REACH_SDS = 4.0
"""Standard deviations after which the Gaussian is cut off."""
_ROWS_AT_ONCE = 64


def gaussian(distance_bins: NDArray[Any], sd_bins: float) -> Floats:
    """Return the weights exp(-d² / 2σ²) of bins at some distances."""
    return np.asarray(np.exp(-0.5 * np.square(distance_bins / sd_bins)))


def reach_of(sd_bins: float) -> int:
    """Return the number of bins to either side that have a weight."""
    return int(REACH_SDS * sd_bins + 0.5)


def smoothed(
    values: NDArray[Any],
    sd_bins: float,
    axis: int,
    *,
    recorded: NDArray[np.bool_] | None = None,
    reach: int | None = None,
) -> NDArray[Any]:
    """Return floating-point values smoothed along an axis: Gaussian means, normalised over the recorded bins.

    Neither the edges of a trial nor NaN pull at their neighbours. Values that are not recorded stay as they are.

    Parameters
    ----------
    values
        Any shape.
    sd_bins
        Standard deviation of the Gaussian, in bins.
    axis
        The axis of time.
    recorded
        bool, broadcastable to the values, whole along `axis`; by default the finite values.
    reach
        Number of bins on each side with a weight; by default four standard deviations.
    """
    reach = reach_of(sd_bins) if reach is None else reach
    if not values.size or reach == 0:  # no neighbour has weight; tiny deviations divide by zero
        return values
    there = np.isfinite(values) if recorded is None else recorded
    weights = there
    if there.all():  # then the weights depend on time alone
        weights = np.ones([size if place == axis else 1 for place, size in enumerate(values.shape)], bool)
    filled = np.where(there, values, 0.0)
    total, weight = (_weighted_sums(part, sd_bins, reach, axis) for part in (filled, weights))
    found = np.divide(total, weight, out=total, where=np.broadcast_to(there, total.shape))
    return np.where(there, found, values).astype(values.dtype)


def _weighted_sums(values: NDArray[Any], sd_bins: float, reach: int, axis: int) -> Floats:
    """Return Σ_s k(t - s) x_s along an axis: products with a band of the kernel's matrix, some rows of it at a time."""
    along = np.moveaxis(values, axis, 0).astype(np.float64)
    columns = along.reshape(len(along), -1)
    found = np.empty_like(columns)
    for start in range(0, len(columns), rows := max(reach, _ROWS_AT_ONCE)):
        cancellation_point()
        stop = min(start + rows, len(columns))
        first, last = max(0, start - reach), min(len(columns), stop + reach)
        distance = np.abs(np.arange(start, stop)[:, None] - np.arange(first, last))
        kernel = np.where(distance <= reach, gaussian(distance, sd_bins), 0.0)
        np.matmul(kernel, columns[first:last], out=found[start:stop])
    return np.moveaxis(found.reshape(along.shape), 0, axis)


def smoothed_blocks(blocks: Iterator[NDArray[Any]], sd_bins: float) -> Iterator[NDArray[Any]]:
    """Yield values smoothed along the first axis, by which the blocks are cut.

    Each piece is smoothed with as many bins around it as have weight.
    """
    reach = reach_of(sd_bins)
    held: NDArray[Any] | None = None
    done = 0  # bins of `held` that have been yielded
    for block in blocks:
        held = block if held is None else np.concatenate((held, block))
        ready = len(held) - reach
        if ready > done:
            yield smoothed(held, sd_bins, 0)[done:ready]
            cut = max(0, ready - reach)
            held, done = held[cut:], ready - cut
    if held is not None and len(held) > done:
        yield smoothed(held, sd_bins, 0)[done:]
