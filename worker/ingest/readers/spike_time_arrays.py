"""Spike times in arrays: one time for each spike, and beside it the neuron and perhaps the trial."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.readers.auxiliary_arrays import known_roles, owner_guessed, owner_of_column
from worker.ingest.readers.axis_names import Role, base_of, is_likely_of_neurons, is_of_trials, role_of
from worker.ingest.readers.base import ReadOptions, left_out, metadata_values, name_is_usable, neurons_merged
from worker.ingest.readers.split_layout import WHY_NO_SPLIT, is_index, take_split_by_indices
from worker.ingest.readers.variables import STARTS, STOPS, ArrayFile, Variable, choose, is_named, named
from worker.ingest.recording import MetadataValue, Understood
from worker.ingest.rows import rows_per_block
from worker.ingest.spike_columns import SpikeColumns
from worker.ingest.spike_trains import SpikeTrains, TrialTable
from worker.ingest.time_units import in_seconds, is_time, trial_seconds
from worker.ingest.trial_ids import as_seen, has_text, whole_label

NEURON = (
    "spike_clusters", "spike_neurons", "spike_units", "neuron", "neurons", "unit", "units", "unit_id", "unit_ids",
    "neuron_id", "neuron_ids", "cluster", "clusters", "cluster_id",
)  # fmt: skip
TRIAL = ("spike_trials", "spike_trial", "trial", "trials", "trial_id", "trial_ids")
_ENDS = ("spike_times_index", "spike_index")
_RATES = ("sampling_rate_hz", "sampling_rate", "sample_rate", "fs")


def read_flat_spikes(
    file: ArrayFile, times: str, options: ReadOptions, understood: list[Understood]
) -> SpikeTrains:
    """Read spike times from arrays.

    Parameters
    ----------
    file
        The file with the array of times and the arrays beside it.
    times
        Name of the array of times, one for each spike.
    options
        Options of the request; the mapping may name `neuron` and `trial`.
    understood
        Gets an entry for each variable that is used.

    Raises
    ------
    RejectedFile
        If the neuron of each spike is unknown.
    """
    spikes = file.variables[times].size
    beside = {name: v for name, v in file.variables.items() if name != times}
    ends = named(beside, _ENDS)
    same_length = {name: v for name, v in beside.items() if v.size == spikes and name != ends}
    neuron = choose(same_length, "neuron", options.mapping.neuron, NEURON, understood)
    trial = choose(same_length, "trial", options.mapping.trial, TRIAL, understood)
    if neuron is None and ends is None:
        said = f"`{times}` has {spikes} spike times, and nothing gives the neuron of each."
        hint = "Add an array with the neuron of each spike (mapping.neuron), or `spike_times_index`: where each neuron ends."
        raise rejected("neuron_of_spikes_missing", said, hint, "/mapping/neuron")
    if neuron is None and ends is not None:
        understood.append(Understood("neuron", ends, "by its name", file.variables[ends].shape))
    ends_of = None if neuron is not None or ends is None else _read_ends(file, ends, spikes)
    if ends_of is not None:
        labels: NDArray[Any] = np.repeat(np.arange(len(ends_of)), np.diff(ends_of, prepend=0))
    else:
        assert neuron is not None
        labels = np.asarray(file.read(neuron)).reshape(-1)
    columns = SpikeColumns(by_trial=trial is not None, options=options)
    trials = None if trial is None else np.asarray(file.read(trial)).reshape(-1)
    rate_hz = sampling_rate(file)
    for first, block in file.blocks(times, 8):
        part = slice(first, first + len(block))
        times_s = in_seconds(block.reshape(-1), options, times, None, rate_hz)
        columns.add(times_s, labels[part], None if trials is None else trials[part])
    used = {name for name in (times, neuron, trial, ends) if name is not None}
    all_neurons: list[int | str] = list(range(len(ends_of))) if ends_of is not None else []
    appeared = columns.neurons_as_they_appear
    numbers = {columns.trials_seen, len(columns.neuron_labels), len(all_neurons)}
    found = _Beside(file, times, used, options, numbers)
    all_neurons = all_neurons or found.find_neurons(columns.neuron_labels)
    of_trials = {} if trial is None else found.columns_of_trials(columns, all_neurons)
    variables = {name: file.variables[name] for name in of_trials}
    bounds = named(variables, STARTS), named(variables, STOPS)
    trains = columns.finish(file.format, options, of_trials, neurons=all_neurons, bounds=bounds)
    trains.understood, trains.sampling_rate_hz = understood, rate_hz
    if trial is None:
        found.take_trials_and_events(trains)
    found.tell_guessed(trains)
    found.take_neurons(trains)
    if options.mapping.neuron is None and neuron is not None:
        _tell_merged(file, neuron, same_length, trains)
    if ends_of is None:
        found.tell_order_of_neurons(trains, appeared)
    found.used |= take_split_by_indices(file, trains, options.mapping.split is not None)
    found.warn_of_others(trains)
    return trains


def _tell_merged(
    file: ArrayFile, neuron: str, same_length: Mapping[str, Variable], trains: SpikeTrains
) -> None:
    """Warn if another array of labels differs among the spikes of one neuron, and may be the label of neurons."""
    labels = np.unique(np.asarray(file.read(neuron)).reshape(-1), return_inverse=True)[1]
    for name in same_length:
        if name != neuron and base_of(name) in (*NEURON, "electrode", "electrodes", "channel", "channels"):
            others = np.unique(np.asarray(file.read(name)).reshape(-1), return_inverse=True)[1]
            together = labels.astype(np.int64) * (int(others.max(initial=0)) + 1) + others
            if len(np.unique(together)) > len(np.unique(labels)):
                trains.warnings.append(neurons_merged(name, neuron))


def _read_ends(file: ArrayFile, ends: str, spikes: int) -> NDArray[np.int64]:
    last = np.asarray(file.read(ends)).reshape(-1).astype(np.int64)
    if len(last) == 0 or (np.diff(last, prepend=0) < 0).any() or last[-1] != spikes:
        said = f"`{ends}` does not increase from 0 to {spikes}, the number of spike times."
        raise rejected("spike_index_invalid", said, "Give for each neuron where its times end.", f"/{ends}")
    return last


def sampling_rate(file: ArrayFile) -> float | None:
    """Return the samples per second if the file has them."""
    name = named(file.variables, _RATES, lambda variable: variable.size == 1 and variable.is_numbers)
    if name is not None:
        return float(np.asarray(file.read(name)).reshape(()))
    return next((value for key, value in file.numbers.items() if key.lower() in _RATES), None)


def take_events(trains: SpikeTrains, name: str, times: NDArray[Any], options: ReadOptions) -> None:
    """Add a series of events; if its times are unreadable and trials are not aligned to it, warn instead."""
    try:
        trains.events[name] = trial_seconds(times, options, name, None, trains.sampling_rate_hz)
    except RejectedFile as error:
        if name == options.trials.align_to:
            raise
        said = f"The events `{name}` were left out. {error.problems[0].message}"
        trains.warnings.append(Problem("events_left_out", said, error.problems[0].hint, f"/{name}"))


class _Beside:
    """The arrays beside spike times: columns of trials, of neurons, and times of events.

    Parameters
    ----------
    file
        The file with the arrays.
    spikes
        Name of the spike times.
    used
        Names of the arrays that are already used.
    options
        Options of the request.
    numbers
        Numbers of trials and neurons. An array as long as the spikes belongs to spikes, unless its length is one of these.
    """

    def __init__(
        self, file: ArrayFile, spikes: str, used: set[str], options: ReadOptions, numbers: set[int]
    ) -> None:
        self._file, self._spikes, self.used, self._options = file, spikes, used, options
        self._known = known_roles(options.mapping, file.variables)
        number = file.variables[spikes].size
        free = {name: variable for name, variable in file.variables.items() if name not in used}
        self._why_unused = {
            name: "it has one value for each spike"
            for name, variable in free.items()
            if variable.size == number and number not in numbers
        }
        asked = {*self._known, options.trials.align_to, *options.trials.where}
        self._why_unused |= {name: WHY_NO_SPLIT for name in free if is_index(name) and name not in asked}
        self._lengths = {
            name: variable.size
            for name, variable in free.items()
            if name not in self._why_unused and _is_column(name, variable)
        }
        self._own_neurons: list[MetadataValue] = []
        self._likely_of_neurons: list[str] = []
        self._of_neurons: list[str] = []

    def find_neurons(self, seen: list[int | str]) -> list[int | str]:
        """Return the labels of all neurons if a column has them: those of the spikes, and perhaps of silent neurons."""
        for name in self._lengths:
            if base_of(name) in NEURON:
                values = map(whole_label, self._values(name))
                own = [label for label in values if isinstance(label, int | str)]
                labels = as_seen(own, seen)
                if len(set(labels)) == self._lengths[name] and set(seen) <= set(labels):
                    self._own_neurons = list(labels)
                    return labels
        return []

    def columns_of_trials(
        self, spikes: SpikeColumns, neurons: list[int | str]
    ) -> dict[str, list[MetadataValue]]:
        """Return the columns that may have one value for each trial.

        A column such as `depth` with one value for each neuron does not give the number of trials.
        """
        options, found = self._options, {}
        of_neurons = {len(spikes.neuron_labels), len(neurons)}
        wanted = options.mapping.trial_metadata
        needed = {options.trials.align_to, options.mapping.split, *options.trials.where}
        for name, length in self._lengths.items():
            may_be = 1 < length <= spikes.most_trials and not self._is_of_neurons(name, of_neurons)
            if not may_be or not (wanted is None or is_named(name, wanted) or name in needed):
                continue
            is_free = name not in self._known and name not in needed
            if is_free and length in of_neurons and is_likely_of_neurons(name) and not is_of_trials(name):
                self._likely_of_neurons.append(name)
            else:
                found[name] = self._values(name)
        self.used |= set(found)
        return found

    def _is_of_neurons(self, name: str, numbers: set[int]) -> bool:
        """Return whether a column belongs to neurons, by the mapping or by its name and length."""
        known = self._known.get(name)
        return known == "neuron" or (
            known is None and self._lengths[name] in numbers and role_of(name, self._spikes) == "neuron"
        )

    def tell_guessed(self, trains: SpikeTrains) -> None:
        """Warn of columns that were assigned to trials and could belong to neurons by their length."""
        for table in trains.tables.values():
            for name in self._likely_of_neurons:
                if self._lengths[name] == len(table.start_s):
                    table.columns[name] = self._values(name)
                    self.used.add(name)
            numbers: dict[Role, int] = {"trial": len(table.start_s), "neuron": trains.neurons}
            for name in [name for name in table.columns if name in self._lengths]:
                length = self._lengths[name]
                owner, is_guess = owner_of_column(name, length, numbers, self._spikes, self._known)
                if owner == "trial" and is_guess and not is_time(name):
                    trains.warnings.append(owner_guessed(name, owner, length))

    def take_trials_and_events(self, trains: SpikeTrains) -> None:
        """Make a table of trials from `trial_start`, `trial_stop` and arrays of their length; other times are events."""
        variables = {name: self._file.variables[name] for name in self._lengths}
        start, stop = named(variables, STARTS), named(variables, STOPS)
        if start is not None and stop is not None and self._lengths[start] == self._lengths[stop]:
            number = self._lengths[start]
            columns = {
                name: self._values(name)
                for name, length in self._lengths.items()
                if length == number
                and name not in (start, stop)
                and not self._is_of_neurons(name, {trains.neurons})
            }
            trains.tables["trials"] = TrialTable(
                self._seconds(start, trains), self._seconds(stop, trains), columns
            )
            self.used |= {start, stop, *columns}
        most = rows_per_block((1,), 8)
        for name, length in self._lengths.items():
            is_numbers = self._file.variables[name].is_numbers
            if name in self.used or not is_time(name) or not is_numbers or length > most:
                continue
            self.used.add(name)
            take_events(trains, name, np.asarray(self._file.read(name)).reshape(-1), self._options)

    def take_neurons(self, trains: SpikeTrains) -> None:
        """Add columns with one value for each neuron, in the order of their labels or of the file's own column of labels."""
        labels = trains.neuron_metadata["neuron_id"]
        own, wanted = self._own_neurons or labels, self._options.mapping.neuron_metadata
        left_out_of = {one.pointer: one for one in trains.warnings if one.code == "array_left_out"}
        for name, length in self._lengths.items():
            warning = left_out_of.get(f"/{name[:100]}")
            is_wanted = wanted is None or is_named(name, wanted)
            if is_wanted and (warning is not None or name not in self.used) and length == len(own) > 1:
                by_label = dict(zip(own, self._values(name), strict=True))
                trains.neuron_metadata[name.replace("/", ".")] = [by_label.get(label) for label in labels]
                self._of_neurons.append(name)
                trains.warnings = [one for one in trains.warnings if one is not warning]
                self.used.add(name)

    def tell_order_of_neurons(self, trains: SpikeTrains, appeared: list[int | str]) -> None:
        """Warn if values were assigned to neurons by position and nothing proves the assignment."""
        labels = [label for label in trains.neuron_metadata["neuron_id"] if isinstance(label, int | str)]
        ids = [name for name in self._of_neurons if base_of(name) in NEURON]
        others = {"as text": sorted(labels, key=str), "in which they first appear": appeared}
        others = {how: other for how, other in others.items() if other != labels and has_text(labels)}
        if self._own_neurons or not self._of_neurons or not (others or ids):
            return
        told = [f"the order {how} differs ({listed(other, 4)})" for how, other in others.items()]
        told += [f"`{name}` does not have the labels of the spikes" for name in ids]
        said = (
            f"{listed(self._of_neurons)}: one value for each of {len(labels)} neurons. They were assigned to the neurons in the "
            f"order of their labels ({listed(labels, 4)}); {'; '.join(told)}."
        )
        hint = "Add an array `unit_ids` with one value for each neuron: the label of its spikes."
        trains.warnings.append(Problem("neuron_ids_ambiguous", said, hint, f"/{self._of_neurons[0][:100]}"))

    def warn_of_others(self, trains: SpikeTrains) -> None:
        """Warn of every array that was left out."""
        for name, variable in self._file.variables.items():
            if name not in self.used and name.rsplit("/", 1)[-1].lower() not in _RATES:
                why = "it has no known meaning beside spike times, or was not requested"
                trains.warnings.append(left_out(name, variable.shape, self._why_unused.get(name, why)))

    def _values(self, name: str) -> list[MetadataValue]:
        return metadata_values(np.asarray(self._file.read(name)).reshape(-1))

    def _seconds(self, name: str, trains: SpikeTrains) -> NDArray[np.float64]:
        times = np.asarray(self._file.read(name)).reshape(-1)
        return trial_seconds(times, self._options, name, None, trains.sampling_rate_hz)


def _is_column(name: str, variable: Variable) -> bool:
    """Return whether an array is a vector, perhaps a row or column of a matrix."""
    is_vector = len(variable.shape) in (1, 2) and variable.size == max(variable.shape)
    return name_is_usable(name.replace("/", ".")) and is_vector and variable.dtype.kind in "buifSU"
