"""One NPY array in a ZIP archive: its header checked before anything is allocated, read whole or in blocks. Never unpickled."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from tokenize import TokenError
from typing import IO, Self

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from worker.ingest.problems import listed, rejected
from worker.ingest.readers.base import MOST_AXES
from worker.ingest.readers.choosing import Variable
from worker.ingest.rows import rows_per_block


@dataclass(frozen=True)
class NpyMember(Variable):
    """What the header of one array declares.

    Attributes
    ----------
    info
        Its member of the archive.
    fortran_order
        Whether its first axis runs fastest.
    data_offset
        Byte of the member at which the numbers begin.
    """

    info: zipfile.ZipInfo
    fortran_order: bool
    data_offset: int

    @classmethod
    def check(cls, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Self:
        """Read and check the header of an array.

        Parameters
        ----------
        archive, info
            Where it lies.
        name
            For messages.

        Raises
        ------
        RejectedFile
            For pickled arrays, absurd shapes, and headers that declare another size than there is.
        """
        with archive.open(info) as stream:
            shape, fortran_order, dtype = _header(stream, name)
            offset = stream.tell()
        if dtype.hasobject:
            said = (
                f"`{name[:100]}` is a pickled object array; pickles are never opened, since they can run "
                "code."
            )
            hint = (
                "Save numbers or strings of fixed length: array.astype(float), or np.array(names, dtype='U')."
            )
            raise rejected("object_array", said, hint, f"/{name[:100]}")
        member = cls(shape, dtype, info, fortran_order, offset)
        if len(shape) > MOST_AXES or any(length < 0 for length in shape):
            said = (
                f"`{name[:100]}` declares {len(shape)} axes, {listed(shape, 4)}: at most {MOST_AXES} are "
                "read."
            )
            raise rejected("absurd_shape", said, "Check how the file was written.", f"/{name[:100]}")
        if member.size * dtype.itemsize != info.file_size - offset:
            said = (
                f"`{name[:100]}` declares shape {shape} of {dtype}, but holds {info.file_size - offset} "
                "bytes."
            )
            raise rejected("file_damaged", said, "Save and upload the file again.", f"/{name[:100]}")
        return member

    def flat(self) -> Self:
        """The same numbers on one axis, in the file's order."""
        return replace(self, shape=(self.size,), fortran_order=False)

    def read(self, archive: zipfile.ZipFile) -> NDArray[np.generic]:
        """Read it whole."""
        with archive.open(self.info) as stream:
            stream.read(self.data_offset)
            return self._array(stream, self.shape)

    def blocks(self, archive: zipfile.ZipFile, item_bytes: int) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Read it by blocks of its first axis: yields where a block begins, and the block.

        An array in Fortran order comes as one block, since its rows are not contiguous.
        """
        if self.fortran_order or len(self.shape) == 0:
            yield 0, self.read(archive)
            return
        rows = rows_per_block(self.shape, item_bytes)
        with archive.open(self.info) as stream:
            stream.read(self.data_offset)
            for first in range(0, self.shape[0], rows):
                count = min(rows, self.shape[0] - first)
                yield first, self._array(stream, (count, *self.shape[1:]))

    def _array(self, stream: IO[bytes], shape: tuple[int, ...]) -> NDArray[np.generic]:
        wanted = int(np.prod(shape, dtype=object)) * self.dtype.itemsize
        data = stream.read(wanted)
        if len(data) != wanted:
            raise EOFError(f"{self.info.filename[:100]} ends early")
        if self.dtype.itemsize == 0:
            return np.zeros(shape, self.dtype)
        return np.frombuffer(data, self.dtype).reshape(shape, order="F" if self.fortran_order else "C")


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy_format.read_magic(stream)
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    read = readers.get(version)
    if read is None:
        raise ValueError(f"version {version} of the NPY format, in {name[:100]}, is not read")
    try:  # numpy lets errors of Python's parser through
        shape, fortran_order, dtype = read(stream)
    except (MemoryError, TokenError) as error:
        raise ValueError(f"the header of {name[:100]} cannot be parsed") from error
    return shape, fortran_order, dtype
