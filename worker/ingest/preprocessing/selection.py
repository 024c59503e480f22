"""Selection of trials and neurons."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import NeuronOptions, Range, Where
from domain.errors import listed
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.recording import MetadataValue, Recording
from worker.ingest.rows import Rows, blocks, zeros


def keep_where(
    metadata: dict[str, list[MetadataValue]], where: Where, number: int, of_what: str, notes: list[str]
) -> NDArray[np.bool_]:
    """Return which trials (or neurons) satisfy conditions on their metadata.

    Parameters
    ----------
    metadata
        One value for each trial (or neuron) under each name.
    where
        Name → a value, several values, or a range of numbers; all conditions must hold. A missing value fulfils none.
    number
        Number of trials (or neurons).
    of_what
        `trials` or `neurons`.
    notes
        Gets a note on how many were kept.

    Raises
    ------
    RejectedFile
        If there is no metadata with a name, or nothing is left.
    """
    kept = np.ones(number, np.bool_)
    said = "{0}.where names `{1}`: the {0} of this file have {2}."
    unknown = [
        Problem(
            "metadata_unknown",
            said.format(of_what, name, listed(metadata)),
            "Name one of these.",
            f"/{of_what}/where/{name}",
        )
        for name in where
        if name not in metadata
    ]
    if unknown:
        raise RejectedFile(unknown)
    for name, wanted in where.items():
        pointer = f"/{of_what}/where/{name}"
        values = metadata[name]
        kept &= np.array([_holds(value, wanted) for value in values], np.bool_)
        if not kept.any():
            seen = listed(dict.fromkeys(values))
            said = f"No {of_what} match the wanted values of `{name}`; its values are {seen}."
            hint = "Whole numbers and text differ: 1 is not '1'."
            raise rejected(f"no_{of_what}_left", said, hint, pointer)
    if where:
        notes.append(f"{int(kept.sum())} of {number} {of_what} were kept by {listed(where)}.")
    return kept


def _holds(value: MetadataValue, wanted: object) -> bool:
    if value is None:
        return False
    if isinstance(wanted, Range):
        if isinstance(value, str):
            return False
        return (wanted.min is None or value >= wanted.min) and (wanted.max is None or value <= wanted.max)
    if isinstance(wanted, list):
        return any(_holds(value, one) for one in wanted)
    return isinstance(value, str) == isinstance(wanted, str) and value == wanted


def select_trials(recording: Recording, kept: NDArray[np.bool_]) -> None:
    """Keep some trials of a recording."""
    if kept.all():
        return
    rows = np.flatnonzero(kept)
    recording.spikes = take_rows(recording.spikes, rows)
    for name, array in recording.per_bin().items():
        recording.set_per_bin(name, take_rows(array, rows))
    recording.trial_length_bins, recording.split = recording.trial_length_bins[rows], recording.split[rows]
    if recording.trial_start_s is not None:
        recording.trial_start_s = recording.trial_start_s[rows]
    if recording.windows is not None:
        windows = recording.windows
        recording.windows = replace(windows, segment=windows.segment[rows], first_bin=windows.first_bin[rows])
    recording.trial_metadata = {
        name: _picked(values, rows) for name, values in recording.trial_metadata.items()
    }


def select_neurons(recording: Recording, options: NeuronOptions) -> None:
    """Drop neurons by metadata, and neurons that fire too rarely.

    Raises
    ------
    RejectedFile
        If none is left.
    """
    neurons = recording.spikes.shape[2]
    kept = keep_where(recording.neuron_metadata, options.where, neurons, "neurons", recording.notes)
    observed = _observed_bins(recording)
    never = kept & (observed == 0)
    if never.any() and observed.any():
        kept &= ~never
        said = (
            f"{int(never.sum())} neurons were not observed in any trial, and were left out: {listed(np.flatnonzero(never))} "
            "(counted from 0 in the file)."
        )
        hint = "Take other trials, or trials.unobserved `keep`."
        problem = Problem("neurons_not_observed", said, hint, "/trials/unobserved")
        if not kept.any():
            raise RejectedFile(replace(problem, code="no_neurons_left"))
        recording.warnings.append(problem)
    if options.minimum_rate_hz > 0:
        totals = np.zeros(neurons, np.int64)
        for _, block in blocks(recording.spikes.reshape(-1, neurons), 8):
            totals += block.sum(axis=0, dtype=np.int64)
        rates_hz = totals / (np.maximum(observed, 1) * recording.bin_width_s)
        rare = kept & (rates_hz < options.minimum_rate_hz)
        kept &= ~rare
        if rare.any():
            said = (
                f"{int(rare.sum())} neurons fire less than {options.minimum_rate_hz:g} Hz and were left out"
            )
            recording.notes.append(f"{said}: {listed(np.flatnonzero(rare))} (counted from 0 in the file).")
        if not kept.any():
            said = f"No neuron fires {options.minimum_rate_hz:g} Hz: the highest rate is {rates_hz.max():.3g} Hz."
            raise rejected("no_neurons_left", said, "Give a lower rate.", "/neurons/minimum_rate_hz")
    if kept.all():
        return
    columns = np.flatnonzero(kept)
    recording.spikes = _take_columns(recording.spikes, columns)
    if recording.missing is not None:
        recording.missing = _take_columns(recording.missing, columns)
    if recording.true_rates_hz is not None:
        recording.true_rates_hz = _take_columns(recording.true_rates_hz, columns)
    metadata = {name: _picked(values, columns) for name, values in recording.neuron_metadata.items()}
    recording.neuron_metadata = {"index_in_file": list(columns.tolist()), **metadata}


def _observed_bins(recording: Recording) -> NDArray[np.int64]:
    """Return the number of bins within trials in which each neuron was observed, int64 [neurons]."""
    neurons = recording.spikes.shape[2]
    observed = np.full(neurons, int(recording.trial_length_bins.sum()))
    if recording.missing is not None:
        for _, block in blocks(recording.missing.reshape(-1, neurons), 8):
            observed -= block.sum(axis=0, dtype=np.int64)
    return observed


def take_rows(array: Rows, rows: NDArray[np.integer]) -> Rows:
    """Return some rows of an array as a new array."""
    out = zeros((len(rows), *array.shape[1:]), array.dtype)
    for first, block in blocks(out):
        out[first : first + len(block)] = array[rows[first : first + len(block)]]
    return out


def _take_columns(array: Rows, columns: NDArray[np.integer]) -> Rows:
    """Return some columns of the last axis of [trials, bins, neurons] as a new array."""
    trials, bins, neurons = array.shape
    out = zeros((trials * bins, len(columns)), array.dtype)
    for first, block in blocks(array.reshape(-1, neurons)):
        out[first : first + len(block)] = block[:, columns]
    return out.reshape(trials, bins, len(columns))


def _picked(values: Sequence[MetadataValue], places: NDArray[np.integer]) -> list[MetadataValue]:
    return [values[place] for place in places]
