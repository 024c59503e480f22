"""Affine maps of an array's last axis: what rotations and principal components come to."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.labelled import LabelledArray
from api.arrays.transformations.trials import floating


@dataclass(frozen=True)
class AffineMap:
    """``y = (x - before) @ matrix + after``.

    Attributes
    ----------
    before : float64, [F]
        Subtracted from the features.
    matrix : float64, [F, G]
        What they are multiplied with.
    after : float64, [G]
        Added to the result.
    """

    before: NDArray[np.float64]
    matrix: NDArray[np.float64]
    after: NDArray[np.float64]

    def of(self, array: LabelledArray, dim: str) -> LabelledArray:
        """The array with its last axis mapped, which is called `dim` from then on; block by block, in float64 inside."""
        source = floating(array)

        def blocks() -> Iterator[NDArray[Any]]:
            for block in source.blocks():
                with np.errstate(invalid="ignore"):  # NaN makes NaN
                    mapped = (block.astype(np.float64) - self.before) @ self.matrix + self.after
                yield mapped.astype(source.dtype)

        return replace(
            source,
            dims=(*array.dims[:-1], dim),
            shape=(*array.shape[:-1], self.matrix.shape[1]),
            coordinates=tuple(one for one in array.coordinates if one.dim != array.dims[-1]),
            blocks=blocks,
        )
