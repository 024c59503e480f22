"""Spike times in arrays of a file: one time for each spike, and beside it which neuron fired and in which trial."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.readers.base import ReadOptions, left_out, metadata_values, name_is_usable
from worker.ingest.readers.choosing import Variable, choose, named
from worker.ingest.recording import MetadataValue, Understood
from worker.ingest.rows import rows_per_block
from worker.ingest.spike_columns import SpikeColumns
from worker.ingest.spike_trains import SpikeTrains, TrialTable, in_seconds

if TYPE_CHECKING:
    from worker.ingest.readers.choosing import ArrayFile

NEURON = (
    "spike_clusters", "spike_neurons", "spike_units", "neuron", "neurons", "unit", "units", "unit_id", "unit_ids",
    "neuron_id", "neuron_ids", "cluster", "clusters", "cluster_id",
)  # fmt: skip
TRIAL = ("spike_trials", "spike_trial", "trial", "trials", "trial_id", "trial_ids")
_ENDS = ("spike_times_index", "spike_index")
STARTS = ("trial_start_s", "trial_start_times", "trial_starts", "trial_start", "start_time", "start_times")
STOPS = (
    "trial_stop_s",
    "trial_stop_times",
    "trial_stops",
    "trial_stop",
    "trial_end",
    "trial_ends",
    "stop_time",
    "stop_times",
)
_RATES = ("sampling_rate_hz", "sampling_rate", "sample_rate", "fs")


def read_flat_spikes(
    file: "ArrayFile", times: str, options: ReadOptions, understood: list[Understood]
) -> SpikeTrains:
    """Read spike times from arrays.

    Parameters
    ----------
    file
        With the array of times and the arrays beside it.
    times
        Name of the array of times, one for each spike.
    options
        Its mapping may name `neuron` and `trial`.
    understood
        Is told what was taken for what.

    Raises
    ------
    RejectedFile
        When nothing tells which neuron each spike is of.
    """
    spikes = file.variables[times].size
    beside = {name: v for name, v in file.variables.items() if name != times}
    ends = named(beside, _ENDS)
    same_length = {name: v for name, v in beside.items() if v.size == spikes and name != ends}
    neuron = choose(same_length, "neuron", options.mapping.neuron, NEURON, understood)
    trial = choose(same_length, "trial", options.mapping.trial, TRIAL, understood)
    if neuron is None and ends is None:
        said = f"`{times}` has {spikes} spike times, and nothing tells which neuron each of them is of."
        hint = "Beside it expect an array of as many neurons (mapping.neuron), or `spike_times_index`, where each neuron's end."
        raise RejectedFile(Problem("neuron_of_spikes_missing", said, hint, "/mapping/neuron"))
    if neuron is None and ends is not None:
        understood.append(Understood("neuron", ends, "by its name", file.variables[ends].shape))
    columns = SpikeColumns(by_trial=trial is not None)
    numbers = _neurons_by_end(file, ends, spikes) if neuron is None and ends is not None else None
    labels = np.asarray(file.read(neuron)).reshape(-1) if neuron is not None else numbers
    trials = None if trial is None else np.asarray(file.read(trial)).reshape(-1)
    assert labels is not None
    rate_hz = sampling_rate(file)
    for first, block in file.blocks(times, 8):
        part = slice(first, first + len(block))
        times_s = in_seconds(block.reshape(-1), options, times, unit_by_name(times), rate_hz)
        columns.add(times_s, labels[part], None if trials is None else trials[part])
    used = {name for name in (times, neuron, trial, ends) if name is not None}
    metadata = _trial_columns(file, used) if trial is not None else {}
    trains = columns.finish(file.format, options, metadata)
    trains.understood = understood
    used |= set(metadata)
    if trial is None:
        used |= _take_trials_and_events(file, used, trains, options)
    for name, variable in file.variables.items():
        if name not in used and name.rsplit("/", 1)[-1].lower() not in _RATES:
            trains.warnings.append(
                left_out(name, variable.shape, "beside spike times it has no meaning that is known")
            )
    return trains


def _neurons_by_end(file: "ArrayFile", ends: str, spikes: int) -> NDArray[np.int64]:
    last = np.asarray(file.read(ends)).reshape(-1).astype(np.int64)
    if len(last) == 0 or (np.diff(last, prepend=0) < 0).any() or last[-1] != spikes:
        said = f"`{ends}` does not rise from 0 to {spikes}, the number of spike times."
        raise RejectedFile(
            Problem("spike_index_invalid", said, "Give for each neuron where its times end.", f"/{ends}")
        )
    return np.repeat(np.arange(len(last)), np.diff(last, prepend=0))


def unit_by_name(name: str) -> str | None:
    """The unit that a name of times ends with, such as `spike_times_ms`."""
    return "ms" if name.lower().endswith("_ms") else "s" if name.lower().endswith("_s") else None


def sampling_rate(file: "ArrayFile") -> float | None:
    """Samples per second, where the file says it."""
    name = named(file.variables, _RATES, lambda variable: variable.size == 1 and variable.is_numbers)
    if name is not None:
        return float(np.asarray(file.read(name)).reshape(()))
    return next((value for key, value in file.numbers.items() if key.lower() in _RATES), None)


def _trial_columns(file: "ArrayFile", used: set[str]) -> dict[str, list[MetadataValue]]:
    """Arrays of one length, that of most of them: the metadata of trials."""
    candidates = {
        name: variable.shape[0]
        for name, variable in file.variables.items()
        if name not in used and _is_column(name, variable) and variable.size > 1
    }
    if not candidates:
        return {}
    lengths = list(candidates.values())
    length = max(lengths, key=lengths.count)
    return {name: metadata_values(file.read(name)) for name, number in candidates.items() if number == length}


def _is_column(name: str, variable: Variable) -> bool:
    return name_is_usable(name) and len(variable.shape) == 1 and variable.dtype.kind in "buifSU"


def _take_trials_and_events(
    file: "ArrayFile", used: set[str], trains: SpikeTrains, options: ReadOptions
) -> set[str]:
    """Take `trial_start` and `trial_stop` with the arrays of their length as a table of trials, and other times as events."""
    variables = {name: v for name, v in file.variables.items() if name not in used and _is_column(name, v)}
    taken: set[str] = set()
    start, stop = named(variables, STARTS), named(variables, STOPS)
    if start is not None and stop is not None and variables[start].shape == variables[stop].shape:
        start_s, stop_s = (
            in_seconds(file.read(name), options, name, unit_by_name(name)) for name in (start, stop)
        )
        beside = [
            n for n, v in variables.items() if v.shape == variables[start].shape and n not in (start, stop)
        ]
        columns: dict[str, Any] = {name: metadata_values(file.read(name)) for name in beside}
        trains.tables["trials"] = TrialTable(start_s, stop_s, columns)
        taken |= {start, stop, *beside}
    most = rows_per_block((1,), 8)
    for name, variable in variables.items():
        if name not in taken and "time" in name.lower() and variable.is_numbers and variable.size <= most:
            trains.events[name] = in_seconds(file.read(name), options, name, unit_by_name(name))
            taken.add(name)
    return taken
