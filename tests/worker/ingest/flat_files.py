"""Spike times one by one, with the neuron and the trial of each, in every format that may hold them so."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.worker.ingest.matlab_files import save_v5, save_v73
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import Recording

ARRAYS = ("npz", "hdf5", "matlab_v5", "matlab_v73")
TABLES = ("csv", "parquet")
Columns = dict[str, Any]


def flat_spikes(ids: Sequence[Any], step_s: float = 0.01) -> Columns:
    """Trial k (from 0, whatever its id) has k + 1 spikes of neuron 3, and then one of neuron 7: so counts tell which it is."""
    times, neurons, trials = [], [], []
    for place, label in enumerate(ids):
        times += [(number + 0.5) * step_s for number in range(place + 2)]
        neurons += [3] * (place + 1) + [7]
        trials += [label] * (place + 2)
    return {"spike_times": np.array(times), "neuron": np.array(neurons), "trial": np.array(trials)}


def write_flat(file_format: str, path: Path, spikes: Columns, of_trials: Columns) -> Path:
    """Write spikes with one value for each trial: arrays of their own, or repeated in the rows of tables.

    In tables the values belong to the trials in the order in which their ids come in the sorted file.
    """
    if file_format in TABLES and not of_trials:
        return write_table(file_format, path, spikes)
    if file_format in TABLES:
        ids = list(dict.fromkeys(np.asarray(spikes["trial"]).tolist()))
        place = {label: number for number, label in enumerate(ids)}
        rows = [place[label] for label in np.asarray(spikes["trial"]).tolist()]
        repeated = {name: [list(values)[row] for row in rows] for name, values in of_trials.items()}
        return write_table(file_format, path, {**spikes, **repeated})
    variables = {**spikes, **of_trials}
    if file_format == "npz":
        with path.open("wb") as file:
            np.savez(file, **variables)
    elif file_format == "hdf5":
        with h5py.File(path, "w") as file:
            for name, values in variables.items():
                array = np.asarray(values)
                file[name] = array.astype("S") if array.dtype.kind == "U" else array
    else:
        save = save_v5 if file_format == "matlab_v5" else save_v73
        return save(path, {name: _for_matlab(values) for name, values in variables.items()})
    return path


def _for_matlab(values: Any) -> np.ndarray:
    """Numbers are doubles in MATLAB, texts lie in cells."""
    array = np.asarray(values)
    if array.dtype.kind == "U":
        cells = np.empty((len(array), 1), object)
        cells[:, 0] = array.tolist()
        return cells
    return array if array.dtype.kind == "b" else array.astype(np.float64)


def write_table(file_format: str, path: Path, columns: Columns) -> Path:
    plain = {name: np.asarray(values).tolist() for name, values in columns.items()}
    if file_format == "parquet":
        pq.write_table(pa.table(plain), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(plain)
        writer.writerows(zip(*plain.values(), strict=True))
    return path


def read(path: Path, **options: Any) -> Recording:
    return read_recording(path, ReadOptions(**{"bin_width_s": 0.01, **options}))


def codes(recording: Recording) -> list[str]:
    return [warning.code for warning in recording.warnings]


def spikes_of_neuron_3(recording: Recording) -> list[int]:
    """The number that tells each trial of `flat_spikes`: one more than its place in the file, 0 if it is silent."""
    return np.asarray(recording.spikes)[:, :, 0].sum(axis=1).tolist()
