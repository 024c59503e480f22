"""NumPy's formats: npy, one array alone; and npz, an archive of the values, their coordinates and their meaning."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.formats.base import Encoded, FileFormat, WriteContext
from api.arrays.formats.naming import Names
from api.arrays.formats.streams import zip_pieces
from api.arrays.labelled import LabelledArray, coordinates_of, in_memory


class Npy(FileFormat):
    """npy: the values alone, for `numpy.load`."""

    name, media_type, ending = "npy", "application/octet-stream", "npy"

    def shrinks(self, array: LabelledArray) -> bool:
        """Return whether the numbers are whole: counts shrink ten times and more, the last digits of others are noise."""
        return array.dtype.kind in "biu"

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write the first array, row by row."""
        array = arrays[0]
        return Encoded(len(npy_header(array)) + array.nbytes, npy_pieces(array))


class Npz(FileFormat):
    """npz: an archive for `numpy.load`; the member `metadata` is a text of JSON."""

    name, media_type, ending = "npz", "application/x-npz", "npz"

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write each array and each coordinate as a member."""
        return Encoded(None, zip_pieces(_members(arrays, context.provenance.attributes)))


def npy_pieces(array: LabelledArray) -> Iterator[bytes]:
    """Yield an npy file of an array, row by row."""
    yield npy_header(array)
    for block in array.blocks():
        yield np.ascontiguousarray(block).tobytes()


def npy_header(array: LabelledArray) -> bytes:
    """Return the header of an npy file of an array."""
    head = io.BytesIO()
    described = np.lib.format.dtype_to_descr(array.dtype)
    np.lib.format.write_array_header_1_0(
        head, {"descr": described, "fortran_order": False, "shape": array.shape}
    )
    return head.getvalue()


def _members(
    arrays: Sequence[LabelledArray], about: Mapping[str, Any]
) -> Iterator[tuple[str, Iterator[bytes]]]:
    names, described = Names(), {}
    for array in arrays:
        name = names.free(array.name)
        described[name] = _described(array.dims, array.units, array.description, array.attributes)
        yield f"{name}.npy", npy_pieces(array)
    for one in coordinates_of(arrays):
        name = names.free(one.name)
        described[name] = _described((one.dim,), one.units, one.description, one.attributes)
        yield f"{name}.npy", npy_pieces(in_memory(name, _without_objects(one.values), (one.dim,)))
    document = json.dumps({**about, "arrays": described}, default=str)
    yield f"{names.free('metadata')}.npy", npy_pieces(in_memory("metadata", np.array(document), ()))


def _described(
    dims: Sequence[str], units: str, description: str, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    told = {"dims": list(dims), "units": units, "description": description, "attributes": dict(attributes)}
    return {name: value for name, value in told.items() if value or name == "dims"}


def _without_objects(values: NDArray[Any]) -> NDArray[Any]:
    """Return text as NumPy keeps it without pickle: of the width of the longest."""
    return values.astype(str) if values.dtype.kind == "O" else values
