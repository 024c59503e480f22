"""Ridge regression of behaviour on latents, cross-validated by trials.

Only sums of products of columns are kept: each sample is read once, and every fold and every penalty is fitted from these sums.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.cancellation import cancellation_point
from domain.errors import require
from domain.split_groups import SplitGroups

Floats = NDArray[np.float64]

ALPHAS = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)
"""Penalties to choose from."""
LEAST_VARIANCE = 1e-4
"""Least variance of a feature before scaling, relative to the mean over features."""
NOWHERE = -1
"""Part of a trial that neither trains nor tests."""


@dataclass(frozen=True)
class Division:
    """The trials that a decoder is fitted on and the trials that it is tested on.

    Attributes
    ----------
    part
        int64 [trials]. 0 … parts - 1: fitted on, and each part in turn helps to choose the penalty. `parts`: tested on.
        `parts + 1`: fitted on, but not used to choose the penalty: it shares bins with two parts. `NOWHERE`: unused.
    parts
        Number of parts.
    left_out
        Number of trials that are not fitted on because they share bins with a tested trial.
    """

    part: NDArray[np.int64]
    parts: int
    left_out: int

    @property
    def is_fitted(self) -> NDArray[np.bool_]:
        """Return which trials the decoder is fitted on, bool [trials]."""
        fitted: NDArray[np.bool_] = (self.part >= 0) & (self.part != self.parts)
        return fitted

    @property
    def can_choose(self) -> bool:
        """Return whether there are at least two parts, so that one can be predicted from the others."""
        return len(np.unique(self.part[(self.part >= 0) & (self.part < self.parts)])) > 1


def divide_in_folds(groups: SplitGroups, folds: int, seed: int) -> list[Division]:
    """Return one division for each fold: the fold is tested by a decoder that is fitted on the others.

    There must be at least as many trials as folds.
    """
    fold_of = groups.parts(folds, np.random.default_rng(seed))
    return [
        divide(fold_of != fold, fold_of == fold, groups, folds=folds, seed=seed, number=fold)
        for fold in range(folds)
    ]


def divide(
    fitted_on: NDArray[np.bool_],
    tested_on: NDArray[np.bool_],
    groups: SplitGroups,
    *,
    folds: int,
    seed: int,
    number: int = 0,
) -> Division:
    """Return the division of a decoder that is fitted on some trials and tested on others.

    Trials that share bins with a tested trial are not fitted on. The parts that choose the penalty follow the same rule.
    """
    shared = groups.sharing(tested_on)
    inside = np.flatnonzero(fitted_on & ~shared)
    of_inside = groups.take(inside)
    parts = max(1, min(folds, of_inside.number if of_inside.number > 1 else len(inside)))
    inner = of_inside.parts(parts, np.random.default_rng([seed, number]))
    for one in range(parts):
        cancellation_point()
        inner[(inner > one) & (inner < parts) & of_inside.sharing(inner == one)] = parts + 1
    part = np.full(len(fitted_on), NOWHERE, np.int64)
    part[inside] = inner
    part[tested_on] = parts
    return Division(part, parts, int((fitted_on & shared).sum()))


@dataclass(frozen=True)
class Fitted:
    """The decoder of a division, with sums over the samples that it is tested on.

    Attributes
    ----------
    weights
        float64 [D + 1, K]; the last row belongs to the column of ones.
    alpha
        The penalty that was chosen.
    error_of_parts
        Error with this penalty, relative to the behaviour's variance, where each part is predicted from the others.
    fitted_samples, tested_samples
        Number of samples.
    errors
        float64 [K], sums of squared errors over the tested samples.
    sums, squares
        float64 [K], sums of the behaviour and of its square over the tested samples.
    """

    weights: Floats
    alpha: float
    error_of_parts: float
    fitted_samples: int
    tested_samples: int
    errors: Floats
    sums: Floats
    squares: Floats


def r2(fitted: Sequence[Fitted]) -> Floats:
    """Return R² = 1 - SSE / SST over the predictions of all decoders together, float64 [K].

    NaN where the behaviour does not vary.
    """
    number = max(sum(one.tested_samples for one in fitted), 1)
    errors, sums, squares = (
        np.sum([getattr(one, name) for one in fitted], axis=0) for name in ("errors", "sums", "squares")
    )
    variation = squares - np.square(sums) / number
    return np.asarray(1.0 - errors / np.where(variation > 1e-12 * squares, variation, np.nan))


def decode(
    samples: Iterable[tuple[int, Floats, Floats]],
    divisions: Sequence[Division],
    features: int,
    outputs: int,
    alphas: Sequence[float] = ALPHAS,
) -> list[Fitted]:
    """Fit the decoder of each division with the penalty that its own parts choose, and test it.

    The loss is the sum of squared errors plus ``alpha · ‖W‖²``, with features scaled to unit variance.

    Parameters
    ----------
    samples
        (trial, features [S, D], behaviour [S, K]), all finite, once for each trial. Centre them, to lose no digits.
    divisions
        At least one.
    features, outputs
        D and K.
    alphas
        Penalties to choose from, each positive.
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
    fitted = []
    for sums, division in zip(products, divisions, strict=True):
        parts, test, more = sums[: division.parts], sums[division.parts], sums[division.parts + 1]
        alpha, error_of_parts = _best_alpha(parts, features, spread, alphas)
        train = parts.sum(0) + more
        weights = _solve(train, features, alpha)
        fitted.append(
            Fitted(
                weights,
                alpha,
                error_of_parts,
                fitted_samples=round(float(train[features, features])),
                tested_samples=round(float(test[features, features])),
                errors=_squared_errors(test, features, weights),
                sums=test[features, features + 1 :].copy(),
                squares=np.diagonal(test)[features + 1 :].copy(),
            )
        )
    return fitted


def ridge_decode_r2(
    features: NDArray[Any],
    behaviour: NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
    *,
    lag_bins: int | Sequence[int] = 0,
    folds: int = 5,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> float:
    """Return the cross-validated R² of decoding behaviour from features in memory, the mean over columns of behaviour.

    behaviour[t + lag] ≈ W features[t] + c: features lead by `lag_bins`. Each trial stands alone. Within the training trials of
    a fold the penalty (and the lag, if several are given) is chosen by cross-validation.

    Parameters
    ----------
    features
        [trials, T, D]; NaN only where the mask is false.
    behaviour
        [trials, T, K]; NaN only where the mask is false.
    mask
        bool [trials, T], bins that exist.
    lag_bins
        Not negative; one, or several to choose from.
    folds
        At least 2, at most the number of trials, of which there must be 3.
    alphas
        Penalties to choose from, each positive.
    seed
        Seed of the assignment of trials to folds.
    """
    features, behaviour = np.asarray(features, np.float64), np.asarray(behaviour, np.float64)
    require(
        features.ndim == 3 and behaviour.ndim == 3 and features.shape[:2] == behaviour.shape[:2],
        f"features and behaviour must be [trials, T, ·] alike, got {features.shape} and {behaviour.shape}",
    )
    trials, T, D = features.shape
    require(trials >= 3, f"decoding is cross-validated twice over and needs at least 3 trials, got {trials}")
    require(2 <= folds <= trials, f"folds must lie in 2 … {trials} (the number of trials), got {folds}")
    lags = [lag_bins] if isinstance(lag_bins, int) else list(lag_bins)
    require(all(0 <= lag < T for lag in lags), f"every lag must lie in 0 … {T - 1} bins, got {lags}")
    valid = np.ones((trials, T), bool) if mask is None else np.asarray(mask, bool)
    centred = (features - features[valid].mean(0), behaviour - behaviour[valid].mean(0))

    def samples(lag: int) -> Iterator[tuple[int, Floats, Floats]]:
        both = valid[:, : T - lag] & valid[:, lag:]
        for trial, known in enumerate(both):
            yield trial, centred[0][trial, : T - lag][known], centred[1][trial, lag:][known]

    divisions = divide_in_folds(SplitGroups.alone(trials), folds, seed)
    by_lag = [decode(samples(lag), divisions, D, behaviour.shape[2], alphas) for lag in lags]
    best = [min(fits, key=lambda one: one.error_of_parts) for fits in zip(*by_lag, strict=True)]
    return float(np.mean(r2(best)))


def _best_alpha(sums: Floats, features: int, spread: Floats, alphas: Sequence[float]) -> tuple[float, float]:
    """Return the penalty with the least error where each part is predicted from the others, and that error."""
    whole, errors = sums.sum(0), np.zeros(len(alphas))
    for part in sums:
        number = part[features, features]
        if number == 0:
            continue
        for place, alpha in enumerate(alphas):
            cancellation_point()
            found = _squared_errors(part, features, _solve(whole - part, features, alpha))
            errors[place] += (found / spread).mean() / number
    return alphas[int(errors.argmin())], float(errors.min())


def _solve(products: Floats, features: int, alpha: float) -> Floats:
    """Solve (XᵀX + α S) W = XᵀY, where S holds the features' variances, and 0 for the column of ones."""
    one, number = features + 1, products[features, features]
    if number == 0:
        return np.zeros((one, len(products) - one))
    means = products[features, :one] / number
    scale = np.diagonal(products)[:one] / number - np.square(means)
    # A feature that is almost constant here (a silent neuron) may vary in other trials: this prevents huge weights.
    scale = np.maximum(scale, max(LEAST_VARIANCE * scale.mean(), 1e-30))
    scale[-1] = 0.0
    return np.asarray(np.linalg.solve(products[:one, :one] + alpha * np.diag(scale), products[:one, one:]))


def _squared_errors(products: Floats, features: int, weights: Floats) -> Floats:
    """Return the sum of squares of each column of XW - Y, float64 [K]."""
    one = features + 1
    of_fit = (weights * (products[:one, :one] @ weights)).sum(0)
    crossed = (weights * products[:one, one:]).sum(0)
    return np.asarray(np.maximum(of_fit - 2.0 * crossed + np.diagonal(products)[one:], 0.0))


def _variance(products: Floats, features: int) -> Floats:
    """Return the variance of each column of behaviour, float64 [K]."""
    number = max(products[features, features], 1.0)
    mean = products[features, features + 1 :] / number
    return np.asarray(np.diagonal(products)[features + 1 :] / number - np.square(mean))
