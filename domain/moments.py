"""Means and (co)variances over rows that come block by block: only the moments are kept in memory.

The updates are the pairwise ones of Chan, Golub and LeVeque (1979), in float64.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from domain.cancellation import cancellation_point


class Moments:
    """Mean and scatter of features. A row with a value that is not finite is left out.

    Parameters
    ----------
    features
        Number of features, `F`.

    Attributes
    ----------
    count
        Number of rows so far.
    mean : float64, [F]
        Mean of each feature.
    scatter : float64, [F, F]
        Sums of the products of deviations from the means.
    """

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean = np.zeros(features)
        self.scatter = np.zeros((features, features))

    def add(self, block: NDArray[np.generic]) -> None:
        """Add rows: the last axis holds the features, the other axes are samples."""
        rows = block.reshape(prod(block.shape[:-1]), block.shape[-1]).astype(np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            return
        total, mean = self.count + len(rows), rows.mean(axis=0)
        rows -= mean
        apart = mean - self.mean
        self.scatter += rows.T @ rows + np.outer(apart, apart) * (self.count * len(rows) / total)
        self.mean += apart * (len(rows) / total)
        self.count = total

    def add_all(self, blocks: Iterable[NDArray[np.generic]]) -> "Moments":
        """Add the rows of several blocks, and return the moments."""
        for block in blocks:
            cancellation_point()
            self.add(block)
        return self

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Return the unbiased covariance [F, F]; NaN for fewer than two rows."""
        return self.scatter / (self.count - 1) if self.count > 1 else np.full_like(self.scatter, np.nan)


@dataclass(frozen=True)
class GroupedMoments:
    """Number, mean and variance of the values of each group, element by element; NaN is left out.

    Attributes
    ----------
    count : int32, [G, …]
        Number of values; zeros at first.
    mean : float64, [G, …]
        Mean of the values; zeros at first.
    squares : float64, [G, …]
        Sum of squared deviations from the mean; zeros at first.
    """

    count: NDArray[np.int32]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    def add(self, block: NDArray[np.floating], groups: NDArray[np.int64]) -> None:
        """Add rows [R, …] of the given groups [R]; rows of negative groups are left out."""
        for group in np.unique(groups[groups >= 0]):
            cancellation_point()
            values = block[groups == group].astype(np.float64)
            there = ~np.isnan(values)
            n = there.sum(axis=0)
            total, most = self.count[group] + n, np.maximum(n, 1)
            with np.errstate(invalid="ignore"):  # infinite values make NaN of the deviations
                part = values.sum(axis=0, where=there) / most
                apart = np.where(n > 0, part - self.mean[group], 0.0)
                share = n / np.maximum(total, 1)
                self.squares[group] += ((values - part) ** 2).sum(axis=0, where=there)
                self.squares[group] += apart**2 * self.count[group] * share
                self.mean[group] += apart * share
            self.count[group] = total

    def variance(self, group: int) -> NDArray[np.float64]:
        """Return the unbiased variance of a group; NaN for fewer than two values."""
        count = self.count[group]
        return np.where(count > 1, self.squares[group] / np.maximum(count - 1, 1), np.nan)


def in_step(
    first: Iterable[NDArray[np.generic]], second: Iterable[NDArray[np.generic]]
) -> Iterator[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    """Yield blocks of two arrays with the same rows of their first axis, however each array is cut into blocks.

    Raises
    ------
    ValueError
        If one array has more rows than the other.
    """
    seconds = iter(second)
    waiting: NDArray[np.generic] | None = None
    for block in first:
        start = 0
        while start < len(block):
            if waiting is None or not len(waiting):
                waiting = next(seconds, None)
                if waiting is None:
                    raise ValueError("the first array has more rows than the second")
            rows = min(len(waiting), len(block) - start)
            yield block[start : start + rows], waiting[:rows]
            start, waiting = start + rows, waiting[rows:]
    if (waiting is not None and len(waiting)) or any(len(block) for block in seconds):
        raise ValueError("the second array has more rows than the first")


def joined(
    first: Iterable[NDArray[np.generic]], second: Iterable[NDArray[np.generic]]
) -> Iterator[NDArray[np.generic]]:
    """Yield blocks of two arrays in step, the features of the first before those of the second, in float64."""
    for one, other in in_step(first, second):
        yield np.concatenate((one, other), axis=-1, dtype=np.float64)
