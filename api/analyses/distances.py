"""Distances between the mean trajectories of conditions, from sums that are kept while the trials pass by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from api.analyses.trajectories import Trajectories
from api.arrays.transformations.wording import refusal

Floats = NDArray[np.float64]

MOST_SUMS = 10_000_000
"""Conditions × bins × components: 80 MB of sums."""
MOST_COMPONENTS = 500
"""For a covariance."""
LEAST_VARIANCE = 1e-6
"""Of a direction, relative to the largest; noise in directions that have less says nothing, and is left out."""


@dataclass(frozen=True)
class Distances:
    """Distances between conditions.

    Attributes
    ----------
    overall
        [C, C] root mean square over the bins that both conditions have; NaN where they have none.
    by_bin
        [bins, C, C].
    bins
        How many there are.
    dimensions
        Of the space they are taken in; of a Mahalanobis distance those with variance.
    """

    overall: Floats
    by_bin: Floats
    bins: int
    dimensions: int


def condition_distances(
    trajectories: Trajectories, codes: NDArray[np.int64], *, mahalanobis: bool, unbiased: bool
) -> Distances:
    """Distances between the mean trajectories of conditions.

    In every bin the means of two conditions lie apart by ``|m - m'|``, and the distance is the root of the mean of its square
    over bins. A Mahalanobis distance is taken after whitening with the covariance of single trials around the mean of their
    condition and bin, pooled.

    A mean of few trials is noisy, so the square is too large by ``tr(S)/n + tr(S')/n'`` on average (Walther et al. 2016,
    NeuroImage 137, Reliability of dissimilarity measures). Unbiased, this is subtracted with S from the trials themselves: the
    mean of the cross-validated ``(m_A - m'_A)·(m_B - m'_B)`` over all ways to let A and B be single different trials. It may be
    below 0, and then so is the distance: ``sign(d²)·√|d²|``, as in Willett et al. 2020 (Cell 181).

    Parameters
    ----------
    trajectories
        Those of C conditions; bins with a value that is not finite are left out.
    codes
        [rows] condition of each row, 0 … C - 1, or -1.
    mahalanobis, unbiased
        Which distance.
    """
    conditions = int(codes.max()) + 1
    _check_size(trajectories, conditions, mahalanobis)
    centre = _centre(trajectories)
    whitening = None
    if mahalanobis:
        sums = _sums(trajectories, codes, conditions, centre, with_covariance=True)
        whitening = _whitening(sums)
    sums = _sums(trajectories, codes, conditions, centre, whitening)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums.values / sums.number[:, :, None]
        spread = (sums.squares - sums.number * np.square(means).sum(2)) / (sums.number - 1)
        of_noise = np.where(sums.number > 1, spread / sums.number, np.nan)
    squared = np.stack([cdist(means[:, t], means[:, t], "sqeuclidean") for t in range(means.shape[1])])
    if unbiased:
        squared -= of_noise.T[:, :, None] + of_noise.T[:, None, :]
        same = np.arange(conditions)
        squared[:, same, same] = np.where(np.isnan(squared[:, same, same]), np.nan, 0.0)
    known = np.isfinite(squared)
    with np.errstate(invalid="ignore"):
        overall = np.where(known, squared, 0.0).sum(0) / known.sum(0)
    return Distances(_root(overall), _root(squared), means.shape[1], means.shape[2])


def _check_size(trajectories: Trajectories, conditions: int, mahalanobis: bool) -> None:
    needed = conditions * trajectories.bins * trajectories.components
    hint = "take fewer components (components=), wider bins (rebin_s=) or fewer conditions (where=)"
    if needed > MOST_SUMS:
        raise refusal(
            "array", f"conditions × bins × components may be at most {MOST_SUMS:,}; they are {needed:,}", hint
        )
    if mahalanobis and trajectories.components > MOST_COMPONENTS:
        raise refusal(
            "metric",
            f"mahalanobis takes at most {MOST_COMPONENTS} components; there are {trajectories.components}",
            hint,
        )


@dataclass(frozen=True)
class _Sums:
    """Over trials: how many, their states, their squared lengths, and over everything the products of components."""

    number: Floats  # [C, bins]
    values: Floats  # [C, bins, D]
    squares: Floats  # [C, bins]
    products: Floats | None  # [D, D]


def _centre(trajectories: Trajectories) -> Floats:
    """A state amid the others: sums of squares around it lose no digits to a common offset."""
    for _, values in trajectories.blocks():
        known = values[np.isfinite(values).all(2)]
        if len(known):
            return np.asarray(known.mean(0))
    raise refusal("array", "no bin of the selected trials has values", "choose other trials or bins")


def _sums(
    trajectories: Trajectories,
    codes: NDArray[np.int64],
    conditions: int,
    centre: Floats,
    whitening: Floats | None = None,
    *,
    with_covariance: bool = False,
) -> _Sums:
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
            mine = codes[rows] == code
            number[code] += known[mine].sum(0)
            total[code] += states[mine].sum(0)
            squares[code] += np.square(states[mine]).sum((0, 2))
    return _Sums(number, total, squares, products)


def _whitening(sums: _Sums) -> Floats:
    """[D, r]: states times it have a pooled covariance around their means of 1; directions without variance are gone."""
    assert sums.products is not None
    known = sums.number > 0
    free = sums.number.sum() - known.sum()
    scaled = sums.values[known] / np.sqrt(sums.number[known])[:, None]
    covariance = (sums.products - scaled.T @ scaled) / max(free, 1.0)
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > LEAST_VARIANCE * variances[-1]
    if free < 1 or variances[-1] <= 0:
        raise refusal(
            "metric",
            "mahalanobis needs conditions of two trials or more that differ",
            "metric=euclidean needs none",
        )
    return np.asarray(directions[:, kept] / np.sqrt(variances[kept]))


def _root(squared: Floats) -> Floats:
    return np.asarray(np.sign(squared) * np.sqrt(np.abs(squared)))
