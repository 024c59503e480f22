"""A ZIP archive of NPY arrays, checked before anything is decompressed and read in blocks."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.readers.archives.npy_member import NpyMember
from worker.ingest.readers.base import MOST_ARRAYS, ReadOptions, refuse_giant
from worker.ingest.readers.choosing import Variable

PICKLED_METADATA = "_metadata"
"""Array that pynapple pickles beside its own; it is set aside unread."""


class NpzArchive:
    """The arrays of an NPZ file, by name, after every header was checked: an `ArrayFile`.

    Attributes
    ----------
    variables
        What each array declares: name (without `.npy`) → header.
    has_pickled_metadata
        Whether it has pynapple's `_metadata`.

    Raises
    ------
    RejectedFile
        On opening, for pickled arrays, unusual compression, encryption, and arrays that declare too much.
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
        """Read one array by blocks of its first axis: yields where a block begins, and the block."""
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
                said = f"The archive holds `{info.filename[:100]}`, twice or not as a numpy array."
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
