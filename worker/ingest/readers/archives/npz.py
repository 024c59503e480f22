"""NPZ: arrays saved with `np.savez` or `np.savez_compressed`. Nothing is ever unpickled.

What the arrays are taken for: see the table of `worker.ingest.readers.arrays`, and that of `npz_layouts` for pynapple and
SpikeInterface.
"""

import zipfile
from pathlib import Path

from worker.ingest.problems import Problem
from worker.ingest.readers.archives.npz_archive import NpzArchive
from worker.ingest.readers.archives.npz_layouts import layout_of
from worker.ingest.readers.arrays import read_arrays
from worker.ingest.readers.base import ReadOptions, unless_needed
from worker.ingest.recording import Recording
from worker.ingest.spike_trains import SpikeTrains


class NpzReader:
    """Reads NPZ archives."""

    format = "npz"

    def recognises(self, path: Path) -> bool:
        """Say whether the file is a ZIP archive of arrays and nothing else, or is too damaged to tell."""
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return False
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return True
        return any(name.endswith(".npy") for name in names) and "params.py" not in {
            name.rsplit("/", 1)[-1] for name in names
        }

    def read(self, path: Path, options: ReadOptions) -> Recording | SpikeTrains:
        """Read `path`."""
        with NpzArchive(path, options) as archive:
            read = layout_of(archive, options)
            with unless_needed(archive.unreadable):
                found = read_arrays(archive, options) if read is None else read()
            for name, problem in archive.unreadable.items():
                said = f"`{name[:100]}` was left out: {problem.message}"
                found.warnings.append(Problem("array_left_out", said, problem.hint, problem.pointer))
            return found
