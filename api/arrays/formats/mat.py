"""MATLAB: a MAT-file of version 5, which `load` reads in every MATLAB and in Octave.

Large arrays are not written by SciPy, which would need each of them in memory twice. MATLAB's first axis varies fastest, so
rows are written into a file that is mapped into memory.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from api.arrays.formats.base import Encoded, FileFormat, WriteContext
from api.arrays.formats.naming import MatlabNames
from api.arrays.formats.streams import spooled
from api.arrays.labelled import LabelledArray, as_words, coordinates_of, words_of
from api.errors import Invalid

MOST_BYTES = 2**31 - 2**10
"""Most bytes of a variable: what version 5 of the format can hold, without its header."""
_HEADER = b"MATLAB 5.0 MAT-file, written by Latentry".ljust(116)
"""SciPy's own header contains the time; the same arrays must give the same bytes."""
_TYPES = {  # NumPy type → class of the array, type of its numbers
    "i1": (8, 1), "u1": (9, 2), "i2": (10, 3), "u2": (11, 4), "i4": (12, 5), "u4": (13, 6), "f4": (7, 7), "f8": (6, 9),
    "i8": (14, 12), "u8": (15, 13),
}  # fmt: skip
_MATRIX, _INT8, _INT32, _UINT32, _LOGICAL = 14, 1, 5, 6, 0x200


class Mat(FileFormat):
    """mat: for `load` of MATLAB and Octave and for `scipy.io.loadmat`; words in place of codes."""

    name, media_type, ending = "mat", "application/x-matlab-data", "mat"
    is_written_first = True

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write each array and each coordinate as a variable, and their meaning as the struct `latentry`.

        Raises
        ------
        Invalid
            If an array is larger than a variable may be.
        """
        for array in arrays:
            if array.nbytes > MOST_BYTES:
                raise Invalid(
                    f"the array {array.name} has {array.nbytes / 1e9:.1f} GB, and a variable of a MAT-file has at most "
                    f"{MOST_BYTES / 1e9:.1f} GB",
                    hint="use format=hdf5, which MATLAB reads by h5read; or ask for a part of the array, by slice or by label",
                )
        return spooled(lambda path: _write(path, arrays, context), self.ending)


def _write(path: Path, arrays: Sequence[LabelledArray], context: WriteContext) -> None:
    names = MatlabNames()
    own = names.free("latentry")
    small: dict[str, Any] = {}
    large: list[tuple[str, LabelledArray]] = []
    about: dict[str, dict[str, Any]] = {}
    for array in arrays:
        name = names.free(array.name)
        about[name] = _about(array.name, array.dims, array.units, array.description, array.attributes)
        is_words = bool(words_of(array.attributes)) and len(array.dims) == 1
        if is_words or array.dtype.kind in "UO":
            small[name] = _storable(as_words(array.values(), array.attributes))
        else:
            large.append((name, array))
    for one in coordinates_of(arrays):
        name = names.free(one.name)
        about[name] = _about(one.name, (one.dim,), one.units, one.description, one.attributes)
        small[name] = _storable(as_words(one.values, one.attributes))
    small[own] = _fields(context.provenance.attributes) | {"variables": about}
    with path.open("wb") as file:
        scipy.io.savemat(file, small, long_field_names=True, oned_as="column")
    with path.open("r+b") as file:
        file.write(_HEADER)
    for name, array in large:
        _append(path, name, array)


def _about(
    name: str, dims: Sequence[str], units: str, description: str, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    told = {"name": name, "dims": list(dims), "units": units, "description": description}
    return {**_fields(told), "attributes": _fields(attributes)}


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a struct; values without a MATLAB type are written as JSON."""
    names = MatlabNames()
    return {names.free(name): _storable(value) for name, value in values.items()}


def _storable(value: Any) -> Any:
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "UO":
            return value
        cells = np.array(["" if one is None else str(one) for one in value.flat], object)
        return cells.reshape(value.shape if value.ndim > 1 else (-1, 1))
    if isinstance(value, list | tuple):
        kinds = {isinstance(one, str) for one in value}
        if kinds == {True} or not value:
            return _storable(np.array(value, object))
        if all(isinstance(one, bool | int | float) for one in value):
            return np.array(value)
    return json.dumps(value, default=str)


def _append(path: Path, name: str, array: LabelledArray) -> None:
    """Append an array of numbers as a variable, row by row."""
    dtype = np.dtype("u1") if array.dtype.kind == "b" else array.dtype.newbyteorder("<")
    kind, numbers = _TYPES[f"{dtype.kind}{dtype.itemsize}"]
    flags = kind | (_LOGICAL if array.dtype.kind == "b" else 0)
    shape = array.shape + (1,) * (2 - len(array.shape))
    head = (
        _element(_UINT32, struct.pack("<II", flags, 0))
        + _element(_INT32, struct.pack(f"<{len(shape)}i", *shape))
        + _element(_INT8, name.encode("ascii"))
        + struct.pack("<II", numbers, array.nbytes)
    )
    padding = -array.nbytes % 8
    with path.open("ab") as file:
        file.write(struct.pack("<II", _MATRIX, len(head) + array.nbytes + padding) + head)
        begin = file.tell()
        file.truncate(begin + array.nbytes + padding)
    if not array.size:
        return
    values = np.memmap(path, dtype, "r+", begin, shape, order="F")
    row = 0
    for block in array.blocks():
        rows = len(block) if array.dims else 1
        values[row : row + rows] = block.reshape(rows, *shape[1:])
        row += rows
    values.flush()


def _element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)
