"""Numbers about the spikes of a recording, gathered in one pass over blocks of trials."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.ingest.recording import Recording
from worker.ingest.rows import blocks


@dataclass(frozen=True)
class SpikeStatistics:
    """What one pass over the spikes tells.

    Attributes
    ----------
    total_spikes, max_count, recorded_bins
        Spikes in all; highest count of a neuron in a bin; bins inside trials.
    rates_hz : float64, [neurons]
        Mean rate of each neuron over recorded time, in spikes per second.
    silent_neurons, empty_trials, trials_with_spikes_past_end
        Indices.
    duplicate_neurons
        Groups of indices of neurons with equal counts throughout, silent ones aside.
    spread
        For `trials`, `bins`, `neurons`: squared coefficient of variation of mean activity across the axis,
        less what Poisson noise alone gives.
    """

    total_spikes: int
    max_count: int
    recorded_bins: int
    rates_hz: NDArray[np.float64]
    silent_neurons: list[int]
    empty_trials: list[int]
    trials_with_spikes_past_end: list[int]
    duplicate_neurons: list[list[int]]
    spread: dict[str, float]


def gather_statistics(recording: Recording) -> SpikeStatistics:
    """Go over a recording's spikes once."""
    spikes = recording.spikes
    trials, bins, neurons = spikes.shape
    inside = recording.inside_trials()
    per_trial, past_end = np.zeros(trials, np.int64), np.zeros(trials, np.bool_)
    per_bin, per_neuron = np.zeros(bins, np.int64), np.zeros(neurons, np.int64)
    digests = [hashlib.blake2b(digest_size=16) for _ in range(neurons)]
    max_count = 0
    for first, block in blocks(spikes, 8):
        rows = slice(first, first + len(block))
        per_trial_and_bin = block.sum(axis=2, dtype=np.int64)
        per_trial[rows] = per_trial_and_bin.sum(axis=1)
        past_end[rows] = (per_trial_and_bin * ~inside[rows]).any(axis=1)
        per_bin += per_trial_and_bin.sum(axis=0)
        per_neuron += block.sum(axis=(0, 1), dtype=np.int64)
        max_count = max(max_count, int(block.max()))
        by_neuron = np.ascontiguousarray(block.reshape(-1, neurons).T)
        for digest, counts in zip(digests, by_neuron, strict=True):
            digest.update(counts)
    recorded_bins = int(inside.sum())
    exposure = {
        "trials": inside.sum(axis=1) * neurons,
        "bins": inside.sum(axis=0) * neurons,
        "neurons": np.full(neurons, recorded_bins),
    }
    activity = {"trials": per_trial, "bins": per_bin, "neurons": per_neuron}
    return SpikeStatistics(
        total_spikes=int(per_neuron.sum()),
        max_count=max_count,
        recorded_bins=recorded_bins,
        rates_hz=per_neuron / (recorded_bins * recording.bin_width_s),
        silent_neurons=np.flatnonzero(per_neuron == 0).tolist(),
        empty_trials=np.flatnonzero(per_trial == 0).tolist(),
        trials_with_spikes_past_end=np.flatnonzero(past_end).tolist(),
        duplicate_neurons=_equal_groups([digest.digest() for digest in digests], per_neuron),
        spread={axis: _spread(activity[axis], exposure[axis]) for axis in activity},
    )


def _equal_groups(digests: list[bytes], per_neuron: NDArray[np.int64]) -> list[list[int]]:
    groups: dict[bytes, list[int]] = {}
    for neuron, digest in enumerate(digests):
        if per_neuron[neuron]:
            groups.setdefault(digest, []).append(neuron)
    return [group for group in groups.values() if len(group) > 1]


def _spread(counts: NDArray[np.int64], exposure: NDArray[np.int64]) -> float:
    """Give the squared coefficient of variation of counts ÷ exposure beyond Poisson noise, at least 0."""
    seen = exposure > 0
    means = counts[seen] / exposure[seen]
    mean = float(means.mean()) if means.size > 1 else 0.0
    if not mean > 0:
        return 0.0
    noise = float((mean / exposure[seen]).mean())
    return max(0.0, (float(means.var()) - noise) / mean**2)
