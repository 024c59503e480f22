"""Spike2 (SMR), read by neo after the declared sizes were checked.

neo maps the file and returns the spikes of one unit at a time. It is imported only when such a file is read.
"""

import mmap
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from domain.errors import listed
from worker.ingest.readers.acquisition.sorted_units import EventLists, add_segments, broken_events
from worker.ingest.readers.base import ReadOptions
from worker.ingest.recording import MetadataValue, Understood
from worker.ingest.spike_columns import MOST_NEURONS
from worker.ingest.spike_trains import SpikeTimes, SpikeTrains

SMR_MAGIC = b"(C) CED 87"
_SMR_BLOCK_BYTES = 20
_SMR_CHANNEL = np.dtype(
    {"names": ["blocks", "kind"], "formats": ["<i2", "u1"], "offsets": [14, 122], "itemsize": 140}
)
_STEP = 2**20
_WHOLE_S = (0.0, 1e9)
"""Time range, so that neo also returns what lies between the parts of a paused recording."""
_OF_NEO = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError)
"""What neo raises on damaged files beside `OSError`, `ValueError` and `TypeError`."""


def read_smr(path: Path, options: ReadOptions) -> SpikeTrains:
    """Read a 32-bit Spike2 file.

    Raises
    ------
    ValueError
        For headers that contradict the file's size.
    """
    _check_smr(path)
    from neo.rawio.spike2rawio import Spike2RawIO

    return _read(Spike2RawIO(str(path), try_signal_grouping=False))


def _check_smr(path: Path) -> None:
    """Check that the data blocks together are not larger than the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(512)
        (channels,) = struct.unpack_from("<h", header, 30)
        if not 0 <= channels * _SMR_CHANNEL.itemsize <= size:
            raise ValueError(f"its header says {channels} channels")
        table = np.frombuffer(file.read(channels * _SMR_CHANNEL.itemsize), _SMR_CHANNEL)
    blocks = table["blocks"].astype(np.int64)
    if (blocks < 0).any() or int(blocks.sum()) * _SMR_BLOCK_BYTES > size:
        raise ValueError(f"its channels declare {int(blocks.sum())} blocks")


def _read(raw: Any) -> SpikeTrains:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            raw.parse_header()
            trains = _spikes(raw)
            _add_events(raw, trains)
            spans = range(int(raw.header["nb_segment"][0]))
            starts, stops = (
                [float(at(0, segment) or 0) for segment in spans if len(spans) > 1]
                for at in (raw.segment_t_start, raw.segment_t_stop)
            )
            add_segments(trains, starts, stops)
    except _OF_NEO as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return trains


def _spikes(raw: Any) -> SpikeTrains:
    channels = raw.header["spike_channels"]
    names = [str(name) for name in channels["name"]]
    if len(names) > MOST_NEURONS:
        raise ValueError(f"it has {len(names)} units")
    times = SpikeTimes()
    for neuron in range(len(names)):
        ticks = raw.get_spike_timestamps(0, 0, neuron, *_WHOLE_S)
        for first in range(0, len(ticks), _STEP):
            part = raw.rescale_spike_timestamp(ticks[first : first + _STEP], "float64")
            times.add(np.asarray(part, np.float64), neuron)
            _let_go(raw)
    metadata: dict[str, list[MetadataValue]] = {"neuron_id": list(names)}
    ids = [str(one) for one in channels["id"]]
    if ids and all("#" in one for one in ids):  # `ch3#1`: channel and unit
        parts = [one.removeprefix("ch").split("#") for one in ids]
        metadata["neuron_id"] = [f"{name}#{unit}" for name, (_, unit) in zip(names, parts, strict=True)]
        metadata["channel"] = [int(channel) for channel, _ in parts]
        metadata["unit"] = [int(unit) for _, unit in parts]
        metadata["unit_class"] = ["sorted" if int(unit) else "unsorted" for _, unit in parts]
    trains = SpikeTrains(times, len(names), metadata, source_format="neo")
    trains.understood.append(
        Understood("neuron", listed(names), "each unit of the file is one", (len(names),))
    )
    signals = len(raw.header["signal_channels"])
    if signals:
        trains.notes.append(f"{signals} continuous signals were not read.")
    return trains


def _add_events(raw: Any, trains: SpikeTrains) -> None:
    events = EventLists()
    for index, channel in enumerate(raw.header["event_channels"]):
        name = str(channel["name"]).replace("\x00", "").strip()[:100] or f"events {index}"
        _let_go(raw)
        try:
            ticks, _, labels = raw.get_event_timestamps(0, 0, index, *_WHOLE_S)
            times_s = np.asarray(raw.rescale_event_timestamp(ticks, "float64", index), np.float64)
        except (ValueError, TypeError, *_OF_NEO) as error:
            trains.warnings.append(broken_events(name, f"it cannot be read ({error}), and it was left out"))
            continue
        events.add(name, times_s, np.asarray(labels))
    events.put_into(trains)


def _let_go(raw: Any) -> None:
    """Release the pages of the file that neo mapped: pages that were read count as resident memory."""
    raw._memmap._mmap.madvise(mmap.MADV_DONTNEED)
