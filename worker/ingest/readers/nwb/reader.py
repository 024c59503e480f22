"""NWB 2: spike times of units, tables of trials, events and behaviours; see docs/file-formats.md.

Stands for pynwb, which follows links to other files and rejects files that lack required fields or use unknown extensions.
"""

from pathlib import Path

import h5py

from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.hdf5.safety import has_nwb_version, looks_like, open_checked, version_of_nwb_1
from worker.ingest.readers.nwb.file import NwbFile
from worker.ingest.readers.nwb.series import read_series
from worker.ingest.readers.nwb.tables import read_trial_tables
from worker.ingest.readers.nwb.units import choose_units, read_units
from worker.ingest.recording import Understood
from worker.ingest.spike_trains import SpikeTrains


class NwbReader:
    """Reads NWB 2 files with spike times."""

    format = "nwb"

    def recognises(self, path: Path) -> bool:
        """Return whether the file is HDF5 with a version of NWB."""
        return looks_like(path, has_nwb_version)

    def read(self, path: Path, options: ReadOptions) -> SpikeTrains:
        """Read `path`."""
        _refuse_nwb_1(path)
        if options.mapping.spikes is not None:
            said = f"mapping.spikes is `{options.mapping.spikes}`: NWB files are read by their spike times, not by counts."
            hint = "Leave it out; mapping.spike_times names a table of units."
            raise rejected("variable_unknown", said, hint, "/mapping/spikes")
        understood: list[Understood] = []
        with open_checked(path, options, variable_length=True) as checked:
            file = NwbFile(checked, options)
            warnings: list[Problem] = []
            units = choose_units(file, options, understood, warnings)
            trains = read_units(file, units, options)
            trains.warnings[:0] = warnings
            trains.source_format, trains.understood = self.format, understood
            read_trial_tables(file, trains, options)
            read_series(file, trains, options)
        return trains


def _refuse_nwb_1(path: Path) -> None:
    with h5py.File(path, "r", locking=False) as file:
        version = version_of_nwb_1(file)
    if version is not None:
        said = f"This is {version.replace('NWB-', 'NWB ')}: expected NWB 2."
        hint = (
            "Convert it to NWB 2: read the spike times of /processing/*/UnitTimes and the trials of /epochs with h5py, and write "
            "them with pynwb (NWBFile.add_unit, add_trial). Or save NPZ: spike_times, neuron, trial_start_s, trial_stop_s."
        )
        raise rejected("version_unknown", said, hint, "/nwb_version")
