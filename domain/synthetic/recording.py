"""Spikes drawn from known rates, and what made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import require

Floats = NDArray[np.floating[Any]]

SAMPLES_PER_BLOCK = 2**22  # NumPy's Poisson counts take 8 bytes each


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
        float32 [trials, T, K], states of the system, each of mean 0 and variance 1.
    condition
        int64 [trials]; trials of one condition begin in one state, and share their rates if there are no inputs.
    is_validation
        bool [trials], one fifth of each condition's trials.
    bin_width_s
        Seconds.
    inputs
        float32 [trials, T, U], the inputs of the system in each bin; None for a system without inputs.
    """

    spikes: NDArray[np.integer]
    true_rates_hz: NDArray[np.float32]
    latents: NDArray[np.float32]
    condition: NDArray[np.int64]
    is_validation: NDArray[np.bool_]
    bin_width_s: float
    inputs: NDArray[np.float32] | None = None


def require_sizes(
    conditions: int, trials_per_condition: int, bins: int, neurons: int, bin_width_s: float
) -> None:
    """Check what all systems take, or raise `ConfigurationError`."""
    require(
        conditions >= 1 and bins >= 2 and neurons >= 1,
        f"conditions and neurons must be at least 1 and bins at least 2, got {conditions} conditions, "
        f"{neurons} neurons and {bins} bins",
    )
    require(trials_per_condition >= 2, f"trials_per_condition must be at least 2, got {trials_per_condition}")
    require(bin_width_s > 0, f"bin_width_s must be positive, got {bin_width_s}")


def record(
    random: np.random.Generator,
    rates: Floats,
    states: Floats,
    conditions: int,
    trials_per_condition: int,
    *,
    bin_width_s: float,
    inputs: NDArray[np.float32] | None = None,
) -> SyntheticRecording:
    """Draw Poisson counts for every trial.

    Parameters
    ----------
    random
        Source of the counts.
    rates
        [rows, T, N], counts per bin; a row is a condition, or a trial where trials of a condition differ.
    states
        [rows, T, K], the latents.
    conditions, trials_per_condition
        Trials are their product, ordered by condition.
    bin_width_s
        Seconds.
    inputs
        [trials, T, U], if any.
    """
    repeats = conditions * trials_per_condition // len(rates)
    validation = max(1, trials_per_condition // 5)
    return SyntheticRecording(
        spikes=_poisson(random, rates, repeats),
        true_rates_hz=np.repeat((rates / bin_width_s).astype(np.float32), repeats, axis=0),
        latents=np.repeat(states.astype(np.float32, copy=False), repeats, axis=0),
        condition=np.repeat(np.arange(conditions), trials_per_condition),
        is_validation=np.tile(
            np.arange(trials_per_condition) >= trials_per_condition - validation, conditions
        ),
        bin_width_s=bin_width_s,
        inputs=inputs,
    )


def _poisson(random: np.random.Generator, rates: Floats, repeats: int) -> NDArray[np.integer]:
    """Draw counts [rows · repeats, T, N] from rates [rows, T, N], a block of rows at a time to save memory."""
    rows = max(1, SAMPLES_PER_BLOCK // (repeats * rates[0].size))
    blocks: list[NDArray[np.integer]] = []
    for first in range(0, len(rates), rows):
        counts = random.poisson(np.repeat(rates[first : first + rows], repeats, axis=0))
        largest = int(counts.max())
        require(
            largest <= np.iinfo(np.int16).max,
            f"rates must give counts of at most 32767 per bin, got {largest}",
        )
        blocks.append(counts.astype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.int16))
    return np.concatenate(blocks)
