"""Arrays that are read and written by rows of their first axis; large ones are on disk.

A recording may be larger than the available memory. A large array is in a file without a name, is read and written
by plain calls (a memory map would count as resident memory), and is deleted with the process.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

BLOCK_BYTES = 32 * 2**20
"""Approximate size of the block of an array that is in memory at a time."""
IN_MEMORY_BYTES = 32 * 2**20
"""Arrays up to this size are kept in memory."""


class RowFile:
    """An array in a file, in C order, indexed by rows of its first axis.

    Parameters
    ----------
    file
        Open for reading, and for writing if rows are to be set.
    shape, dtype
        Shape and type of the array.
    offset
        Byte of the file at which it begins.
    """

    def __init__(
        self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], offset: int = 0
    ) -> None:
        self._file, self.shape, self.dtype, self._offset = file, tuple(shape), np.dtype(dtype), offset
        self._row_bytes = int(np.prod(shape[1:], dtype=object)) * self.dtype.itemsize

    @classmethod
    def zeros(cls, shape: tuple[int, ...], dtype: Any) -> Self:
        """Return an array of zeros in a temporary file, in the folder of `tempfile.tempdir`."""
        file = tempfile.TemporaryFile(prefix="latentry-rows-")  # noqa: SIM115 it lives as long as the array
        array = cls(file, shape, np.dtype(dtype))
        file.truncate(shape[0] * array._row_bytes)
        return array

    @classmethod
    def open_npy(cls, path: Path) -> Self:
        """Open an array in C order that was saved as NPY."""
        file = path.open("rb")
        version = npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        shape, _, dtype = read(file)
        return cls(file, shape, dtype, file.tell())

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole: NDArray[Any] = np.asarray(self[:], dtype)
        return whole

    def __getitem__(self, rows: int | slice | NDArray[np.integer]) -> NDArray[Any]:
        """Read rows."""
        if isinstance(rows, int | np.integer):
            row: NDArray[Any] = self._read(range(len(self))[rows], 1)[0]
            return row
        if isinstance(rows, slice):
            first, last, step = rows.indices(len(self))
            if step == 1:
                return self._read(first, max(0, last - first))
            rows = np.arange(first, last, step)
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for begin, end in _runs(rows):
            out[begin:end] = self._read(int(rows[begin]), end - begin)
        return out

    def __setitem__(self, rows: slice | NDArray[np.integer], values: NDArray[Any]) -> None:
        """Write rows; `values` is converted to the array's type."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        values = np.ascontiguousarray(values, self.dtype)
        for begin, end in _runs(rows):
            self._write(int(rows[begin]), values[begin:end])

    def reshape(self, *shape: int) -> "RowFile":
        """Return the same file with other axes; one length may be -1."""
        if -1 in shape:
            known = -int(np.prod(shape, dtype=object))
            whole = int(np.prod(self.shape, dtype=object))
            shape = tuple(whole // known if known and length == -1 else length for length in shape)
        return RowFile(self._file, shape, self.dtype, self._offset)

    def save_npy(self, path: Path) -> None:
        """Write the array as NPY, block by block."""
        with path.open("wb") as file:
            header = {
                "descr": npy_format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": self.shape,
            }
            npy_format.write_array_header_1_0(file, header)
            for _, block in blocks(self):
                file.write(block.data)

    def _read(self, first: int, count: int) -> NDArray[Any]:
        out = np.empty((count, *self.shape[1:]), self.dtype)
        view = memoryview(out.reshape(-1).view(np.uint8).data) if out.size else memoryview(b"")
        place = self._offset + first * self._row_bytes
        done = 0
        while done < len(view):
            read = os.preadv(self._file.fileno(), [view[done:]], place + done)
            if read == 0:
                raise EOFError("an array on disk ends early")
            done += read
        return out

    def _write(self, first: int, values: NDArray[Any]) -> None:
        view = memoryview(values.reshape(-1).view(np.uint8).data) if values.size else memoryview(b"")
        place = self._offset + first * self._row_bytes
        done = 0
        while done < len(view):
            done += os.pwrite(self._file.fileno(), view[done:], place + done)


Rows = NDArray[Any] | RowFile
"""An array in memory or on disk, used by rows."""


def _runs(rows: NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Yield runs of consecutive indices: from which position to which."""
    if len(rows) == 0:
        return
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    yield from zip([0, *ends[:-1]], ends, strict=True)


def zeros(shape: tuple[int, ...], dtype: Any) -> Rows:
    """Return an array of zeros, on disk if it is large."""
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    return np.zeros(shape, dtype) if size <= IN_MEMORY_BYTES else RowFile.zeros(shape, dtype)


def filled(shape: tuple[int, ...], dtype: Any, value: float) -> Rows:
    """Return an array of one value, on disk if it is large."""
    array = zeros(shape, dtype)
    for first, block in blocks(array):
        array[first : first + len(block)] = np.full(block.shape, value, dtype)
    return array


def rows_per_block(shape: tuple[int, ...], item_bytes: int, chunk_rows: int = 1) -> int:
    """Return how many rows to read at a time: about `BLOCK_BYTES`, in whole chunks unless these are larger."""
    row_bytes = max(1, int(np.prod(shape[1:], dtype=object)) * item_bytes)
    rows = max(1, BLOCK_BYTES // row_bytes)
    return max(rows // chunk_rows * chunk_rows, min(chunk_rows, 4 * rows), 1)


def blocks(array: Rows, item_bytes: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
    """Iterate over an array: yield the first row of a block, and the block.

    Parameters
    ----------
    array
        The array, in memory or on disk.
    item_bytes
        Memory of one element in computations on a block; by default its size in the array.
    """
    if 0 in array.shape:
        return
    rows = rows_per_block(array.shape, item_bytes or array.dtype.itemsize)
    for first in range(0, array.shape[0], rows):
        yield first, array[first : first + rows]


def save_npy(array: Rows, path: Path) -> None:
    """Write an array as NPY."""
    if isinstance(array, RowFile):
        array.save_npy(path)
    else:
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)


def load_npy(path: Path) -> Rows:
    """Load an array that `save_npy` wrote; a large one stays on disk."""
    if path.stat().st_size > IN_MEMORY_BYTES:
        return RowFile.open_npy(path)
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    return array
