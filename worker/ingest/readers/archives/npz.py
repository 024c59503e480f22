"""NPZ: arrays of any names, and what pynapple and SpikeInterface write, recognised by its arrays. See docs/file-formats.md."""

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.bin_width import BinWidthClues
from worker.ingest.counts import CountsBuilder
from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.archives.npz_archive import PICKLED_METADATA, NpzArchive
from worker.ingest.readers.arrays import read_arrays
from worker.ingest.readers.base import ReadOptions, left_out, metadata_values, name_is_usable, unless_needed
from worker.ingest.recording import SPLIT_NOT_GIVEN, Recording, Understood
from worker.ingest.spike_columns import SpikeColumns
from worker.ingest.spike_trains import SpikeTrains, TrialTable
from worker.ingest.time_units import in_seconds, trial_seconds

Found = Recording | SpikeTrains
_OF_PYNAPPLE = ("TsGroup", "Ts", "Tsd", "TsdFrame", "TsdTensor", "IntervalSet")
_SEGMENT = re.compile(r"spike_indexes(_seg(\d+))?")
_TIME_SUPPORT = "time_support"
_OWN_ARRAYS = {
    *("type", "t", "d", "index", "keys", "columns", "start", "end"),
    *("unit_ids", "num_segment", "sampling_frequency"),
}


class NpzReader:
    """Reads NPZ archives."""

    format = "npz"

    def recognises(self, path: Path) -> bool:
        """Return whether the file is a ZIP archive of arrays and nothing else, or is too damaged to tell."""
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                return False
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return True
        has_params = any(name.rsplit("/", 1)[-1] == "params.py" for name in names)
        return any(name.endswith(".npy") for name in names) and not has_params

    def read(self, path: Path, options: ReadOptions) -> Recording | SpikeTrains:
        """Read `path`."""
        with NpzArchive(path, options) as archive:
            read = _layout_of(archive, options)
            with unless_needed(archive.unreadable):
                found = read_arrays(archive, options) if read is None else read()
            for name, problem in archive.unreadable.items():
                said = f"`{name[:100]}` was left out: {problem.message}"
                found.warnings.append(Problem("array_left_out", said, problem.hint, problem.pointer))
            return found


def _layout_of(archive: NpzArchive, options: ReadOptions) -> Callable[[], Found] | None:
    """Return what reads the archive if it has one of these layouts; None if not, or if the mapping names its spikes."""
    mapping, names = options.mapping, archive.variables
    if {"unit_ids", "sampling_frequency"} <= set(names) and any(map(_SEGMENT.fullmatch, names)):
        wanted = mapping.spike_times
        of_mapping = wanted is not None and _SEGMENT.fullmatch(wanted) is None
        is_plain = mapping.spikes is None and mapping.neuron is None and not of_mapping
        return (lambda: _sorting(archive, options)) if is_plain else None
    if (
        mapping.spikes is not None
        or mapping.spike_times is not None
        or not {"type", "start", "end"} <= set(names)
    ):
        return None
    kind = names["type"]
    if kind.dtype.kind not in "SU" or kind.size != 1:
        return None
    (value,) = metadata_values(archive.read("type").reshape(-1))
    return (lambda: _pynapple(archive, str(value), options)) if value in _OF_PYNAPPLE else None


def _pynapple(archive: NpzArchive, kind: str, options: ReadOptions) -> Found:
    if kind in ("TsGroup", "Ts"):
        return _group(archive, kind, options)
    if kind == "TsdFrame":
        return _frame(archive, options)
    said = f"The file is a pynapple {kind}, which holds no spikes of a recording."
    hint = "Save the TsGroup of spike times: group.save('spikes.npz'); or its counts: group.count(0.01).save('counts.npz')."
    raise rejected("spikes_missing", said, hint, "/spikes")


def _group(archive: NpzArchive, kind: str, options: ReadOptions) -> SpikeTrains:
    times_s = in_seconds(_column(archive, "t"), options, "t", "s")
    index = _column(archive, "index") if kind == "TsGroup" else np.zeros(len(times_s), np.int64)
    if len(index) != len(times_s):
        said = f"`index` has {len(index)} values: expected one for each of the {len(times_s)} spike times in `t`."
        raise rejected("array_wrong_shape", said, "Save the TsGroup again.", "/index")
    keys = _column(archive, "keys") if "keys" in archive.variables else np.unique(index)
    columns = SpikeColumns(by_trial=False)
    columns.add(times_s, index)
    trains = columns.finish(archive.format, options, neurons=keys.tolist())
    trains.understood += [
        Understood("spike_times", "t", f"by the layout of a pynapple {kind}", (len(times_s),)),
        Understood("neuron", "index" if kind == "TsGroup" else "t", f"by the layout of a pynapple {kind}"),
    ]
    _take_metadata(archive, trains.neuron_metadata, keys.tolist(), trains.neuron_metadata["neuron_id"])
    start_s, stop_s = _epochs(archive, options)
    if len(start_s) > 1:
        trains.tables[_TIME_SUPPORT] = TrialTable(start_s, stop_s)
        trains.warnings.append(_stretches(len(start_s)))
    used = {"type", "t", "index", "keys", "start", "end", *trains.neuron_metadata}
    trains.warnings += _left(archive, used)
    return trains


def _frame(archive: NpzArchive, options: ReadOptions) -> Recording:
    times_s = in_seconds(_column(archive, "t"), options, "t", "s")
    counts = archive.read("d")
    if counts.ndim != 2 or len(counts) != len(times_s) or not len(times_s):
        said = f"`d` has shape {counts.shape}: expected {len(times_s)} bins × neurons, to go with `t`."
        raise rejected("spikes_wrong_axes", said, "Save the TsdFrame again.", "/d")
    start_s, _ = _epochs(archive, options)
    epoch = np.clip(np.searchsorted(start_s, times_s, side="right") - 1, 0, None)
    used, epoch = np.unique(epoch, return_inverse=True)
    clues = BinWidthClues(option_s=options.bin_width_s)
    longest = np.argmax(np.bincount(epoch))
    clues.time_axes_s["t"] = times_s[epoch == longest]
    notes: list[str] = []
    warnings: list[Problem] = []
    width_s = clues.settle(notes, warnings)
    first = np.array([times_s[epoch == one].min() for one in range(len(used))])
    place = np.rint((times_s - first[epoch]) / width_s).astype(np.int64)
    lengths = np.array([place[epoch == one].max() + 1 for one in range(len(used))], np.int64)
    if len(np.unique(epoch * (int(lengths.max()) + 1) + place)) < len(place) or lengths.sum() != len(place):
        said = f"The times in `t` are not in equal steps of {width_s:g} s within each interval of the time support."
        hint = "Count the spikes again: group.count(0.01)."
        raise rejected("bins_uneven", said, hint, "/t")
    builder = CountsBuilder((len(used), int(lengths.max()), counts.shape[1]))
    for one in range(len(used)):
        row = np.zeros((1, int(lengths.max()), counts.shape[1]), counts.dtype)
        row[0, place[epoch == one]] = counts[epoch == one]
        builder.add("d", one, np.array([one]), row)
    recording = Recording(
        spikes=builder.finish(),
        bin_width_s=width_s,
        trial_length_bins=lengths,
        split=np.full(len(used), SPLIT_NOT_GIVEN, np.int8),
        trial_start_s=first - width_s / 2,
        is_continuous=len(used) == 1,
        source_format=archive.format,
        understood=[Understood("spikes", "d", "by the layout of a pynapple TsdFrame", counts.shape)],
        notes=[*notes, "`t` is the middle of each bin, as pynapple counts."],
        warnings=warnings,
    )
    keys = (
        _column(archive, "columns").tolist()
        if "columns" in archive.variables
        else list(range(counts.shape[1]))
    )
    if len(keys) == counts.shape[1]:
        recording.neuron_metadata["neuron_id"] = keys
        _take_metadata(archive, recording.neuron_metadata, keys, keys)
    if len(used) > 1:
        recording.warnings.append(_stretches(len(used)))
    taken = {"type", "t", "d", "columns", "start", "end", *recording.neuron_metadata}
    recording.warnings += _left(archive, taken)
    return recording


def _sorting(archive: NpzArchive, options: ReadOptions) -> SpikeTrains:
    found = {name: match for name in archive.variables if (match := _SEGMENT.fullmatch(name))}
    segments = sorted(found, key=lambda name: int(found[name][2] or 0))
    wanted = options.mapping.spike_times
    if wanted is not None and wanted not in segments:
        said = f"mapping.spike_times is `{wanted}`, and the segments of the file are {listed(segments)}."
        raise rejected("variable_unknown", said, "Name one of these.", "/mapping/spike_times")
    chosen = wanted or segments[0]
    labels = chosen.replace("indexes", "labels")
    if labels not in archive.variables or archive.variables[labels].size != archive.variables[chosen].size:
        said = f"`{chosen}` has {archive.variables[chosen].size} spikes, and there is no `{labels}` of as many units."
        hint = "Save the sorting again with SpikeInterface."
        raise rejected("neuron_of_spikes_missing", said, hint, f"/{labels}")
    rate_hz = float(np.asarray(archive.read("sampling_frequency")).reshape(-1)[0])
    unit_ids = _column(archive, "unit_ids").tolist()
    columns = SpikeColumns(by_trial=False)
    columns.add(
        in_seconds(_column(archive, chosen), options, chosen, "samples", rate_hz), _column(archive, labels)
    )
    trains = columns.finish(archive.format, options, neurons=unit_ids)
    how = "by the layout of a SpikeInterface sorting" if wanted is None else "given in the mapping"
    others = [name for name in segments if name != chosen]
    trains.understood += [
        Understood("spike_times", chosen, how, archive.variables[chosen].shape, tuple(others)),
        Understood("neuron", labels, how, archive.variables[labels].shape),
    ]
    trains.sampling_rate_hz = rate_hz
    trains.notes.append(f"Spike times were read in samples of {options.sampling_rate_hz or rate_hz:g} Hz.")
    if others:
        said = f"The sorting has {len(segments)} segments, each with its own clock: only `{chosen}` was read."
        hint = f"For another segment, derive a data set with mapping.spike_times {listed(f'`{one}`' for one in others)}."
        trains.warnings.append(Problem("segment_chosen", said, hint, "/mapping/spike_times"))
    _take_metadata(archive, trains.neuron_metadata, unit_ids, trains.neuron_metadata["neuron_id"])
    used = {"unit_ids", "num_segment", "sampling_frequency", *segments, *trains.neuron_metadata}
    trains.warnings += _left(archive, used | {name.replace("indexes", "labels") for name in segments})
    return trains


def _column(archive: NpzArchive, name: str) -> NDArray[Any]:
    if name not in archive.variables:
        said = f"The file has no array `{name}`: expected it beside {listed(archive.variables)}."
        raise rejected("spikes_missing", said, "Save the file again.", f"/{name}")
    return np.asarray(archive.read(name)).reshape(-1)


def _epochs(archive: NpzArchive, options: ReadOptions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    start_s, stop_s = (trial_seconds(_column(archive, name), options, name, "s") for name in ("start", "end"))
    if len(start_s) != len(stop_s) or not len(start_s) or (np.diff(start_s) < 0).any():
        said = (
            f"`start` has {len(start_s)} times and `end` {len(stop_s)}: expected pairs in increasing order."
        )
        raise rejected("array_wrong_shape", said, "Save the file again.", "/start")
    return start_s, stop_s


def _take_metadata(
    archive: NpzArchive, metadata: dict[str, list[Any]], keys: Sequence[Any], order: Sequence[Any]
) -> None:
    """Add arrays with one value for each neuron; values come in the order of `keys` and are stored in that of `order`."""
    for name, variable in archive.variables.items():
        is_column = (
            variable.shape == (len(keys),) and variable.dtype.kind in "buifSU" and name_is_usable(name)
        )
        if name not in _OWN_ARRAYS and is_column and not name.startswith(("spike_indexes", "spike_labels")):
            values = dict(zip(keys, metadata_values(archive.read(name)), strict=True))
            metadata[name] = [values.get(key) for key in order]


def _left(archive: NpzArchive, used: set[str]) -> list[Problem]:
    found = [
        left_out(name, variable.shape, "it has no known meaning in this layout")
        for name, variable in archive.variables.items()
        if name not in used
    ]
    if archive.has_pickled_metadata:
        found.append(left_out(PICKLED_METADATA, (), "it is a pickle, and pickles are never opened"))
    return found


def _stretches(number: int) -> Problem:
    said = f"The time support has {number} intervals: each is a trial, because the time between them was not recorded."
    hint = "To cut trials around events, save the spikes as NWB or as arrays with trial times (see docs/data.md)."
    return Problem("time_support_as_trials", said, hint, "/trials")
