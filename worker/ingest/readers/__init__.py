"""Readers of file formats: the registry, and reading a file of any known format."""

from pathlib import Path

from domain.errors import listed
from store.disk_errors import is_disk_error
from worker.ingest.problems import rejected
from worker.ingest.readers.acquisition.reader import NeoReader
from worker.ingest.readers.archives.npz import NpzReader
from worker.ingest.readers.archives.phy import PhyReader
from worker.ingest.readers.base import DAMAGED_FILE, Reader, ReadOptions, is_short_of_memory
from worker.ingest.readers.hdf5.lfads import LfadsHdf5Reader
from worker.ingest.readers.hdf5.named import Hdf5Reader
from worker.ingest.readers.hdf5.nlb import NlbHdf5Reader
from worker.ingest.readers.matlab.reader import MatlabReader
from worker.ingest.readers.nwb.reader import NwbReader
from worker.ingest.readers.tables.reader import CsvReader, ParquetReader, explain_text
from worker.ingest.recording import Recording
from worker.ingest.spike_trains import SpikeTrains

__all__ = ["READERS", "ReadOptions", "Reader", "read_file"]

READERS: dict[str, Reader] = {
    reader.format: reader
    for reader in (
        PhyReader(),
        NeoReader(),
        NpzReader(),
        NwbReader(),
        MatlabReader(),
        LfadsHdf5Reader(),
        NlbHdf5Reader(),
        Hdf5Reader(),
        ParquetReader(),
        CsvReader(),
    )
}
"""Readers by the name of their format, in the order in which they try to recognise a file."""

_OTHER_FORMATS = (
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
    (b"\x1f\x8b", "compressed with gzip", "Decompress it and upload the file inside."),
    (b"NEX5", "a NeuroExplorer file of the newer format NEX5", "Save it as .nex in NeuroExplorer."),
    (
        b"PK",
        "a ZIP archive that holds no recording",
        "A ZIP may hold arrays saved with np.savez, a folder of Phy or Kilosort (spike_times.npy, spike_clusters.npy, "
        "params.py), or spike files of Neuralynx (.nse, .nst, .ntt); upload any other file by itself, not zipped.",
    ),
)


def read_file(path: Path, options: ReadOptions) -> Recording | SpikeTrains:
    """Read a file of any known format: counts, or spike times that are still to be binned.

    Raises
    ------
    RejectedFile
        For every unreadable file, but not for failures of the service.
    """
    reader = _choose(path, options)
    try:
        return reader.read(path, options)
    except PermissionError:  # of this installation, not of the file
        raise
    except DAMAGED_FILE as error:
        if is_disk_error(error):
            raise
        if is_short_of_memory(error):
            raise MemoryError(str(error)) from error
        raise rejected(
            "file_damaged",
            f"The file is damaged or incomplete, and cannot be read as {reader.format}: "
            f"{str(error).replace(str(path), 'the file')[:300]}",
            "Check that you can open it, and upload it again; compare its size or SHA-256 to detect a "
            "broken transfer.",
        ) from error


def _choose(path: Path, options: ReadOptions) -> Reader:
    found = next((reader for reader in READERS.values() if reader.recognises(path)), None)
    wanted = found if options.format is None else READERS[options.format]
    if wanted is not None and (wanted is found or wanted.recognises(path)):
        return wanted
    asked_for = "" if options.format is None else f", not {options.format} as the upload says"
    if found is not None:
        said, hint = f"The file is {found.format}{asked_for}.", "Leave format out to have it recognised."
        raise rejected("format_not_recognised", said, hint, "/format")
    with path.open("rb") as file:
        start = file.read(64)
    what, hint = explain_text(path) or (
        "in an unknown format",
        f"Its content decides, not the ending of its name. Known formats: {listed(READERS)}.",
    )
    for magic, name, way_out in _OTHER_FORMATS:
        if start.startswith(magic):
            what, hint = name, way_out
            break
    if not start:
        what, hint = "empty", "Check the upload."
    raise rejected("format_not_recognised", f"The file is {what}{asked_for}.", hint)
