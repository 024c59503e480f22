"""Ridge regression from products of columns alone: samples pass by once, and every fold and penalty is fitted from their sums.

The same regression as `models.metrics.ridge_decode_r2`, which needs all samples in memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHAS = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
"""Penalties to choose from."""
LEAST_VARIANCE = 1e-4
"""Of a feature, relative to the mean over features, before scaling."""
NOWHERE = -1
"""Part of a trial that neither trains nor tests."""


@dataclass(frozen=True)
class Division:
    """Which trials a decoder is fitted on and which it is tested on.

    Attributes
    ----------
    part
        [trials] 0 … parts - 1 of trials to fit on, in the parts that choose the penalty in turn; `parts` of those it is tested
        on; `NOWHERE` of others.
    parts
        How many parts.
    """

    part: NDArray[np.int64]
    parts: int


def divide_in_folds(trials: int, folds: int, seed: int) -> list[Division]:
    """Each fold is tested by a decoder fitted on the others; there are at least as many trials as folds, and 3."""
    fold_of = np.random.default_rng(seed).permutation(trials) % folds
    return [divide(fold_of != fold, fold_of == fold, folds, seed, fold) for fold in range(folds)]


def divide(
    fitted_on: NDArray[np.bool_], tested_on: NDArray[np.bool_], folds: int, seed: int, number: int = 0
) -> Division:
    """A decoder fitted on some trials and tested on others."""
    inside = np.flatnonzero(fitted_on)
    parts = min(folds, len(inside))
    part = np.full(len(fitted_on), NOWHERE, np.int64)
    part[inside] = np.random.default_rng([seed, number]).permutation(len(inside)) % parts
    part[tested_on] = parts
    return Division(part, parts)


@dataclass(frozen=True)
class Fitted:
    """The decoder of a division.

    Attributes
    ----------
    weights
        [D + 1, K]; the last row belongs to the column of ones.
    alpha
        The penalty that was chosen.
    """

    weights: Floats
    alpha: float


@dataclass(frozen=True)
class Decoded:
    """Decoders and how well they do on trials they were not fitted on.

    Attributes
    ----------
    fitted
        Of each division.
    r2
        [K] over the predictions of all divisions together, 1 - SSE / SST; NaN where the behaviour does not vary.
    train_samples, test_samples
        States with behaviour, the first of the mean division.
    """

    fitted: list[Fitted]
    r2: Floats
    train_samples: int
    test_samples: int


def decode(
    samples: Iterable[tuple[int, Floats, Floats]],
    divisions: list[Division],
    features: int,
    outputs: int,
) -> Decoded:
    """Fit the decoders of all divisions, each with the penalty that its own parts choose, and test them.

    The penalty is ``alpha · ‖W‖²`` beside the sum of squared errors, with features scaled to unit variance.

    Parameters
    ----------
    samples
        (trial, features [S, D], behaviour [S, K]), all finite, once for each trial.
    divisions
        At least one.
    features, outputs
        D and K.
    """
    size = features + 1 + outputs
    products = [np.zeros((division.parts + 1, size, size)) for division in divisions]
    whole = np.zeros((size, size))
    for trial, x, y in samples:
        columns = np.concatenate((x, np.ones((len(x), 1)), y), axis=1)
        product = columns.T @ columns
        whole += product
        for sums, division in zip(products, divisions, strict=True):
            if division.part[trial] != NOWHERE:
                sums[division.part[trial]] += product
    spread = np.maximum(_variance(whole, features), 1e-300)
    fitted, errors, tested = [], np.zeros(outputs), np.zeros((size, size))
    for sums in products:
        alpha = _best_alpha(sums[:-1], features, spread)
        weights = _solve(sums[:-1].sum(0), features, alpha)
        fitted.append(Fitted(weights, alpha))
        errors += _squared_errors(sums[-1], features, weights)
        tested += sums[-1]
    total = _variance(tested, features) * tested[features, features]
    with np.errstate(invalid="ignore", divide="ignore"):
        varies = total > 1e-12 * np.diagonal(tested)[features + 1 :]
        r2 = np.where(varies, 1.0 - errors / total, np.nan)
    train = np.mean([sums[:-1, features, features].sum() for sums in products])
    return Decoded(fitted, r2, round(float(train)), round(float(tested[features, features])))


def _best_alpha(sums: Floats, features: int, spread: Floats) -> float:
    """The penalty with the least error on each part by what is fitted on the others."""
    whole, errors = sums.sum(0), np.zeros(len(ALPHAS))
    for part in sums:
        number = part[features, features]
        if number == 0:
            continue
        for place, alpha in enumerate(ALPHAS):
            found = _squared_errors(part, features, _solve(whole - part, features, alpha))
            errors[place] += (found / spread).mean() / number
    return ALPHAS[int(errors.argmin())]


def _solve(products: Floats, features: int, alpha: float) -> Floats:
    """(XᵀX + α S) W = XᵀY: S has the features' variances, and 0 for the ones."""
    one, number = features + 1, products[features, features]
    if number == 0:
        return np.zeros((one, len(products) - one))
    means = products[features, :one] / number
    scale = np.diagonal(products)[:one] / number - np.square(means)
    # A feature all but constant here (a silent neuron) may not be so in other trials: no huge weights.
    scale = np.maximum(scale, max(LEAST_VARIANCE * scale.mean(), 1e-30))
    scale[-1] = 0.0
    return np.asarray(np.linalg.solve(products[:one, :one] + alpha * np.diag(scale), products[:one, one:]))


def _squared_errors(products: Floats, features: int, weights: Floats) -> Floats:
    """[K] ``|XW - Y|²`` of each column."""
    one = features + 1
    of_fit = np.einsum("dk,de,ek->k", weights, products[:one, :one], weights, optimize=True)
    crossed = np.einsum("dk,dk->k", weights, products[:one, one:])
    return np.asarray(np.maximum(of_fit - 2.0 * crossed + np.diagonal(products)[one:], 0.0))


def _variance(products: Floats, features: int) -> Floats:
    """[K] of each column of behaviour."""
    number = max(products[features, features], 1.0)
    mean = products[features, features + 1 :] / number
    return np.asarray(np.diagonal(products)[features + 1 :] / number - np.square(mean))
