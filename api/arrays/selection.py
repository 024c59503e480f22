"""Which part of an array: positions along its axes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from api.arrays.labelled import LabelledArray
from api.arrays.slices import Part, length, parse_slice, sliced_shape


class Selection(BaseModel):
    """Parameters of a request that say which part of an array is wanted."""

    slice_: str | None = Field(
        None,
        alias="slice",
        max_length=400,
        description="Positions along each axis from the first, e.g. `0:5,::2,3`: an integer takes one entry and drops its axis.",
    )


def select(whole: LabelledArray, stored: "zarr.Array[Any]", selection: Selection) -> LabelledArray:
    """The part of an array that is asked for; only chunks that have some of it are read.

    Raises
    ------
    Invalid
        If there is no such part.
    """
    parts = parse_slice(selection.slice_, whole.shape)
    kept = {dim: part for dim, part in zip(whole.dims, parts, strict=True) if isinstance(part, slice)}
    return LabelledArray(
        name=whole.name,
        dims=tuple(kept),
        shape=sliced_shape(parts),
        dtype=whole.dtype,
        units=whole.units,
        description=whole.description,
        coordinates=tuple(one.taken(kept[one.dim]) for one in whole.coordinates if one.dim in kept),
        attributes=whole.attributes,
        blocks=lambda: _blocks(stored, parts),
    )


def _blocks(array: "zarr.Array[Any]", parts: tuple[Part, ...]) -> Iterator[NDArray[Any]]:
    """The values of a slice in order, cut along the first axis at the edges of chunks."""
    if not parts:
        yield np.asarray(array[...])
        return
    if not isinstance(parts[0], slice):
        yield np.asarray(array[parts])
        return
    first, others = parts[0], parts[1:]
    rows = max(1, array.chunks[0] // first.step)
    for begin in range(0, length(first), rows):
        count = min(rows, length(first) - begin)
        start = first.start + begin * first.step
        stop = start + (count - 1) * first.step + 1
        yield np.asarray(array[(slice(start, stop, first.step), *others)])
