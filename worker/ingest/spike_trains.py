"""A recording as spike times, before binning: the result of readers of spike times."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import DatasetOptions
from worker.ingest.problems import Problem
from worker.ingest.recording import MetadataValue, Understood
from worker.ingest.rows import RowFile, Rows

DEFAULT_BIN_WIDTH_S = 0.01
_UNSORTED_SHARE = 0.3
"""Share of the steps from spike to spike: if more steps go back, the spikes are not sorted."""
_RESTART_SHARE = 0.1
"""Share of the time from the first spike to the last: a larger step back is a restarted clock."""
_SPAN_SLACK = 0.05
"""Share of the span of all spikes by which trials.window_s may exceed it and still be used as the length of trials."""
_FEWEST_TO_TELL = 100
"""With fewer spikes, their span does not give the length of trials, and trials.window_s is used."""


class SpikeTimes:
    """Spike times of all neurons, written block by block into a temporary file and read neuron by neuron.

    Attributes
    ----------
    total
        Number of spikes so far.
    first_s, last_s
        The earliest and the latest time so far, in seconds.
    trial_last_s : float64, [trials]
        The latest time of each trial, by the trial's number in the spikes; -inf for a trial without a spike.
    """

    def __init__(self) -> None:
        self._times = RowFile.zeros((0,), np.float64)
        self._trials = RowFile.zeros((0,), np.int32)
        self._pieces: dict[int, list[tuple[int, int]]] = {}
        self.total = 0
        self.first_s, self.last_s = np.inf, -np.inf
        self._order: dict[int, _Order] = {}
        self.trial_last_s = np.zeros(0)

    def add(
        self, times_s: NDArray[np.float64], neurons: NDArray[np.integer] | int, trials: Any = None
    ) -> None:
        """Add spikes in any order.

        Parameters
        ----------
        times_s : float64, [spikes]
            Seconds of the session, or of the trial if `trials` is given. Times that are not finite are dropped; the
            caller reports it. The order within each neuron is remembered, for `steps_back`.
        neurons : integer, [spikes], or one for all
            From 0.
        trials : integer, [spikes], optional
            From 0.
        """
        usable = np.isfinite(times_s)
        if not usable.all():
            times_s = times_s[usable]
            neurons = neurons if isinstance(neurons, int) else neurons[usable]
            trials = None if trials is None else trials[usable]
        if len(times_s) == 0:
            return
        if not isinstance(neurons, int):
            order = np.argsort(neurons, kind="stable")
            times_s, neurons = times_s[order], neurons[order]
            trials = None if trials is None else trials[order]
        first = self.total
        self._write(self._times, first, times_s)
        if trials is not None:
            self._write(self._trials, first, np.asarray(trials))
            more = int(trials.max()) + 1 - len(self.trial_last_s)
            self.trial_last_s = np.append(self.trial_last_s, np.full(max(0, more), -np.inf))
            np.maximum.at(self.trial_last_s, trials, times_s)
        ids, starts = ([neurons], [0]) if isinstance(neurons, int) else np.unique(neurons, return_index=True)
        ends = [*list(starts)[1:], len(times_s)]
        for neuron, begin, end in zip(ids, starts, ends, strict=True):
            self._pieces.setdefault(int(neuron), []).append((first + int(begin), int(end - begin)))
            if trials is None:
                self._order.setdefault(int(neuron), _Order()).add(times_s[begin:end])
        self.total += len(times_s)
        self.first_s = min(self.first_s, float(times_s.min()))
        self.last_s = max(self.last_s, float(times_s.max()))

    @property
    def neurons(self) -> list[int]:
        """Return the neurons that have a spike, in order."""
        return sorted(self._pieces)

    def renumber(self, place: dict[int, int]) -> None:
        """Give neurons other numbers."""
        self._pieces = {place[neuron]: pieces for neuron, pieces in self._pieces.items()}
        self._order = {place[neuron]: order for neuron, order in self._order.items()}

    def steps_back(self) -> dict[int, tuple[int, float]]:
        """Return how often the times of a neuron go back, and by how many seconds at most; only neurons where they do."""
        return {
            neuron: (order.number, order.largest_s)
            for neuron, order in sorted(self._order.items())
            if order.number
        }

    def of(self, neuron: int, trial_offset_s: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Return the sorted times of one neuron in seconds.

        Parameters
        ----------
        neuron
            From 0.
        trial_offset_s : float64, [trials], optional
            Added to the times of each trial, if spikes were given by trial.
        """
        pieces = self._pieces.get(neuron, [])
        times_s = _joined(self._times, pieces)
        if trial_offset_s is not None:
            times_s = times_s + trial_offset_s[_joined(self._trials, pieces)]
        times_s.sort()
        return times_s

    @staticmethod
    def _write(file: RowFile, first: int, values: NDArray[Any]) -> None:
        file.shape = (first + len(values),)
        file[first : first + len(values)] = values


def _joined(file: RowFile, pieces: Sequence[tuple[int, int]]) -> NDArray[Any]:
    parts = [file[first : first + number] for first, number in pieces]
    return np.concatenate(parts) if parts else np.zeros(0, file.dtype)


@dataclass
class _Order:
    """Whether the times of one neuron increase: how often they go back, and how far at most."""

    last_s: float = -np.inf
    number: int = 0
    largest_s: float = 0.0

    def add(self, times_s: NDArray[np.float64]) -> None:
        back_s = -np.diff(times_s, prepend=self.last_s)
        self.number += int(np.count_nonzero(back_s > 0))
        self.largest_s = max(self.largest_s, float(back_s.max()))
        self.last_s = float(times_s[-1])


@dataclass
class TrialTable:
    """Intervals of time with metadata: trials, epochs.

    Attributes
    ----------
    start_s, stop_s : float64, [trials]
        Seconds of the session; NaN if the file does not give it.
    columns
        One value for each trial under each name.
    """

    start_s: NDArray[np.float64]
    stop_s: NDArray[np.float64]
    columns: dict[str, list[MetadataValue]] = field(default_factory=dict)


@dataclass
class Signal:
    """A behaviour, sampled evenly or at given times.

    Attributes
    ----------
    values : float, [samples, k]
        The values, in memory or on disk.
    times_s : float64, [samples], optional
        Time of each sample, increasing.
    start_s, rate_hz
        Start and rate of a signal that is sampled evenly.
    unit
        Unit in the file. Angles are not averaged.
    """

    values: Rows
    times_s: NDArray[np.float64] | None = None
    start_s: float = 0.0
    rate_hz: float = 0.0
    unit: str = ""


@dataclass
class SpikeTrains:
    """Spike times and everything beside them.

    Attributes
    ----------
    times
        The spikes.
    neurons
        Number of neurons; those without a spike count too.
    neuron_metadata
        One value for each neuron under each name.
    tables
        Tables of trials by name, the best guess first.
    events
        Times of events by name, float64 in seconds of the session.
    signals
        Behaviours by name.
    trial_offset_s : float64, [trials], optional
        For spikes that were given in seconds of the trial: time 0 of each trial on a clock that runs
        through all trials. Then `tables` has one table, on that clock.
    trial_offset_of_spikes_s : float64, optional
        The same, by the numbers of trials in the spikes, if these differ.
    sampling_rate_hz : float, optional
        Samples per second, if the file has it, for times of trials in samples.
    column_unit : str, optional
        Unit of the columns of times in tables, if the format defines it.
    is_by_trial
        Whether each spike belongs to one trial. Then a trial's `start_s` and `stop_s` in the table are the span that was
        recorded, and a window of a trial has only that trial's spikes.
    invalid_s : float64, [intervals, 2]
        Intervals of the session that the file excludes for all neurons.
    observed_s : list of float64 [intervals, 2], optional
        Intervals in which each neuron was observed, if the file has them.
    source_format, notes, warnings, understood
        As in `Recording`.
    """

    times: SpikeTimes
    neurons: int
    neuron_metadata: dict[str, list[MetadataValue]] = field(default_factory=dict)
    tables: dict[str, TrialTable] = field(default_factory=dict)
    events: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    signals: dict[str, Signal] = field(default_factory=dict)
    trial_offset_s: NDArray[np.float64] | None = None
    trial_offset_of_spikes_s: NDArray[np.float64] | None = None
    sampling_rate_hz: float | None = None
    column_unit: str | None = None
    is_by_trial: bool = False
    invalid_s: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    observed_s: list[NDArray[np.float64]] | None = None
    source_format: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    understood: list[Understood] = field(default_factory=list)

    def times_of(self, neuron: int) -> NDArray[np.float64]:
        """Return the sorted spike times of a neuron in seconds of the session (or on the clock that runs through all trials)."""
        given = self.trial_offset_of_spikes_s
        return self.times.of(neuron, self.trial_offset_s if given is None else given)


def lay_trials_end_to_end(
    trains: SpikeTrains, columns: dict[str, list[MetadataValue]], trials: int, options: DatasetOptions
) -> None:
    """Put trials one after another on one clock, for spikes that were given by trial, and add a table of trials.

    All trials count as recorded over the same span: the whole bins from time 0, or the first spike of all trials if it is
    earlier, to the last spike of all trials. `options.trials.window_s` is not that span: it selects a part of it.
    """
    times = trains.times
    width_s = options.bin_width_s or DEFAULT_BIN_WIDTH_S
    first_s, last_s = (times.first_s, times.last_s) if times.total else (0.0, 1.0)
    first_bin = math.floor(min(0.0, first_s) / width_s + 1e-6)
    last_bin = math.floor(last_s / width_s + 1e-6) + 1
    start_s, stop_s = float(f"{first_bin * width_s:.9g}"), float(f"{last_bin * width_s:.9g}")
    window_s = options.trials.window_s
    if window_s is not None and options.trials.align_to is None:
        # That no neuron fires near the ends may be chance.
        slack_s = _SPAN_SLACK * (stop_s - start_s) if times.total >= _FEWEST_TO_TELL else math.inf
        start_s = window_s[0] if 0 < start_s - window_s[0] <= slack_s else start_s
        stop_s = window_s[1] if 0 < window_s[1] - stop_s <= slack_s else stop_s
    trains.notes.append(
        f"Each trial counts as recorded from {start_s:g} to {stop_s:g} s: from its time 0 or the first spike of all trials "
        "to the last spike of all trials; trials.window_s selects a part of it."
    )
    earliest, latest = min(start_s, times.first_s, 0.0), max(stop_s, times.last_s)
    step_s = float(latest - earliest) + 1.0
    offset_s = np.arange(trials, dtype=np.float64) * step_s - earliest
    trains.trial_offset_s, trains.is_by_trial = offset_s, True
    trains.tables["trials"] = TrialTable(offset_s + start_s, offset_s + stop_s, columns)


def tell_steps_back(trains: SpikeTrains) -> None:
    """Warn of a clock that restarts, and note spikes that are not sorted.

    A few large steps back within neurons mean a recording with a restarted clock, whose parts then overlap. Many steps back
    mean unsorted spikes, which are sorted.
    """
    times, back = trains.times, trains.times.steps_back()
    if not back:
        return
    number = sum(steps for steps, _ in back.values())
    neuron, (_, largest_s) = max(back.items(), key=lambda item: item[1][1])
    is_restart = number <= _UNSORTED_SHARE * times.total and largest_s > _RESTART_SHARE * (
        times.last_s - times.first_s
    )
    label = trains.neuron_metadata.get("neuron_id", list(range(trains.neurons)))[neuron]
    seen = (
        f"Spike times go back {number} times, in {len(back)} of {trains.neurons} neurons, by {largest_s:g} s at most (neuron "
        f"{label})"
    )
    if not is_restart:
        trains.notes.append(f"{seen}: they are not sorted in the file, and were sorted.")
        return
    said = (
        f"{seen}. Probably a clock was restarted, or recordings were joined. The parts now overlap in time, from "
        f"{times.first_s:g} to {times.last_s:g} s, so rates are too high."
    )
    hint = (
        "Upload each part as a file of its own, or add to the times of each later part where it begins on one clock. If "
        "times start again in each trial, name the trial of each spike with mapping.trial."
    )
    trains.warnings.append(Problem("times_go_back", said, hint, "/spike_times"))
