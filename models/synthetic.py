"""Recordings whose true rates are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.config import require

Floats = NDArray[np.float64]

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0  # Lorenz 1963
SYSTEM_TIME_PER_BIN = 0.02  # a turn around one wing takes about 0.7: 35 bins
INTEGRATION_STEPS_PER_BIN = 2
BURN_IN_BINS = 2000  # orbits that begin near a fixed point spiral about it for long


@dataclass(frozen=True)
class SyntheticRecording:
    """Spike counts and what made them.

    Parameters
    ----------
    spikes
        uint8 (int16 if a count exceeds 255) [trials, T, N].
    true_rates_hz
        float32 [trials, T, N], spikes per second; times `bin_width_s` they are counts per bin.
    latents
        float32 [trials, T, 3], states of the system, each of mean 0 and variance 1.
    condition
        int64 [trials]; trials of one condition share their rates.
    is_validation
        bool [trials], one fifth of each condition's trials.
    bin_width_s
        Seconds.
    """

    spikes: NDArray[np.integer]
    true_rates_hz: NDArray[np.float32]
    latents: NDArray[np.float32]
    condition: NDArray[np.int64]
    is_validation: NDArray[np.bool_]
    bin_width_s: float


def lorenz(
    conditions: int = 65,
    trials_per_condition: int = 20,
    bins: int = 50,
    neurons: int = 29,
    mean_count_per_bin: float = 0.2,
    bin_width_s: float = 0.01,
    seed: int = 0,
) -> SyntheticRecording:
    """Poisson neurons that read a Lorenz system, the standard test of LFADS.

    ẋ = σ (y - x), ẏ = x (ρ - z) - y, ż = x y - β z, from a random point of the attractor for each
    condition. The normalised states z give rates λ = c_n · exp(w_n · z) with random unit-scale weights, c_n
    such that each neuron's mean over conditions and bins is `mean_count_per_bin`. Trials are ordered by
    condition.

    Parameters
    ----------
    conditions, trials_per_condition
        Trials are their product; at least 2 per condition, of which a fifth (at least one) are for
        validation.
    bins, neurons
        T and N.
    mean_count_per_bin
        Spikes per bin and neuron.
    bin_width_s
        Seconds; only relates counts to Hz.
    seed
        Of everything random.
    """
    require(
        conditions >= 1 and bins >= 1 and neurons >= 1, "conditions, bins and neurons must each be at least 1"
    )
    require(trials_per_condition >= 2, f"trials_per_condition must be at least 2, got {trials_per_condition}")
    require(mean_count_per_bin > 0, f"mean_count_per_bin must be positive, got {mean_count_per_bin}")
    require(bin_width_s > 0, f"bin_width_s must be positive, got {bin_width_s}")
    random = np.random.default_rng(seed)
    start = random.normal((0.0, 0.0, 25.0), 10.0, (conditions, 3))
    states = _trajectories(start, bins)  # [conditions, T, 3]
    states = (states - states.mean((0, 1))) / states.std((0, 1))
    weights = random.uniform(0.45, 0.9, (3, neurons)) * random.choice([-1.0, 1.0], (3, neurons))
    drive = np.exp(states @ weights)
    rates = mean_count_per_bin * drive / drive.mean((0, 1))  # [conditions, T, N], counts per bin
    rates = np.repeat(rates, trials_per_condition, axis=0)
    counts = random.poisson(rates)
    validation = max(1, trials_per_condition // 5)
    return SyntheticRecording(
        spikes=counts.astype(np.uint8 if counts.max() <= np.iinfo(np.uint8).max else np.int16),
        true_rates_hz=(rates / bin_width_s).astype(np.float32),
        latents=np.repeat(states, trials_per_condition, axis=0).astype(np.float32),
        condition=np.repeat(np.arange(conditions), trials_per_condition),
        is_validation=np.tile(
            np.arange(trials_per_condition) >= trials_per_condition - validation, conditions
        ),
        bin_width_s=bin_width_s,
    )


def _trajectories(start: Floats, bins: int) -> Floats:
    """Integrate from [conditions, 3] by Runge and Kutta's method; [conditions, bins, 3] after the burn-in."""
    step = SYSTEM_TIME_PER_BIN / INTEGRATION_STEPS_PER_BIN
    state, path = start, np.empty((len(start), bins, 3))
    for bin_index in range(-BURN_IN_BINS, bins):
        if bin_index >= 0:
            path[:, bin_index] = state
        for _ in range(INTEGRATION_STEPS_PER_BIN):
            k1 = _flow(state)
            k2 = _flow(state + step / 2 * k1)
            k3 = _flow(state + step / 2 * k2)
            k4 = _flow(state + step * k3)
            state = state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return path


def _flow(state: Floats) -> Floats:
    x, y, z = state.T
    return np.stack((SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z), axis=1)
