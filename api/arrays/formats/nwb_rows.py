"""Rows as hdmf takes them from an iterator, block by block; apart, because hdmf is slow to import."""

from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from hdmf.backends.hdf5 import H5DataIO
from hdmf.data_utils import AbstractDataChunkIterator, DataChunk
from numpy.typing import NDArray

_CHUNK_BYTES = 2**20


class _BlockIterator(AbstractDataChunkIterator):  # type: ignore[misc]  # hdmf has no types
    """Blocks of rows, each written where the last one ended."""

    def __init__(
        self, blocks: Callable[[], Iterator[NDArray[Any]]], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._blocks = iter(block for block in blocks() if len(block))
        self._shape, self._dtype, self._row = shape, dtype, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> DataChunk:
        block = next(self._blocks)
        first, self._row = self._row, self._row + len(block)
        where = (slice(first, self._row), *(slice(0, size) for size in self._shape[1:]))
        return DataChunk(data=block, selection=where)

    next = __next__

    def recommended_chunk_shape(self) -> tuple[int, ...]:
        row_bytes = int(np.prod(self._shape[1:])) * self._dtype.itemsize
        return (min(self._shape[0], max(1, _CHUNK_BYTES // row_bytes)), *self._shape[1:])

    def recommended_data_shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def maxshape(self) -> tuple[int, ...]:
        return self._shape


def block_iterator(
    blocks: Callable[[], Iterator[NDArray[Any]]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> H5DataIO:
    """Values for an NWB file that are read while it is written; counts are compressed."""
    if 0 in shape:
        return H5DataIO(shape=shape, dtype=dtype)
    rows = _BlockIterator(blocks, shape, dtype)
    if dtype.kind in "iu":
        return H5DataIO(rows, compression="gzip", compression_opts=1, shuffle=True)
    return H5DataIO(rows)
