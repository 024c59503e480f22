"""ZIP archives of NPY arrays, as `np.savez` writes them. Nothing is ever unpickled.

Stands for `numpy.load`, which holds whole arrays in memory. Here every header is checked before anything is decompressed.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.readers.base import MOST_ARRAYS, MOST_AXES, ReadOptions, refuse_giant
from worker.ingest.readers.variables import Variable
from worker.ingest.rows import rows_per_block

PICKLED_METADATA = "_metadata"
"""Array that pynapple pickles beside its own; it is never read."""
_HEADERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


@dataclass(frozen=True)
class NpyMember(Variable):
    """One NPY array in a ZIP archive: what its header declares.

    Attributes
    ----------
    info
        Member of the archive.
    fortran_order
        Whether the first axis varies fastest.
    data_offset
        Byte of the member at which the numbers begin.
    """

    info: zipfile.ZipInfo
    fortran_order: bool
    data_offset: int

    @classmethod
    def check(cls, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> Self:
        """Read and check the header of an array, called `name` in messages.

        Raises
        ------
        RejectedFile
            For pickled arrays, absurd shapes, and headers that declare another size than the data have.
        """
        with archive.open(info) as stream:
            read = _HEADERS.get(version := npy_format.read_magic(stream))
            if read is None:
                raise ValueError(f"version {version} of the NPY format, in {name[:100]}, is not supported")
            try:  # numpy lets errors of Python's parser through
                shape, fortran_order, dtype = read(stream)
            except (MemoryError, TokenError) as error:
                raise ValueError(f"the header of {name[:100]} cannot be parsed") from error
            offset = stream.tell()
        name, pointer = name[:100], f"/{name[:100]}"
        if dtype.hasobject:
            said = f"`{name}` is a pickled object array. Pickles are never opened, because they can run code."
            hint = (
                "Save numbers or strings of fixed length: array.astype(float), or np.array(names, dtype='U')."
            )
            raise rejected("object_array", said, hint, pointer)
        member = cls(shape, dtype, info, fortran_order, offset)
        if len(shape) > MOST_AXES or any(length < 0 for length in shape):
            said = f"`{name}` declares {len(shape)} axes, {listed(shape, 4)}: at most {MOST_AXES} are read."
            raise rejected("absurd_shape", said, "Check how the file was written.", pointer)
        if member.size * dtype.itemsize != (size := info.file_size - offset):
            said = f"`{name}` declares shape {shape} of {dtype}, but holds {size} bytes."
            raise rejected("file_damaged", said, "Save and upload the file again.", pointer)
        return member

    def flat(self) -> Self:
        """Return the same numbers on one axis, in the file's order."""
        return replace(self, shape=(self.size,), fortran_order=False)

    def read(self, archive: zipfile.ZipFile) -> NDArray[np.generic]:
        """Read the whole array."""
        with archive.open(self.info) as stream:
            stream.read(self.data_offset)
            return self._array(stream, self.shape)

    def blocks(self, archive: zipfile.ZipFile, item_bytes: int) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Read the array by blocks of its first axis: yield where a block begins, and the block.

        An array in Fortran order is one block, since its rows are not contiguous.
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


class NpzArchive:
    """The arrays of an NPZ file, by name, after every header was checked: an `ArrayFile`.

    Attributes
    ----------
    variables
        Name (without `.npy`) → header.
    has_pickled_metadata
        Whether the archive has pynapple's `_metadata`.
    unreadable
        Name → why the array cannot be read.

    Raises
    ------
    RejectedFile
        On opening, for unusual compression, encryption, and arrays that declare too much.
    """

    format = "npz"

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self._zip = zipfile.ZipFile(path)
        self.numbers: dict[str, float] = {}
        self.has_pickled_metadata = False
        self.unreadable: dict[str, Problem] = {}
        try:
            self._members = self._check(options)
        except BaseException:
            self._zip.close()
            raise
        self.variables: dict[str, Variable] = dict(self._members)
        self.names = list(self._members)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()

    def read(self, name: str) -> NDArray[np.generic]:
        """Read one array whole."""
        return self._members[name].read(self._zip)

    def blocks(self, name: str, item_bytes: int) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Read one array by blocks of its first axis: yield where a block begins, and the block."""
        return self._members[name].blocks(self._zip, item_bytes)

    def _check(self, options: ReadOptions) -> dict[str, NpyMember]:
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        if len(infos) > MOST_ARRAYS:
            said = f"The archive holds {len(infos)} files: at most {MOST_ARRAYS} are read."
            raise rejected("too_many_arrays", said, "Put values of one kind into one array.")
        refuse_giant(sum(info.file_size for info in infos), options)
        members: dict[str, NpyMember] = {}
        if any(info.filename == "type.npy" for info in infos):
            kept = [info for info in infos if info.filename != f"{PICKLED_METADATA}.npy"]
            self.has_pickled_metadata, infos = len(kept) < len(infos), kept
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if name in members or not info.filename.endswith(".npy"):
                said = f"The archive holds `{info.filename[:100]}` twice, or it is not a numpy array."
                raise rejected("not_an_npz", said, "Make the archive with np.savez and nothing else.")
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                said = f"`{name[:100]}` is encrypted, or compressed in a way that numpy does not use."
                raise rejected("not_an_npz", said, "Make the archive with np.savez or np.savez_compressed.")
            try:
                members[name] = NpyMember.check(self._zip, info, name)
            except RejectedFile as error:
                [problem] = error.problems
                if problem.code != "object_array":
                    raise
                self.unreadable[name] = problem
            except zipfile.BadZipFile as error:
                said, hint = f"`{name[:100]}` cannot be read ({error}).", "Save and upload the file again."
                self.unreadable[name] = Problem("file_damaged", said, hint, f"/{name[:100]}")
        return members
