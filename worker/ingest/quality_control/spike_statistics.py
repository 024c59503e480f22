"""Statistics of the spikes of a recording, gathered in one pass over blocks of trials."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.ingest.recording import Recording
from worker.ingest.rows import BLOCK_BYTES, Rows, blocks, rows_per_block

MOST_TRIAL_COUNTS = 8 * 10**6
"""Largest number of counts by trial and neuron that are kept; of more, trials at equal distances are kept."""
FEWEST_SPIKES_OF_EQUAL_TRIALS = 10
"""Trials with fewer spikes may be equal by chance."""


@dataclass(frozen=True)
class SpikeStatistics:
    """Statistics of the spikes.

    Windows that overlap share bins: numbers of spikes, bins and rates count each bin once. Samples that were not observed are
    not counted in any number of bins.

    Attributes
    ----------
    total_spikes, max_count
        Total number of spikes; highest count of a neuron in a bin.
    recorded_bins, padding_bins
        Bins in which a neuron was observed, each once; bins after their trial's end.
    observed_bins : int64, [neurons]
        Bins in which each neuron was observed.
    missing_fraction
        Share of the samples within trials that were not observed.
    divisor
        The greatest number that divides every count.
    rates_hz : float64, [neurons]
        Mean rate of each neuron over its observed time, in spikes per second; 0 of one that was never observed.
    silent_neurons, empty_trials, trials_with_spikes_past_end
        Indices.
    duplicate_neurons
        Groups of indices of neurons with equal counts throughout, silent ones aside.
    duplicate_trials
        Groups of indices of trials with equal counts throughout, those of few spikes aside.
    spread
        For `trials`, `bins`, `neurons`: squared coefficient of variation of mean activity across the axis,
        minus the part of Poisson noise.
    trials_counted : int64, [some trials]
        Indices of the trials whose counts are kept.
    trial_counts : float32, [some trials, neurons]
        Spikes of each neuron in each of these trials.
    trial_bins : float32, [some trials, 1 or neurons]
        Observed bins of each neuron in each of these trials; one column if all neurons were observed alike.
    """

    total_spikes: int
    max_count: int
    recorded_bins: int
    padding_bins: int
    observed_bins: NDArray[np.int64]
    missing_fraction: float
    divisor: int
    rates_hz: NDArray[np.float64]
    silent_neurons: list[int]
    empty_trials: list[int]
    trials_with_spikes_past_end: list[int]
    duplicate_neurons: list[list[int]]
    duplicate_trials: list[list[int]]
    spread: dict[str, float]
    trials_counted: NDArray[np.int64]
    trial_counts: NDArray[np.float32]
    trial_bins: NDArray[np.float32]


def pieces(array: Rows) -> Iterator[tuple[int, int, NDArray[np.unsignedinteger]]]:
    """Iterate over an array [trials, bins, neurons]: yield the first trial and the first bin of a block, and the block.

    A block has whole trials, or a part of one that is too long. Arrays of one shape have the same blocks.
    """
    trials, bins, neurons = array.shape
    if bins * neurons * 8 <= 2 * BLOCK_BYTES:
        for first, block in blocks(array, 8):
            yield first, 0, block
        return
    flat, step = array.reshape(-1, neurons), rows_per_block((bins, neurons), 8)
    for trial in range(trials):
        for first in range(0, bins, step):
            last = min(first + step, bins)
            yield trial, first, flat[trial * bins + first : trial * bins + last][None]


@dataclass
class _Exposure:
    """Numbers of observed bins and samples.

    Attributes
    ----------
    counted : bool, [trials, bins]
        Bins within trials, each once.
    samples_of_trial, samples_of_bin : int64, [trials], [bins]
        Samples (of all neurons) in each.
    of_neuron : int64, [neurons]
        Bins.
    of_some_trials
        As `trial_bins` of `SpikeStatistics`.
    recorded, missing
        Bins in which any neuron was observed; samples within trials that were not observed.
    """

    counted: NDArray[np.bool_]
    samples_of_trial: NDArray[np.int64]
    samples_of_bin: NDArray[np.int64]
    of_neuron: NDArray[np.int64]
    of_some_trials: NDArray[np.float32]
    recorded: int
    missing: int = 0


def _exposure(recording: Recording, some: NDArray[np.int64]) -> _Exposure:
    """Count observed bins and samples."""
    neurons, counted = recording.spikes.shape[2], recording.counted_bins()
    bins_of_trial = counted.sum(axis=1)
    recorded = int(bins_of_trial.sum())
    exposure = _Exposure(
        counted,
        bins_of_trial * neurons,
        counted.sum(axis=0) * neurons,
        np.full(neurons, recorded),
        bins_of_trial[some, None].astype(np.float32),
        recorded,
    )
    if recording.missing is None:
        return exposure
    exposure.of_some_trials = np.repeat(exposure.of_some_trials, neurons, axis=1)
    for first, first_bin, block in pieces(recording.missing):
        rows, cut = slice(first, first + len(block)), slice(first_bin, first_bin + block.shape[1])
        exposure.missing += int(block.sum(dtype=np.int64))
        lacking = block * counted[rows, cut, None]
        of_trials = lacking.sum(axis=1, dtype=np.int64)
        exposure.samples_of_trial[rows] -= of_trials.sum(axis=1)
        exposure.samples_of_bin[cut] -= lacking.sum(axis=(0, 2), dtype=np.int64)
        exposure.of_neuron -= of_trials.sum(axis=0)
        exposure.recorded -= int((lacking.all(axis=2) & counted[rows, cut]).sum())
        here = slice(*np.searchsorted(some, [rows.start, rows.stop]))
        exposure.of_some_trials[here] -= of_trials[some[here] - first]
    return exposure


def gather_statistics(recording: Recording) -> SpikeStatistics:
    """Return the statistics of a recording's spikes."""
    spikes = recording.spikes
    trials, bins, neurons = spikes.shape
    inside = recording.inside_trials()
    per_trial, past_end = np.zeros(trials, np.int64), np.zeros(trials, np.bool_)
    once_per_trial = np.zeros(trials, np.int64)
    per_bin, per_neuron = np.zeros(bins, np.int64), np.zeros(neurons, np.int64)
    neuron_digests = [hashlib.blake2b(digest_size=16) for _ in range(neurons)]
    trial_digests: list[bytes] = []
    trial_digest = hashlib.blake2b(digest_size=16)
    counted = np.arange(0, trials, -(-trials * neurons // MOST_TRIAL_COUNTS))
    trial_counts = np.zeros((len(counted), neurons), np.float32)
    max_count = divisor = 0
    exposure = _exposure(recording, counted)
    for first, first_bin, block in pieces(spikes):
        rows, cut = slice(first, first + len(block)), slice(first_bin, first_bin + block.shape[1])
        per_trial_and_bin = block.sum(axis=2, dtype=np.int64)
        once = exposure.counted[rows, cut]
        per_trial_and_neuron = np.where(once[:, :, None], block, 0).sum(axis=1, dtype=np.int64)
        per_trial[rows] += per_trial_and_bin.sum(axis=1)
        once_per_trial[rows] += (per_trial_and_bin * once).sum(axis=1)
        past_end[rows] |= (per_trial_and_bin * ~inside[rows, cut]).any(axis=1)
        per_bin[cut] += (per_trial_and_bin * once).sum(axis=0)
        per_neuron += per_trial_and_neuron.sum(axis=0)
        here = slice(*np.searchsorted(counted, [rows.start, rows.stop]))
        trial_counts[here] += per_trial_and_neuron[counted[here] - first]
        max_count = max(max_count, int(block.max()))
        if divisor != 1:
            divisor = int(np.gcd.reduce(block, axis=None, initial=block.dtype.type(divisor)))
        by_neuron = np.ascontiguousarray(block.reshape(-1, neurons).T)
        for digest, counts in zip(neuron_digests, by_neuron, strict=True):
            digest.update(counts.data)
        for trial in block:
            trial_digest.update(np.ascontiguousarray(trial).data)
            if cut.stop == bins:
                trial_digests.append(trial_digest.digest())
                trial_digest = hashlib.blake2b(digest_size=16)
    observed = {
        "trials": exposure.samples_of_trial, "bins": exposure.samples_of_bin, "neurons": exposure.of_neuron,
    }  # fmt: skip
    activity = {"trials": once_per_trial, "bins": per_bin, "neurons": per_neuron}
    within = int(inside.sum())
    return SpikeStatistics(
        total_spikes=int(per_neuron.sum()),
        max_count=max_count,
        recorded_bins=exposure.recorded,
        padding_bins=trials * bins - within,
        observed_bins=exposure.of_neuron,
        missing_fraction=exposure.missing / max(1, within * neurons),
        divisor=divisor,
        rates_hz=per_neuron / (np.maximum(exposure.of_neuron, 1) * recording.bin_width_s),
        silent_neurons=np.flatnonzero(per_neuron == 0).tolist(),
        empty_trials=np.flatnonzero(per_trial == 0).tolist(),
        trials_with_spikes_past_end=np.flatnonzero(past_end).tolist(),
        duplicate_neurons=_equal_groups([digest.digest() for digest in neuron_digests], per_neuron > 0),
        duplicate_trials=_equal_groups(trial_digests, per_trial >= FEWEST_SPIKES_OF_EQUAL_TRIALS),
        spread={axis: _spread(activity[axis], observed[axis]) for axis in activity},
        trials_counted=counted,
        trial_counts=trial_counts,
        trial_bins=exposure.of_some_trials,
    )


def _equal_groups(digests: list[bytes], counts: NDArray[np.bool_]) -> list[list[int]]:
    groups: dict[bytes, list[int]] = {}
    for place in np.flatnonzero(counts).tolist():
        groups.setdefault(digests[place], []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def _spread(counts: NDArray[np.int64], exposure: NDArray[np.int64]) -> float:
    """Return the squared coefficient of variation of counts ÷ exposure beyond Poisson noise, at least 0."""
    seen = exposure > 0
    means = counts[seen] / exposure[seen]
    mean = float(means.mean()) if means.size > 1 else 0.0
    if not mean > 0:
        return 0.0
    noise = float((mean / exposure[seen]).mean())
    return max(0.0, (float(means.var()) - noise) / mean**2)
