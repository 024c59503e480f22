"""Windows of spikes that were given by trial: each holds only its own trial's spikes, within the recorded span of the trial."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.variables import STARTS, STOPS
from worker.ingest.recording import MetadataValue, Recording
from worker.ingest.rows import zeros
from worker.ingest.spike_trains import SpikeTrains, TrialTable
from worker.ingest.time_units import trial_seconds

DURATIONS = (
    "duration_s", "duration_ms", "duration", "durations", "trial_duration_s", "trial_duration", "trial_durations",
    "trial_length_s",
)  # fmt: skip
"""Names of columns with the duration of a trial; the difference of stop and start gives it too."""
_LONGEST = 3.0
"""Durations are ignored if their median is more than this many times the span of all spikes: another unit or meaning."""
_TOLERANCE_S = 1e-6


def take_durations(trains: SpikeTrains, options: ReadOptions) -> None:
    """Set the end of each trial from the file, if the file has it and all spikes fit; else all trials end at the last spike.

    Parameters
    ----------
    trains
        Spike times with trials put one after another; the table of trials is changed in place.
    options
        Options of the request: the unit of times.
    """
    table, offset_s = trains.tables.get("trials"), trains.trial_offset_s
    if table is None or offset_s is None or trains.times.first_s < -_TOLERANCE_S:
        return

    def seconds(name: str) -> NDArray[np.float64] | None:
        numbers = _numbers(table.columns[name])
        if numbers is None:
            return None
        return trial_seconds(numbers, options, name, trains.column_unit, trains.sampling_rate_hz)

    names, durations_s = _durations(table, seconds)
    if durations_s is None:
        return
    of_spikes = offset_s if trains.trial_offset_of_spikes_s is None else trains.trial_offset_of_spikes_s
    latest_s = trains.times.trial_last_s
    trial = np.searchsorted(offset_s, of_spikes[: len(latest_s)])
    known = np.isfinite(durations_s) & (durations_s > 0)
    fits = ~known[trial] | (latest_s <= durations_s[trial] + _TOLERANCE_S)
    common_s = table.stop_s - offset_s
    if not known.any() or not fits.all() or np.median(durations_s[known]) > _LONGEST * np.median(common_s):
        return
    table.start_s = np.where(known, offset_s, table.start_s)
    table.stop_s = np.where(known, offset_s + durations_s, table.stop_s)
    trains.notes.append(f"Each trial lasts as long as {names} says, from its time 0.")


def _durations(
    table: TrialTable, seconds: Callable[[str], NDArray[np.float64] | None]
) -> tuple[str, NDArray[np.float64] | None]:
    """Return the duration of each trial in seconds from the columns of the table, and which columns were used."""
    columns = {name.rsplit("/", 1)[-1].rsplit(".", 1)[-1].lower(): name for name in table.columns}

    def first(names: tuple[str, ...]) -> NDArray[np.float64] | None:
        found = next((columns[name] for name in names if name in columns), None)
        return None if found is None else seconds(found)

    own = next((columns[name] for name in DURATIONS if name in columns), None)
    if own is not None:
        return f"`{own}`", seconds(own)
    start_s, stop_s = first(STARTS), first(STOPS)
    if start_s is None or stop_s is None:
        return "", None
    return "the difference of its start and its stop", stop_s - start_s


def _numbers(values: list[MetadataValue]) -> NDArray[np.float64] | None:
    if any(isinstance(value, str | bool) for value in values):
        return None
    return np.array([np.nan if value is None else float(value) for value in values], np.float64)


def bins_of_own_trial(
    table: TrialTable, start_s: NDArray[np.float64], bins: NDArray[np.float64], width_s: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Limit windows to the recorded span of their trials.

    Parameters
    ----------
    table
        Recorded span of each trial.
    start_s, bins : [trials]
        Start and number of bins of each window; NaN if unknown.
    width_s
        Width of a bin, in seconds.

    Returns
    -------
    bins : float64, [trials]
        Number of bins of each window before the trial's recorded end; 0 if no bin is within the trial.
    unobserved : int64, [trials]
        Number of these bins that begin before the trial's recorded beginning.
    """
    slack = 1e-6
    with np.errstate(invalid="ignore"):
        left = np.floor((table.stop_s - start_s) / width_s + slack)
        before = np.ceil((table.start_s - start_s) / width_s - slack).clip(min=0)
        limited = np.fmin(bins, left).clip(min=0)
        limited = np.where(
            np.isnan(bins) | (before >= limited), np.where(np.isnan(bins), np.nan, 0.0), limited
        )
    return limited, np.nan_to_num(np.fmin(before, limited)).astype(np.int64)


def mask_beginnings(recording: Recording, unobserved: NDArray[np.int64]) -> None:
    """Mark the first `unobserved` bins of each trial as missing in all neurons, and set their counts to 0."""
    if not unobserved.any():
        return
    recording.missing = (
        zeros(recording.spikes.shape, np.uint8) if recording.missing is None else recording.missing
    )
    for trial in np.flatnonzero(unobserved).tolist():
        row = slice(trial, trial + 1)
        for array, value in ((recording.spikes, 0), (recording.missing, 1)):
            values = np.array(array[row])
            values[:, : unobserved[trial]] = value
            array[row] = values


def beyond_trials(
    trains: SpikeTrains, asked: NDArray[np.float64], bins: NDArray[np.float64], unobserved: NDArray[np.int64]
) -> None:
    """Warn of windows that extend beyond the recorded span of their trials."""
    late, early = int((bins < asked).sum()), int((unobserved > 0).sum())
    if not late and not early:
        return
    said = (
        f"The window extends beyond the recorded trial in {late} of {len(bins)} trials at its end and in {early} at "
        "its beginning: those bins are marked as not observed, and no model is trained on them."
    )
    hint = (
        "Choose a shorter trials.window_s. If trials last longer than their spikes, give how long each lasts, in a column such "
        "as `duration_s`."
    )
    trains.warnings.append(Problem("window_beyond_trials", said, hint, "/trials/window_s"))
