"""A recording as spike times, before it is put into bins: what readers of spike times give."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.dataset_options import DatasetOptions
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.recording import MetadataValue, Understood
from worker.ingest.rows import RowFile, Rows

DEFAULT_BIN_WIDTH_S = 0.01
_LATEST_S = 1e11
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


class SpikeTimes:
    """Spike times of all neurons, gathered block by block into a temporary file and read neuron by neuron.

    Attributes
    ----------
    total
        Number of spikes so far.
    first_s, last_s
        The earliest and the latest time so far, in seconds.
    """

    def __init__(self) -> None:
        self._times = RowFile.zeros((0,), np.float64)
        self._trials = RowFile.zeros((0,), np.int32)
        self._pieces: dict[int, list[tuple[int, int]]] = {}
        self.total = 0
        self.first_s, self.last_s = np.inf, -np.inf

    def add(
        self, times_s: NDArray[np.float64], neurons: NDArray[np.integer] | int, trials: Any = None
    ) -> None:
        """Take in spikes, in any order.

        Parameters
        ----------
        times_s : float64, [spikes]
            In seconds: of the session, or of the trial if `trials` is given. Those that are not finite are left out; the
            caller says so.
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
        ids, starts = ([neurons], [0]) if isinstance(neurons, int) else np.unique(neurons, return_index=True)
        ends = [*list(starts)[1:], len(times_s)]
        for neuron, begin, end in zip(ids, starts, ends, strict=True):
            self._pieces.setdefault(int(neuron), []).append((first + int(begin), int(end - begin)))
        self.total += len(times_s)
        self.first_s = min(self.first_s, float(times_s.min()))
        self.last_s = max(self.last_s, float(times_s.max()))

    @property
    def neurons(self) -> list[int]:
        """The neurons that have a spike, in order."""
        return sorted(self._pieces)

    def renumber(self, place: dict[int, int]) -> None:
        """Give neurons other numbers."""
        self._pieces = {place[neuron]: pieces for neuron, pieces in self._pieces.items()}

    def of(self, neuron: int, trial_offset_s: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The times of one neuron, sorted, in seconds.

        Parameters
        ----------
        neuron
            From 0.
        trial_offset_s : float64, [trials], optional
            Added to the times of each trial, where spikes were given by trial.
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
class TrialTable:
    """Stretches of time with metadata: trials, epochs.

    Attributes
    ----------
    start_s, stop_s : float64, [trials]
        In seconds of the session; NaN where the file does not say it.
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
        In memory or on disk.
    times_s : float64, [samples], optional
        When each sample was taken, rising.
    start_s, rate_hz
        Of one that is sampled evenly.
    unit
        As the file has it. Angles are not averaged.
    """

    values: Rows
    times_s: NDArray[np.float64] | None = None
    start_s: float = 0.0
    rate_hz: float = 0.0
    unit: str = ""


@dataclass
class SpikeTrains:
    """Spike times with what came beside them.

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
        For spikes that were given by trial, in seconds of the trial: where each trial's time 0 is on a clock that runs
        through all of them. Then `tables` has one, on that clock.
    trial_offset_of_spikes_s : float64, optional
        The same, by the numbers of trials that the spikes carry, where these are others.
    split_column
        The column of the table of trials that says `train`, `valid` or `test`, where there is one.
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
    split_column: str | None = None
    source_format: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    understood: list[Understood] = field(default_factory=list)

    def times_of(self, neuron: int) -> NDArray[np.float64]:
        """Spike times of a neuron, sorted, in seconds of the session (or on the clock that runs through all trials)."""
        given = self.trial_offset_of_spikes_s
        return self.times.of(neuron, self.trial_offset_s if given is None else given)


def lay_trials_end_to_end(
    trains: SpikeTrains, columns: dict[str, list[MetadataValue]], trials: int, options: DatasetOptions
) -> None:
    """Give trains whose spikes came by trial a clock that runs through all trials, and a table of them.

    Trials last from the earliest to the latest spike of all trials, unless `options.trials.window_s` says it.
    """
    window_s = options.trials.window_s
    times = trains.times
    if window_s is None:
        width_s = options.bin_width_s or DEFAULT_BIN_WIDTH_S
        first_s, last_s = (times.first_s, times.last_s) if times.total else (0.0, 1.0)
        first_bin = math.floor(min(0.0, first_s) / width_s + 1e-6)
        last_bin = math.floor(last_s / width_s + 1e-6) + 1
        window_s = (float(f"{first_bin * width_s:.9g}"), float(f"{last_bin * width_s:.9g}"))
        trains.notes.append(
            f"Each trial was taken to last from {window_s[0]:g} to {window_s[1]:g} s, the whole bins from the first to the "
            "last spike of all trials; trials.window_s says it otherwise."
        )
    earliest, latest = min(window_s[0], times.first_s, 0.0), max(window_s[1], times.last_s)
    step_s = float(latest - earliest) + 1.0
    offset_s = np.arange(trials, dtype=np.float64) * step_s - earliest
    trains.trial_offset_s = offset_s
    trains.tables["trials"] = TrialTable(offset_s + window_s[0], offset_s + window_s[1], columns)


def in_seconds(
    times: NDArray[Any],
    options: DatasetOptions,
    variable: str,
    file_unit: str | None = None,
    file_rate_hz: float | None = None,
) -> NDArray[np.float64]:
    """Turn a file's times into seconds.

    Parameters
    ----------
    times
        As the file has them.
    options
        `time_unit` and `sampling_rate_hz` go before what the file says.
    variable
        Name in the file, for messages.
    file_unit
        `s`, `ms`, `us` or `samples` where the format or the file says it.
    file_rate_hz
        Samples per second, where the file says it.

    Raises
    ------
    RejectedFile
        For whole numbers without a unit, samples without a rate, and times that no recording has.
    """
    if times.dtype.kind not in "iuf":
        said = f"`{variable}` does not hold numbers, but {times.dtype}."
        raise RejectedFile(
            Problem("times_not_numbers", said, "Give times in seconds as floats.", f"/{variable}")
        )
    unit = options.time_unit or file_unit
    if unit is None and times.dtype.kind in "iu" and times.size and int(times.max()) > 1:
        raise RejectedFile(
            Problem(
                "time_unit_unclear",
                f"The times in `{variable}` are whole numbers, up to {int(times.max())}: they may be samples or "
                "milliseconds, and the file does not say which.",
                "Give time_unit: `ms`, `us`, or `samples` with sampling_rate_hz (30000 for most systems).",
                "/time_unit",
            )
        )
    if unit == "samples":
        rate_hz = options.sampling_rate_hz or file_rate_hz
        if rate_hz is None:
            said = f"The times in `{variable}` are in samples, and nothing tells how many make a second."
            hint = "Give sampling_rate_hz (30000 for most systems)."
            raise RejectedFile(Problem("sampling_rate_missing", said, hint, "/sampling_rate_hz"))
        return _refuse_absurd(np.asarray(times, np.float64) / rate_hz, variable)
    return _refuse_absurd(np.asarray(times, np.float64) * _SECONDS[unit or "s"], variable)


def _refuse_absurd(times_s: NDArray[np.float64], variable: str) -> NDArray[np.float64]:
    """Reject times so large that their bins cannot be numbered, though times since 1970 can."""
    finite_s = times_s[np.isfinite(times_s)]
    if max(finite_s.max(initial=0.0), -finite_s.min(initial=0.0)) > _LATEST_S:
        said = f"The times in `{variable}` go from {finite_s.min():g} to {finite_s.max():g} s."
        raise RejectedFile(Problem("times_absurd", said, "Check their unit: time_unit.", f"/{variable}"))
    return times_s
