"""Readers of file formats: the registry, and the way to read a file in whatever format it has."""

import struct
import zipfile
import zlib
from pathlib import Path

from worker.ingest.problems import Problem, RejectedFile, listed
from worker.ingest.readers.base import Reader, ReadOptions
from worker.ingest.readers.hdf5 import Hdf5Reader
from worker.ingest.readers.lfads_hdf5 import LfadsHdf5Reader
from worker.ingest.readers.npz import NpzReader
from worker.ingest.recording import Recording
from worker.ingest.spike_trains import SpikeTrains

__all__ = ["READERS", "ReadOptions", "Reader", "read_file"]

READERS: dict[str, Reader] = {
    reader.format: reader for reader in (NpzReader(), LfadsHdf5Reader(), Hdf5Reader())
}
"""Every reader by the name of its format, in the order in which they are asked to recognise a file."""

_DAMAGE = (
    OSError, ValueError, KeyError, IndexError, TypeError, EOFError, OverflowError, RuntimeError, SyntaxError,
    NotImplementedError, RecursionError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What numpy, zipfile and h5py raise on damaged files."""

_OTHER_FORMATS = (
    (
        b"MATLAB 5.0 MAT-file",
        "a MATLAB file",
        "Save it with numpy: np.savez(path, spikes=..., bin_width_s=0.010).",
    ),
    (
        b"\x93NUMPY",
        "a single numpy array (NPY)",
        "Save it as NPZ: np.savez(path, spikes=array, bin_width_s=0.010).",
    ),
    (
        b"\x80",
        "a Python pickle",
        "Pickles are never opened, since they can run code: save the arrays with np.savez.",
    ),
    (b"\x1f\x8b", "compressed with gzip", "Upload the file that is inside."),
    (
        b"PK",
        "a ZIP archive without numpy arrays",
        "Upload one recording: np.savez makes the right kind of archive.",
    ),
    (
        b"\x89HDF",
        "an HDF5 file of another kind, such as NWB",
        "Bin the spike times of each trial and save an NPZ: np.savez(path, spikes=..., bin_width_s=0.010).",
    ),
)


def read_file(path: Path, options: ReadOptions) -> Recording | SpikeTrains:
    """Read a file in whatever known format it has: counts, or spike times that are still to be put into bins.

    Raises
    ------
    RejectedFile
        For every file that cannot be read, and for nothing that is ours to mend.
    """
    reader = _choose(path, options)
    try:
        return reader.read(path, options)
    except _DAMAGE as error:
        if isinstance(error, OSError) and "allocat" in str(error):
            raise MemoryError(str(error)) from error
        raise RejectedFile(
            Problem(
                "file_damaged",
                f"The file is damaged or incomplete, and cannot be read as {reader.format}: "
                f"{str(error)[:300]}",
                "Check that it opens on your side, and upload it again; its size or SHA-256 shows a "
                "broken transfer.",
            )
        ) from error


def _choose(path: Path, options: ReadOptions) -> Reader:
    if options.format is not None and options.format not in READERS:
        said = f"format is '{options.format[:50]}': expected one of {listed(READERS)}."
        raise RejectedFile(
            Problem("format_unknown", said, "Leave format out to have it recognised.", "/format")
        )
    asked = READERS.values() if options.format is None else [READERS[options.format]]
    for reader in asked:
        if reader.recognises(path):
            return reader
    with path.open("rb") as file:
        start = file.read(64)
    found, hint = "in a format that is not known", f"Known formats: {listed(READERS)}."
    for magic, name, way_out in _OTHER_FORMATS:
        if start.startswith(magic):
            found, hint = name, way_out
            break
    if not start:
        found, hint = "empty", "Check the upload."
    expected = "" if options.format is None else f", not {options.format} as the upload says"
    raise RejectedFile(Problem("format_not_recognised", f"The file is {found}{expected}.", hint))
