"""The trials and states nearest to a given one: exact, in one pass over the blocks of an array."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from api.analyses.trajectories import Trajectories

Floats = NDArray[np.float64]
Metric = Literal["euclidean", "cosine"]

LEAST_COMMON_BINS = 0.5
"""Trajectories are compared that have values in this share of the bins of the asked one."""


@dataclass
class Nearest:
    """The k nearest so far.

    Attributes
    ----------
    k
        How many are kept.
    distances, positions
        In order of distance; of equal ones the first comes first.
    """

    k: int
    distances: Floats = field(default_factory=lambda: np.empty(0))
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, distances: Floats, positions: NDArray[np.int64]) -> None:
        """More candidates, that come after all before; NaN for those that are none."""
        if len(self.distances) == self.k:
            closer = np.flatnonzero(distances < self.distances[-1])
        else:
            closer = np.flatnonzero(np.isfinite(distances))
        if len(closer) > self.k:
            least = np.partition(distances[closer], self.k - 1)[self.k - 1]
            closer = closer[distances[closer] <= least]
        distances = np.concatenate((self.distances, distances[closer]))
        positions = np.concatenate((self.positions, positions[closer]))
        order = np.argsort(distances, kind="stable")[: self.k]
        self.distances, self.positions = distances[order], positions[order]


def nearest_states(
    trajectories: Trajectories,
    candidates: NDArray[np.bool_],
    vectors: Floats,
    k: int,
    metric: Metric,
    left_out: int | None = None,
) -> list[Nearest]:
    """The states nearest to each of some vectors.

    Parameters
    ----------
    trajectories
        Whose states are looked through; those that are not finite are left out.
    candidates
        [rows] trials that count.
    vectors
        [V, D].
    k
        How many of each.
    metric
        Euclidean distance, or one minus the cosine of the angle.
    left_out
        Row of a trial that does not count.

    Returns
    -------
    list[Nearest]
        For each vector; positions are ``row · bins + bin``.
    """
    found = [Nearest(k) for _ in vectors]
    for rows, values in _counting(trajectories, candidates, left_out):
        states = values.reshape(-1, trajectories.components)
        bins = np.arange(trajectories.bins)
        positions = (rows[:, None] * trajectories.bins + bins).ravel()
        lengths = np.linalg.norm(states, axis=1) if metric == "cosine" else None
        for nearest, vector in zip(found, vectors, strict=True):
            if lengths is None:
                apart = states - vector
                distances = np.sqrt(np.einsum("sd,sd->s", apart, apart))
            else:
                with np.errstate(invalid="ignore", divide="ignore"):
                    distances = 1.0 - states @ vector / (lengths * np.linalg.norm(vector))
            nearest.add(distances, positions)
    return found


def nearest_trials(
    trajectories: Trajectories,
    candidates: NDArray[np.bool_],
    trajectory: Floats,
    k: int,
    metric: Metric,
    left_out: int | None = None,
) -> Nearest:
    """The trials whose trajectories are nearest to one.

    The distance is the root mean square, over the bins where both have values, of the distance of their states; by cosine, one
    minus the cosine of the angle between both trajectories as vectors of those bins. Trials with values in fewer than half of
    its bins are left out.

    Parameters
    ----------
    trajectories, candidates, k, metric, left_out
        As in `nearest_states`.
    trajectory
        [bins, D].

    Returns
    -------
    Nearest
        Positions are rows.
    """
    found = Nearest(k)
    known_in_it = np.asarray(np.isfinite(trajectory).all(1), np.bool_)
    for rows, values in _counting(trajectories, candidates, left_out):
        common = np.isfinite(values).all(2) & known_in_it
        theirs = np.where(common[:, :, None], values, 0.0)
        its = np.where(common[:, :, None], trajectory, 0.0)
        number = common.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            if metric == "euclidean":
                distances = np.sqrt(np.square(theirs - its).sum((1, 2)) / number)
            else:
                lengths = np.sqrt(np.square(theirs).sum((1, 2)) * np.square(its).sum((1, 2)))
                distances = 1.0 - (theirs * its).sum((1, 2)) / lengths
        enough = (number > 0) & (number >= LEAST_COMMON_BINS * known_in_it.sum())
        found.add(np.where(enough, distances, np.nan), rows)
    return found


def trajectory_of(trajectories: Trajectories, row: int) -> Floats:
    """[bins, D] of one row."""
    for rows, values in trajectories.blocks():
        if row < rows.stop:
            trajectory: Floats = values[row - rows.start]
            return trajectory
    raise IndexError(row)


def _counting(
    trajectories: Trajectories, candidates: NDArray[np.bool_], left_out: int | None
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """The rows that count, with their values, block by block."""
    counts = candidates.copy()
    if left_out is not None:
        counts[left_out] = False
    for rows, values in trajectories.blocks():
        mine = counts[rows]
        if mine.all():
            yield np.arange(rows.start, rows.stop), values
        elif mine.any():
            yield np.arange(rows.start, rows.stop)[mine], values[mine]
