"""Behaviour decoded from latents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from domain.errors import require

Floats = NDArray[np.floating]
LEAST_VARIANCE = 1e-4  # of a feature, relative to the mean over features, before scaling


def ridge_decode_r2(
    features: Floats,
    behaviour: Floats,
    mask: NDArray[np.bool_] | None = None,
    *,
    lag_bins: int | Sequence[int] = 0,
    folds: int = 5,
    alphas: Sequence[float] = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4),
    seed: int = 0,
) -> float:
    """Cross-validated R² of decoding behaviour from features by ridge regression.

    behaviour[t + lag] ≈ W features[t] + c: features lead by `lag_bins`. Trials are split in folds; within the
    training trials of a fold the penalty (and the lag, if several are given) is chosen by the same kind of
    cross-validation. Features are scaled to unit variance on training trials; the penalty is `alpha · ‖W‖²`
    beside the sum of squared errors. R² is over the predictions of all folds together, 1 - SSE / SST per
    column, then the mean over columns.

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
        Of the assignment of trials to folds.
    """
    features, behaviour = np.asarray(features, np.float64), np.asarray(behaviour, np.float64)
    require(
        features.ndim == 3 and behaviour.ndim == 3 and features.shape[:2] == behaviour.shape[:2],
        f"features and behaviour must be [trials, T, ·] alike, got {features.shape} and {behaviour.shape}",
    )
    trials, T, _ = features.shape
    require(trials >= 3, f"decoding is cross-validated twice over and needs at least 3 trials, got {trials}")
    require(2 <= folds <= trials, f"folds must lie in 2 … {trials} (the number of trials), got {folds}")
    lags = [lag_bins] if isinstance(lag_bins, int) else list(lag_bins)
    require(all(0 <= lag < T for lag in lags), f"every lag must lie in 0 … {T - 1} bins, got {lags}")
    valid = np.ones((trials, T), bool) if mask is None else np.asarray(mask, bool)
    lagged = [_Lagged(features, behaviour, valid, lag) for lag in lags]
    fold_of = np.random.default_rng(seed).permutation(trials) % folds
    truth, prediction = [], []
    for fold in range(folds):
        inside = np.flatnonzero(fold_of != fold)
        parts = min(folds, len(inside))
        inner = np.random.default_rng([seed, fold]).permutation(len(inside)) % parts
        errors = np.zeros((len(lagged), len(alphas)))
        for choice, data in enumerate(lagged):
            for part in range(parts):
                fitted = data.fit(inside[inner != part], alphas)
                errors[choice] += data.relative_errors(inside[inner == part], fitted)
        lag, alpha = np.unravel_index(int(errors.argmin()), errors.shape)
        chosen = lagged[int(lag)]
        (weights,) = chosen.fit(inside, [alphas[int(alpha)]])
        x, y = chosen.samples(np.flatnonzero(fold_of == fold))
        truth.append(y)
        prediction.append(x @ weights)
    y, y_hat = np.concatenate(truth), np.concatenate(prediction)
    return float(np.mean(1.0 - np.square(y - y_hat).sum(0) / np.square(y - y.mean(0)).sum(0)))


class _Lagged:
    """Features [trials, T, D] and a column of ones, and behaviour one lag later, in bins where both exist."""

    def __init__(self, features: Floats, behaviour: Floats, valid: NDArray[np.bool_], lag: int) -> None:
        T = features.shape[1]
        self.valid = valid[:, : T - lag] & valid[:, lag:]
        ones = np.ones((*features.shape[:2], 1))
        self.features = np.concatenate((features, ones), axis=2)[:, : T - lag]
        self.behaviour = behaviour[:, lag:]

    def samples(self, trials: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return features [samples, D + 1] and behaviour [samples, K] of these trials."""
        return self.features[trials][self.valid[trials]], self.behaviour[trials][self.valid[trials]]

    def fit(self, trials: NDArray[np.int64], alphas: Sequence[float]) -> list[Floats]:
        """Solve (Xᵀ X + α S) W = Xᵀ Y for each α: W [D + 1, K]; S features' variances, 0 for the ones."""
        x, y = self.samples(trials)
        gram, moment = x.T @ x, x.T @ y
        scale = x.var(0)
        # A feature all but constant here (a silent neuron) may not be so in other trials: no huge weights.
        scale = np.maximum(scale, max(LEAST_VARIANCE * scale.mean(), 1e-30))
        scale[-1] = 0.0  # the column of ones
        return [np.linalg.solve(gram + alpha * np.diag(scale), moment) for alpha in alphas]

    def relative_errors(self, trials: NDArray[np.int64], fitted: Sequence[Floats]) -> NDArray[np.float64]:
        """Squared error of each fit on these trials, columns of behaviour weighted by their variance."""
        x, y = self.samples(trials)
        spread = np.maximum(np.nanvar(self.behaviour[self.valid], axis=0), 1e-300)
        if len(x) == 0:  # no bin of these trials has a lagged one
            return np.zeros(len(fitted))
        return np.array([(np.square(x @ weights - y) / spread).mean() for weights in fitted])
