"""Neurons that share spikes: the same unit on two electrodes, or an artefact that many electrodes pick up.

Neurons that take part in the same dynamics are correlated too. Two things tell shared spikes from that: they are in the same
bin, so the correlation within a bin exceeds what correlations across one and two bins predict; and
account for it, so it remains as a partial correlation given those. In bins of up to 20 ms about a third of the spikes of both
must be shared to be noticed, in wider ones two thirds: dynamics are quick against these, and neurons truly have more in
common. What this cannot see: a unit that was split into two (its halves share no spike), and copies that are a bin or more
apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.recording import Recording
from worker.ingest.rows import BLOCK_BYTES, rows_per_block

MOST_NEURONS, MOST_BINS, MOST_PRODUCTS = 2000, 2 * 10**6, 10**11
MOST_SUSPECTS = 400
MOST_PAIRS, MOST_OTHERS = 300, 60
LEAST_CORRELATION = 0.2
WIDE_BIN_S = 0.02
LEAST_EXCESS, LEAST_PARTIAL = 0.12, 0.3
LEAST_EXCESS_IN_WIDE_BINS, LEAST_PARTIAL_IN_WIDE_BINS = 0.1, 0.65
"""Correlation within a bin beyond that across bins, and partial correlation."""
LEAST_SHARED = 20
"""Coincidences beyond chance."""
_RIDGE = 0.02

_Sample = tuple[NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True)
class Pair:
    """Two neurons that seem to share spikes.

    Attributes
    ----------
    neurons
        Indices of the neurons.
    correlation
        Correlation of their counts within a bin.
    beyond_neighbours
        Excess of that correlation over the prediction from neighbouring bins.
    partial
        Their correlation given the counts of other neurons.
    """

    neurons: tuple[int, int]
    correlation: float
    beyond_neighbours: float
    partial: float


@dataclass(frozen=True)
class Correlations:
    """Variances and correlations of counts, from a sample of the bins.

    Attributes
    ----------
    bins, neurons
        Numbers of bins and neurons that were examined.
    pairs
        Pairs that seem to share spikes, the most suspicious first.
    groups
        Neurons joined by such pairs.
    variance_per_mean : float64, [neurons that were looked at and fire]
        Variance per mean of each neuron's counts in a bin: 1 for a steady Poisson process.
    """

    bins: int
    neurons: int
    pairs: list[Pair]
    groups: list[list[int]]
    variance_per_mean: NDArray[np.float64]


def correlate(
    recording: Recording, rates_hz: NDArray[np.float64], duplicates: Sequence[Sequence[int]]
) -> Correlations:
    """Look for neurons that share spikes.

    Parameters
    ----------
    recording
        The recording.
    rates_hz : float64, [neurons]
        Mean rate of each neuron.
    duplicates
        Groups of neurons with equal counts: only the first of each group is examined.
    """
    copies = {neuron for group in duplicates for neuron in group[1:]}
    active = [neuron for neuron in np.argsort(-rates_hz, kind="stable").tolist() if rates_hz[neuron] > 0]
    looked_at = np.array(
        sorted([neuron for neuron in active if neuron not in copies][:MOST_NEURONS]), np.int64
    )
    moments = _moments(recording, looked_at)
    pairs = _pairs(recording, moments)
    fires = moments.mean > 0
    per_mean = moments.variance[fires] / moments.mean[fires]
    groups = _join([pair.neurons for pair in pairs])
    return Correlations(moments.bins, len(looked_at), pairs, groups, per_mean)


@dataclass(frozen=True)
class _Moments:
    """Moments of the counts of some neurons: number of bins, mean, variance, covariance, correlation."""

    neurons: NDArray[np.int64]
    most_bins: int
    bins: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @cached_property
    def correlation(self) -> NDArray[np.float64]:
        return self.covariance / np.sqrt(np.outer(self.variance, self.variance))


def _moments(recording: Recording, neurons: NDArray[np.int64]) -> _Moments:
    number = len(neurons)
    most_bins = min(MOST_BINS, MOST_PRODUCTS // max(1, number) ** 2)
    bins, total, products = 0, np.zeros(number), np.zeros((number, number))
    for counts, counted in _sample(recording, neurons, most_bins):
        flat = counts.reshape(-1, number)
        bins += int(counted.sum())
        total += flat.sum(axis=0, dtype=np.float64)
        products += flat.T @ flat
    mean = total / bins
    covariance = products / bins - np.outer(mean, mean)
    return _Moments(neurons, most_bins, bins, mean, np.diagonal(covariance).clip(min=1e-12), covariance)


def _pairs(recording: Recording, moments: _Moments) -> list[Pair]:
    """Return pairs that are correlated within bins, but neither across bins nor through other neurons."""
    correlation, chance = moments.correlation, 6 / np.sqrt(moments.bins)
    suspicious = correlation > max(LEAST_CORRELATION, chance)
    suspicious &= moments.covariance * moments.bins >= LEAST_SHARED
    first, second = np.nonzero(np.triu(suspicious, 1))
    kept: set[int] = set()
    for place in np.argsort(-correlation[first, second], kind="stable").tolist():
        if len(kept) >= MOST_SUSPECTS:
            break
        kept |= {int(first[place]), int(second[place])}
    if not kept:
        return []
    is_wide = recording.bin_width_s > WIDE_BIN_S * 1.001
    least = max(LEAST_EXCESS_IN_WIDE_BINS if is_wide else LEAST_EXCESS, chance)
    least_partial = LEAST_PARTIAL_IN_WIDE_BINS if is_wide else LEAST_PARTIAL
    some = np.array(sorted(kept))
    square = np.ix_(some, some)
    excess = correlation[square] - _across_bins(recording, moments, some)
    one, other = np.nonzero(np.triu(suspicious[square] & (excess >= least), 1))
    alike = np.eye(len(suspicious), dtype=np.bool_)
    alike[some[one], some[other]] = alike[some[other], some[one]] = True
    found = []
    for place in np.argsort(-excess[one, other], kind="stable")[:MOST_PAIRS].tolist():
        pair = int(some[one[place]]), int(some[other[place]])
        others = ~(alike[pair[0]] | alike[pair[1]])
        partial = _partial(correlation, pair, others, min(MOST_OTHERS, moments.bins // 10))
        if partial >= least_partial:
            neurons = int(moments.neurons[pair[0]]), int(moments.neurons[pair[1]])
            values = float(correlation[pair]), float(excess[one[place], other[place]]), partial
            found.append(Pair(neurons, *(round(value, 3) for value in values)))
    return sorted(found, key=lambda pair: -pair.partial)


def _partial(
    correlation: NDArray[np.float64], pair: tuple[int, int], others: NDArray[np.bool_], most: int
) -> float:
    """Return the partial correlation of a pair, given the other neurons most correlated with it."""
    two = np.array(pair)
    closeness = np.where(others, (correlation[two] ** 2).sum(axis=0), -1.0)
    nearest = np.argsort(-closeness, kind="stable")[: min(most, int(others.sum()))]
    known = correlation[np.ix_(nearest, nearest)] + _RIDGE * np.eye(len(nearest))
    across = correlation[np.ix_(nearest, two)]
    left = correlation[np.ix_(two, two)] - across.T @ np.linalg.solve(known, across)
    return float(left[0, 1] / np.sqrt(max(left[0, 0], 1e-12) * max(left[1, 1], 1e-12)))


def _across_bins(recording: Recording, moments: _Moments, some: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the correlation within a bin that correlations across one and two bins predict, for some of the neurons."""
    variance = moments.variance[some]
    lags, number = (1, 2), len(some)
    products = {lag: np.zeros((number, number)) for lag in lags}
    sums = {lag: np.zeros((2, number)) for lag in lags}
    bins = dict.fromkeys(lags, 0)
    for counts, counted in _sample(recording, moments.neurons[some], moments.most_bins):
        for lag in lags:
            both = (counted[:, :-lag] & counted[:, lag:])[:, :, None]
            earlier = (counts[:, :-lag] * both).reshape(-1, number)
            later = (counts[:, lag:] * both).reshape(-1, number)
            products[lag] += earlier.T @ later
            sums[lag] += np.stack(
                [earlier.sum(axis=0, dtype=np.float64), later.sum(axis=0, dtype=np.float64)]
            )
            bins[lag] += int(both.sum())
    correlations = []
    for lag in lags:
        if bins[lag] == 0:
            return np.zeros((number, number))
        before, after = sums[lag] / bins[lag]
        covariance = products[lag] / bins[lag] - np.outer(before, after)
        correlations.append((covariance + covariance.T) / 2 / np.sqrt(np.outer(variance, variance)))
    one, two = correlations
    return np.maximum(one, 2 * one - two)


def _sample(recording: Recording, neurons: NDArray[np.int64], most_bins: int) -> Iterator[_Sample]:
    """Sample trials at equal distances, very long ones cut: yield counts [trials, bins, neurons], and which bins to count.

    A bin counts once, in the first window that has it, and not if no neuron was observed in it; elsewhere counts are 0.
    """
    spikes, missing = recording.spikes, recording.missing
    trials, bins, width = spikes.shape
    counted = recording.counted_bins()
    chosen = np.arange(0, trials, max(1, -(-int(counted.sum()) // most_bins)))
    longest = min(bins, max(3, 2 * most_bins // len(chosen)))

    def masked(block: NDArray[Any], lacking: NDArray[Any] | None, is_counted: NDArray[np.bool_]) -> _Sample:
        if lacking is not None:
            is_counted = is_counted & ~lacking.all(axis=2)
        return np.where(is_counted[:, :, None], block[..., neurons], 0).astype(np.float32), is_counted

    if bins * width * 4 > BLOCK_BYTES:
        flat, step = spikes.reshape(-1, width), rows_per_block((bins, width), 4)
        flat_missing = None if missing is None else missing.reshape(-1, width)
        for trial in chosen.tolist():
            length = int(recording.trial_length_bins[trial])
            for first in range(0, min(longest, length), step):
                last = min(first + step, longest, length)
                cells = slice(trial * bins + first, trial * bins + last)
                lacking = None if flat_missing is None else flat_missing[cells][None]
                yield masked(flat[cells][None], lacking, counted[None, trial, first:last])
        return
    step = rows_per_block(spikes.shape, 4)
    for first in range(0, len(chosen), step):
        rows = chosen[first : first + step]
        lacking = None if missing is None else missing[rows][:, :longest]
        yield masked(spikes[rows][:, :longest], lacking, counted[rows, :longest])


def _join(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the groups that pairs connect."""
    group_of: dict[int, set[int]] = {}
    for one, other in pairs:
        joined = group_of.get(one, {one}) | group_of.get(other, {other})
        group_of |= dict.fromkeys(joined, joined)
    distinct = {id(group): group for group in group_of.values()}
    return sorted(sorted(group) for group in distinct.values())
