"""Binning: spike times become spike counts in trials."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.counts import LARGEST_COUNT, CountsBuilder
from worker.ingest.preprocessing.alignment import choose_trials
from worker.ingest.preprocessing.by_trial import (
    beyond_trials,
    bins_of_own_trial,
    mask_beginnings,
    take_durations,
)
from worker.ingest.preprocessing.observation import IN_INVALID_TIMES, mark_invalid, mask_unobserved
from worker.ingest.preprocessing.selection import keep_where
from worker.ingest.preprocessing.signals import sample_in_bins
from worker.ingest.preprocessing.time_scales import check_time_scales
from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.base import ReadOptions, refuse_giant
from worker.ingest.readers.splits import take_split
from worker.ingest.recording import SPLIT_NOT_GIVEN, MetadataValue, Recording
from worker.ingest.rows import Rows, filled, rows_per_block, zeros
from worker.ingest.spike_trains import DEFAULT_BIN_WIDTH_S, SpikeTrains, tell_steps_back
from worker.ingest.time_units import columns_in_seconds

MOST_BINS = 10**9
_TOLERANCE = 1e-6
"""Tolerance in bins: a spike this close before an edge counts as on the edge, because 0.3 has no exact binary form."""
_MOST_TRIALS_IN_A_WINDOW = 20
"""A window longer than this many trials is probably given in milliseconds."""


@dataclass
class _Windows:
    """The trials to cut.

    Attributes
    ----------
    start_s : float64, [trials]
        Start of each trial, in seconds of the session.
    bins : int64, [trials]
        Length of each trial.
    metadata
        One value for each trial under each name.
    zero_s
        Time of the first bin, in seconds from the alignment event.
    unobserved : int64, [trials]
        Number of bins at the start that lie before the recorded span of the trial.
    is_continuous
        Whether the only trial is the whole recording.
    """

    start_s: NDArray[np.float64]
    bins: NDArray[np.int64]
    metadata: dict[str, list[MetadataValue]]
    zero_s: float
    unobserved: NDArray[np.int64]
    is_continuous: bool = False

    def keep(self, chosen: NDArray[np.bool_]) -> None:
        """Drop the trials that are not chosen."""
        self.start_s, self.bins = self.start_s[chosen], self.bins[chosen]
        self.unobserved = self.unobserved[chosen]
        self.metadata = {
            name: [value for value, kept in zip(values, chosen, strict=True) if kept]
            for name, values in self.metadata.items()
        }


def bin_spikes(trains: SpikeTrains, options: ReadOptions) -> Recording:
    """Cut spike times into trials and count spikes in bins.

    Parameters
    ----------
    trains
        Spike times from a reader.
    options
        `bin_width_s`, `mapping.trials` and `trials` are used.

    Raises
    ------
    RejectedFile
        If the options name something that the file does not have, or no trial is left.
    """
    if trains.times.total == 0:
        said = f"The file has {trains.neurons} neurons but no spike time."
        raise rejected("no_spikes", said, "Check which variable holds the spike times.", "/mapping")
    width_s = options.bin_width_s or DEFAULT_BIN_WIDTH_S
    if options.bin_width_s is None:
        trains.notes.append(
            f"Spikes were put into bins of {width_s:g} s, the default; bin_width_s changes it."
        )
    tell_steps_back(trains)
    take_durations(trains, options)
    windows = _windows(trains, options, width_s)
    _refuse_too_many_counts(trains, windows, width_s, options)
    recording = Recording(
        spikes=_count(trains, windows, width_s),
        bin_width_s=width_s,
        trial_length_bins=windows.bins,
        split=np.full(len(windows.bins), SPLIT_NOT_GIVEN, np.int8),
        trial_metadata=windows.metadata,
        neuron_metadata=trains.neuron_metadata,
        time_zero_s=windows.zero_s,
        trial_start_s=None if trains.trial_offset_s is not None else windows.start_s,
        is_continuous=windows.is_continuous,
        source_format=trains.source_format,
        understood=trains.understood,
        notes=trains.notes,
        warnings=trains.warnings,
    )
    mask_beginnings(recording, windows.unobserved)
    mask_unobserved(trains, recording, windows.start_s, options.trials.unobserved)
    take_split(recording, options)
    _say_what_lies_outside(trains, recording)
    for name, signal in trains.signals.items():
        recording.behaviour[name] = _sampled(trains, name, windows, width_s)
        rate = f" of {signal.rate_hz:g} Hz" if signal.rate_hz else ""
        recording.notes.append(f"Behaviour `{name}`{rate} was resampled to the bins of the spikes.")
    return recording


def _refuse_too_many_counts(
    trains: SpikeTrains, windows: _Windows, width_s: float, options: ReadOptions
) -> None:
    """Reject spike times that need too many bins; the message explains the number and the remedy."""
    trials, bins = len(windows.bins), int(windows.bins.max())
    what = (
        f"The spike times in bins of {width_s:g} s would be {trials} trials × {bins} bins × {trains.neurons} neurons"
        f" (the longest trial lasts {bins * width_s:g} s; there are {trains.times.total} spikes):"
    )
    unit = (
        ""
        if options.time_unit or options.spike_time_unit
        else (
            "Times were read as seconds: if they are milliseconds or samples, give time_unit `ms`, or `samples` with "
            "sampling_rate_hz. Else "
        )
    )
    give = "give" if unit else "Give"
    hint = f"{unit}{give} a wider bin_width_s or a shorter trials.window_s, or save fewer neurons."
    refuse_giant(
        bins * trials * trains.neurons,
        options,
        what,
        hint,
        "/bin_width_s" if options.time_unit else "/time_unit",
    )


def _windows(trains: SpikeTrains, options: ReadOptions, width_s: float) -> _Windows:
    name, table, zero_s = choose_trials(trains, options)
    if table is None:
        return _whole_recording(trains, options, width_s)
    window_s = options.trials.window_s
    if window_s is None:
        start_s, stop_s, from_zero_s = table.start_s, table.stop_s, 0.0
        if trains.trial_offset_s is not None:
            from_zero_s = float(start_s[0] - trains.trial_offset_s[0])
        bins = _whole_bins(stop_s - start_s, width_s)
    else:
        start_s, from_zero_s = zero_s + window_s[0], window_s[0]
        bins = _whole_bins(np.full(len(zero_s), window_s[1] - window_s[0]), width_s)
        bins[~np.isfinite(zero_s)] = np.nan
    unobserved = np.zeros(len(bins), np.int64)
    if trains.is_by_trial and table is trains.tables.get(name):
        asked = bins
        bins, unobserved = bins_of_own_trial(table, start_s, bins, width_s)
        beyond_trials(trains, asked, bins, unobserved)
    metadata = columns_in_seconds(table.columns, options, trains.sampling_rate_hz, trains.notes)
    if trains.trial_offset_s is None:
        metadata |= {"start_time": _plain(table.start_s), "stop_time": _plain(table.stop_s)}
    offset_s = 0.0 if trains.trial_offset_s is None else trains.trial_offset_s
    check_time_scales(trains, start_s - offset_s, bins * width_s)
    usable = np.isfinite(start_s) & (bins >= 1)
    whole_bins = np.where(usable, bins, 0).astype(np.int64)
    if len(trains.invalid_s):
        metadata[IN_INVALID_TIMES] = mark_invalid(start_s, start_s + whole_bins * width_s, trains.invalid_s)
    windows = _Windows(start_s, whole_bins, metadata, from_zero_s, unobserved)
    windows.keep(_with_a_bin(trains, name, usable, width_s))
    windows.keep(
        keep_where(windows.metadata, options.trials.where, len(windows.bins), "trials", trains.notes)
    )
    _settle_overlap(trains, windows, options, width_s)
    if len(windows.bins) == 0:
        said = f"None of the {len(table.start_s)} trials of `{name}` is left."
        hint = "Check trials.where, trials.align_to and trials.window_s, and that times are in seconds."
        raise rejected("no_trials_left", said, hint, "/trials")
    return windows


def _whole_recording(trains: SpikeTrains, options: ReadOptions, width_s: float) -> _Windows:
    window_s = options.trials.window_s
    first_s, last_s = float(trains.times.first_s), float(trains.times.last_s)
    if window_s is not None:
        first_s, last_s = window_s
    else:
        first_s = np.floor(first_s / width_s + _TOLERANCE) * width_s
    whole = _whole_bins(np.array([last_s - first_s]), width_s)
    bins = max(1, int(whole[0]) + (window_s is None))
    trains.notes.append(
        f"There is no table of trials: the recording is continuous, from {first_s:g} to {last_s:g} s."
    )
    start_s, no_bins = np.array([first_s]), np.zeros(1, np.int64)
    return _Windows(start_s, np.array([bins], np.int64), {}, 0.0, no_bins, is_continuous=True)


def _whole_bins(durations_s: NDArray[np.float64], width_s: float) -> NDArray[np.float64]:
    """Return the number of whole bins in each duration; NaN where the duration is unknown.

    Raises
    ------
    RejectedFile
        If there are more than any recording has.
    """
    with np.errstate(over="ignore"):
        bins = np.floor(durations_s / width_s + _TOLERANCE)
    longest_s = float(np.nanmax(durations_s, initial=0.0))
    if np.nanmax(bins, initial=0.0) > MOST_BINS:
        said = f"A trial of {longest_s:g} s in bins of {width_s:g} s would have more than {MOST_BINS} bins."
        hint = "Check the unit of times (seconds), bin_width_s and trials.window_s."
        raise rejected("too_many_bins", said, hint, "/bin_width_s")
    return bins


def _with_a_bin(
    trains: SpikeTrains, name: str, usable: NDArray[np.bool_], width_s: float
) -> NDArray[np.bool_]:
    missing = np.flatnonzero(~usable)
    if len(missing):
        said = (
            f"{len(missing)} of {len(usable)} trials of `{name}` were left out, since their time is missing, they are shorter "
            f"than a bin ({width_s:g} s), or their window lies outside of what was recorded: {listed(missing)} (counted from 0)."
        )
        hint = "Check the column of times that trials are aligned to, and that times are in seconds."
        trains.warnings.append(Problem("trials_left_out", said, hint, "/trials"))
    return usable


def _settle_overlap(trains: SpikeTrains, windows: _Windows, options: ReadOptions, width_s: float) -> None:
    """Handle trials that overlap the trial before them, as `trials.overlap` says."""
    if trains.is_by_trial:
        return  # each window has only the spikes of its trial
    order = np.argsort(windows.start_s, kind="stable")
    start_s, bins = windows.start_s[order], windows.bins[order]
    stop_s = start_s + bins * width_s
    shared = np.flatnonzero(start_s[1:] < stop_s[:-1] - _TOLERANCE * width_s)
    if len(shared) == 0:
        return
    if options.trials.overlap == "keep":
        said = f"{len(shared)} trials begin before the trial before them ends: the shared spikes are in both."
        hint = (
            "A drawn split keeps such trials in one part. To avoid the overlap, choose a shorter "
            f"trials.window_s, or trials.overlap `drop` or `cut`.{_meant_milliseconds(start_s, options.trials.window_s)}"
        )
        trains.warnings.append(Problem("trials_overlap", said, hint, "/trials/overlap"))
        return
    kept = np.ones(len(bins), np.bool_)
    if options.trials.overlap == "drop":
        end_s = -np.inf
        for place in range(len(bins)):
            kept[place] = start_s[place] >= end_s - _TOLERANCE * width_s
            end_s = stop_s[place] if kept[place] else end_s
    else:
        bins[:-1] = np.minimum(bins[:-1], np.floor((start_s[1:] - start_s[:-1]) / width_s + _TOLERANCE))
        kept = bins >= 1
    windows.bins[order] = bins
    back = np.empty_like(kept)
    back[order] = kept
    how = "left out" if options.trials.overlap == "drop" else "cut short where the next begins"
    trains.notes.append(f"{len(shared)} trials share time with the trial before them; trials were {how}.")
    windows.keep(back)


def _meant_milliseconds(start_s: NDArray[np.float64], window_s: tuple[float, float] | None) -> str:
    """Return a question for the hint if a window is as long as many trials."""
    if window_s is None or window_s[1] - window_s[0] < _MOST_TRIALS_IN_A_WINDOW * np.median(np.diff(start_s)):
        return ""
    meant = [round(end / 1000, 6) for end in window_s]
    return f" It is in seconds, and {window_s[1] - window_s[0]:g} s are many trials: did you mean {meant}?"


def _count(trains: SpikeTrains, windows: _Windows, width_s: float) -> Rows:
    """Count spikes: neuron by neuron into rows on disk, then transposed by blocks to trials × bins × neurons."""
    trials, bins = len(windows.bins), int(windows.bins.max())
    by_neuron = zeros((trains.neurons, trials * bins), np.uint16)
    too_many = 0
    for neuron in trains.times.neurons:
        times_s = trains.times_of(neuron)
        first = np.searchsorted(times_s, windows.start_s - _TOLERANCE * width_s)
        last = np.searchsorted(times_s, windows.start_s + (windows.bins - _TOLERANCE) * width_s)
        number = np.maximum(last - first, 0)
        trial = np.repeat(np.arange(trials), number)
        spike = np.arange(len(trial)) - np.repeat(np.cumsum(number) - number - first, number)
        place = np.floor((times_s[spike] - windows.start_s[trial]) / width_s + _TOLERANCE).astype(np.int64)
        cells, counts = np.unique(trial * bins + place.clip(0, bins - 1), return_counts=True)
        too_many = max(too_many, int(counts.max(initial=0)))
        row = np.zeros(trials * bins, np.uint16)
        row[cells] = np.minimum(counts, LARGEST_COUNT)
        by_neuron[neuron : neuron + 1] = row[None]
    if too_many > LARGEST_COUNT:
        said = f"A neuron has {too_many} spikes in one bin of {width_s:g} s: more than {LARGEST_COUNT}."
        raise rejected("counts_too_large", said, "Check the unit of the spike times.", "/time_unit")
    return _neurons_last(by_neuron).reshape(trials, bins, trains.neurons)


def _neurons_last(by_neuron: Rows) -> Rows:
    """Transpose [neurons, cells] to counts [cells, 1, neurons], by blocks of cells."""
    neurons, cells = by_neuron.shape
    flat = by_neuron.reshape(-1)
    builder = CountsBuilder((cells, 1, neurons))
    step = rows_per_block((cells, neurons), 2)
    for first in range(0, cells, step):
        last = min(first + step, cells)
        block = np.stack(
            [flat[neuron * cells + first : neuron * cells + last] for neuron in range(neurons)], axis=-1
        )
        builder.add("spike_times", first, np.arange(first, last), block[:, None, :])
    return builder.finish()


def _sampled(trains: SpikeTrains, name: str, windows: _Windows, width_s: float) -> Rows:
    signal = trains.signals[name]
    bins = int(windows.bins.max())
    out = filled((len(windows.bins), bins, signal.values.shape[1]), np.float32, np.nan)
    for trial, (start_s, length) in enumerate(zip(windows.start_s, windows.bins, strict=True)):
        row = np.full((1, bins, signal.values.shape[1]), np.nan, np.float32)
        row[0, :length] = sample_in_bins(signal, float(start_s), int(length), width_s)
        out[trial : trial + 1] = row
    return out


def _say_what_lies_outside(trains: SpikeTrains, recording: Recording) -> None:
    if recording.is_continuous:
        return
    recording.notes.append(
        f"{trains.times.total} spikes of {trains.neurons} neurons were read; the report counts those within trials."
    )


def _plain(values: NDArray[np.float64]) -> list[MetadataValue]:
    return [float(value) if np.isfinite(value) else None for value in values]
