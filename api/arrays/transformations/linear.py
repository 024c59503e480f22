"""Affine maps of an array's last axis: what rotations and principal components come to."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from api.arrays.labelled import LabelledArray
from api.arrays.transformations.trials import floating
from domain.linear_maps import AffineMap


def mapped(array: LabelledArray, by: AffineMap, dim: str) -> LabelledArray:
    """Return the array with its last axis mapped, block by block; the axis is called `dim` from then on."""
    source = floating(array)

    def blocks() -> Iterator[NDArray[Any]]:
        return (by(block).astype(source.dtype) for block in source.blocks())

    return replace(
        source,
        dims=(*array.dims[:-1], dim),
        shape=(*array.shape[:-1], by.matrix.shape[1]),
        coordinates=tuple(one for one in array.coordinates if one.dim != array.dims[-1]),
        blocks=blocks,
    )
