"""A ZIP archive of NPY arrays, checked before anything is decompressed and read in blocks."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from worker.ingest.problems import Problem, RejectedFile, listed
from worker.ingest.readers.base import MOST_ARRAYS, MOST_AXES, ReadOptions, refuse_giant
from worker.ingest.readers.choosing import Variable
from worker.ingest.rows import rows_per_block


@dataclass(frozen=True)
class _Member(Variable):
    """What the header of one array declares."""

    info: zipfile.ZipInfo
    fortran_order: bool
    data_offset: int


class NpzArchive:
    """The arrays of an NPZ file, by name, after every header was checked: an `ArrayFile`.

    Attributes
    ----------
    variables
        What each array declares: name (without `.npy`) → header.

    Raises
    ------
    RejectedFile
        On opening, for pickled arrays, unusual compression, encryption, and arrays that declare too much.
    """

    format = "npz"

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self._zip = zipfile.ZipFile(path)
        self.numbers: dict[str, float] = {}
        try:
            self._members = self._check(options)
        except BaseException:
            self._zip.close()
            raise
        self.variables: dict[str, Variable] = dict(self._members)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()

    def read(self, name: str) -> NDArray[np.generic]:
        """Read one array whole."""
        member = self._members[name]
        with self._zip.open(member.info) as stream:
            stream.read(member.data_offset)
            return _array(stream, member, member.shape)

    def blocks(self, name: str, item_bytes: int) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Read one array by blocks of its first axis: yields where a block begins, and the block.

        An array in Fortran order comes as one block, since its rows are not contiguous.
        """
        rows = rows_per_block(self._members[name].shape, item_bytes)
        member = self._members[name]
        if member.fortran_order or len(member.shape) == 0:
            yield 0, self.read(name)
            return
        with self._zip.open(member.info) as stream:
            stream.read(member.data_offset)
            for first in range(0, member.shape[0], rows):
                count = min(rows, member.shape[0] - first)
                yield first, _array(stream, member, (count, *member.shape[1:]))

    def _check(self, options: ReadOptions) -> dict[str, _Member]:
        infos = [info for info in self._zip.infolist() if not info.is_dir()]
        if len(infos) > MOST_ARRAYS:
            said = f"The archive holds {len(infos)} files: at most {MOST_ARRAYS} are read."
            raise RejectedFile(Problem("too_many_arrays", said, "Put values of one kind into one array."))
        refuse_giant(sum(info.file_size for info in infos), options)
        members: dict[str, _Member] = {}
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if name in members or not info.filename.endswith(".npy"):
                said = f"The archive holds `{info.filename[:100]}`, twice or not as a numpy array."
                raise RejectedFile(
                    Problem("not_an_npz", said, "Make the archive with np.savez and nothing else.")
                )
            members[name] = self._header(info, name)
        return members

    def _header(self, info: zipfile.ZipInfo, name: str) -> _Member:
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            said = f"`{name[:100]}` is encrypted, or compressed in a way that numpy does not use."
            raise RejectedFile(
                Problem("not_an_npz", said, "Make the archive with np.savez or np.savez_compressed.")
            )
        with self._zip.open(info) as stream:
            version = npy_format.read_magic(stream)
            read = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}.get(
                version
            )
            if read is None:
                raise ValueError(f"version {version} of the NPY format, in {name[:100]}, is not read")
            try:  # numpy lets errors of Python's parser through
                shape, fortran_order, dtype = read(stream)
            except (MemoryError, TokenError) as error:
                raise ValueError(f"the header of {name[:100]} cannot be parsed") from error
            offset = stream.tell()
        if dtype.hasobject:
            said = (
                f"`{name[:100]}` is a pickled object array; pickles are never opened, since they can run "
                "code."
            )
            hint = (
                "Save numbers or strings of fixed length: array.astype(float), or np.array(names, dtype='U')."
            )
            raise RejectedFile(Problem("object_array", said, hint, f"/{name[:100]}"))
        member = _Member(shape, dtype, info, fortran_order, offset)
        if len(shape) > MOST_AXES or any(length < 0 for length in shape):
            said = (
                f"`{name[:100]}` declares {len(shape)} axes, {listed(shape, 4)}: at most {MOST_AXES} are "
                "read."
            )
            raise RejectedFile(
                Problem("absurd_shape", said, "Check how the file was written.", f"/{name[:100]}")
            )
        if member.size * dtype.itemsize != info.file_size - offset:
            said = (
                f"`{name[:100]}` declares shape {shape} of {dtype}, but holds {info.file_size - offset} "
                "bytes."
            )
            raise RejectedFile(
                Problem("file_damaged", said, "Save and upload the file again.", f"/{name[:100]}")
            )
        return member


def _array(stream: IO[bytes], member: _Member, shape: tuple[int, ...]) -> NDArray[np.generic]:
    wanted = int(np.prod(shape, dtype=object)) * member.dtype.itemsize
    data = stream.read(wanted)
    if len(data) != wanted:
        raise EOFError(f"{member.info.filename[:100]} ends early")
    if member.dtype.itemsize == 0:
        return np.zeros(shape, member.dtype)
    return np.frombuffer(data, member.dtype).reshape(shape, order="F" if member.fortran_order else "C")
