"""R² of inferred rates: to the true rates of a simulation, and to the PSTHs of a recording."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import require
from domain.scores.likelihood import aligned
from domain.smoothing import smoothed

Floats = NDArray[np.floating]
KERNEL_REACH_SDS = 3.0  # the smoothing kernel is cut off here


def r2_true_rates(rates: Floats, true_rates: Floats, mask: NDArray[np.bool_] | None = None) -> float:
    """Return the mean over neurons of R² = 1 - Σ (λ - λ*)² / Σ (λ* - mean λ*)², with sums over trials and bins.

    Both in the same unit (counts per bin, or both in Hz). Neurons whose true rate is constant have no R²
    and are left out; if all are, the result is NaN.

    Parameters
    ----------
    rates, true_rates
        [trials, T, N].
    mask
        bool, broadcastable to that shape ([trials, T, 1] for ragged trials).
    """
    rates, true_rates, chosen = aligned(rates, true_rates, mask)
    scores = []
    for n in range(rates.shape[-1]):
        truth, inferred = true_rates[..., n][chosen[..., n]], rates[..., n][chosen[..., n]]
        spread = float(np.square(truth - truth.mean()).sum()) if len(truth) else 0.0
        if spread > 1e-12 * max(float(np.square(truth).sum()), 1e-300):
            scores.append(1.0 - float(np.square(inferred - truth).sum()) / spread)
    return float(np.mean(scores)) if scores else math.nan


def psth_r2(
    rates: Floats,
    spikes: NDArray[Any],
    condition: NDArray[Any],
    *,
    bin_width_s: float,
    smoothing_sd_s: float = 0.07,
    scored_trials: NDArray[np.bool_] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """Return R² of condition-averaged rates to the PSTH, over conditions and bins, then the mean over neurons.

    The PSTH is the mean over a condition's trials of spikes smoothed with a Gaussian; R² = 1 - Σ (λ̄ - p)² /
    Σ (p - mean p)² with sums over conditions and bins. The Neural Latents Benchmark does the same (sd 0.07 s for
    MC_Maze and DMFC_RSG, 0.05 s for the smaller mazes, 0.04 s for Area2_Bump): it averages rates over test trials and
    spikes over all trials, but smooths the continuous recording. Here spikes outside of a trial are unknown, so near its ends
    the kernel's weights within the trial are scaled to sum to 1. A bin of a condition counts if at least half of
    the condition's trials, and one scored trial, have it. Neurons with a constant PSTH have no R² and are left out;
    if all neurons are, the result is NaN.

    Parameters
    ----------
    rates
        [trials, T, N], counts per bin; NaN only where the mask is false.
    spikes
        Counts, same shape; NaN only where the mask is false.
    condition
        [trials], labels.
    bin_width_s
        Seconds.
    smoothing_sd_s
        Standard deviation of the Gaussian, seconds; it is cut off at 3 of them.
    scored_trials
        bool [trials], trials whose rates are averaged, for example the validation trials; by default all. A condition
        without such a trial does not count.
    mask
        bool [trials, T], bins that exist.
    """
    rates, spikes, _ = aligned(rates, spikes, None)
    require(rates.ndim == 3, f"rates must be [trials, T, N], got {rates.shape}")
    trials, T, _ = rates.shape
    condition = np.asarray(condition)
    require(condition.shape == (trials,), f"condition must be [{trials}], got {condition.shape}")
    require(
        bin_width_s > 0 and smoothing_sd_s > 0, "bin_width_s and smoothing_sd_s must be positive, in seconds"
    )
    exists = np.ones((trials, T), bool) if mask is None else np.asarray(mask, bool)
    scored = np.ones(trials, bool) if scored_trials is None else np.asarray(scored_trials, bool)
    sd_bins = smoothing_sd_s / bin_width_s
    psth_of_trial = smoothed(
        spikes, sd_bins, 1, recorded=exists[:, :, None], reach=int(KERNEL_REACH_SDS * sd_bins)
    )
    averages, psths = [], []
    for label in np.unique(condition):
        these = condition == label
        counts = (2 * exists[these].sum(0) >= these.sum()) & exists[these & scored].any(0)
        averages.append(_mean_over_trials(rates[these & scored], exists[these & scored])[counts])
        psths.append(_mean_over_trials(psth_of_trial[these], exists[these])[counts])
    average, psth = np.concatenate(averages), np.concatenate(psths)
    require(len(psth) > 0, "no bin of any condition counts: is a trial scored?")
    return r2_true_rates(average, psth)


def _mean_over_trials(values: Floats, exists: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean over the trials that have a bin, [T, N] of [trials, T, N]; 0 where no trial has it."""
    total = np.where(exists[:, :, None], values, 0.0).sum(0)
    mean: NDArray[np.float64] = total / np.maximum(exists.sum(0), 1)[:, None]
    return mean
