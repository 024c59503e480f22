"""Few-shot co-smoothing: how well a read-out of held-out neurons works if it is fitted to few trials.

Dabholkar & Barak 2025, "When predict can also explain: few-shot prediction to select better neural latents".
Models may have equal scores in co-smoothing although some latents contain dynamics that are not in the data. Such extra
dimensions do no harm if many trials fit the read-out, but mislead it if few trials do. So among models with equal co-smoothing,
the one with the higher few-shot score has the simpler latents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import require
from domain.scores.likelihood import bits_per_spike

Floats = NDArray[np.floating]
HIGHEST_LOG_RATE = 50.0  # of a prediction, so that the exponential does not overflow
NEWTON_STEPS = 100
HALVINGS = 40  # of a Newton step that does not lower the loss
TOLERANCE = 1e-12  # expected decrease of the loss at which Newton's method stops, nats per sample


def few_shot_bits_per_spike(
    latents: Floats,
    spikes: NDArray[Any],
    is_test: NDArray[np.bool_],
    *,
    trials: int,
    repeats: int = 5,
    seed: int = 0,
    l2: float = 1e-3,
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """Return the mean bits per spike on test trials of Poisson regressions fitted to `trials` random training trials.

    ln λ = W z + c, where W and c minimise (1/S) Σ (λ - x ln λ) + (l2 / 2) ‖W‖² over the S bins of the training
    drawn training trials, for each neuron separately. This is the definition of scikit-learn's `PoissonRegressor`, which the
    authors use with penalties of 0.001 to 0.1. Latents are not scaled, so the penalty depends on their scale.
    Each repeat draws other trials, without replacement. The score is that of co-smoothing: λ̄ is each neuron's mean over
    the test trials. If a neuron is silent in the drawn trials, its regression has no minimum, and its predicted rate is half
    a spike in as many bins.

    Parameters
    ----------
    latents
        [trials, T, D], of a model that never read the scored neurons: factors, or generator states. NaN only
        where the mask is false.
    spikes
        Counts [trials, T, N] of the neurons to predict; NaN only where the mask is false.
    is_test
        bool [trials], trials that are scored and not fitted to.
    trials
        Number of training trials of a fit.
    repeats
        Number of fits, each to other trials.
    seed
        Seed of the draws.
    l2
        Penalty of the weights, positive. The constant is not penalised.
    mask
        bool [trials, T], bins that exist.
    """
    z, x, is_test = np.asarray(latents, np.float64), np.asarray(spikes, np.float64), np.asarray(is_test, bool)
    require(
        z.ndim == 3 and x.ndim == 3 and z.shape[:2] == x.shape[:2] and is_test.shape == z.shape[:1],
        f"latents and spikes must be [trials, T, ·] alike and is_test [trials], got {z.shape}, {x.shape} and "
        f"{is_test.shape}",
    )
    training = np.flatnonzero(~is_test)
    require(bool(is_test.any()), "no trial is a test trial")
    require(1 <= trials <= len(training), f"trials must lie in 1 … {len(training)} (training), got {trials}")
    require(repeats >= 1, f"repeats must be at least 1, got {repeats}")
    require(l2 > 0, f"l2 must be positive, got {l2}")
    exists = np.ones(z.shape[:2], bool) if mask is None else np.asarray(mask, bool)
    test_z, test_x = z[is_test][exists[is_test]], x[is_test][exists[is_test]]
    random = np.random.default_rng(seed)
    scores = []
    for _ in range(repeats):
        drawn = random.choice(training, trials, replace=False)
        weights = poisson_regression(z[drawn][exists[drawn]], x[drawn][exists[drawn]], l2)
        log_rates = np.minimum(_with_ones(test_z) @ weights.T, HIGHEST_LOG_RATE)
        scores.append(bits_per_spike(np.exp(log_rates), test_x))
    return float(np.mean(scores))


def poisson_regression(latents: Floats, spikes: NDArray[Any], l2: float) -> NDArray[np.float64]:
    """Return weights [N, D + 1] that minimise (1/S) Σ (λ - x ln λ) + (l2 / 2) ‖W‖²; the last, constant, has no penalty.

    Newton's method finds them; the step of each neuron is halved until its loss falls. The loss is convex. A neuron
    without a spike gets weights 0 and the constant ln(0.5 / S).

    Parameters
    ----------
    latents
        [S, D].
    spikes
        Counts [S, N].
    l2
        Positive.
    """
    z, x = _with_ones(np.asarray(latents, np.float64)), np.asarray(spikes, np.float64)
    S, width = z.shape
    penalty = np.full(width, float(l2))
    penalty[-1] = 0.0
    weights = np.zeros((x.shape[1], width))
    weights[:, -1] = np.log(np.maximum(x.sum(0), 0.5) / S)
    moving = np.flatnonzero(x.sum(0) > 0)
    for _ in range(NEWTON_STEPS):
        if not len(moving):
            break
        w, counts = weights[moving], x[:, moving]
        rates = np.exp(z @ w.T)
        gradient = (rates - counts).T @ z / S + penalty * w
        curvature = np.stack([z.T @ (rate[:, None] * z) for rate in rates.T]) / S + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        promised = 0.5 * (gradient * step).sum(1)
        weights[moving] = _descend(z, counts, w, step, penalty)
        moving = moving[promised > TOLERANCE]
    return weights


def _descend(z: Floats, x: Floats, weights: Floats, step: Floats, penalty: Floats) -> Floats:
    """Return weights [N, D + 1] after a Newton step, which is halved for each neuron until its loss is no higher."""

    def loss(of: Floats, columns: NDArray[Any]) -> NDArray[np.float64]:
        log_rates = z @ of.T
        with np.errstate(over="ignore"):
            nll = (np.exp(log_rates) - x[:, columns] * log_rates).mean(0)
        total: NDArray[np.float64] = nll + 0.5 * (penalty * np.square(of)).sum(1)
        return total

    before = loss(weights, np.arange(len(weights)))
    after, waiting, share = weights.copy(), np.arange(len(weights)), 1.0
    for _ in range(HALVINGS):
        candidate = weights[waiting] - share * step[waiting]
        lower = loss(candidate, waiting) <= before[waiting]
        after[waiting[lower]] = candidate[lower]
        waiting, share = waiting[~lower], share / 2
        if not len(waiting):
            break
    return after


def _with_ones(latents: Floats) -> NDArray[np.float64]:
    """Return latents [S, D] with a column of ones, [S, D + 1]."""
    with_ones: NDArray[np.float64] = np.concatenate((latents, np.ones((len(latents), 1))), axis=1)
    return with_ones
