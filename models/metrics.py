"""Scores of inferred rates and latents, in plain numpy, each with its definition and units.

Rates λ are in counts per bin. A mask says which samples count; without one, all do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.config import require

Floats = NDArray[np.floating]
LOWEST_RATE = 1e-9  # rates of zero are clipped here before their logarithm
LEAST_VARIANCE = 1e-4  # of a feature, relative to the mean over features, before scaling


def poisson_nll(
    rates: Floats,
    spikes: NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
    *,
    include_ln_factorial: bool = True,
) -> float:
    """Mean of λ - x ln λ + ln x! over the samples that count, in nats per sample.

    Parameters
    ----------
    rates
        Counts per bin, any shape.
    spikes
        Counts, same shape.
    mask
        bool, broadcastable to that shape.
    include_ln_factorial
        False leaves out ln x!, which no model can change.
    """
    rates, spikes, chosen = _aligned(rates, spikes, mask)
    nll = rates[chosen] - spikes[chosen] * np.log(np.maximum(rates[chosen], LOWEST_RATE))
    constant = float(_ln_factorial(spikes[chosen]).mean()) if include_ln_factorial else 0.0
    return float(nll.mean()) + constant


def bits_per_spike(
    rates: Floats,
    spikes: NDArray[Any],
    mean_rates: Floats | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """(1 / (n_spikes · ln 2)) · Σ [(x ln λ - λ) - (x ln λ̄ - λ̄)], the gain over constant rates λ̄.

    Parameters
    ----------
    rates
        Counts per bin, [..., N].
    spikes
        Counts, same shape.
    mean_rates
        λ̄ [N], counts per bin; None takes each neuron's mean count over the samples that count.
    mask
        bool, broadcastable to [..., N].
    """
    rates, spikes, chosen = _aligned(rates, spikes, mask)
    n_spikes = float(spikes[chosen].sum())
    require(n_spikes > 0, "bits per spike is not defined without a spike among the samples that count")
    if mean_rates is None:
        over = tuple(range(spikes.ndim - 1))
        mean_rates = (spikes * chosen).sum(over) / np.maximum(chosen.sum(over), 1)
    constant = np.broadcast_to(mean_rates, rates.shape)
    gain = poisson_nll(constant, spikes, chosen) - poisson_nll(rates, spikes, chosen)
    return gain * int(chosen.sum()) / (n_spikes * math.log(2))


def r2_true_rates(rates: Floats, true_rates: Floats, mask: NDArray[np.bool_] | None = None) -> float:
    """Mean over neurons of R² = 1 - Σ (λ - λ*)² / Σ (λ* - mean λ*)², sums over trials and bins.

    Both in the same unit (counts per bin, or both in Hz). Neurons whose true rate is constant have no R²
    and are left out; if all are, the result is NaN.

    Parameters
    ----------
    rates, true_rates
        [trials, T, N].
    mask
        bool, broadcastable to that shape ([trials, T, 1] for ragged trials).
    """
    rates, true_rates, chosen = _aligned(rates, true_rates, mask)
    scores = []
    for n in range(rates.shape[-1]):
        truth, inferred = true_rates[..., n][chosen[..., n]], rates[..., n][chosen[..., n]]
        spread = float(np.square(truth - truth.mean()).sum()) if len(truth) else 0.0
        if spread > 1e-12 * max(float(np.square(truth).sum()), 1e-300):
            scores.append(1.0 - float(np.square(inferred - truth).sum()) / spread)
    return float(np.mean(scores)) if scores else math.nan


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
        At least 2, at most the number of trials.
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
    require(2 <= folds <= trials, f"folds must lie in 2 … {trials} (the number of trials), got {folds}")
    lags = [lag_bins] if isinstance(lag_bins, int) else list(lag_bins)
    require(all(0 <= lag < T for lag in lags), f"every lag must lie in 0 … {T - 1} bins, got {lags}")
    valid = np.ones((trials, T), bool) if mask is None else np.asarray(mask, bool)
    lagged = [_Lagged(features, behaviour, valid, lag) for lag in lags]
    fold_of = np.random.default_rng(seed).permutation(trials) % folds
    truth, prediction = [], []
    for fold in range(folds):
        inside = np.flatnonzero(fold_of != fold)
        inner = np.random.default_rng([seed, fold]).permutation(len(inside)) % folds
        errors = np.zeros((len(lagged), len(alphas)))
        for choice, data in enumerate(lagged):
            for part in range(folds):
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
        return np.array([(np.square(x @ weights - y) / spread).mean() for weights in fitted])


def _aligned(
    rates: Floats, reference: NDArray[Any], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    ours, theirs = np.asarray(rates, np.float64), np.asarray(reference, np.float64)
    require(ours.shape == theirs.shape, f"rates have shape {ours.shape}, their reference {theirs.shape}")
    chosen = np.broadcast_to(np.asarray(True if mask is None else mask, np.bool_), ours.shape)
    require(bool(chosen.any()), "no sample counts: the mask is false everywhere")
    return ours, theirs, chosen


def _ln_factorial(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln x! by table."""
    table = np.array([math.lgamma(count + 1) for count in range(int(counts.max(initial=0)) + 1)])
    looked_up: NDArray[np.float64] = table[counts.astype(np.int64)]
    return looked_up
