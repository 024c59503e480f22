"""Drift of activity over a session: neurons that fall silent or appear, and the population rate.

The first third of the trials, in the order of time, is compared with the last third, for each neuron and within each condition,
so that blocks of conditions are not mistaken for drift. The test is a Poisson test; its variance is raised to the variability of
trials and of groups of trials.

Limits: blocks of conditions that the file does not name look like drift. These are not detected: drift of a condition that occurs
in one third only, drift that comes and goes, and drift in the last few trials.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_TRIALS = 30
SIGNIFICANT = 5.0
"""Standard deviations."""
LOST = 0.2
"""A neuron is lost if its rate falls to less than this share, and appears if it was less than this share before."""
LARGE, LARGE_OF_POPULATION = 2.0, 1.3
"""Ratios of the rates that are reported."""
FEWEST_SPIKES = 20
"""Spikes that the rate of one third predicts in the other."""
MANY_NEURONS = 0.3
_STRETCHES = 10


@dataclass(frozen=True)
class Drift:
    """The last third of the trials compared with the first.

    Attributes
    ----------
    first_third_hz, last_third_hz
        Mean rate of a neuron in each third, in spikes per second.
    population_ratio
        Population rate of the last third divided by the first, within conditions; `population_deviations`: the difference in SDs.
    lost, appeared
        Neurons that are in one third only, or nearly.
    changed
        Neurons whose rate at least doubled or halved, these among them.
    neurons
        Number of neurons that fire.
    """

    first_third_hz: float
    last_third_hz: float
    population_ratio: float
    population_deviations: float
    lost: list[int]
    appeared: list[int]
    changed: list[int]
    neurons: int

    @property
    def is_of_population(self) -> bool:
        """Return whether the population drifts: its rate, or the rates of many neurons."""
        away = max(self.population_ratio, 1 / max(self.population_ratio, 1e-9))
        by_rate = away >= LARGE_OF_POPULATION and abs(self.population_deviations) >= SIGNIFICANT
        many = len(self.changed) >= max(5, MANY_NEURONS * self.neurons)
        return by_rate or many


def find_drift(
    counts: NDArray[np.float32], durations_s: NDArray[np.float64], condition: NDArray[np.int64]
) -> Drift | None:
    """Compare the last third of the trials with the first.

    Parameters
    ----------
    counts : float32, [trials, neurons]
        Spikes, trials in the order of time.
    durations_s : float64, [trials, 1 or neurons]
        Observed time of each neuron in each trial; one column if all were observed alike.
    condition : int64, [trials]
        Condition of each trial, any number; all equal if there are none.

    Returns
    -------
    Drift or None
        None if there are too few trials.
    """
    trials = len(counts)
    if trials < FEWEST_TRIALS:
        return None
    third = trials // 3
    _, condition = np.unique(condition, return_inverse=True)
    if 3 * (condition.max() + 1) > third:  # too few trials of each to tell its rate
        condition = np.zeros(trials, np.int64)
    thirds = (slice(0, third), slice(trials - third, trials))
    columns = max(1, 10**6 // trials)
    parts = [
        _compare(
            counts[:, first : first + columns].astype(np.float64),
            durations_s if durations_s.shape[1] == 1 else durations_s[:, first : first + columns],
            condition,
            thirds,
        )
        for first in range(0, counts.shape[1], columns)
    ]
    ratio, deviations, least_expected = (np.concatenate(part) for part in zip(*parts, strict=True))
    population = counts.sum(axis=1, dtype=np.float64)[:, None]
    of_population_s = durations_s.mean(axis=1, keepdims=True)
    whole = _compare(population, of_population_s, condition, thirds)
    is_clear = (np.abs(deviations) >= SIGNIFICANT) & (least_expected >= FEWEST_SPIKES)
    rates_hz = [
        float(population[part].sum() / max(of_population_s[part].sum(), 1e-12) / counts.shape[1])
        for part in thirds
    ]
    return Drift(
        first_third_hz=round(rates_hz[0], 4),
        last_third_hz=round(rates_hz[1], 4),
        population_ratio=round(float(whole[0][0]), 3),
        population_deviations=round(float(whole[1][0]), 1),
        lost=np.flatnonzero(is_clear & (ratio < LOST)).tolist(),
        appeared=np.flatnonzero(is_clear & (ratio > 1 / LOST)).tolist(),
        changed=np.flatnonzero(is_clear & ((ratio >= LARGE) | (ratio <= 1 / LARGE))).tolist(),
        neurons=int((counts.max(axis=0) > 0).sum()),
    )


def _compare(
    counts: NDArray[np.float64],
    durations_s: NDArray[np.float64],
    condition: NDArray[np.int64],
    thirds: tuple[slice, slice],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the ratio of rates (last third to first), the difference in standard deviations, and the expected spikes.

    Conditions are strata, weighed as Mantel and Haenszel do; each result is [neurons].
    """
    is_of = condition == np.arange(condition.max() + 1)[:, None]  # [conditions, trials]
    spikes = [is_of[:, part].astype(np.float64) @ counts[part] for part in thirds]
    time_s = [is_of[:, part] @ durations_s[part] for part in thirds]
    both_s = time_s[0] + time_s[1]
    share = [np.divide(one, both_s, out=np.zeros_like(one), where=both_s > 0) for one in time_s]
    before, after = (spikes[0] * share[1]).sum(axis=0), (spikes[1] * share[0]).sum(axis=0)
    variance = ((spikes[0] + spikes[1]) * share[0] * share[1]).sum(axis=0)
    overdispersion = np.maximum.reduce(
        [
            _overdispersion(counts[p], durations_s[p], condition[p], spikes[k], time_s[k])
            for k, p in enumerate(thirds)
        ]
    )
    deviations = (after - before) / np.sqrt(np.maximum(variance * overdispersion, 1e-12))
    ratio = np.where(before + after > 0, after / np.maximum(before, 1e-9), 1.0).clip(max=1e6)
    return ratio, deviations, np.maximum(before, after)


def _overdispersion(
    counts: NDArray[np.float64],
    durations_s: NDArray[np.float64],
    condition: NDArray[np.int64],
    spikes: NDArray[np.float64],
    time_s: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the overdispersion of counts of trials, or of groups of trials, against Poisson counts, [neurons]; at least 1."""
    expected = (spikes / np.maximum(time_s, 1e-12))[condition] * durations_s
    trials, conditions = len(counts), len(np.unique(condition))
    found = np.ones(counts.shape[1])
    for stretch in (1, max(1, trials // _STRETCHES)):
        starts = np.arange(0, trials, stretch)
        away = np.add.reduceat(counts - expected, starts)
        awaited = np.add.reduceat(expected, starts)
        ratio = np.divide(away**2, awaited, out=np.zeros_like(away), where=awaited > 0)
        found = np.maximum(found, ratio.sum(axis=0) / len(starts) * trials / max(1, trials - conditions))
    return found
