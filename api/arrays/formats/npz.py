"""NumPy's archive: the values, their coordinates and what they mean."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.formats.base import Context, Encoded, FileFormat
from api.arrays.formats.members import coordinates_of, in_memory
from api.arrays.formats.naming import Names
from api.arrays.formats.npy import npy_pieces
from api.arrays.formats.zips import zip_pieces
from api.arrays.labelled import LabelledArray


class Npz(FileFormat):
    """npz: to be read by `numpy.load`; the member `metadata` is a text of JSON."""

    name, media_type, ending = "npz", "application/x-npz", "npz"

    def encode(self, arrays: Sequence[LabelledArray], context: Context) -> Encoded:
        """Each array and each coordinate as a member, sent as it is read."""
        return Encoded(None, zip_pieces(_members(arrays, context.origin.attributes)))


def _members(
    arrays: Sequence[LabelledArray], about: Mapping[str, Any]
) -> Iterator[tuple[str, Iterator[bytes]]]:
    names, described = Names(), {}
    coordinates = coordinates_of(arrays)
    for array in arrays:
        name = names.free(array.name)
        described[name] = _described(array.dims, array.units, array.description, array.attributes)
        yield f"{name}.npy", npy_pieces(array)
    for one in coordinates:
        name = names.free(one.name)
        described[name] = _described((one.dim,), one.units, one.description, one.attributes)
        yield f"{name}.npy", npy_pieces(in_memory(name, without_objects(one.values), (one.dim,)))
    document = json.dumps({**about, "arrays": described}, default=str)
    yield f"{names.free('metadata')}.npy", npy_pieces(in_memory("metadata", np.array(document), ()))


def _described(
    dims: Sequence[str], units: str, description: str, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    told = {"dims": list(dims), "units": units, "description": description, "attributes": dict(attributes)}
    return {name: value for name, value in told.items() if value or name == "dims"}


def without_objects(values: NDArray[Any]) -> NDArray[Any]:
    """Text as NumPy keeps it without pickle: of the width of the longest."""
    return values.astype(str) if values.dtype.kind == "O" else values
