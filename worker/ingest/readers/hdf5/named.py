"""HDF5 of any layout: named data sets, in groups or not.

docs/file-formats.md says what the data sets become. A data set in a group is called by its path.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from worker.ingest.readers.arrays import read_arrays
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.hdf5.safety import (
    CheckedHdf5,
    blocks,
    has_nwb_version,
    looks_like,
    open_checked,
    read_texts,
)
from worker.ingest.readers.variables import Variable
from worker.ingest.recording import Recording
from worker.ingest.spike_trains import SpikeTrains


class Hdf5Reader:
    """Reads HDF5 files of any other layout."""

    format = "hdf5"

    def recognises(self, path: Path) -> bool:
        """Return whether the file is HDF5 but not NWB, or is too damaged to tell."""
        return looks_like(path, lambda file: not has_nwb_version(file), if_damaged=True)

    def read(self, path: Path, options: ReadOptions) -> Recording | SpikeTrains:
        """Read `path`."""
        with open_checked(path, options) as checked:
            found = read_arrays(Hdf5Arrays(checked, options, self.format), options)
            found.warnings += checked.left_out()
            return found


class Hdf5Arrays:
    """The data sets of a checked HDF5 file as an `ArrayFile`; the total that is read is limited."""

    def __init__(self, checked: CheckedHdf5, options: ReadOptions, source_format: str) -> None:
        self.format = source_format
        self.numbers = checked.attributes
        self.variables = {name: Variable(d.shape, d.dtype) for name, d in checked.datasets.items()}
        self._checked, self._options = checked, options
        self._texts = {name: dataset for name, dataset in checked.texts.items() if dataset.ndim <= 1}
        self.variables |= {name: Variable(d.shape, np.dtype("U1")) for name, d in self._texts.items()}
        checked.set_aside |= dict.fromkeys(
            checked.texts.keys() - self._texts.keys(), "it holds texts in more than one axis"
        )
        self.names = [*self.variables, *checked.set_aside]

    def read(self, name: str) -> NDArray[Any]:
        """Read one data set whole."""
        if name in self._texts:
            return read_texts(self._texts[name])
        return np.asarray(self._open(name)[()])

    def blocks(self, name: str, item_bytes: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read one data set by blocks of its first axis."""
        dataset = self._open(name)
        yield from blocks(dataset, max(item_bytes, dataset.dtype.itemsize))

    def _open(self, name: str) -> h5py.Dataset:
        return self._checked.open(name, self._checked.datasets[name], self._options)
