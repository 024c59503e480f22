"""Neuralynx spikes (NSE, NST, NTT) and events (NEV) in a ZIP archive, read from it record by record in blocks.

Stands for neo, which needs the archive unpacked and rejects intact spikes for a damaged event file or a cut-off record.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.acquisition.sorted_units import (
    EventLists,
    UnitSpikes,
    broken_events,
    end_is_missing,
)
from worker.ingest.readers.archives.zip_folder import ZipFolder, folder_of, zip_names
from worker.ingest.readers.base import ReadOptions, refuse_giant
from worker.ingest.rows import rows_per_block
from worker.ingest.spike_trains import SpikeTrains

_HEADER_BYTES = 2**14
_WIRES = {"nse": 1, "nst": 2, "ntt": 4}
_SAMPLES = 32
_SPIKE_START = [("tick", "<u8"), ("entity", "<u4"), ("unit", "<u4"), ("features", "<u4", (8,))]
_EVENT = np.dtype(
    {
        "names": ["tick", "event_id", "ttl", "text"],
        "formats": ["<u8", "<i2", "<i2", "S128"],
        "offsets": [6, 14, 16, 56],
        "itemsize": 184,
    }
)
_ENTITY = re.compile(r"^-AcqEntName\s+(\S{1,60})", re.MULTILINE)
_WAVEFORM = re.compile(r"^-WaveformLength\s+(\d{1,4})\s*$", re.MULTILINE)
_MAGIC = "########"
_MICROSECONDS = 1e-6


def recognises_neuralynx(path: Path) -> bool:
    """Return whether a file is a ZIP archive with spikes of Neuralynx."""
    return any(_kind(name) in _WIRES for name in zip_names(path))


def read_neuralynx(path: Path, options: ReadOptions) -> SpikeTrains:
    """Read the files of one recording.

    Raises
    ------
    RejectedFile
        If the files lie in several folders, or two have the same name.
    """
    with ZipFolder(path) as archive:
        spikes = sorted(name for name in archive.files if _kind(name) in _WIRES)
        folders = sorted({folder_of(name) for name in spikes})
        if len(folders) != 1:
            said = f"Expected the spike files of one recording in one folder: they lie in {listed(folders)}."
            raise rejected("several_recordings", said, "Pack and upload one folder at a time.")
        events = sorted(
            name for name in archive.files if _kind(name) == "nev" and folder_of(name) == folders[0]
        )
        refuse_giant(sum(archive.member(name).file_size for name in [*spikes, *events]), options)
        return _Recording(archive, options).read(spikes, events)


class _Recording:
    """State while the files of a recording are read."""

    def __init__(self, archive: ZipFolder, options: ReadOptions) -> None:
        self._archive = archive
        self._units, self._events = UnitSpikes("neo", options), EventLists()
        self._warnings: list[Problem] = []

    def read(self, spikes: list[str], events: list[str]) -> SpikeTrains:
        names: dict[int, str] = {}
        for number, name in enumerate(spikes):
            header = self._header(name)
            found = _ENTITY.search(header)
            names[number] = found[1] if found else Path(name).stem[:60]
            for records in self._records(name, _spike_record(name, header)):
                channel = np.full(len(records), number)
                self._units.add(records["tick"] * _MICROSECONDS, channel, records["unit"])
        for name in events:
            try:
                self._take_events(name)
            except (ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
                self._warnings.append(broken_events(name, f"it cannot be read whole ({error})"))
        trains = self._units.finish(names)
        self._events.put_into(trains)
        trains.notes.append(f"Spikes were read from {listed(spikes)}.")
        trains.warnings += self._warnings
        others = sorted(set(self._archive.files) - {*spikes, *events})
        if others:
            trains.notes.append(f"Not read: {listed(others)}.")
        return trains

    def _take_events(self, name: str) -> None:
        self._header(name)
        for records in self._records(name, _EVENT):
            texts = np.array(
                [_text(text, ttl) for text, ttl in zip(records["text"], records["ttl"], strict=True)]
            )
            self._events.add(Path(name).stem[:60], records["tick"] * _MICROSECONDS, texts)

    def _header(self, name: str) -> str:
        with self._archive.archive.open(self._archive.member(name)) as stream:
            header = stream.read(_HEADER_BYTES).decode("latin-1")
        if not header.startswith(_MAGIC):
            raise ValueError(f"{name[:100]} does not begin with the header of Neuralynx")
        return header

    def _records(self, name: str, record: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        step = rows_per_block((1,), record.itemsize) * record.itemsize
        with self._archive.archive.open(self._archive.member(name)) as stream:
            stream.read(_HEADER_BYTES)
            while data := stream.read(step):
                whole = len(data) // record.itemsize
                if whole * record.itemsize != len(data):
                    self._warnings.append(end_is_missing(f"a record of {name[:100]}"))
                yield np.frombuffer(data, record, whole)


def _kind(name: str) -> str:
    return name.rsplit(".", 1)[-1].lower()


def _spike_record(name: str, header: str) -> np.dtype[Any]:
    found = _WAVEFORM.search(header.replace("\r", ""))
    samples = int(found[1]) if found else _SAMPLES
    return np.dtype([*_SPIKE_START, ("waveform", "<i2", (samples, _WIRES[_kind(name)]))])


def _text(text: bytes, ttl: int) -> str:
    return text.split(b"\x00")[0][:60].decode("latin-1").strip() or f"TTL {ttl}"
