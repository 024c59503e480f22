"""Means and covariances of features, over rows that come block by block: nothing is kept but the moments themselves.

Several arrays that are read in step are one of all their features: the covariances between them are blocks of the whole
(`in_step`).
"""

from collections.abc import Iterable, Iterator
from math import prod

import numpy as np
from numpy.typing import NDArray


class Moments:
    """Mean and scatter of features, in float64, by the pairwise update of Chan, Golub and LeVeque (1979).

    Rows with a value that is not finite are left out whole.

    Parameters
    ----------
    features
        Number of features, `F`.

    Attributes
    ----------
    count
        Rows so far.
    mean : float64, [F]
        Of each feature.
    scatter : float64, [F, F]
        Sums of the products of deviations from the means.
    """

    def __init__(self, features: int) -> None:
        self.count = 0
        self.mean = np.zeros(features)
        self.scatter = np.zeros((features, features))

    def add(self, block: NDArray[np.generic]) -> None:
        """Take in more rows: the last axis are the features, the others are samples."""
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
        """Take in the rows of several blocks; returns itself."""
        for block in blocks:
            self.add(block)
        return self

    @property
    def covariance(self) -> NDArray[np.float64]:
        """[F, F], unbiased; NaN of fewer than two rows."""
        return self.scatter / (self.count - 1) if self.count > 1 else np.full_like(self.scatter, np.nan)


def in_step(
    first: Iterable[NDArray[np.generic]], second: Iterable[NDArray[np.generic]]
) -> Iterator[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    """Blocks of two arrays with the same rows of their first axis, however each is cut into blocks.

    Raises
    ------
    ValueError
        If one has more rows than the other.
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
    """Blocks of two arrays in step with the features of the first before those of the second, in float64."""
    for one, other in in_step(first, second):
        yield np.concatenate((one, other), axis=-1, dtype=np.float64)
