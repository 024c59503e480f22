"""Neurons that read a Lorenz system, in one session or in several, or a Rössler system."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from domain.errors import require
from domain.synthetic.recording import SyntheticRecording, record, require_sizes

Doubles = NDArray[np.float64]

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0  # Lorenz 1963
ROSSLER_A, ROSSLER_B, ROSSLER_C = 0.2, 0.2, 5.7  # Rössler 1976
ROSSLER_TIME_PER_BIN = 0.18  # a turn takes about 6: 33 bins
SYSTEM_TIME_PER_BIN = 0.02  # a turn around one wing takes about 0.7: 35 bins
INTEGRATION_STEPS_PER_BIN = 2
BURN_IN_BINS = 2000  # orbits that begin near a fixed point spiral about it for long


def lorenz(
    conditions: int = 65,
    trials_per_condition: int = 20,
    bins: int = 50,
    neurons: int = 29,
    *,
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
    _require(
        conditions,
        trials_per_condition,
        bins,
        neurons,
        mean_count_per_bin=mean_count_per_bin,
        bin_width_s=bin_width_s,
    )
    random = np.random.default_rng(seed)
    states = _states(random, conditions, bins)
    rates = _rates(random, states, neurons, mean_count_per_bin)
    return record(random, rates, states, conditions, trials_per_condition, bin_width_s=bin_width_s)


def rossler(
    conditions: int = 65,
    trials_per_condition: int = 20,
    bins: int = 50,
    neurons: int = 29,
    *,
    mean_count_per_bin: float = 0.2,
    bin_width_s: float = 0.01,
    seed: int = 0,
) -> SyntheticRecording:
    """Poisson neurons that read a Rössler system: ẋ = -y - z, ẏ = x + a y, ż = b + z (x - c). Otherwise as `lorenz`."""
    sizes = {"mean_count_per_bin": mean_count_per_bin, "bin_width_s": bin_width_s}
    _require(conditions, trials_per_condition, bins, neurons, **sizes)
    random = np.random.default_rng(seed)
    start = random.normal(0.0, 3.0, (conditions, 3)) * (1.0, 1.0, 0.0)
    path = _trajectories(start, bins, _rossler_flow, ROSSLER_TIME_PER_BIN)
    states = (path - path.mean((0, 1))) / path.std((0, 1))
    rates = _rates(random, states, neurons, mean_count_per_bin)
    return record(random, rates, states, conditions, trials_per_condition, bin_width_s=bin_width_s)


def two_sessions(
    conditions: int = 65,
    trials_per_condition: int = 20,
    bins: int = 50,
    neurons: tuple[int, int] = (29, 29),
    *,
    mean_count_per_bin: float = 0.2,
    bin_width_s: float = 0.01,
    seed: int = 0,
) -> tuple[SyntheticRecording, SyntheticRecording]:
    """One Lorenz system recorded in two sessions, each with its own neurons and trials.

    The test of models that share their dynamics between sessions: `latents` of a condition are the same in
    both recordings, and nothing else is. Otherwise as `lorenz`.

    Parameters
    ----------
    conditions, trials_per_condition, bins, mean_count_per_bin, bin_width_s, seed
        As for `lorenz`, of each session.
    neurons
        N of the first and of the second session.
    """
    sizes = {"mean_count_per_bin": mean_count_per_bin, "bin_width_s": bin_width_s}
    first, second = (
        lorenz_session(session, conditions, trials_per_condition, bins, neurons[session], **sizes, seed=seed)
        for session in range(2)
    )
    return first, second


def lorenz_session(
    session: int = 0,
    conditions: int = 65,
    trials_per_condition: int = 20,
    bins: int = 50,
    neurons: int = 29,
    *,
    mean_count_per_bin: float = 0.2,
    bin_width_s: float = 0.01,
    seed: int = 0,
) -> SyntheticRecording:
    """One of the sessions of `two_sessions`, which need not be made together.

    Parameters
    ----------
    session
        Which, from 0. Sessions of the same `conditions`, `bins` and `seed` have the same latents.
    conditions, trials_per_condition, bins, neurons, mean_count_per_bin, bin_width_s, seed
        As for `lorenz`.
    """
    require(session >= 0, f"session must be 0 or more, got {session}")
    _require(
        conditions,
        trials_per_condition,
        bins,
        neurons,
        mean_count_per_bin=mean_count_per_bin,
        bin_width_s=bin_width_s,
    )
    states = _states(np.random.default_rng((seed, 0)), conditions, bins)
    random = np.random.default_rng((seed, 1 + session))
    rates = _rates(random, states, neurons, mean_count_per_bin)
    return record(random, rates, states, conditions, trials_per_condition, bin_width_s=bin_width_s)


def _require(
    conditions: int,
    trials_per_condition: int,
    bins: int,
    neurons: int,
    *,
    mean_count_per_bin: float,
    bin_width_s: float,
) -> None:
    require_sizes(conditions, trials_per_condition, bins, neurons, bin_width_s)
    require(mean_count_per_bin > 0, f"mean_count_per_bin must be positive, got {mean_count_per_bin}")


def _states(random: np.random.Generator, conditions: int, bins: int) -> Doubles:
    """States [conditions, T, 3], each of mean 0 and variance 1."""
    start = random.normal((0.0, 0.0, 25.0), 10.0, (conditions, 3))
    states = _trajectories(start, bins)
    normalised: Doubles = (states - states.mean((0, 1))) / states.std((0, 1))
    return normalised


def _rates(random: np.random.Generator, states: Doubles, neurons: int, mean_count_per_bin: float) -> Doubles:
    """Rates [conditions, T, N] of random neurons, in counts per bin."""
    weights = random.uniform(0.45, 0.9, (3, neurons)) * random.choice([-1.0, 1.0], (3, neurons))
    drive = np.exp(states @ weights)
    rates: Doubles = mean_count_per_bin * drive / drive.mean((0, 1))
    return rates


def _trajectories(
    start: Doubles,
    bins: int,
    flow: Callable[[Doubles], Doubles] | None = None,
    per_bin: float = SYSTEM_TIME_PER_BIN,
) -> Doubles:
    """Integrate from [conditions, 3] by Runge and Kutta's method; [conditions, bins, 3] after the burn-in."""
    flow = flow or _flow
    step = per_bin / INTEGRATION_STEPS_PER_BIN
    state, path = start, np.empty((len(start), bins, 3))
    for bin_index in range(-BURN_IN_BINS, bins):
        if bin_index >= 0:
            path[:, bin_index] = state
        for _ in range(INTEGRATION_STEPS_PER_BIN):
            k1 = flow(state)
            k2 = flow(state + step / 2 * k1)
            k3 = flow(state + step / 2 * k2)
            k4 = flow(state + step * k3)
            state = state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return path


def _flow(state: Doubles) -> Doubles:
    x, y, z = state.T
    return np.stack((SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z), axis=1)


def _rossler_flow(state: Doubles) -> Doubles:
    x, y, z = state.T
    return np.stack((-y - z, x + ROSSLER_A * y, ROSSLER_B + z * (x - ROSSLER_C)), axis=1)
