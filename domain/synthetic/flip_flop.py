"""Neurons that read a network with two bits of memory."""

from __future__ import annotations

import numpy as np

from domain.errors import require
from domain.synthetic.recording import SyntheticRecording, record, require_sizes

PULSES_PER_BIN = 0.1
GAIN, RATE = 2.0, 0.4  # ẋ = RATE (-x + tanh(GAIN x + input)): stable at x = ±0.96
PULSE = 6.0


def flip_flop(
    conditions: int = 65,
    trials_per_condition: int = 20,
    bins: int = 50,
    neurons: int = 29,
    *,
    mean_count_per_bin: float = 0.2,
    bin_width_s: float = 0.01,
    seed: int = 0,
) -> SyntheticRecording:
    """Poisson neurons that read two bits, each of which keeps the sign of its last input pulse.

    Bit k follows x ← x + α (-x + tanh(2 x + v)), with an input v of ±6 in a tenth of the bins and 0 elsewhere: two stable
    fixed points and a saddle for each bit. The inputs of a condition are known to the model (`inputs`).

    Parameters
    ----------
    conditions, trials_per_condition, bins, neurons, mean_count_per_bin, bin_width_s, seed
        As for `lorenz`.
    """
    require_sizes(conditions, trials_per_condition, bins, neurons, bin_width_s)
    require(mean_count_per_bin > 0, f"mean_count_per_bin must be positive, got {mean_count_per_bin}")
    random = np.random.default_rng(seed)
    shape = (conditions, bins, 2)
    pulses = PULSE * (random.random(shape) < PULSES_PER_BIN) * random.choice([-1.0, 1.0], shape)
    bits = random.choice([-0.96, 0.96], (conditions, 2))
    path = np.empty(shape)
    for t in range(bins):
        bits = bits + RATE * (-bits + np.tanh(GAIN * bits + pulses[:, t]))
        path[:, t] = bits
    states = (path - path.mean((0, 1))) / path.std((0, 1))
    weights = random.uniform(0.45, 0.9, (2, neurons)) * random.choice([-1.0, 1.0], (2, neurons))
    drive = np.exp(states @ weights)
    rates = mean_count_per_bin * drive / drive.mean((0, 1))
    inputs = np.repeat(pulses.astype(np.float32), trials_per_condition, axis=0)
    return record(
        random, rates, states, conditions, trials_per_condition, bin_width_s=bin_width_s, inputs=inputs
    )
