"""Zarr: a group of the values and their coordinates, in a zip archive that Zarr opens directly."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from api.arrays.formats.base import Encoded, FileFormat, WriteContext
from api.arrays.formats.naming import Names
from api.arrays.formats.streams import zip_pieces
from api.arrays.labelled import LabelledArray, as_codes, coordinates_of
from store.arrays import ArrayGroupWriter, NamedArray, RowWriter


class Zarr(FileFormat):
    """zarr: Zarr v3, for `zarr.open` and for `xarray.open_zarr` on a `ZipStore`."""

    name, media_type, ending = "zarr", "application/zip", "zarr.zip"

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write a group of the arrays, chunk by chunk."""
        return Encoded(None, zip_pieces(_objects(arrays, context)))


def _objects(arrays: Sequence[LabelledArray], context: WriteContext) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield every object of the group; chunks are dropped once they are sent, and metadata comes last."""
    objects: dict[str, Buffer] = {}
    coordinates, names = coordinates_of(arrays), Names()
    attributes = {**context.provenance.attributes, "coordinates": " ".join(one.name for one in coordinates)}
    writer = ArrayGroupWriter(MemoryStore(objects), "", attributes)
    for array in arrays:
        yield from _chunks(writer, names.free(array.name), array, objects)
    for one in coordinates:
        values, attributes = as_codes(one.values, one.attributes)
        writer.write(
            NamedArray(names.free(one.name), values, (one.dim,), one.units, one.description, attributes)
        )
    writer.close()
    yield from _sent(objects, "")


def _chunks(
    writer: ArrayGroupWriter, name: str, array: LabelledArray, objects: dict[str, Buffer]
) -> Iterator[tuple[str, Iterable[bytes]]]:
    target = writer.create(
        name,
        array.shape,
        array.dtype,
        array.dims,
        units=array.units,
        description=array.description,
        attributes=dict(array.attributes),
    )
    if not array.dims:
        target[...] = array.values()
        return
    rows = RowWriter(target)
    for block in array.blocks():
        rows.append(np.ascontiguousarray(block))
        yield from _sent(objects, f"{name}/c/")
    rows.close()


def _sent(objects: dict[str, Any], beginning: str) -> Iterator[tuple[str, Iterable[bytes]]]:
    for key in [key for key in objects if key.startswith(beginning)]:
        yield key, (objects.pop(key).to_bytes(),)
