"""Ridge regression from products of columns alone: samples pass by once, and every fold and penalty is fitted from their sums.

For trials that stand alone it is the same regression as `domain.scores.ridge_decode_r2`, which needs all samples in memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domain.split_groups import SplitGroups

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
        on; `parts + 1` of trials to fit on that share bins with two parts, and so do not choose the penalty; `NOWHERE` of others.
    parts
        How many parts.
    left_out
        How many trials it would be fitted on, did they not share bins with a tested trial.
    """

    part: NDArray[np.int64]
    parts: int
    left_out: int

    @property
    def is_fitted(self) -> NDArray[np.bool_]:
        """[trials] which it is fitted on."""
        fitted: NDArray[np.bool_] = (self.part >= 0) & (self.part != self.parts)
        return fitted

    @property
    def can_choose(self) -> bool:
        """Whether there are two parts at least, so that one can be predicted from the others."""
        return len(np.unique(self.part[(self.part >= 0) & (self.part < self.parts)])) > 1


def divide_in_folds(groups: SplitGroups, folds: int, seed: int) -> list[Division]:
    """Return a division for each fold, which is tested by a decoder fitted on the others; there are as many trials as folds."""
    fold_of = groups.parts(folds, np.random.default_rng(seed))
    return [divide(fold_of != fold, fold_of == fold, groups, folds, seed, fold) for fold in range(folds)]


def divide(
    fitted_on: NDArray[np.bool_],
    tested_on: NDArray[np.bool_],
    groups: SplitGroups,
    folds: int,
    seed: int,
    number: int = 0,
) -> Division:
    """Return the division of a decoder that is fitted on some trials and tested on others.

    Trials that share bins with a tested trial are not fitted on. The parts that choose the penalty are divided by the same rule.
    """
    shared = groups.sharing(tested_on)
    inside = np.flatnonzero(fitted_on & ~shared)
    of_inside = groups.take(inside)
    parts = max(1, min(folds, of_inside.number if of_inside.number > 1 else len(inside)))
    inner = of_inside.parts(parts, np.random.default_rng([seed, number]))
    for one in range(parts):
        inner[(inner > one) & (inner < parts) & of_inside.sharing(inner == one)] = parts + 1
    part = np.full(len(fitted_on), NOWHERE, np.int64)
    part[inside] = inner
    part[tested_on] = parts
    return Division(part, parts, int((fitted_on & shared).sum()))


@dataclass(frozen=True)
class Fitted:
    """The decoder of a division.

    Attributes
    ----------
    weights
        [D + 1, K]; the last row belongs to the column of ones.
    alpha
        The penalty that was chosen.
    error_of_parts
        Of that penalty, where each part is predicted by what is fitted on the others; relative to the behaviour's variance.
    errors
        [K] squared errors on the trials it is tested on, added up.
    """

    weights: Floats
    alpha: float
    error_of_parts: float
    errors: Floats


@dataclass(frozen=True)
class Decoded:
    """Decoders and how well they do on trials they were not fitted on.

    Attributes
    ----------
    fitted
        Of each division.
    variation
        [K] squared deviations of the behaviour that is predicted, of all divisions together; NaN where it does not vary.
    train_samples, test_samples
        States with behaviour, the first of the mean division.
    """

    fitted: list[Fitted]
    variation: Floats
    train_samples: int
    test_samples: int

    @property
    def r2(self) -> Floats:
        """[K] 1 - SSE / SST over the predictions of all divisions together; NaN where the behaviour does not vary."""
        return self.r2_of(self.fitted)

    def r2_of(self, fitted: Sequence[Fitted]) -> Floats:
        """[K] R² of decoders of the same divisions, which may be fitted on other features."""
        return np.asarray(1.0 - np.sum([one.errors for one in fitted], axis=0) / self.variation)


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
    products = [np.zeros((division.parts + 2, size, size)) for division in divisions]
    whole = np.zeros((size, size))
    for trial, x, y in samples:
        columns = np.concatenate((x, np.ones((len(x), 1)), y), axis=1)
        product = columns.T @ columns
        whole += product
        for sums, division in zip(products, divisions, strict=True):
            if division.part[trial] != NOWHERE:
                sums[division.part[trial]] += product
    spread = np.maximum(_variance(whole, features), 1e-300)
    fitted, tested, train_samples = [], np.zeros((size, size)), []
    for sums, division in zip(products, divisions, strict=True):
        parts, test, more = sums[: division.parts], sums[division.parts], sums[division.parts + 1]
        alpha, error_of_parts = _best_alpha(parts, features, spread)
        train = parts.sum(0) + more
        weights = _solve(train, features, alpha)
        fitted.append(Fitted(weights, alpha, error_of_parts, _squared_errors(test, features, weights)))
        tested += test
        train_samples.append(train[features, features])
    total = _variance(tested, features) * tested[features, features]
    variation = np.where(total > 1e-12 * np.diagonal(tested)[features + 1 :], total, np.nan)
    return Decoded(
        fitted, variation, round(float(np.mean(train_samples))), round(float(tested[features, features]))
    )


def _best_alpha(sums: Floats, features: int, spread: Floats) -> tuple[float, float]:
    """Return the penalty with the least error on each part by what is fitted on the others, and that error."""
    whole, errors = sums.sum(0), np.zeros(len(ALPHAS))
    for part in sums:
        number = part[features, features]
        if number == 0:
            continue
        for place, alpha in enumerate(ALPHAS):
            found = _squared_errors(part, features, _solve(whole - part, features, alpha))
            errors[place] += (found / spread).mean() / number
    return ALPHAS[int(errors.argmin())], float(errors.min())


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
