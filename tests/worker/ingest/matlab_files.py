"""MATLAB files for tests: as scipy and hdf5storage write them, and MATLAB's own layout of version 7.3 by hand."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5storage
import numpy as np
import pytest
import scipy.io

from tests.worker.ingest.ingest_examples import ExampleFile
from worker.ingest.problems import RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import Recording
from worker.ingest.spike_trains import SpikeTrains

Write = Callable[[Path, dict[str, Any]], Path]


def save_v5(path: Path, variables: dict[str, Any]) -> Path:
    with path.open("wb") as file:
        scipy.io.savemat(file, variables, format="5", do_compression=False, oned_as="column")
    return path


def save_v7(path: Path, variables: dict[str, Any]) -> Path:
    with path.open("wb") as file:
        scipy.io.savemat(file, variables, format="5", do_compression=True, oned_as="row")
    return path


def save_v4(path: Path, variables: dict[str, Any]) -> Path:
    with path.open("wb") as file:
        scipy.io.savemat(file, variables, format="4", oned_as="column")
    return path


def save_v73(path: Path, variables: dict[str, Any]) -> Path:
    """By hdf5storage, under a name that it accepts."""
    path.unlink(missing_ok=True)
    named = path.with_suffix(".mat")
    named.unlink(missing_ok=True)
    hdf5storage.savemat(
        str(named),
        variables,
        format="7.3",
        oned_as="column",
        store_python_metadata=False,
        matlab_compatible=True,
        structured_numpy_ndarray_as_struct=True,
    )
    return named.rename(path)


class Matlab73:
    """Writes HDF5 as MATLAB 7.3 itself lays it out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = h5py.File(path, "w", userblock_size=512)
        self.refs = self.file.create_group("#refs#")
        self.number = 0

    def numbers(self, where: h5py.Group, name: str, values: Any, **how: Any) -> h5py.Dataset:
        array = np.atleast_2d(np.asarray(values))
        if array.size == 0:
            dataset = where.create_dataset(name, data=np.array(array.shape, np.uint64))
            dataset.attrs["MATLAB_empty"] = np.uint8(1)
        else:
            dataset = where.create_dataset(name, data=array.T, **how)
        kinds = {"float64": "double", "float32": "single", "bool": "logical"}
        dataset.attrs["MATLAB_class"] = np.bytes_(kinds.get(array.dtype.name, array.dtype.name))
        return dataset

    def text(self, where: h5py.Group, name: str, text: str) -> h5py.Dataset:
        codes = np.array([[ord(letter)] for letter in text], np.uint16)
        dataset = where.create_dataset(name, data=codes)
        dataset.attrs["MATLAB_class"] = np.bytes_("char")
        dataset.attrs["MATLAB_int_decode"] = np.int32(2)
        return dataset

    def reference(self, value: Any) -> h5py.Reference:
        self.number += 1
        return self.put(self.refs, f"r{self.number}", value).ref

    def put(self, where: h5py.Group, name: str, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(where, name, value)
        if isinstance(value, dict):
            return self.struct(where, name, value)
        if isinstance(value, list):
            value = cells(value)
        if isinstance(value, np.ndarray) and value.dtype == object:
            return self.cell(where, name, value)
        return self.numbers(where, name, value)

    def cell(self, where: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
        stored = np.empty(values.T.shape, h5py.ref_dtype)
        for place in np.ndindex(*stored.shape):
            stored[place] = self.reference(values.T[place])
        dataset = where.create_dataset(name, data=stored, dtype=h5py.ref_dtype)
        dataset.attrs["MATLAB_class"] = np.bytes_("cell")
        return dataset

    def struct(self, where: h5py.Group, name: str, fields: dict[str, Any]) -> h5py.Group:
        group = where.create_group(name)
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        for field, value in fields.items():
            self.put(group, field, value)
        return group

    def structs(self, where: h5py.Group, name: str, values: list[dict[str, Any]]) -> h5py.Group:
        group = where.create_group(name)
        group.attrs["MATLAB_class"] = np.bytes_("struct")
        for field in values[0]:
            data = np.array([[self.reference(value[field])] for value in values], h5py.ref_dtype)
            group.create_dataset(field, data=data, dtype=h5py.ref_dtype)
        return group

    def close(self) -> Path:
        self.file.close()
        header = (
            b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2024 HDF5 schema 1.00 ."
        )
        with self.path.open("r+b") as file:
            file.write(header.ljust(116) + b"\0" * 8 + struct.pack("<H", 0x0200) + b"IM")
        return self.path


def cells(values: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    found = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        found[place] = value
    return found.reshape(shape or (1, len(values)))


def structs(values: list[dict[str, Any]]) -> np.ndarray:
    """A struct array as scipy and hdf5storage take it."""
    found = np.zeros((1, len(values)), dtype=[(name, object) for name in values[0]])
    for place, value in enumerate(values):
        found[0, place] = tuple(value.values())
    return found


RANDOM = np.random.default_rng(3)
COUNTS = RANDOM.poisson(0.8, (6, 9, 4)).astype(np.uint8)
LENGTHS = np.array([9, 7, 9, 5, 8, 6])
INSIDE = np.arange(9)[None, :] < LENGTHS[:, None]
RAGGED = (COUNTS * INSIDE[:, :, None]).astype(np.uint8)
DIRECTION = np.array([0.0, 45, 90, 135, 180, 225])
WINDOW = {"bin_width_s": 0.1, "trials": {"window_s": [0.0, 0.9]}}
SESSION = {"bin_width_s": 0.1}


def times_of(counts: np.ndarray, start_s: float = 0.0) -> np.ndarray:
    """Spike times of one neuron with these counts in bins of 0.1 s, within each bin."""
    parts = [start_s + 0.1 * (place + (np.arange(n) + 0.5) / (n + 1)) for place, n in enumerate(counts)]
    return np.concatenate(parts) if len(parts) else np.zeros(0)


def by_trial_and_neuron(order: str = "trial") -> np.ndarray:
    shape = (6, 4) if order == "trial" else (4, 6)
    found = np.empty(shape, dtype=object)
    for trial in range(6):
        for neuron in range(4):
            found[(trial, neuron) if order == "trial" else (neuron, trial)] = times_of(
                COUNTS[trial, :, neuron]
            )
    return found


def by_neuron() -> list[np.ndarray]:
    """A session in which trial k begins at second k."""
    return [np.concatenate([times_of(COUNTS[k, :, n], float(k)) for k in range(6)]) for n in range(4)]


def trial_table() -> dict[str, Any]:
    return {"start": np.arange(6.0), "stop": np.arange(6.0) + 0.9, "direction": DIRECTION}


def structs_of_counts(turned: bool = False) -> list[dict[str, Any]]:
    found = []
    for trial in range(6):
        counts = COUNTS[trial, : LENGTHS[trial]].astype(float)
        hand = np.full((LENGTHS[trial], 2), float(trial))
        matrix = {"spikes": counts.T if turned else counts, "hand": hand.T if turned else hand}
        found.append({**matrix, "direction": DIRECTION[trial], "outcome": "hit" if trial % 2 else "miss"})
    return found


def by_hand(make: Callable[[Matlab73], None]) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.unlink(missing_ok=True)
        matlab = Matlab73(path)
        make(matlab)
        return matlab.close()

    return write


def example(
    write: Write, variables: dict[str, Any], expected: np.ndarray, options: dict[str, Any]
) -> ExampleFile:
    return ExampleFile("matlab", lambda path: write(path, variables), expected, options)


ARRAYS = {"spikes": COUNTS.astype(float), "bin_width_s": 0.01, "direction": DIRECTION}


def read(path: Path, **options: Any) -> Recording:
    return read_recording(path, ReadOptions(**options))


def codes(found: Recording | SpikeTrains) -> list[str]:
    return [warning.code for warning in found.warnings]


def rejected(path: Path, **options: Any) -> str:
    with pytest.raises(RejectedFile) as caught:
        read(path, **options)
    return caught.value.problems[0].code
