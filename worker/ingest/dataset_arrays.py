"""The arrays of a data set, made from a recording and written to the array store."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from zarr.abc.store import Store

from store.arrays import ArrayGroupWriter, NamedArray
from store.datasets import window_arrays
from worker.ingest.recording import Recording


def write_dataset(store: Store, path: str, dataset_id: str, recording: Recording) -> list[str]:
    """Write a recording as a group of arrays, chunk by chunk.

    Returns
    -------
    list[str]
        The names of the arrays.
    """
    named = list(dataset_arrays(recording))
    beside = [a.name for a in named if a.dims in (("trial",), ("neuron",)) and a.name != a.dims[0]]
    attributes = {
        "dataset_id": dataset_id,
        "bin_width_s": recording.bin_width_s,
        "coordinates": " ".join(beside),
    }
    writer = ArrayGroupWriter(store, path, attributes)
    writer.write_all(named)
    writer.close()
    return [array.name for array in named]


def dataset_arrays(recording: Recording) -> Iterator[NamedArray]:
    """Yield the arrays of a data set, with dims, units and coordinates."""
    trials, bins, neurons = recording.spikes.shape
    samples = ("trial", "time_s", "neuron")
    time_s = recording.time_zero_s + np.arange(bins) * recording.bin_width_s
    zero = "0 after a trial's end" + ("" if recording.missing is None else ", and where `missing` is 1")
    yield NamedArray("spikes", recording.spikes, samples, "spikes", f"spike counts; {zero}")
    if recording.missing is not None:
        yield NamedArray(
            "missing", recording.missing, samples, "", "1 where a sample within a trial was not observed"
        )
    if recording.true_rates_hz is not None:
        yield NamedArray(
            "true_rates_hz",
            recording.true_rates_hz,
            samples,
            "spikes/s",
            "the rates that generated the spikes",
        )
    if recording.external_inputs is not None:
        yield NamedArray("external_inputs", recording.external_inputs, ("trial", "time_s", "external_input"))
    yield NamedArray("trial", np.arange(trials), ("trial",), "", "index in the order given")
    yield NamedArray(
        "time_s", time_s, ("time_s",), "s", "start of the bin, from the event that trials are aligned to"
    )
    yield NamedArray("neuron", np.arange(neurons), ("neuron",), "", "index in the order given")
    yield NamedArray("trial_length_bins", recording.trial_length_bins, ("trial",), "bins", "bins recorded")
    if recording.trial_start_s is not None:
        yield NamedArray(
            "trial_start_s", recording.trial_start_s, ("trial",), "s", "start of the trial's first bin"
        )
    if recording.windows is not None:
        yield from window_arrays(recording.windows)
    taken = {
        "spikes", "missing", "true_rates_hz", "external_inputs", "trial", "time_s", "neuron", "trial_length_bins",
        "trial_start_s", "segment", "segment_first_bin", "segment_start_s", "segment_bins", "zarr.json", "preview.json",
    }  # fmt: skip
    for original, array in recording.behaviour.items():
        name = _free_name(original, taken)
        yield NamedArray(
            name, array, ("trial", "time_s", f"{name}_component"), "", f"{original}, as uploaded"
        )
    for dim, columns in (("trial", recording.trial_metadata), ("neuron", recording.neuron_metadata)):
        for original, column in columns.items():
            if recording.windows is not None and original in ("segment", "segment_first_bin"):
                continue  # already a separate array
            name = _free_name(original, taken)
            values, attributes = _coordinate(column)
            yield NamedArray(name, values, (dim,), "", f"{original}, as uploaded", attributes)


def _free_name(original: str, taken: set[str]) -> str:
    """Return a name that is a valid path segment and that no other array has."""
    base = re.sub(r"[^A-Za-z0-9_.-]", "_", original).strip(".") or "array"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    taken.add(name)
    return name


def _coordinate(column: Sequence[Any]) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Return metadata as numbers; texts become codes with their meanings, as in the CF conventions."""
    known = [value for value in column if value is not None]
    if any(isinstance(value, str) for value in known):
        meanings = sorted({str(value) for value in known})
        codes = [-1 if value is None else meanings.index(str(value)) for value in column]
        return np.array(codes, dtype=np.int32), {
            "flag_values": list(range(len(meanings))),
            "flag_meanings": " ".join(re.sub(r"\s+", "_", meaning) or "_" for meaning in meanings),
        }
    if len(known) == len(column) and all(isinstance(value, int) for value in known):
        return np.array(column, dtype=np.int64), {}
    return np.array([np.nan if value is None else float(value) for value in column]), {}
