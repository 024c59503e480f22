"""Plexon PLX (versions 100 to 107): spikes and events, read block by block; continuous signals are skipped.

Stands for neo, which loops over all blocks in Python: more than twenty times the processor time.
"""

import os
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.readers.acquisition.sorted_units import (
    EventLists,
    UnitSpikes,
    add_segments,
    end_is_missing,
)
from worker.ingest.readers.base import ReadOptions
from worker.ingest.spike_trains import SpikeTrains

MAGIC = b"PLEX"
_HEADER = struct.Struct("<4si128s4i")
_HEADER_BYTES, _SPIKE_CHANNEL_BYTES, _EVENT_CHANNEL_BYTES, _SIGNAL_CHANNEL_BYTES = 7504, 1020, 296, 296
_SPIKE_CHANNEL = np.dtype(
    {"names": ["name", "channel"], "formats": ["S32", "<i4"], "offsets": [0, 64], "itemsize": 1020}
)
_EVENT_CHANNEL = np.dtype(
    {"names": ["name", "channel"], "formats": ["S32", "<i4"], "offsets": [0, 32], "itemsize": 296}
)
_BLOCK = np.dtype(
    [
        ("type", "<u2"),
        ("upper", "<u2"),
        ("tick", "<u4"),
        ("channel", "<u2"),
        ("unit", "<u2"),
        ("waveforms", "<u2"),
        ("words", "<u2"),
    ]
)
_SIZES = struct.Struct("<HH")
_SPIKE, _EVENT, _SIGNAL = 1, 4, 5
_START, _STOP = 258, 259
_MOST_CHANNELS = 20_000
_READ_BYTES = 4 * 2**20


def read_plx(path: Path, options: ReadOptions) -> SpikeTrains:
    """Read a PLX file.

    Raises
    ------
    ValueError
        For headers that contradict the file's size, and blocks of no known type.
    """
    with path.open("rb") as file:
        return _PlxFile(file, options).read()


class _PlxFile:
    """State while a PLX file is read."""

    def __init__(self, file: IO[bytes], options: ReadOptions) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        _, _, _, self._rate_hz, *channels = _HEADER.unpack(file.read(_HEADER.size))
        spikes, events, signals = channels
        if min(channels) < 0 or max(channels) > _MOST_CHANNELS or self._rate_hz <= 0:
            raise ValueError(f"its header says {channels} channels and {self._rate_hz} ticks a second")
        self._data = (
            _HEADER_BYTES
            + spikes * _SPIKE_CHANNEL_BYTES
            + events * _EVENT_CHANNEL_BYTES
            + signals * _SIGNAL_CHANNEL_BYTES
        )
        if self._data > self._size:
            raise ValueError(f"its headers declare {self._data} bytes, of {self._size}")
        file.seek(_HEADER_BYTES)
        self._spike_names = _names(file, spikes, _SPIKE_CHANNEL)
        self._event_names = _names(file, events, _EVENT_CHANNEL)
        self._units = UnitSpikes("neo", options)
        self._events = EventLists()
        self._starts_s: list[float] = []
        self._stops_s: list[float] = []
        self._last_s = 0.0
        self._ends_early = False

    def read(self) -> SpikeTrains:
        signals = 0
        for blocks in self._blocks():
            times_s = (blocks["upper"].astype(np.int64) * 2**32 + blocks["tick"]) / self._rate_hz
            kinds = blocks["type"]
            known = (kinds == _SPIKE) | (kinds == _EVENT) | (kinds == _SIGNAL)
            if not known.all():
                raise ValueError(f"it has a data block of type {int(kinds[~known][0])}")
            spike, event = kinds == _SPIKE, kinds == _EVENT
            signals += int((kinds == _SIGNAL).sum())
            self._units.add(times_s[spike], blocks["channel"][spike], blocks["unit"][spike])
            self._take_events(times_s[event], blocks["channel"][event], blocks["unit"][event])
            self._last_s = max(self._last_s, float(times_s.max()))
        trains = self._units.finish(self._spike_names)
        self._events.put_into(trains)
        stops_s = [*self._stops_s, self._last_s][: len(self._starts_s)]
        add_segments(trains, self._starts_s[: len(stops_s)], stops_s)
        if signals:
            trains.notes.append(f"{signals} blocks of continuous signals were not read.")
        if self._ends_early:
            trains.warnings.append(end_is_missing("a data block"))
        return trains

    def _take_events(
        self, times_s: NDArray[np.float64], channels: NDArray[np.integer], labels: NDArray[np.integer]
    ) -> None:
        for channel in np.unique(channels).tolist():
            chosen = channels == channel
            name = self._event_names.get(channel) or f"event {channel}"
            self._events.add(name, times_s[chosen], labels[chosen])
            if channel in (_START, _STOP):
                kept = self._starts_s if channel == _START else self._stops_s
                kept += times_s[chosen].tolist()[: _MOST_CHANNELS - len(kept)]

    def _blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the headers of the data blocks, some thousand at a time."""
        place = self._data
        header = _BLOCK.itemsize
        while place < self._size:
            self._file.seek(place)
            data = self._file.read(_READ_BYTES)
            starts, at, end = array("q"), 0, len(data) - header
            while at <= end:
                starts.append(at)
                waveforms, words = _SIZES.unpack_from(data, at + 12)
                at += header + 2 * waveforms * words
            place += at
            is_cut = not starts or place > self._size
            self._ends_early |= is_cut
            if not starts:
                return
            chosen = np.frombuffer(starts, np.int64)[: len(starts) - is_cut]
            if len(chosen):
                yield np.frombuffer(data, np.uint8)[chosen[:, None] + np.arange(header)].view(_BLOCK)[:, 0]


def _names(file: IO[bytes], number: int, kind: np.dtype[Any]) -> dict[int, str]:
    channels = np.frombuffer(file.read(number * kind.itemsize), kind)
    texts = [bytes(name).split(b"\x00")[0].decode("latin-1").strip() for name in channels["name"]]
    return dict(zip(channels["channel"].tolist(), texts, strict=True))
