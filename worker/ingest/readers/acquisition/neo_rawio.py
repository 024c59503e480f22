"""What neo reads for us: NeuroExplorer (NEX) and Spike2 (SMR). What their headers declare is checked before neo sees them.

neo maps these files and gives the spikes of one unit at a time. It is imported only when such a file is met.
"""

import mmap
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from worker.ingest.problems import listed
from worker.ingest.readers.acquisition.sorted_units import EventLists, add_segments
from worker.ingest.readers.base import ReadOptions
from worker.ingest.recording import MetadataValue, Understood
from worker.ingest.spike_columns import MOST_NEURONS
from worker.ingest.spike_trains import SpikeTimes, SpikeTrains, TrialTable

NEX_MAGIC, SMR_MAGIC = b"NEX1", b"(C) CED 87"
_NEX_VARIABLES_AT, _NEX_VARIABLE_BYTES, _SMR_BLOCK_BYTES = 544, 208, 20
_NEX_VARIABLE = np.dtype(
    {
        "names": ["type", "offset", "n", "markers", "marker_bytes"],
        "formats": ["<i4", "<u4", "<i4", "<i4", "<i4"],
        "offsets": [0, 72, 76, 132, 136],
        "itemsize": 208,
    }
)
_SMR_CHANNEL = np.dtype(
    {"names": ["blocks", "kind"], "formats": ["<i2", "u1"], "offsets": [14, 122], "itemsize": 140}
)
_NEX_KINDS, _NEX_INTERVAL, _NEX_MARKER = (0, 1, 2, 3, 6), 2, 6
_WAVEFORMS = "_wf"
_STEP = 2**20
_Span = tuple[float | None, float | None]
_WHOLE_S: _Span = (0.0, 1e9)
"""From when to when, for neo to give what lies between the stretches of a paused recording too."""
_OF_NEO = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError)
"""What neo raises on damaged files beside `OSError`, `ValueError` and `TypeError`."""


def read_nex(path: Path, options: ReadOptions) -> SpikeTrains:
    """Read a NeuroExplorer file.

    Raises
    ------
    ValueError
        For headers that contradict the file's size.
    """
    _check_nex(path)
    from neo.rawio.neuroexplorerrawio import NeuroExplorerRawIO

    return _read(NeuroExplorerRawIO(str(path)), options, (None, None))


def read_smr(path: Path, options: ReadOptions) -> SpikeTrains:
    """Read a 32-bit Spike2 file.

    Raises
    ------
    ValueError
        For headers that contradict the file's size.
    """
    _check_smr(path)
    from neo.rawio.spike2rawio import Spike2RawIO

    return _read(Spike2RawIO(str(path), try_signal_grouping=False), options, _WHOLE_S)


def _check_nex(path: Path) -> None:
    """Check that its variables, together, are no larger than the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(_NEX_VARIABLES_AT)
        rate_hz, _, _, number = struct.unpack_from("<d3i", header, 264)
        if not 0 < rate_hz < np.inf or not 0 <= number <= (size - len(header)) // _NEX_VARIABLE_BYTES:
            raise ValueError(f"its header says {number} variables and {rate_hz:g} ticks a second")
        variables = np.frombuffer(file.read(number * _NEX_VARIABLE_BYTES), _NEX_VARIABLE)
    variables = variables[np.isin(variables["type"], _NEX_KINDS)]
    names = ("type", "offset", "n", "markers", "marker_bytes")
    kind, offset, n, markers, marker_bytes = (variables[name].astype(np.int64) for name in names)
    taken = n * np.where(kind == _NEX_INTERVAL, 8, 4)
    is_marker = kind == _NEX_MARKER
    taken += is_marker * (markers * (64 + n * np.clip(marker_bytes, 0, 2**16)))
    wrong = (n < 0) | (offset + taken > size) | (is_marker & ((markers < 1) | (marker_bytes < 1)))
    if wrong.any() or int(taken.sum()) > size:
        raise ValueError(
            f"its variables are said to take {int(taken.sum())} bytes, or more each than there are"
        )


def _check_smr(path: Path) -> None:
    """Check that its data blocks, together, are no larger than the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(512)
        (channels,) = struct.unpack_from("<h", header, 30)
        if not 0 <= channels * _SMR_CHANNEL.itemsize <= size:
            raise ValueError(f"its header says {channels} channels")
        table = np.frombuffer(file.read(channels * _SMR_CHANNEL.itemsize), _SMR_CHANNEL)
    blocks = table["blocks"].astype(np.int64)
    if (blocks < 0).any() or int(blocks.sum()) * _SMR_BLOCK_BYTES > size:
        raise ValueError(f"its channels are said to have {int(blocks.sum())} blocks")


def _read(raw: Any, options: ReadOptions, span_s: _Span) -> SpikeTrains:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            raw.parse_header()
            trains = _spikes(raw, span_s)
            _add_events(raw, trains, options, span_s)
            spans = range(int(raw.header["nb_segment"][0]))
            starts, stops = (
                [float(at(0, segment) or 0) for segment in spans if len(spans) > 1]
                for at in (raw.segment_t_start, raw.segment_t_stop)
            )
            add_segments(trains, starts, stops)
    except _OF_NEO as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return trains


def _spikes(raw: Any, span_s: _Span) -> SpikeTrains:
    channels = raw.header["spike_channels"]
    names = [str(name) for name in channels["name"]]
    # Sorters write a neuron twice: its times, and its times with waveforms.
    known = set(names)
    twice = {name for name in known if name.endswith(_WAVEFORMS) and name[: -len(_WAVEFORMS)] in known}
    chosen = [index for index, name in enumerate(names) if name not in twice]
    if len(chosen) > MOST_NEURONS:
        raise ValueError(f"it has {len(chosen)} units")
    times = SpikeTimes()
    for neuron, index in enumerate(chosen):
        ticks = raw.get_spike_timestamps(0, 0, index, *span_s)
        for first in range(0, len(ticks), _STEP):
            part = raw.rescale_spike_timestamp(ticks[first : first + _STEP], "float64")
            times.add(np.asarray(part, np.float64), neuron)
            _let_go(raw)
    metadata: dict[str, list[MetadataValue]] = {"neuron_id": [names[index] for index in chosen]}
    ids = [str(channels["id"][index]) for index in chosen]
    if ids and all("#" in one for one in ids):  # `ch3#1`: channel and unit
        parts = [one.removeprefix("ch").split("#") for one in ids]
        metadata["neuron_id"] = [
            f"{names[index]}#{unit}" for index, (_, unit) in zip(chosen, parts, strict=True)
        ]
        metadata["channel"] = [int(channel) for channel, _ in parts]
        metadata["unit"] = [int(unit) for _, unit in parts]
        metadata["unit_class"] = ["sorted" if int(unit) else "unsorted" for _, unit in parts]
    trains = SpikeTrains(times, len(chosen), metadata, source_format="neo")
    trains.understood.append(
        Understood("neuron", listed(names), "each unit of the file is one", (len(chosen),))
    )
    if twice:
        trains.notes.append(
            f"{len(twice)} variables hold the spikes of others with waveforms: {listed(twice)}."
        )
    signals = len(raw.header["signal_channels"])
    if signals:
        trains.notes.append(f"{signals} continuous signals were not read.")
    return trains


def _add_events(raw: Any, trains: SpikeTrains, options: ReadOptions, span_s: _Span) -> None:
    events = EventLists()
    tables: dict[str, TrialTable] = {}
    for index, channel in enumerate(raw.header["event_channels"]):
        name = str(channel["name"]).replace("\x00", "").strip()[:100] or f"events {index}"
        _let_go(raw)
        ticks, spans, labels = raw.get_event_timestamps(0, 0, index, *span_s)
        times_s = np.asarray(raw.rescale_event_timestamp(ticks, "float64", index), np.float64)
        if spans is None:
            events.add(name, times_s, np.asarray(labels))
        else:
            spans_s = np.asarray(raw.rescale_epoch_duration(spans, "float64", index), np.float64)
            tables[name] = TrialTable(times_s, times_s + spans_s)
    events.put_into(trains)
    _choose_tables(tables, trains, options)


def _let_go(raw: Any) -> None:
    """Give back the pages of the file that neo mapped, which count as resident memory once they were read."""
    raw._memmap._mmap.madvise(mmap.MADV_DONTNEED)


def _choose_tables(tables: dict[str, TrialTable], trains: SpikeTrains, options: ReadOptions) -> None:
    """Put the likeliest table of trials first: by its name, then by its length. One stretch alone is no table of trials."""
    single = [
        name
        for name, table in tables.items()
        if len(table.start_s) < 2 and name != options.mapping.trials and "trial" not in name.lower()
    ]
    if single:
        said = (
            "Intervals of a single stretch were not taken for trials (mapping.trials names one all the same)"
        )
        trains.notes.append(f"{said}: {listed(single)}.")
    kept = [name for name in tables if name not in single]
    for name in sorted(kept, key=lambda name: ("trial" not in name.lower(), -len(tables[name].start_s))):
        trains.tables[name] = tables[name]
