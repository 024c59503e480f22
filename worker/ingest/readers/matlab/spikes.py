"""Spike times in cell arrays of MATLAB: of each neuron, or of each trial and neuron."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.axis_evidence import Order
from worker.ingest.readers.axis_names import is_of_neurons
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.matlab.auxiliary_arrays import TimesBeside
from worker.ingest.readers.matlab.leaves import MatlabArrays, base_name, prefix_of
from worker.ingest.readers.matlab.tree import Cell, Node, Numbers, kind_of_cell, product
from worker.ingest.readers.spike_time_arrays import NEURON, sampling_rate
from worker.ingest.readers.variables import is_table_column
from worker.ingest.recording import Understood
from worker.ingest.spike_columns import MOST_NEURONS, MOST_TRIALS, SpikeColumns
from worker.ingest.spike_trains import SpikeTimes, SpikeTrains, lay_trials_end_to_end
from worker.ingest.time_units import in_seconds, spike_unit

_IMPLAUSIBLE_S = 200_000.0
"""More than two days: later times are in milliseconds or samples."""
_BATCH = 2**19
"""Number of spikes that are added at a time."""
_WHOLE_FROM = 100.0
"""Times that are all whole numbers, some of them above this, are in milliseconds or samples."""

Spikes = tuple[int, int, Numbers]


class Clock:
    """Converts the times of one variable to seconds; rejects them if all together show that the unit is unclear.

    Parameters
    ----------
    name
        Name of the variable.
    vectors
        All times of the variable.
    arrays
        The arrays beside it, perhaps with a sampling rate.
    options
        Options of the request.
    """

    def __init__(
        self, name: str, vectors: Iterable[Numbers], arrays: MatlabArrays, options: ReadOptions
    ) -> None:
        self._name, self._options = name, options
        self._rate_hz = sampling_rate(arrays)
        self._unit_is_open = spike_unit(options, name) is None
        self._as_whole = self._unit_is_open and _are_whole(vectors)
        self.without_time = 0
        """Number of times that are NaN or infinite."""

    def seconds(self, times: NDArray[Any]) -> NDArray[np.float64]:
        """Convert some of the times to seconds."""
        finite = np.isfinite(times)
        self.without_time += len(times) - int(np.count_nonzero(finite))
        if self._as_whole and times.dtype.kind == "f":
            in_seconds(times[finite].astype(np.int64), self._options, self._name)  # which refuses them
        found = in_seconds(times, self._options, self._name, None, self._rate_hz)
        last = float(found[finite].max(initial=0.0))
        if self._unit_is_open and last > _IMPLAUSIBLE_S:
            said = f"The times in `{self._name}` go up to {last:g}, more than two days if they were seconds."
            hint = "Give time_unit: `ms`, `us`, or `samples` with sampling_rate_hz (30000 for most systems)."
            raise rejected("time_unit_unclear", said, hint, "/time_unit")
        return found


def _are_whole(vectors: Iterable[Numbers]) -> bool:
    largest = 0.0
    for numbers in vectors:
        values = numbers.vector()
        if values.dtype.kind == "f":
            values = values[np.isfinite(values)]
            if (values != np.trunc(values)).any():
                return False
        largest = max(largest, float(values.max(initial=0)))
    return _WHOLE_FROM <= largest <= 2.0**53


class CellOfTimes:
    """Reads a cell array of spike times and the arrays beside it.

    Parameters
    ----------
    name
        Name of the cell array.
    arrays
        Everything in the file.
    options
        Options of the request.
    understood
        Gets an entry for each variable that is used.
    """

    def __init__(
        self, name: str, arrays: MatlabArrays, options: ReadOptions, understood: list[Understood]
    ) -> None:
        self._name, self._arrays, self._options, self._understood = name, arrays, options, understood
        self._cell = arrays.cells.pop(name)
        arrays.variables.pop(name, None)
        self._beside = TimesBeside(name, arrays, options, understood)
        self._warnings: list[Problem] = []

    def trains(self, how: str) -> SpikeTrains:
        """Read the cell array; `how` says why it holds spike times."""
        axes = self._options.mapping.axes
        is_column = len(self._cell.shape) == 2 and min(self._cell.shape) <= 1
        if kind_of_cell(self._cell) == "nested":
            found = self._by_trial_and_neuron(how, nested=True)
        elif is_column and not (axes and "bin" not in axes):
            found = self._by_trial(how) if self._is_of_trials() else self._by_neuron(how)
        elif len(self._cell.shape) == 2:
            found = self._by_trial_and_neuron(how, nested=False)
        else:
            said = (
                f"`{self._name}` is a cell array of {len(self._cell.shape)} axes: expected trials × neurons."
            )
            raise rejected(
                "spikes_wrong_axes", said, "Save one cell for each trial and neuron.", f"/{self._name}"
            )
        found.warnings += self._warnings
        self._beside.finish(found)
        return found

    def _is_of_trials(self) -> bool:
        """Return whether the cells of a row or column are trials, by the name."""
        is_said = any(word in self._name.lower() for word in ("trial", "trl")) and not is_of_neurons(
            self._name
        )
        return is_said or is_table_column(self._name)

    def _told(self, how: str, axes: tuple[str, ...]) -> None:
        what = f"{how}; a cell for each {' × '.join(axes)}"
        self._understood.append(Understood("spike_times", self._name, what, self._cell.shape))

    def _warn_without_time(self, clock: Clock) -> None:
        if clock.without_time:
            said = f"{clock.without_time} spikes in `{self._name}` have no time (NaN or infinite), and were left out."
            self._warnings.append(
                Problem("spikes_without_time", said, "Check how the times were saved.", f"/{self._name}")
            )

    def _by_neuron(self, how: str) -> SpikeTrains:
        """Read one continuous recording: the times of each neuron."""
        items = _vectors(self._cell.items)
        _refuse_many(self._name, len(items), 1)
        clock = Clock(self._name, items, self._arrays, self._options)
        times = SpikeTimes()
        for neuron, numbers in enumerate(items):
            times.add(clock.seconds(numbers.vector()), neuron)
        self._warn_without_time(clock)
        trains = SpikeTrains(
            times, len(items), source_format=self._arrays.format, understood=self._understood
        )
        self._told(how, ("neuron",))
        self._beside.take_metadata_of_neurons(trains, None, any_name=False)
        self._beside.take_tables_and_events(trains)
        self._beside.take_metadata_of_neurons(trains, None)
        return trains

    def _by_trial(self, how: str) -> SpikeTrains:
        """Read the times of each trial, with the neuron of each spike in a cell array beside it, or of one neuron."""
        items = _vectors(self._cell.items)
        label = self._labels(items)
        if label is None:
            return self._gather(((trial, 0, item) for trial, item in enumerate(items)), (len(items), 1), how)
        _refuse_many(self._name, 1, len(items))
        clock = Clock(self._name, items, self._arrays, self._options)
        columns = SpikeColumns(by_trial=True)
        labels = _vectors(self._arrays.cells.pop(label).items)
        self._arrays.variables.pop(label, None)
        for trial, (numbers, label_of) in enumerate(zip(items, labels, strict=True)):
            times_s = clock.seconds(numbers.vector())
            if len(times_s) != label_of.size:
                said = f"Trial {trial} has {len(times_s)} times in `{self._name}` and {label_of.size} neurons in `{label}`."
                hint = "Give one neuron for each time; leave out NaN."
                raise rejected("array_wrong_shape", said, hint, f"/{label}")
            columns.add(times_s, label_of.vector(), np.full(len(times_s), trial))
        self._told(how, ("trial",))
        is_given = label == self._options.mapping.neuron
        how_label = "given in the mapping" if is_given else "by its name"
        self._understood.append(Understood("neuron", label, how_label, self._cell.shape))
        trains = columns.finish(
            self._arrays.format,
            self._options,
            self._beside.metadata_of_trials(len(items)),
            trial_ids=range(len(items)),
        )
        trains.understood = self._understood
        return trains

    def _labels(self, items: list[Numbers]) -> str | None:
        for name, cell in self._arrays.cells.items():
            is_label = base_name(name) in NEURON and prefix_of(name) == prefix_of(self._name)
            is_label = is_label or name == self._options.mapping.neuron
            if is_label and kind_of_cell(cell) == "times" and len(cell.items) == len(items):
                return name
        return None

    def _by_trial_and_neuron(self, how: str, nested: bool) -> SpikeTrains:
        first, second = self._lengths(nested)
        axes, reason = self._axes_of(first, second, nested)
        swapped = axes[0] == "neuron"
        spikes = (
            (j, i, numbers) if swapped else (i, j, numbers)
            for i, j, numbers in _grid(self._cell, self._cell.shape[0], nested)
        )
        shape = (second, first) if swapped else (first, second)
        return self._gather(spikes, shape, f"{how}; {reason}", axes)

    def _lengths(self, nested: bool) -> tuple[int, int]:
        if not nested:
            return self._cell.shape[0], self._cell.shape[1]
        inner = {product(item.shape) for item in self._cell.items if isinstance(item, Cell) and item.items}
        if len(inner) > 1:
            said = f"The cells of `{self._name}` hold {min(inner)} to {max(inner)} cells: missing cells count as empty."
            hint = "Give one cell for each neuron in each trial, empty where it did not fire."
            self._warnings.append(Problem("cells_of_unequal_number", said, hint, f"/{self._name}"))
        return len(self._cell.items), max(inner, default=0)

    def _axes_of(self, first: int, second: int, nested: bool) -> tuple[Order, str]:
        """Return the order of axes and the reason: from the mapping, names, lengths of arrays beside, else a guess."""
        given = [axis for axis in self._options.mapping.axes or () if axis != "bin"]
        if len(given) == 2:
            return (given[0], given[1]), "axes as given in the mapping"
        trials_first: Order = ("trial", "neuron")
        neurons_first: Order = ("neuron", "trial")
        outer = self._name.rsplit(".", 1)[0].split(".", 1)[0] if "." in self._name else ""
        if nested and (
            is_table_column(self._name) or any(word in outer.lower() for word in ("trial", "trl"))
        ):
            return trials_first, "axes by its name"
        if nested and outer and is_of_neurons(outer):
            return neurons_first, "axes by its name"
        default = trials_first if nested or first >= second else neurons_first
        decision = self._beside.decide_axes(first, second, default)
        self._warnings += [decision.warning] if decision.warning is not None else []
        return decision.axes, decision.how

    def _gather(
        self, spikes: Iterable[Spikes], shape: tuple[int, int], how: str, axes: tuple[str, ...] = ("trial",)
    ) -> SpikeTrains:
        trials, neurons = shape
        _refuse_many(self._name, neurons, trials)
        spikes = list(spikes)
        _refuse_counts(self._name, [numbers for _, _, numbers in spikes])
        clock = Clock(self._name, (numbers for _, _, numbers in spikes), self._arrays, self._options)
        times = SpikeTimes()
        earliest_s, latest_s = np.full(trials, np.inf), np.full(trials, -np.inf)
        for trial_of, neuron_of, values in _batches(spikes):
            times_s = clock.seconds(values)
            times.add(times_s, neuron_of, trial_of)
            finite = np.isfinite(times_s)
            np.minimum.at(earliest_s, trial_of[finite], times_s[finite])
            np.maximum.at(latest_s, trial_of[finite], times_s[finite])
        self._warn_without_time(clock)
        trains = SpikeTrains(times, neurons, source_format=self._arrays.format, understood=self._understood)
        self._told(how, axes)
        self._beside.take_metadata_of_neurons(trains, trials)
        table = self._beside.table_on_clock_of(trials, earliest_s, latest_s)
        if table is not None:
            trains.tables["trials"], trains.is_by_trial = table, True
            trains.notes.append(
                "Spike times lie between the trials' start and stop: they are times of the session."
            )
        else:
            lay_trials_end_to_end(trains, self._beside.metadata_of_trials(trials), trials, self._options)
            trains.notes.append("Spike times count from each trial's beginning.")
        return trains


def _batches(spikes: list[Spikes]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]]:
    """Yield trial, neuron and time of spikes, many cells at a time."""
    first, waiting = 0, 0
    for place, (_, _, numbers) in enumerate(spikes):
        waiting += numbers.size
        if waiting >= _BATCH or place == len(spikes) - 1:
            part = spikes[first : place + 1]
            sizes = [one.size for _, _, one in part]
            trial_of, neuron_of = (np.repeat([one[axis] for one in part], sizes) for axis in (0, 1))
            yield trial_of, neuron_of, np.concatenate([one.vector() for _, _, one in part])
            first, waiting = place + 1, 0


def _vectors(items: list[Node]) -> list[Numbers]:
    return [item for item in items if isinstance(item, Numbers)]


def _grid(cell: Cell, height: int, nested: bool) -> Iterator[Spikes]:
    """Yield first index, second index and times of each cell."""
    for place, item in enumerate(cell.items):
        if isinstance(item, Numbers) and not nested:
            yield place % height, place // height, item
        if isinstance(item, Cell) and nested:
            for inner, numbers in enumerate(item.items):
                if isinstance(numbers, Numbers):
                    yield place, inner, numbers


def _refuse_many(name: str, neurons: int, trials: int) -> None:
    for number, most, what in ((neurons, MOST_NEURONS, "neuron"), (trials, MOST_TRIALS, "trial")):
        if number > most:
            said = f"`{name}` has cells of {number} {what}s: at most {most} are read."
            hint = "Check which axis of the cell array is which: set mapping.axes."
            raise rejected(f"too_many_{what}s", said, hint, f"/{name}")


def _refuse_counts(name: str, vectors: list[Numbers]) -> None:
    """Reject vectors of equal length that do not increase: these are counts, not times."""
    filled = [numbers for numbers in vectors if numbers.size > 1]
    lengths = {numbers.size for numbers in filled}
    if len(filled) < 2 or len(lengths) > 1:
        return
    for numbers in filled[:20]:
        values: NDArray[Any] = numbers.vector()
        if not (values == np.trunc(values)).all() or (np.diff(values.astype(np.float64)) > 0).all():
            return
    said = f"The vectors in `{name}` all have {lengths.pop()} whole numbers that do not increase: these are counts, not times."
    hint = "Save counts as an array of trials × bins × neurons, or as one matrix (bins × neurons) for each trial."
    raise rejected("spike_times_look_like_counts", said, hint, f"/{name}")
