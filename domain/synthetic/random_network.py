"""Neurons that are the units of a random recurrent network: chaotic of itself, or driven by pulses.

The "data RNN" of the LFADS papers (Sussillo et al. 2016, arXiv 1608.06315; Pandarinath et al. 2018, supplementary
figures 3 and 7).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from domain.errors import require
from domain.synthetic.recording import SyntheticRecording, record, require_sizes

TIME_CONSTANT_S = 0.025
LONGEST_STEP_S = 0.01  # the papers' step, and their bin width; wider bins take several
WIDEST_BIN_S = 2 * TIME_CONSTANT_S
PULSE_FROM, PULSE_UNTIL = 0.25, 0.75  # of the trial


def chaotic_rnn(
    conditions: int = 400,
    trials_per_condition: int = 10,
    bins: int = 100,
    neurons: int = 50,
    *,
    gain: float = 2.5,
    max_rate_hz: float = 30.0,
    bin_width_s: float = 0.01,
    seed: int = 0,
) -> SyntheticRecording:
    """Poisson neurons that are the units of a chaotic network.

    τ ẏ = -y + γ W tanh(y), W_ij ~ N(0, 1/N), τ = 25 ms, by Euler's method with steps of at most 10 ms. Each
    condition begins at a state y ~ N(0, 1). Rates are (1 + tanh y) / 2 · `max_rate_hz`; latents are y,
    normalised, K = N. Trials are ordered by condition.

    Parameters
    ----------
    conditions, trials_per_condition
        Trials are their product; at least 2 per condition, of which a fifth (at least one) are for
        validation.
    bins, neurons
        T and N.
    gain
        γ: activity dies out below about 1, is gently chaotic at 1.5 and strongly at 2.5.
    max_rate_hz
        Spikes per second of a unit at its highest; half of it is the mean.
    bin_width_s
        Seconds, at most 0.05; the network runs `bins` times as long.
    seed
        Of everything random.
    """
    _require(
        conditions,
        trials_per_condition,
        bins,
        neurons,
        gain=gain,
        max_rate_hz=max_rate_hz,
        bin_width_s=bin_width_s,
    )
    random = np.random.default_rng(seed)
    weights = random.normal(0.0, gain / math.sqrt(neurons), (neurons, neurons))
    start = random.normal(size=(conditions, neurons))
    no_inputs = np.zeros((conditions, bins, 0), np.float32)
    states = _trajectories(start, weights, no_inputs, np.zeros((0, neurons)), bin_width_s)
    rates = _rates(states, max_rate_hz, bin_width_s)
    return record(
        random, rates, _normalised(states), conditions, trials_per_condition, bin_width_s=bin_width_s
    )


def driven(
    conditions: int = 400,
    trials_per_condition: int = 10,
    bins: int = 100,
    neurons: int = 50,
    *,
    inputs: int = 1,
    gain: float = 1.5,
    pulse: float = 50.0,
    max_rate_hz: float = 30.0,
    bin_width_s: float = 0.01,
    seed: int = 0,
) -> SyntheticRecording:
    """Poisson neurons of a network that is driven by pulses: the test of inferred inputs.

    τ ẏ = -y + γ W tanh(y) + B u(t), otherwise as `chaotic_rnn`; the columns of B are random points of the unit
    sphere. In each trial each input is zero but in one random bin of the middle half of the trial, where it is
    + `pulse` or - `pulse`. A pulse changes the rates from its own bin on. Trials of a condition share their
    initial state, and differ from the first pulse on.

    Parameters
    ----------
    conditions, trials_per_condition, bins, neurons, gain, max_rate_hz, bin_width_s, seed
        As for `chaotic_rnn`.
    inputs
        U, at most N.
    pulse
        Size of a pulse in units of the state: it moves y by about `pulse` · `bin_width_s` / τ, 20 by default,
        in the direction of its column of B.
    """
    _require(
        conditions,
        trials_per_condition,
        bins,
        neurons,
        gain=gain,
        max_rate_hz=max_rate_hz,
        bin_width_s=bin_width_s,
    )
    require(1 <= inputs <= neurons, f"inputs must be 1 … {neurons}, the number of neurons, got {inputs}")
    require(pulse > 0, f"pulse must be positive, got {pulse}")
    random = np.random.default_rng(seed)
    weights = random.normal(0.0, gain / math.sqrt(neurons), (neurons, neurons))
    start = np.repeat(random.normal(size=(conditions, neurons)), trials_per_condition, axis=0)
    input_weights = random.normal(size=(inputs, neurons))
    input_weights /= np.linalg.norm(input_weights, axis=1, keepdims=True)
    pulses = pulse * _pulses(random, len(start), bins, inputs)
    states = _trajectories(start, weights, pulses, input_weights, bin_width_s)
    rates = _rates(states, max_rate_hz, bin_width_s)
    return record(
        random,
        rates,
        _normalised(states),
        conditions,
        trials_per_condition,
        bin_width_s=bin_width_s,
        inputs=pulses,
    )


def _require(
    conditions: int,
    trials_per_condition: int,
    bins: int,
    neurons: int,
    *,
    gain: float,
    max_rate_hz: float,
    bin_width_s: float,
) -> None:
    require_sizes(conditions, trials_per_condition, bins, neurons, bin_width_s)
    require(gain > 0, f"gain must be positive, got {gain}")
    require(max_rate_hz > 0, f"max_rate_hz must be positive, got {max_rate_hz}")
    require(
        bin_width_s <= WIDEST_BIN_S,
        f"bin_width_s must be at most {WIDEST_BIN_S}, twice the network's time constant, got {bin_width_s}",
    )


def _pulses(random: np.random.Generator, trials: int, bins: int, inputs: int) -> NDArray[np.float32]:
    """[trials, T, U], zero but for one +1 or -1 of each trial and input."""
    first, end = int(PULSE_FROM * bins), math.ceil(PULSE_UNTIL * bins)
    pulses = np.zeros((trials, bins, inputs), np.float32)
    when = random.integers(first, end, (trials, 1, inputs))
    signs = random.choice(np.array([-1.0, 1.0], np.float32), (trials, 1, inputs))
    np.put_along_axis(pulses, when, signs, axis=1)
    return pulses


def _trajectories(
    start: NDArray[np.float64],
    weights: NDArray[np.float64],
    inputs: NDArray[np.float32],
    input_weights: NDArray[np.float64],
    bin_width_s: float,
) -> NDArray[np.float32]:
    """Integrate by Euler's method; the state of a bin is the one at its end.

    In double precision: processors round differently, and chaos lets the difference grow, though not to the size of
    a rate within a few hundred bins.

    Parameters
    ----------
    start
        [rows, N].
    weights, input_weights
        γ W [N, N] and B [U, N].
    inputs
        [rows, T, U], constant within a bin.
    bin_width_s
        Seconds.

    Returns
    -------
    states
        [rows, T, N].
    """
    steps = math.ceil(round(bin_width_s / LONGEST_STEP_S, 6))
    rate = bin_width_s / steps / TIME_CONSTANT_S  # Δt / τ
    state, path = start, np.empty((*inputs.shape[:2], start.shape[1]), np.float32)
    for bin_index in range(inputs.shape[1]):
        push = inputs[:, bin_index] @ input_weights
        for _ in range(steps):
            state = state + rate * (np.tanh(state) @ weights.T - state + push)
        path[:, bin_index] = state
    return path


def _rates(states: NDArray[np.float32], max_rate_hz: float, bin_width_s: float) -> NDArray[np.float32]:
    """Return counts per bin [rows, T, N]."""
    rates = np.tanh(states)
    rates += 1
    rates *= max_rate_hz * bin_width_s / 2
    return rates


def _normalised(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standardise each state to mean 0 and variance 1, in place since the array may be large; return it."""
    states -= states.mean((0, 1), dtype=np.float64).astype(np.float32)
    states /= states.std((0, 1), dtype=np.float64).astype(np.float32)
    return states
