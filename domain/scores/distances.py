"""Distances between trajectories of latents: between the means of conditions, and to the nearest trials and states.

Everything is computed in one pass or two over blocks of trials, so memory does not grow with the number of trials.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from domain.cancellation import cancellation_point
from domain.errors import NoValues, NoVariance

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Metric = Literal["euclidean", "cosine"]

LEAST_VARIANCE = 1e-6
"""Least variance of a direction, relative to the largest. Directions with less carry only noise, and are left out."""
LEAST_COMMON_BINS = 0.5
"""A trial is compared if it has values in at least this share of the bins of the given trial."""


class Trajectories(Protocol):
    """Trials of `bins` states each, a state being `components` numbers."""

    @property
    def bins(self) -> int:
        """Return the number of states of a trial."""

    @property
    def components(self) -> int:
        """Return the number of components of a state."""

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield the rows in order, some at a time, each block with values [rows, bins, components]."""


@dataclass(frozen=True)
class Distances:
    """Distances between conditions.

    Attributes
    ----------
    overall
        [C, C], root mean square over the bins that both conditions have; NaN where they have none.
    by_bin
        [bins, C, C].
    bins
        Number of bins.
    dimensions
        Number of dimensions of the space; for a Mahalanobis distance, of those with variance.
    """

    overall: Floats
    by_bin: Floats
    bins: int
    dimensions: int


def condition_distances(
    trajectories: Trajectories, codes: NDArray[np.int64], *, mahalanobis: bool, unbiased: bool
) -> Distances:
    """Return the distances between the mean trajectories of conditions.

    In every bin the means of two conditions lie apart by ``|m - m'|``, and the distance is the root of the mean of its square
    over bins. A Mahalanobis distance is taken after whitening with the covariance of single trials around the mean of their
    condition and bin, pooled.

    A mean of few trials is noisy, so the square is too large by ``tr(S)/n + tr(S')/n'`` on average (Walther et al. 2016,
    NeuroImage 137, Reliability of dissimilarity measures). With `unbiased`, this is subtracted, with S from the trials
    themselves: the mean of the cross-validated ``(m_A - m'_A)·(m_B - m'_B)`` over all ways to let A and B be single different
    trials. It may be below 0, and then the distance is, too: ``sign(d²)·√|d²|``, as in Willett et al. 2020 (Cell 181).

    Parameters
    ----------
    trajectories
        Trials of C conditions; bins with a value that is not finite are left out.
    codes
        [rows], condition of each row, 0 … C - 1, or -1.
    mahalanobis, unbiased
        The kind of distance.

    Raises
    ------
    NoValues
        If no bin has values.
    NoVariance
        If `mahalanobis` is requested and no condition has two trials that differ.
    """
    conditions = int(codes.max()) + 1
    centre = centre_of(trajectories)
    whitening = None
    if mahalanobis:
        whitening = _whitening(_Sums.of(trajectories, codes, conditions, centre, with_covariance=True))
    sums = _Sums.of(trajectories, codes, conditions, centre, whitening=whitening)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.values / sums.number[:, :, None]
        spread = (sums.squares - sums.number * np.square(means).sum(2)) / (sums.number - 1)
        of_noise = np.where(sums.number > 1, spread / sums.number, np.nan)
    squared = np.empty((means.shape[1], conditions, conditions))
    for code in range(conditions):
        cancellation_point()
        apart = means - means[code]
        squared[:, code] = np.einsum("ctd,ctd->tc", apart, apart)
    if unbiased:
        squared -= of_noise.T[:, :, None] + of_noise.T[:, None, :]
        same = np.arange(conditions)
        squared[:, same, same] = np.where(np.isnan(squared[:, same, same]), np.nan, 0.0)
    known = np.isfinite(squared)
    with np.errstate(invalid="ignore"):
        overall = np.where(known, squared, 0.0).sum(0) / known.sum(0)
    return Distances(_root(overall), _root(squared), means.shape[1], means.shape[2])


def centre_of(trajectories: Trajectories) -> Floats:
    """Return a state amid the others: sums of squares around it lose no digits to a common offset.

    Raises
    ------
    NoValues
        If no state is finite.
    """
    for _, values in trajectories.blocks():
        known = values[np.isfinite(values).all(2)]
        if len(known):
            return np.asarray(known.mean(0))
    raise NoValues("no bin of the selected trials has values")


@dataclass(frozen=True)
class _Sums:
    """Sums over trials, and over everything the products of components."""

    number: Floats  # [C, bins], trials
    values: Floats  # [C, bins, D], states
    squares: Floats  # [C, bins], squared lengths
    products: Floats | None  # [D, D]

    @classmethod
    def of(
        cls,
        trajectories: Trajectories,
        codes: NDArray[np.int64],
        conditions: int,
        centre: Floats,
        *,
        whitening: Floats | None = None,
        with_covariance: bool = False,
    ) -> "_Sums":
        dimensions = trajectories.components if whitening is None else whitening.shape[1]
        number = np.zeros((conditions, trajectories.bins))
        total = np.zeros((*number.shape, dimensions))
        squares = np.zeros_like(number)
        products = np.zeros((dimensions, dimensions)) if with_covariance else None
        for rows, values in trajectories.blocks():
            known = np.isfinite(values).all(2) & (codes[rows] >= 0)[:, None]
            states = np.where(known[:, :, None], values - centre, 0.0)
            if whitening is not None:
                states = states @ whitening
            if products is not None:
                flat = states.reshape(-1, dimensions)
                products += flat.T @ flat
            for code in np.unique(codes[rows][codes[rows] >= 0]):
                cancellation_point()
                mine = codes[rows] == code
                number[code] += known[mine].sum(0)
                total[code] += states[mine].sum(0)
                squares[code] += np.square(states[mine]).sum((0, 2))
        return cls(number, total, squares, products)


def _whitening(sums: _Sums) -> Floats:
    """Return the matrix [D, r] that gives states a pooled covariance of 1 around their means.

    Directions without variance are left out.
    """
    assert sums.products is not None
    known = sums.number > 0
    free = sums.number.sum() - known.sum()
    scaled = sums.values[known] / np.sqrt(sums.number[known])[:, None]
    covariance = (sums.products - scaled.T @ scaled) / max(free, 1.0)
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > LEAST_VARIANCE * variances[-1]
    if free < 1 or variances[-1] <= 0:
        raise NoVariance("mahalanobis needs conditions of two trials or more that differ")
    return np.asarray(directions[:, kept] / np.sqrt(variances[kept]))


def _root(squared: Floats) -> Floats:
    return np.asarray(np.sign(squared) * np.sqrt(np.abs(squared)))


@dataclass
class Nearest:
    """The k nearest candidates so far.

    Attributes
    ----------
    k
        How many are kept.
    distances, positions
        In order of distance; of equally near candidates, the first comes first.
    """

    k: int
    distances: Floats = field(default_factory=lambda: np.empty(0))
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, distances: Floats, positions: NDArray[np.int64]) -> None:
        """Add candidates that come after all earlier ones. A distance of NaN excludes a candidate."""
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
    trajectories: Trajectories, candidates: Flags, vectors: Floats, *, k: int, metric: Metric
) -> list[Nearest]:
    """Return the states nearest to each of some vectors, by comparing all states.

    Parameters
    ----------
    trajectories
        Trials whose states are compared; states that are not finite are left out.
    candidates
        bool [rows], trials that count.
    vectors
        [V, D].
    k
        How many for each vector.
    metric
        Euclidean distance, or one minus the cosine of the angle.

    Returns
    -------
    list[Nearest]
        For each vector; positions are ``row · bins + bin``.
    """
    found = [Nearest(k) for _ in vectors]
    bins = np.arange(trajectories.bins)
    for rows, values in _candidate_blocks(trajectories, candidates):
        states = values.reshape(-1, trajectories.components)
        positions = (rows[:, None] * trajectories.bins + bins).ravel()
        lengths = np.linalg.norm(states, axis=1) if metric == "cosine" else None
        for nearest, vector in zip(found, vectors, strict=True):
            cancellation_point()
            if lengths is None:
                apart = states - vector
                distances = np.sqrt(np.einsum("sd,sd->s", apart, apart))
            else:
                with np.errstate(invalid="ignore", divide="ignore"):
                    distances = 1.0 - states @ vector / (lengths * np.linalg.norm(vector))
            nearest.add(distances, positions)
    return found


def nearest_trials(
    trajectories: Trajectories, candidates: Flags, trajectory: Floats, *, k: int, metric: Metric
) -> Nearest:
    """Return the trials whose trajectories are nearest to a given one; positions are rows.

    The distance is the root mean square of the distance of their states, over the bins in which both have values. By cosine, it
    is one minus the cosine of the angle between both trajectories as vectors of these bins. Trials with values in fewer than
    half of the trajectory's bins are left out.

    Parameters
    ----------
    trajectories, candidates, k, metric
        As for `nearest_states`.
    trajectory
        [bins, D].
    """
    found = Nearest(k)
    known_in_it = np.asarray(np.isfinite(trajectory).all(1), np.bool_)
    for rows, values in _candidate_blocks(trajectories, candidates):
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


def _candidate_blocks(
    trajectories: Trajectories, candidates: Flags
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Yield the rows that count with their values, block by block."""
    for rows, values in trajectories.blocks():
        mine = candidates[rows]
        if mine.all():
            yield np.arange(rows.start, rows.stop), values
        elif mine.any():
            yield np.arange(rows.start, rows.stop)[mine], values[mine]
