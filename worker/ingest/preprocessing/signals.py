"""Behaviour resampled to the bins of the spikes."""

import numpy as np
from numpy.typing import NDArray

from worker.ingest.spike_trains import Signal

Times = NDArray[np.float64]
_ANGLES = {"rad", "radian", "radians", "deg", "degree", "degrees", "°"}


def sample_in_bins(signal: Signal, start_s: float, bins: int, bin_width_s: float) -> NDArray[np.float32]:
    """Resample a signal to bins: the mean of the samples in each bin, or interpolation where samples are sparser.

    Angles are not averaged, because they jump at a full turn: the sample nearest to the middle of the bin is used.

    Parameters
    ----------
    signal
        The signal, sampled evenly or at given times.
    start_s
        When the first bin begins.
    bins
        Number of bins.
    bin_width_s
        Width of a bin, in seconds.

    Returns
    -------
    NDArray[np.float32]
        [bins, k], NaN where there is no sample.
    """
    edges_s = start_s + np.arange(bins + 1, dtype=np.float64) * bin_width_s
    middles_s = edges_s[:-1] + 0.5 * bin_width_s
    samples = len(signal.values)
    places = _places(signal, edges_s, samples)
    first, last = max(0, int(places[0]) - 1), min(samples, int(places[-1]) + 1)
    k = signal.values.shape[1]
    if last <= first:
        return np.full((bins, k), np.nan, np.float32)
    values = np.asarray(signal.values[first:last], np.float64)
    times_s = _times(signal, first, last)
    if signal.unit.strip().lower() in _ANGLES:
        return _nearest(times_s, values, middles_s, bin_width_s)
    if (places[-1] - places[0]) < 1.5 * bins:
        columns = [np.interp(middles_s, times_s, values[:, c], np.nan, np.nan) for c in range(k)]
        return np.stack(columns, axis=1).astype(np.float32)
    return _means(values, places - first).astype(np.float32)


def _places(signal: Signal, times_s: NDArray[np.float64], samples: int) -> NDArray[np.int64]:
    """Return the index of the first sample at or after each time."""
    if signal.times_s is not None:
        return np.searchsorted(signal.times_s, times_s)
    exact = np.ceil((times_s - signal.start_s) * signal.rate_hz - 1e-6)
    return np.clip(exact, 0, samples).astype(np.int64)


def _times(signal: Signal, first: int, last: int) -> NDArray[np.float64]:
    if signal.times_s is not None:
        return signal.times_s[first:last]
    return signal.start_s + np.arange(first, last) / signal.rate_hz


def _means(values: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    finite = np.isfinite(values)
    zero = np.zeros((1, values.shape[1]))
    sums = np.concatenate((zero, np.cumsum(np.where(finite, values, 0.0), axis=0)))
    numbers = np.concatenate((zero, np.cumsum(finite, axis=0)))
    total, number = sums[places[1:]] - sums[places[:-1]], numbers[places[1:]] - numbers[places[:-1]]
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _nearest(
    times_s: NDArray[np.float64],
    values: NDArray[np.float64],
    middles_s: NDArray[np.float64],
    bin_width_s: float,
) -> NDArray[np.float32]:
    after = np.searchsorted(times_s, middles_s).clip(1, max(1, len(times_s) - 1))
    after = np.minimum(after, len(times_s) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(middles_s - times_s[before] <= np.abs(times_s[after] - middles_s), before, after)
    step_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    away = np.abs(times_s[nearest] - middles_s) > max(step_s, bin_width_s)
    found: NDArray[np.float32] = values[nearest].astype(np.float32)
    found[away] = np.nan
    return found
