"""Reads a part of a stored array, chunk by chunk: only chunks that have some of it, each of them once."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from api.arrays.group_cache import check_is_there

Taken = int | slice | NDArray[np.int64]
"""What is taken along an axis: one entry, and the axis is dropped; a range with a step of 1 or more; or increasing positions."""


def taken_entries(part: slice | NDArray[np.int64]) -> int:
    """How many entries of an axis are taken."""
    return len(range(part.start, part.stop, part.step)) if isinstance(part, slice) else len(part)


class StoredRows:
    """The blocks of a part of a stored array, from the beginning or from any row on.

    Parameters
    ----------
    array
        As it is stored, in chunks of whole rows.
    taken
        For each axis.
    """

    def __init__(self, array: "zarr.Array[Any]", taken: tuple[Taken, ...]) -> None:
        self._array = array
        self._first, others = (taken[0], taken[1:]) if taken else (0, ())
        # Positions are read from the range around them, and picked in memory: a chunk is read whole anyway.
        self._others = tuple(_around(part) if isinstance(part, np.ndarray) else part for part in others)
        first_axes = 0 if isinstance(self._first, int) else 1
        kept = [part for part in others if not isinstance(part, int)]
        self._picked = [
            (axis, part - part[0])
            for axis, part in enumerate(kept, first_axes)
            if isinstance(part, np.ndarray) and len(part)
        ]

    def __call__(self) -> Iterator[NDArray[Any]]:
        """All blocks, cut along the first axis at the edges of chunks."""
        return self.starting_at(0)

    def starting_at(self, row: int) -> Iterator[NDArray[Any]]:
        """The blocks that have the rows from one on; what lies before is not read."""
        if isinstance(self._first, int):
            block = self._read(self._first) if self._array.ndim else self._checked(self._array[...])
            yield block[row:] if block.ndim else block
            return
        rows = self._array.chunks[0]
        if isinstance(self._first, slice):
            positions = range(self._first.start, self._first.stop, self._first.step)
            while row < len(positions):
                edge = (positions[row] // rows + 1) * rows
                last = min(len(positions), row + -(-(edge - positions[row]) // positions.step))
                yield self._read(slice(positions[row], positions[last - 1] + 1, positions.step))
                row = last
            return
        chosen = self._first
        while row < len(chosen):
            edge = (chosen[row] // rows + 1) * rows
            last = int(np.searchsorted(chosen, edge))
            part = chosen[row:last]
            yield self._read(_around(part))[part - part[0]]
            row = last

    def _read(self, first: int | slice) -> NDArray[Any]:
        block = self._checked(self._array[(first, *self._others)])
        for axis, positions in self._picked:
            block = np.take(block, positions, axis)
        return block

    def _checked(self, values: Any) -> NDArray[Any]:
        # Zeros are what a chunk has that was never written, or that was deleted meanwhile; all else was read.
        block = np.asarray(values)
        if not block.any():
            check_is_there(self._array)
        return block


def _around(positions: NDArray[np.int64]) -> slice:
    """The shortest range that has all positions."""
    return slice(int(positions[0]), int(positions[-1]) + 1) if len(positions) else slice(0, 0)
