"""HDF5 in the layout of LFADS: every array once for each split, in any order of axes; see docs/file-formats.md."""

from pathlib import Path

from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.hdf5.named import Hdf5Arrays
from worker.ingest.readers.hdf5.safety import CheckedHdf5, looks_like, open_checked
from worker.ingest.readers.split_arrays import read_parts
from worker.ingest.readers.split_layout import spikes_of_lfads
from worker.ingest.recording import Recording


class LfadsHdf5Reader:
    """Reads HDF5 files with `train_data` and `valid_data`, or `train_encod_data` and so on."""

    format = "lfads_hdf5"

    def recognises(self, path: Path) -> bool:
        """Return whether the file is HDF5 with spikes of a training split."""
        names = [f"train_{name}" for name in ("data", "encod_data", "recon_data")]
        return looks_like(path, lambda file: any(name in file for name in names))

    def read(self, path: Path, options: ReadOptions) -> Recording:
        """Read `path`."""
        with open_checked(path, options) as checked:
            _set_groups_aside(checked)
            checked.refuse_giant(checked.datasets, options)
            file = Hdf5Arrays(checked, options, self.format)
            layout = spikes_of_lfads(file.variables)
            recording = read_parts(file, layout, options)
            recording.warnings += checked.left_out()
            return recording


def _set_groups_aside(file: CheckedHdf5) -> None:
    """Set aside what lies in a group: this layout has none."""
    for members in (file.datasets, file.texts):
        for name in [name for name in members if "/" in name]:
            del members[name]
            file.set_aside[f"/{name}"] = "it lies in a group"
