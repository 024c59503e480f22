"""NeuroExplorer NEX: neurons, events, markers and intervals, read one variable after the other.

Stands for neo, which rejects a whole file for one name that is not UTF-8. Here a damaged event, marker or interval is left out
with a warning, and a marker with damaged labels keeps its times.
"""

import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem
from worker.ingest.readers.acquisition.sorted_units import EventLists, broken_events
from worker.ingest.readers.base import ReadOptions
from worker.ingest.recording import Understood
from worker.ingest.spike_columns import MOST_NEURONS
from worker.ingest.spike_trains import SpikeTimes, SpikeTrains, TrialTable

MAGIC = b"NEX1"
_HEADER_BYTES, _VARIABLE_BYTES, _FIELD_NAME_BYTES = 544, 208, 64
_VARIABLE = np.dtype(
    {
        "names": ["kind", "name", "offset", "n", "fields", "label_bytes"],
        "formats": ["<i4", "S64", "<u4", "<i4", "<i4", "<i4"],
        "offsets": [0, 8, 72, 76, 132, 136],
        "itemsize": _VARIABLE_BYTES,
    }
)
_NEURON, _EVENT, _INTERVAL, _WAVEFORM, _SIGNAL, _MARKER = 0, 1, 2, 3, 5, 6
_TICK_BYTES = 4
_WAVEFORMS = "_wf"
_STEP = 2**20
_MOST_LABEL_BYTES = 2**16


def read_nex(path: Path, options: ReadOptions) -> SpikeTrains:
    """Read a NeuroExplorer file.

    Raises
    ------
    ValueError
        For headers of neurons that contradict the file's size.
    """
    with path.open("rb") as file:
        return _NexFile(file).read(options)


class _NexFile:
    """State while a NEX file is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        header = file.read(_HEADER_BYTES)
        self._rate_hz, _, _, number = struct.unpack_from("<d3i", header, 264)
        most = (self._size - len(header)) // _VARIABLE_BYTES
        if not 0 < self._rate_hz < np.inf or not 0 <= number <= most:
            raise ValueError(f"its header says {number} variables and {self._rate_hz:g} ticks a second")
        self._variables = np.frombuffer(file.read(number * _VARIABLE_BYTES), _VARIABLE)
        self._names = [_text(name)[:100] for name in self._variables["name"].tolist()]
        self._left = self._size
        self._warnings: list[Problem] = []

    def read(self, options: ReadOptions) -> SpikeTrains:
        trains = self._spikes()
        events, tables = EventLists(), {}
        for index, kind in enumerate(self._variables["kind"].tolist()):
            if kind not in (_EVENT, _INTERVAL, _MARKER):
                continue
            name = self._names[index] or f"events {index}"
            if not self._is_whole(index, 2 if kind == _INTERVAL else 1):
                self._warnings.append(
                    broken_events(name, "its times lie outside of the file, and it was left out")
                )
            elif kind == _INTERVAL:
                tables[name] = TrialTable(self._times_s(index), self._times_s(index, 1))
            else:
                times_s = self._times_s(index)
                labels = self._labels(index) if kind == _MARKER else None
                if kind == _MARKER and labels is None:
                    self._warnings.append(
                        broken_events(name, "its labels are broken: its events were kept without labels")
                    )
                events.add(name, times_s, np.zeros(len(times_s), "U1") if labels is None else labels)
        events.put_into(trains)
        _choose_tables(tables, trains, options)
        signals = int((self._variables["kind"] == _SIGNAL).sum())
        if signals:
            trains.notes.append(f"{signals} continuous signals were not read.")
        trains.warnings += self._warnings
        return trains

    def _spikes(self) -> SpikeTrains:
        kinds = self._variables["kind"]
        of_neurons = [int(index) for index in np.flatnonzero((kinds == _NEURON) | (kinds == _WAVEFORM))]
        known = {self._names[index] for index in of_neurons}
        # Sorters write a neuron twice: its times, and its times with waveforms.
        twice = {
            name for name in known if name.endswith(_WAVEFORMS) and name.removesuffix(_WAVEFORMS) in known
        }
        chosen = [index for index in of_neurons if self._names[index] not in twice]
        if len(chosen) > MOST_NEURONS:
            raise ValueError(f"it has {len(chosen)} units")
        times = SpikeTimes()
        for neuron, index in enumerate(chosen):
            if not self._is_whole(index, 1):
                raise ValueError(f"the spikes of `{self._names[index]}` lie outside the file")
            for first in range(0, int(self._variables["n"][index]), _STEP):
                times.add(self._times_s(index, first=first), neuron)
        names = [self._names[index] for index in chosen]
        trains = SpikeTrains(times, len(chosen), {"neuron_id": list(names)}, source_format="neo")
        trains.understood.append(
            Understood("neuron", listed(names), "each unit of the file is one", (len(chosen),))
        )
        if twice:
            said = (
                f"{len(twice)} variables hold the spikes of others with waveforms: {listed(sorted(twice))}."
            )
            trains.notes.append(said)
        return trains

    def _is_whole(self, index: int, lists: int) -> bool:
        """Return whether the file holds all times of a variable; all variables together may not exceed the size of the file."""
        number = int(self._variables["n"][index])
        taken = lists * number * _TICK_BYTES
        if number < 0 or int(self._variables["offset"][index]) + taken > self._size or taken > self._left:
            return False
        self._left -= taken
        return True

    def _times_s(self, index: int, part: int = 0, first: int | None = None) -> NDArray[np.float64]:
        """Return the times of a variable in seconds: one whole list, or at most `_STEP` of them from `first` on."""
        number, offset = (int(self._variables[name][index]) for name in ("n", "offset"))
        begin, end = (0, number) if first is None else (first, min(first + _STEP, number))
        data = self._read(offset + (part * number + begin) * _TICK_BYTES, (end - begin) * _TICK_BYTES)
        times_s: NDArray[np.float64] = np.frombuffer(data, "<i4") / self._rate_hz
        return times_s

    def _labels(self, index: int) -> NDArray[Any] | None:
        """Return the labels of a marker's events from its first field; None if they are damaged."""
        number, offset, fields, length = (
            int(self._variables[name][index]) for name in ("n", "offset", "fields", "label_bytes")
        )
        place = offset + number * _TICK_BYTES + _FIELD_NAME_BYTES
        if fields < 1 or not 1 <= length <= _MOST_LABEL_BYTES or place + number * length > self._size:
            return None
        if number * length > self._left:
            return None
        self._left -= number * length
        labels = np.frombuffer(self._read(place, number * length), f"S{length}")
        texts = {label: _text(label) for label in set(labels.tolist())}
        if not all(text.isprintable() for text in texts.values()):
            return None
        return np.array([texts[label] for label in labels.tolist()], dtype=np.str_)

    def _read(self, place: int, number: int) -> bytes:
        self._file.seek(place)
        data = self._file.read(number)
        if len(data) != number:
            raise EOFError("the file ended while it was read")
        return data


def _text(data: bytes) -> str:
    """Decode text up to its first NUL: UTF-8, else Latin-1."""
    data = data.split(b"\x00")[0]
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        return data.decode("latin-1").strip()


def _choose_tables(tables: dict[str, TrialTable], trains: SpikeTrains, options: ReadOptions) -> None:
    """Sort the tables of trials, the likeliest first: by name, then by length; a single interval is no table of trials."""
    single = [
        name
        for name, table in tables.items()
        if len(table.start_s) < 2 and name != options.mapping.trials and "trial" not in name.lower()
    ]
    if single:
        said = "Tables with a single interval are not used as trials (mapping.trials can name one)"
        trains.notes.append(f"{said}: {listed(single)}.")
    kept = [name for name in tables if name not in single]
    for name in sorted(kept, key=lambda name: ("trial" not in name.lower(), -len(tables[name].start_s))):
        trains.tables[name] = tables[name]
