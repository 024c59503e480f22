"""A small preview document of a recording: spikes of some trials, mean rates by condition, rate over the session, rates.

It is made once, at ingest, and is smaller than 300 kB for any recording: the means of a large recording are over
trials at equal distances, which the document says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.quality_control.conditions import Conditions, find_conditions
from worker.ingest.recording import MetadataValue, Recording
from worker.ingest.rows import BLOCK_BYTES, Rows

VERSION = 1
MOST_TRIALS, MOST_NEURONS, MOST_SPIKES = 4, 60, 20_000
MOST_CONDITIONS, MOST_BINS, MODULATED_NEURONS = 12, 150, 6
MOST_POINTS, HISTOGRAM_BINS, LEAST_RANGE = 500, 24, 10.0
MOST_IN_A_BIN = 80
"""Spikes of one neuron that are shown; one bin of all trials and neurons stays below `MOST_SPIKES`."""
MOST_TEXT = 60
MOST_GAPS = 200
"""Intervals of a trial that are shown as not observed."""
MOST_COUNTS = 2 * 10**8
"""Largest number of counts that enter the means."""
MOST_PSTH_NEURONS = 2000
USUAL_BIN_S, FEWEST_BINS = 0.02, 20
"""Mean rates are shown in bins of this width if there are at least `FEWEST_BINS` of them."""
FEWEST_SPIKES, LEAST_TRIALS = 30, 0.2
"""Fewest spikes of a neuron that is shown as modulated; least share of the trials in the bins that are compared."""


@dataclass
class _Sums:
    """Sums of one pass over the spikes.

    Attributes
    ----------
    trials : int64, [conditions, bins]
        Number of trials with a whole bin, observed in any neuron.
    observed : int64, [conditions, bins, neurons]
        Number of trials with a whole bin, observed in the neuron.
    spikes, squares : float64, [conditions, bins, neurons]
        Sums of counts in each bin, and of their squares.
    population, population_squares : float64, [conditions, bins]
        The same of the spikes of all neurons together.
    per_trial, samples_per_trial : int64, [trials that were looked at]
        Spikes of all neurons, and observed samples; those in bins that windows share count once.
    per_neuron, bins_per_neuron : int64, [all neurons]
        Spikes and observed bins in the trials that were looked at, likewise.
    """

    trials: NDArray[np.int64]
    observed: NDArray[np.int64]
    spikes: NDArray[np.float64]
    squares: NDArray[np.float64]
    population: NDArray[np.float64]
    population_squares: NDArray[np.float64]
    per_trial: NDArray[np.int64]
    samples_per_trial: NDArray[np.int64]
    per_neuron: NDArray[np.int64]
    bins_per_neuron: NDArray[np.int64]


def make_preview(recording: Recording) -> dict[str, Any]:
    """Return the preview document.

    Parameters
    ----------
    recording
        A recording that passed the checks: it has a spike, and at least two trials.

    Returns
    -------
    dict
        JSON without NaN; the API's schema `PreviewDocument` says what is in it.
    """
    trials, bins, neurons = recording.spikes.shape
    lengths = recording.trial_length_bins
    looked_at = np.arange(0, trials, max(1, -(-trials * bins * neurons // MOST_COUNTS)))
    longest = int(max(2, min(lengths[looked_at].max(), BLOCK_BYTES // 4 // neurons)))
    together = max(
        1, -(-longest // MOST_BINS), min(round(USUAL_BIN_S / recording.bin_width_s), longest // FEWEST_BINS)
    )
    conditions = find_conditions(recording)
    shown = None if conditions is None else _most_frequent(conditions)
    code = np.zeros(trials, np.int64) if conditions is None else _renumbered(conditions.code, shown or [])
    some = np.unique(np.linspace(0, neurons - 1, min(neurons, MOST_PSTH_NEURONS)).astype(np.int64))
    sums = _add_up(
        recording, looked_at, longest, together, code=code, conditions=len(shown or [0]), some=some
    )
    rates_hz = sums.per_neuron / (np.maximum(sums.bins_per_neuron, 1) * recording.bin_width_s)
    observed_s = sums.samples_per_trial / neurons * recording.bin_width_s
    return {
        "version": VERSION,
        "trials": trials,
        "bins": bins,
        "neurons": neurons,
        "bin_width_s": recording.bin_width_s,
        "time_zero_s": recording.time_zero_s,
        "trials_looked_at": len(looked_at),
        "raster": _raster(recording, rates_hz, conditions),
        "psth": _psth(recording, sums, together, some, conditions=conditions, shown=shown),
        "session": _session(recording, looked_at, sums.per_trial / neurons, observed_s),
        "rates": _histogram(rates_hz),
    }


def _most_frequent(conditions: Conditions) -> list[int]:
    """Return the indices of the conditions to show: those with most trials; among equal ones, some at equal distances."""
    counts = conditions.trials
    if len(counts) <= MOST_CONDITIONS:
        return list(range(len(counts)))
    least = np.sort(counts)[-MOST_CONDITIONS]
    above, equal = np.flatnonzero(counts > least), np.flatnonzero(counts == least)
    places = np.linspace(0, len(equal) - 1, MOST_CONDITIONS - len(above)).astype(np.int64)
    return sorted([*above.tolist(), *equal[places].tolist()])


def _renumbered(code: NDArray[np.int64], shown: list[int]) -> NDArray[np.int64]:
    places = np.full(max(int(code.max()), *shown) + 2, -1, np.int64)
    places[shown] = np.arange(len(shown))
    return places[code]  # the last place is that of -1, the missing


def _trials(
    array: Rows, looked_at: NDArray[np.int64], longest: int
) -> Iterator[tuple[int, NDArray[np.unsignedinteger]]]:
    """Iterate over trials in blocks, each cut to the longest: yield the index of the first, and the block."""
    _, bins, neurons = array.shape
    if longest < bins and bins * neurons * 4 > BLOCK_BYTES:
        flat = array.reshape(-1, neurons)
        for place, trial in enumerate(looked_at.tolist()):
            yield place, flat[trial * bins : trial * bins + longest][None]
        return
    step = max(1, BLOCK_BYTES // 4 // (bins * neurons))
    for first in range(0, len(looked_at), step):
        yield first, array[looked_at[first : first + step]][:, :longest]


def _add_up(
    recording: Recording,
    looked_at: NDArray[np.int64],
    longest: int,
    together: int,
    *,
    code: NDArray[np.int64],
    conditions: int,
    some: NDArray[np.int64],
) -> _Sums:
    wide = max(1, longest // together)
    used = wide * together if longest >= together else longest
    neurons = recording.spikes.shape[2]
    cells = (conditions, wide)
    sums = _Sums(
        np.zeros(cells, np.int64),
        np.zeros((*cells, len(some)), np.int64),
        np.zeros((*cells, len(some))),
        np.zeros((*cells, len(some))),
        np.zeros(cells),
        np.zeros(cells),
        np.zeros(len(looked_at), np.int64),
        np.zeros(len(looked_at), np.int64),
        np.zeros(neurons, np.int64),
        np.zeros(neurons, np.int64),
    )
    ends = np.arange(1, wide + 1) * together
    counted = recording.counted_bins()
    unobserved = None if recording.missing is None else _trials(recording.missing, looked_at, longest)
    for first, block in _trials(recording.spikes, looked_at, longest):
        rows, places = looked_at[first : first + len(block)], slice(first, first + len(block))
        missing = np.zeros((1, 1, 1), np.uint8) if unobserved is None else next(unobserved)[1]
        once = counted[rows, :longest, None]
        block_once, seen = np.where(once, block, 0), once & (missing == 0)
        sums.per_trial[places] = block_once.sum(axis=(1, 2), dtype=np.int64)
        sums.per_neuron += block_once.sum(axis=(0, 1), dtype=np.int64)
        times = neurons // seen.shape[2]  # one column stands for all neurons if nothing is missing
        sums.samples_per_trial[places] = seen.sum(axis=(1, 2)) * times
        sums.bins_per_neuron += seen.sum(axis=(0, 1))
        wider = block[:, :used].reshape(len(block), wide, -1, neurons).sum(axis=2, dtype=np.float32)
        is_whole = (recording.trial_length_bins[rows][:, None] >= ends)[:, :, None]
        if unobserved is not None:
            is_whole = is_whole & ~missing[:, :used].reshape(len(block), wide, -1, neurons).any(axis=2)
        wider *= is_whole  # of a bin that is not whole, a part would count as the whole
        share = is_whole.mean(axis=2)
        all_spikes = wider.sum(axis=2, dtype=np.float64) / np.where(share > 0, share, 1)
        for condition in range(conditions):
            its = code[rows] == condition
            counts = wider[its][..., some]
            sums.trials[condition] += (share[its] > 0).sum(axis=0)
            sums.observed[condition] += is_whole[its].sum(axis=0)[
                :, some if unobserved is not None else slice(None)
            ]
            sums.spikes[condition] += counts.sum(axis=0, dtype=np.float64)
            sums.squares[condition] += np.square(counts).sum(axis=0, dtype=np.float64)
            sums.population[condition] += all_spikes[its].sum(axis=0)
            sums.population_squares[condition] += np.square(all_spikes[its]).sum(axis=0)
    return sums


def _raster(
    recording: Recording, rates_hz: NDArray[np.float64], conditions: Conditions | None
) -> dict[str, Any]:
    """Return the spikes of some trials across the session and some neurons across the rates, the fastest first."""
    _, bins, neurons = recording.spikes.shape
    starts_s, lengths = recording.starts_s(), recording.trial_length_bins
    order = np.arange(len(lengths)) if starts_s is None else np.argsort(starts_s, kind="stable")
    number = min(MOST_TRIALS, len(order))
    chosen = order[((np.arange(number) + 0.5) / number * len(order)).astype(np.int64)].tolist()
    active = np.argsort(-rates_hz, kind="stable")[: max(1, int((rates_hz > 0).sum()))]
    spread = (
        np.linspace(0, 1, min(MOST_NEURONS, len(active))) ** 1.5
    )  # closer among the fast, which show more
    places = np.maximum.accumulate(np.maximum(spread * (len(active) - 1), np.arange(len(spread))))
    rows = active[places.astype(np.int64)]
    flat = recording.spikes.reshape(-1, neurons)
    flat_missing = None if recording.missing is None else recording.missing.reshape(-1, neurons)
    most = max(1, min(bins, BLOCK_BYTES // 4 // neurons))
    counts, gaps = [], []
    for trial in chosen:
        cells = slice(trial * bins, trial * bins + min(most, int(lengths[trial])))
        rows_of_trial = np.asarray(flat[cells])
        lacking = (
            np.zeros(1, np.bool_) if flat_missing is None else np.asarray(flat_missing[cells]).all(axis=1)
        )
        gaps.append(np.flatnonzero(np.diff(lacking, prepend=False, append=False)).reshape(-1, 2).tolist())
        counts.append(rows_of_trial[:, rows].clip(max=MOST_IN_A_BIN))
    per_bin = np.zeros(most, np.int64)
    for trial_counts in counts:
        per_bin[: len(trial_counts)] += trial_counts.sum(axis=1, dtype=np.int64)
    until = max(1, int(np.searchsorted(np.cumsum(per_bin), MOST_SPIKES, side="right")))
    kept = [_bins_of_spikes(trial_counts[:until]) for trial_counts in counts]
    return {
        "neurons": rows.tolist(),
        "bins": min(until, int(max(len(trial_counts) for trial_counts in counts))),
        "trials": [
            {
                "trial": trial,
                "start_s": None if starts_s is None else _short(starts_s[trial], 9),
                "length_bins": int(lengths[trial]),
                "condition": None if conditions is None else _value(conditions, int(conditions.code[trial])),
                "spikes": spikes,
                "unobserved": unobserved[:MOST_GAPS],
            }
            for trial, spikes, unobserved in zip(chosen, kept, gaps, strict=True)
        ],
    }


def _bins_of_spikes(counts: NDArray[np.unsignedinteger]) -> list[list[int]]:
    """Return the bins of the spikes of each neuron; a bin with two spikes occurs twice."""
    return [np.repeat(np.arange(len(counts)), column).tolist() for column in counts.T]


def _psth(
    recording: Recording,
    sums: _Sums,
    together: int,
    some: NDArray[np.int64],
    *,
    conditions: Conditions | None,
    shown: list[int] | None,
) -> dict[str, Any]:
    wide_s = together * recording.bin_width_s
    neurons = recording.spikes.shape[2]
    number = sums.observed
    mean, error = _mean_and_error(sums.spikes, sums.squares, number)
    population = _mean_and_error(sums.population, sums.population_squares, sums.trials)
    most = _most_modulated(sums, mean)
    listed = (
        [{"value": None, "trials": int(sums.trials.max())}]
        if conditions is None or shown is None
        else [
            {"value": _value(conditions, place), "trials": int(conditions.trials[place])} for place in shown
        ]
    )
    return {
        "by": None if conditions is None else conditions.name[:MOST_TEXT],
        "conditions": listed,
        "conditions_in_all": 1 if conditions is None else len(conditions.values),
        "bin_width_s": float(f"{wide_s:.9g}"),
        "time_s": [
            _short(recording.time_zero_s + place * wide_s, 7) for place in range(sums.trials.shape[1])
        ],
        "trials_per_bin": sums.trials.tolist(),
        "population": {
            "mean_hz": _table(population[0] / wide_s / neurons),
            "sem_hz": _table(population[1] / wide_s / neurons),
        },
        "neurons": [
            {
                "neuron": int(some[neuron]),
                "mean_hz": _table(mean[:, :, neuron] / wide_s),
                "sem_hz": _table(error[:, :, neuron] / wide_s),
            }
            for neuron in most
        ],
    }


def _mean_and_error(
    total: NDArray[np.float64], squares: NDArray[np.float64], number: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and its standard error; NaN without trials, and the error NaN with one trial."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / number
        variance = (squares - total * mean).clip(min=0) / (number - 1)
        error = np.sqrt(variance / number)
    return np.where(number > 0, mean, np.nan), np.where(number > 1, error, np.nan)


def _most_modulated(sums: _Sums, mean: NDArray[np.float64]) -> list[int]:
    """Return the neurons whose rates vary most over time and conditions, relative to trial-to-trial variability."""
    # Where trials end one by one, a mean over the last of them tells little.
    number = np.where(sums.observed >= LEAST_TRIALS * sums.trials.max(), sums.observed, 0)
    spikes = (sums.spikes * (number > 0)).sum(axis=(0, 1))
    grand = spikes / np.maximum(1, number.sum(axis=(0, 1)))
    between = np.nansum(number * (mean - grand) ** 2, axis=(0, 1))
    within = ((sums.squares - sums.spikes * np.nan_to_num(mean)) * (number > 0)).sum(axis=(0, 1))
    score = between / np.maximum(within, 1e-9) * (spikes >= FEWEST_SPIKES) + 1e-12 * spikes
    order = np.argsort(-score, kind="stable")[:MODULATED_NEURONS]
    return [int(neuron) for neuron in order if spikes[neuron] > 0]


def _session(
    recording: Recording,
    looked_at: NDArray[np.int64],
    spikes_per_neuron: NDArray[np.float64],
    observed_s: NDArray[np.float64],
) -> dict[str, Any]:
    """Return the population rate from trial to trial in the order of time; neighbours are averaged if there are many."""
    starts_s = recording.starts_s()
    at = looked_at.astype(np.float64) if starts_s is None else starts_s[looked_at]
    order = np.argsort(at, kind="stable")
    edges = np.unique(np.linspace(0, len(order), min(MOST_POINTS, len(order)) + 1).astype(np.int64))[:-1]
    total, time_s = (np.add.reduceat(values[order], edges) for values in (spikes_per_neuron, observed_s))
    number = np.diff([*edges, len(order)])
    return {
        "unit": "trial" if starts_s is None else "s",
        "at": [_short(value, 7) for value in np.add.reduceat(at[order], edges) / number],
        "rate_hz": [_short(value) for value in total / np.where(time_s > 0, time_s, np.nan)],
    }


def _histogram(rates_hz: NDArray[np.float64]) -> dict[str, Any]:
    """Return a histogram of the rates with logarithmic bins."""
    active = rates_hz[rates_hz > 0]
    low, high = (float(active.min()), float(active.max())) if len(active) else (0.1, 10.0)
    widen = max(1.05, (LEAST_RANGE * low / high) ** 0.5)  # or equal rates look as if they were far apart
    edges = np.geomspace(low / widen, high * widen, HISTOGRAM_BINS + 1)
    return {
        "edges_hz": [_short(edge, 6) for edge in edges],
        "neurons": np.histogram(active, edges)[0].tolist(),
        "silent": int((rates_hz == 0).sum()),
    }


def _value(conditions: Conditions, place: int) -> MetadataValue:
    value = None if place < 0 else conditions.values[place]
    return value[:MOST_TEXT] if isinstance(value, str) else value


def _table(values: NDArray[np.float64]) -> list[list[float | None]]:
    return [[_short(value) for value in row] for row in values]


def _short(value: float, digits: int = 4) -> float | None:
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None
