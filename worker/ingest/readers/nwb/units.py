"""Units of NWB: spike times, block by block, and metadata of neurons."""

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.hdf5.safety import blocks
from worker.ingest.readers.nwb.file import NwbFile
from worker.ingest.readers.nwb.tables import MOST_ROWS, ends_of_lists, read_columns, rises
from worker.ingest.recording import Understood
from worker.ingest.spike_columns import MOST_NEURONS
from worker.ingest.spike_trains import SpikeTimes, SpikeTrains
from worker.ingest.time_units import in_seconds

_ELECTRODES = "general/extracellular_ephys/electrodes"
_OF_ELECTRODES = ("location", "group_name")


def choose_units(
    file: NwbFile, options: ReadOptions, understood: list[Understood], warnings: list[Problem]
) -> str:
    """Return the table of units: the mapping's, else /units, else another with spike times.

    Raises
    ------
    RejectedFile
        If there is none, or none with the name in the mapping.
    """
    tables = [group for group in file.groups if "spike_times" in file.members(group)]
    wanted = options.mapping.spike_times
    if wanted is not None:
        asked = wanted.strip("/").removesuffix("/spike_times")
        by_name = [table for table in tables if asked in (table, table.rpartition("/")[2])]
        if not by_name:
            said = (
                f"mapping.spike_times is `{wanted}`, which is not a table of units with spike times in this NWB "
                f"file: it has {listed(tables)}."
            )
            raise rejected("variable_unknown", said, "Name one of these.", "/mapping/spike_times")
        chosen, how = by_name[0], "given in the mapping"
    elif tables:
        chosen = "units" if "units" in tables else tables[0]
        how = "by its name" if chosen == "units" else "the first that has spike times"
    else:
        raise RejectedFile(_no_units(file))
    sizes = {
        table: f"`{table}` ({(file.shape(f'{table}/spike_times_index') or (0,))[0]} units)"
        for table in tables
    }
    others = tuple(sizes[table].replace("`", "") for table in tables if table != chosen)
    if others and wanted is None:
        said = (
            f"The file has {len(tables)} tables of units with spike times: {sizes.pop(chosen)} was used, {how}. The others are "
            f"{listed(sizes.values())}."
        )
        hint = f'To read another one, name it: {{"mapping": {{"spike_times": "{next(iter(sizes))}"}}}}.'
        warnings.append(Problem("units_table_guessed", said, hint, "/mapping/spike_times"))
    names_table = wanted is not None and not wanted.endswith("/spike_times")
    variable = chosen if names_table else f"{chosen}/spike_times"
    shape = file.shape(f"{chosen}/spike_times")
    understood.append(Understood("spike_times", variable, how, shape, others))
    return chosen


def _no_units(file: NwbFile) -> Problem:
    apart = ("general", "specifications", "scratch", "")
    seen = [group for group in file.groups if group.split("/")[0] not in apart]
    holds = listed((f"{group} ({file.type_of(group) or 'a group'})" for group in seen), 30)
    said = f"There is no table of units with spike times in this NWB file. It holds: {holds}."
    hint = (
        "Spikes are read from /units, with spike_times and spike_times_index: sort the recording first; raw voltages, "
        "fluorescence and images are not read."
    )
    return Problem("units_missing", said, hint, "/units")


def read_units(file: NwbFile, table: str, options: ReadOptions) -> SpikeTrains:
    """Read the spike times of a table of units, block by block, and its other columns.

    Raises
    ------
    RejectedFile
        If the index of the spike times does not fit them.
    """
    path, ends = f"{table}/spike_times", _ends_of_units(file, table)
    trains = SpikeTrains(SpikeTimes(), len(ends), column_unit="s")
    not_finite = 0
    for first, block in blocks(file.open(path), 24):
        times_s = in_seconds(block, options, path, "s")
        not_finite += int((~np.isfinite(times_s)).sum())
        last = first + len(times_s)
        begin = int(np.searchsorted(ends, first, side="right"))
        for unit in range(begin, len(ends)):
            start = int(ends[unit - 1]) if unit else 0
            if start >= last:
                break
            trains.times.add(times_s[max(start - first, 0) : int(ends[unit]) - first], unit)
    if not_finite:
        said = f"{not_finite} spike times are not finite and were left out."
        trains.warnings.append(Problem("times_not_finite", said, "Check the spike sorting.", f"/{path}"))
    rest = file.shape(path)[0] - int(ends[-1])
    if rest:
        said = f"{rest} spike times at the end of `{path}` belong to no unit and were left out."
        trains.warnings.append(Problem("spikes_of_no_unit", said, f"Check `{path}_index`.", f"/{path}_index"))
    skip = {"id", "spike_times", "obs_intervals", "electrodes"}
    columns = read_columns(file, table, len(ends), skip)
    if file.shape(f"{table}/id") == (len(ends),):
        trains.neuron_metadata["neuron_id"] = file.column(f"{table}/id")
    trains.neuron_metadata |= columns.values
    trains.warnings += columns.warnings
    _take_electrodes(file, table, trains)
    _take_observed(file, table, trains, options)
    return trains


def _ends_of_units(file: NwbFile, table: str) -> NDArray[np.int64]:
    """Return where the spike times of each unit end."""
    path, index = f"{table}/spike_times", f"{table}/spike_times_index"
    pointer, shape = f"/{index}", file.shape(f"{table}/spike_times_index")
    if not file.is_numbers(path) or len(file.shape(path)) != 1:
        said = f"`{path}` is not a list of numbers: its shape is {file.shape(path)}."
        raise rejected("times_not_numbers", said, "Give times in seconds as floats.", f"/{path}")
    if not file.is_numbers(index) or len(shape) != 1 or shape[0] == 0:
        said = f"`{path}` needs `spike_times_index` beside it, a list of whole numbers: where each unit's times end."
        raise rejected("neuron_of_spikes_missing", said, "Write units with pynwb's add_unit.", pointer)
    if shape[0] > MOST_NEURONS:
        said = f"`{table}` has {shape[0]} units: at most {MOST_NEURONS} are read."
        raise rejected("too_many_neurons", said, "Leave out units that are noise.", pointer)
    ends = file.read(index)
    spikes = file.shape(path)[0]
    if ends.dtype.kind not in "iu" or not rises(ends, spikes):
        said = f"`{index}` does not increase from 0 to at most {spikes}, the number of spike times."
        raise rejected("spike_index_invalid", said, "Give for each unit where its times end.", pointer)
    return ends.astype(np.int64)


def _take_electrodes(file: NwbFile, table: str, trains: SpikeTrains) -> None:
    """Add the location of electrodes to the metadata of neurons, and the electrode itself if each neuron has one."""
    path, neurons = f"{table}/electrodes", trains.neurons
    if "electrodes" not in file.members(table):
        return
    ragged = "electrodes_index" in file.members(table)
    ends = ends_of_lists(file, path, neurons) if ragged else list(range(1, neurons + 1))
    if (
        not file.is_numbers(path)
        or len(file.shape(path)) != 1
        or ends is None
        or ends[-1] > file.shape(path)[0]
    ):
        said = (
            f"The column `electrodes` of `{table}` was left out: its values do not fit the {neurons} units."
        )
        trains.warnings.append(Problem("column_left_out", said, "Check how it was written.", f"/{path}"))
        return
    electrodes = [int(row) for row in file.read(path)]
    if ends == list(range(1, neurons + 1)):
        trains.neuron_metadata.setdefault("electrode", list(electrodes[:neurons]))
    else:
        said = f"The column `electrodes` of `{table}` was left out: it has several values for each row."
        hint = f"Of the electrodes of a neuron their {listed(_OF_ELECTRODES)} are kept."
        trains.warnings.append(Problem("column_left_out", said, hint, f"/{path}"))
    for name in _OF_ELECTRODES:
        column, shape = f"{_ELECTRODES}/{name}", file.shape(f"{_ELECTRODES}/{name}")
        if (
            name in trains.neuron_metadata
            or column not in file.texts
            or len(shape) != 1
            or shape[0] > MOST_ROWS
        ):
            continue
        places = file.column(column)
        trains.neuron_metadata[name] = [
            ", ".join(dict.fromkeys(str(places[row]) for row in electrodes[a:b] if 0 <= row < len(places)))
            for a, b in zip([0, *ends[:-1]], ends, strict=True)
        ]


def _take_observed(file: NwbFile, table: str, trains: SpikeTrains, options: ReadOptions) -> None:
    """Add the intervals in which each unit was observed."""
    path = f"{table}/obs_intervals"
    if "obs_intervals" not in file.members(table):
        return
    shape, index = file.shape(path), f"{path}_index"
    why = None
    if not file.is_numbers(path) or len(shape) != 2 or shape[1] != 2 or shape[0] > 10 * MOST_ROWS:
        why = f"its shape is {shape}: expected intervals × 2 numbers"
    elif not file.is_numbers(index) or file.shape(index) != (trains.neurons,):
        why = f"`{index}` does not say which intervals are of which unit"
    elif not rises(ends := file.read(index), shape[0]):
        why = f"`{index}` does not increase from 0 to {shape[0]}"
    if why is not None:
        said = f"The column `obs_intervals` of `{table}` was left out: {why}."
        hint = "Without it all units count as always observed."
        trains.warnings.append(Problem("column_left_out", said, hint, f"/{path}"))
        return
    if shape[0] == 0:
        return
    intervals_s = in_seconds(file.read(path).reshape(-1), options, path, "s").reshape(-1, 2)
    trains.notes.append(
        f"Units were observed in intervals from {np.nanmin(intervals_s):g} to {np.nanmax(intervals_s):g} s (`{path}`)."
    )
    starts = np.concatenate(([0], ends[:-1])).astype(np.int64)
    # A unit without an interval is one of which the file says nothing.
    always = np.array([[-np.inf, np.inf]])
    trains.observed_s = [
        intervals_s[first:last] if last > first else always
        for first, last in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
