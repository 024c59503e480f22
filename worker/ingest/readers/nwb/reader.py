"""NWB: spike times of units, tables of trials, events and behaviours. It is read as HDF5; no code of extensions is loaded.

| in the file | taken for |
|---|---|
| `/units`: `spike_times` and `spike_times_index`; else another table with them, or that of `mapping.spike_times` | spike times |
| other columns of units: numbers, texts, names of referenced groups, `id` (as `neuron_id`) | metadata of neurons |
| `location` and `group_name` of the electrodes of a unit | metadata of neurons |
| `obs_intervals` | when each unit was observed: bins that lie outside are missing, with a warning |
| `/intervals/trials`; else the table of intervals with most rows, epochs last; or that of `mapping.trials` | trials |
| the other columns of that table | metadata of trials; times such as `go_cue_time` are what `trials.align_to` may name |
| a column `split`, `is_train`, … as the table of `worker/ingest/readers/splits.py` says | the split |
| `/intervals/invalid_times` | missing bins, with a warning; the column `in_invalid_times` of trials |
| `/acquisition`, `/processing`: whole numbers without a unit at timestamps | events: `events`, and each code as `events=3` |
| there: annotations, tables with `timestamp` | events, and each text as `name=text` |
| there: other series of samples, or samples × k, with timestamps or a rate | behaviour, scaled; `mapping.behaviour` chooses |
| voltages, fluorescence, images | never read, told |

If several tables may be the trials, or the units, a warning names them.
Columns of several values for each row are left out with a warning, but lists of texts (tags) are joined. A recording without
a table of trials of two rows or more is taken as continuous.
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
        """Say whether the file is HDF5 that says which version of NWB it keeps to."""
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
