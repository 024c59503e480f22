"""HDF5: the values with their coordinates as dimension scales. Such a file is also netCDF 4."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from api.arrays.formats.base import Encoded, FileFormat, WriteContext
from api.arrays.formats.naming import Names
from api.arrays.formats.streams import spooled
from api.arrays.labelled import LabelledArray, coordinates_of

_CHUNK_BYTES = 2**20
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable. %9d"
"""Name of a scale without values, by the convention of netCDF 4."""


class Hdf5(FileFormat):
    """hdf5: for `h5py`, MATLAB and, as netCDF 4, `xarray.open_dataset`."""

    name, media_type, ending = "hdf5", "application/x-hdf5", "h5"
    is_written_first = True

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write each array and each coordinate as a data set."""
        return spooled(lambda path: _write(path, arrays, context), self.ending)


def _write(path: Path, arrays: Sequence[LabelledArray], context: WriteContext) -> None:
    with open_new(path) as file:
        tell(file, context.provenance.attributes)
        names, scales = Names(), _Scales(file)
        written = []
        for array in arrays:
            name = names.free(array.name)
            written.append((array.dims, write_rows(file, name, array)))
            if array.dims == (array.name,):
                scales.add(array.name, array.shape[0], written[-1][1])
        for one in coordinates_of(arrays):
            dataset = file.create_dataset(names.free(one.name), data=_storable(one.values))
            tell(dataset, {"units": one.units, "description": one.description, **one.attributes})
            written.append(((one.dim,), dataset))
            if one.name == one.dim:
                scales.add(one.dim, len(one.values), dataset)
        for dims, dataset in written:
            scales.attach(dataset, dims, names)
        others = " ".join(one.name for one in coordinates_of(arrays) if one.name != one.dim)
        for _, dataset in written[: len(arrays)]:
            tell(dataset, {"coordinates": others})


def open_new(path: Path) -> h5py.File:
    """Open a file for writing: members keep their order, and an attribute may have thousands of words."""
    return h5py.File(path, "w", track_order=True, libver=("v108", "v110"))


class _Scales:
    """The scale of each dim of a file."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._known: dict[tuple[str, int], h5py.Dataset] = {}

    def add(self, dim: str, size: int, dataset: h5py.Dataset) -> None:
        """Make a data set the scale of a dim of a size."""
        dataset.make_scale(dim)
        self._known[dim, size] = dataset

    def attach(self, dataset: h5py.Dataset, dims: Sequence[str], names: Names) -> None:
        """Attach the scales of a data set; a dim without a coordinate gets a scale without values."""
        if dataset.is_scale:
            return
        for axis, (dim, size) in enumerate(zip(dims, dataset.shape, strict=True)):
            if (dim, size) not in self._known:
                empty = self._file.create_dataset(names.free(dim), (size,), ">f4")
                empty.make_scale(_NO_VARIABLE % size)
                self._known[dim, size] = empty
            dataset.dims[axis].attach_scale(self._known[dim, size])
            dataset.dims[axis].label = dim


def write_rows(file: h5py.File, name: str, array: LabelledArray) -> h5py.Dataset:
    """Write an array as a data set, block by block."""
    dataset = create(file, name, array.shape, array.dtype)
    row = 0
    for block in array.blocks():
        if not array.dims:
            dataset[...] = block
            continue
        dataset[row : row + len(block)] = block
        row += len(block)
    tell(dataset, {"units": array.units, "description": array.description, **array.attributes})
    return dataset


def create(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> h5py.Dataset:
    """Create a data set that is filled by rows. Counts are compressed, to a tenth of their size; others are contiguous."""
    if dtype.kind not in "iu" or not shape or 0 in shape:
        return file.create_dataset(name, shape, dtype)
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    rows = min(shape[0], max(1, _CHUNK_BYTES // row_bytes))
    return file.create_dataset(
        name, shape, dtype, chunks=(rows, *shape[1:]), compression="gzip", compression_opts=1, shuffle=True
    )


def tell(where: Any, attributes: Mapping[str, Any]) -> None:
    """Write attributes without empty ones; values that HDF5 attributes cannot hold are written as JSON."""
    for name, value in attributes.items():
        if value is None or value == "" or value == []:
            continue
        parts = value if isinstance(value, list | tuple) else [value]
        is_plain = all(isinstance(part, bool | int | float | str) for part in parts)
        is_plain = is_plain and len({isinstance(part, str) for part in parts}) == 1
        where.attrs[name] = value if is_plain else json.dumps(value, default=str)


def _storable(values: NDArray[Any]) -> Any:
    """Return text in HDF5's type of strings; other values unchanged."""
    return values.astype(h5py.string_dtype()) if values.dtype.kind in "UO" else values
