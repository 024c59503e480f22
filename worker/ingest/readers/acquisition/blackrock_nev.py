"""Blackrock NEV (file specifications 2.1 to 3.0): spikes and digital events, read packet by packet in blocks.

Stands for neo, which holds more than twice the file in memory; here only a block is in memory.
"""

import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import rejected
from worker.ingest.readers.acquisition.sorted_units import (
    EventLists,
    UnitSpikes,
    add_segments,
    broken_events,
    end_is_missing,
)
from worker.ingest.readers.base import ReadOptions
from worker.ingest.rows import rows_per_block
from worker.ingest.spike_trains import SpikeTrains

MAGICS = (b"NEURALEV", b"BREVENTS")
_VERSIONS = ((2, 1), (2, 2), (2, 3), (3, 0))
_HEADER = np.dtype(
    {
        "names": ["major", "minor", "header_bytes", "packet_bytes", "resolution", "extended_headers"],
        "formats": ["u1", "u1", "<u4", "<u4", "<u4", "<u4"],
        "offsets": [8, 9, 12, 16, 20, 332],
        "itemsize": 336,
    }
)
_EXTENDED_BYTES, _MOST_PACKET_BYTES, _MOST_SEGMENTS = 32, 2**16, 1000
_NOISE_UNIT = 255
_COMMENT = 0xFFFF
_RESET_S = 0.1
"""Packets may be out of order by less than this; a clock that goes back further was reset."""
_GAP_S = 1.0


def read_nev(path: Path, options: ReadOptions) -> SpikeTrains:
    """Read a NEV file.

    Raises
    ------
    RejectedFile
        For unknown versions, and for headers that contradict the file's size.
    """
    with path.open("rb") as file:
        return _NevFile(file, options).read()


class _NevFile:
    """State while a NEV file is read."""

    def __init__(self, file: IO[bytes], options: ReadOptions) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        header = np.frombuffer(file.read(_HEADER.itemsize), _HEADER)[0]
        version = (int(header["major"]), int(header["minor"]))
        if version not in _VERSIONS:
            said = f"The NEV file says it is of version {version[0]}.{version[1]}; versions 2.1, 2.2, 2.3 and 3.0 are read."
            raise rejected(
                "version_unknown", said, "Convert it with the tools of the maker, or save spike times as NPZ."
            )
        self._is_wide = version[0] >= 3
        self._reads_comments = version >= (2, 3)
        self._header_bytes, self._packet_bytes = int(header["header_bytes"]), int(header["packet_bytes"])
        self._resolution, self._extended = int(header["resolution"]), int(header["extended_headers"])
        self._check()
        self._units = UnitSpikes("neo", options, _NOISE_UNIT)
        self._events = EventLists()
        self._segment_start_s: list[float] = []
        self._segment_stop_s: list[float] = []
        self._offset_s, self._last_tick, self._stray_events = 0.0, 0, 0

    def read(self) -> SpikeTrains:
        names = self._channel_names()
        packet = self._packet()
        number, rest = divmod(self._size - self._header_bytes, self._packet_bytes)
        self._file.seek(self._header_bytes)
        step = rows_per_block((number,), self._packet_bytes)
        for first in range(0, number, step):
            wanted = min(step, number - first) * self._packet_bytes
            data = self._file.read(wanted)
            if len(data) != wanted:
                raise EOFError("the file ended while it was read")
            self._take(np.frombuffer(data, packet))
        trains = self._units.finish(names)
        self._events.put_into(trains)
        add_segments(trains, self._segment_start_s, self._segment_stop_s)
        if len(self._segment_start_s) > 1:
            trains.notes.append(
                "The clock of the recording was reset: the parts were put one after another, "
                f"{_GAP_S:g} s apart."
            )
        if self._stray_events:
            why = f"the times of {self._stray_events} of them lie outside those of the packets around them"
            trains.warnings.append(broken_events("digital inputs and comments", why))
        if rest:
            trains.warnings.append(end_is_missing("a packet"))
        return trains

    def _check(self) -> None:
        least = _HEADER.itemsize + self._extended * _EXTENDED_BYTES
        packet = 20 if self._is_wide else 12
        if not least <= self._header_bytes <= self._size:
            raise ValueError(f"its headers declare {self._header_bytes} bytes, of {self._size}")
        if not packet <= self._packet_bytes <= _MOST_PACKET_BYTES or self._resolution == 0:
            raise ValueError(
                f"its packets declare {self._packet_bytes} bytes, with {self._resolution} ticks a second"
            )

    def _channel_names(self) -> dict[int, str]:
        """Return the labels of electrodes from the extended headers."""
        names: dict[int, str] = {}
        for _ in range(self._extended):
            header = self._file.read(_EXTENDED_BYTES)
            if header[:8] == b"NEUEVLBL":
                label = header[10:26].split(b"\x00")[0].decode("latin-1").strip()
                names[int.from_bytes(header[8:10], "little")] = label
        return names

    def _packet(self) -> np.dtype[Any]:
        start = 8 if self._is_wide else 4
        text = self._packet_bytes - start - 8
        return np.dtype(
            {
                "names": ["tick", "id", "unit", "word", "comment"],
                "formats": [f"<u{start}", "<u2", "u1", "<u2", f"S{max(text, 1)}"],
                "offsets": [0, start, start + 2, start + 4, min(start + 8, self._packet_bytes - 1)],
                "itemsize": self._packet_bytes,
            }
        )

    def _take(self, packets: NDArray[Any]) -> None:
        """Add a block of packets, split where the clock was reset."""
        is_spike, is_word = (packets["id"] >= 1) & (packets["id"] <= 2048), packets["id"] == 0
        is_comment = (packets["id"] == _COMMENT) & self._reads_comments
        packets = packets[is_spike | is_word | is_comment]
        if len(packets) == 0:
            return
        ticks = np.minimum(packets["tick"].astype(np.uint64), np.uint64(2**62)).astype(np.int64)
        packets, ticks = self._without_stray_events(packets, ticks)
        before = np.concatenate([[self._last_tick], ticks[:-1]])
        resets = set(np.flatnonzero(ticks < before - int(_RESET_S * self._resolution)).tolist())
        starts = sorted(resets | {0})
        for begin, end in zip(starts, [*starts[1:], len(packets)], strict=True):
            if begin in resets or not self._segment_start_s:
                self._begin_segment(int(ticks[begin]))
            self._take_stretch(packets[begin:end], ticks[begin:end])
        self._last_tick = int(ticks[-1])

    def _without_stray_events(
        self, packets: NDArray[Any], ticks: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Drop events whose time is not between those of the packets around them: they are no reset of the clock."""
        tolerance = int(_RESET_S * self._resolution)
        before, after = np.concatenate([[self._last_tick], ticks[:-1]]), np.append(ticks[1:], ticks[-1])
        is_event = (packets["id"] == 0) | (packets["id"] == _COMMENT)
        goes_on = after >= before - tolerance
        stray = is_event & goes_on & ((ticks < before - tolerance) | (ticks > after + tolerance))
        self._stray_events += int(np.count_nonzero(stray))
        return packets[~stray], ticks[~stray]

    def _begin_segment(self, tick: int) -> None:
        if len(self._segment_start_s) >= _MOST_SEGMENTS:
            raise ValueError(f"its clock goes back more than {_MOST_SEGMENTS} times")
        start_s = tick / self._resolution
        if self._segment_stop_s:
            self._offset_s = self._segment_stop_s[-1] + _GAP_S - start_s
        self._segment_start_s.append(start_s + self._offset_s)
        self._segment_stop_s.append(start_s + self._offset_s)

    def _take_stretch(self, packets: NDArray[Any], ticks: NDArray[np.int64]) -> None:
        times_s = ticks / self._resolution + self._offset_s
        self._segment_start_s[-1] = min(self._segment_start_s[-1], float(times_s.min()))
        self._segment_stop_s[-1] = max(self._segment_stop_s[-1], float(times_s.max()))
        ids, reason = packets["id"], packets["unit"]
        spike = (ids >= 1) & (ids <= 2048)
        self._units.add(times_s[spike], ids[spike], packets["unit"][spike])
        for series, is_serial in (("digital_input_port", False), ("serial_input_port", True)):
            chosen = (ids == 0) & (reason & 1 > 0) & ((reason & 128 > 0) == is_serial)
            self._events.add(series, times_s[chosen], packets["word"][chosen])
        comment = ids == _COMMENT
        if comment.any():
            texts = [bytes(text[:60]).decode("latin-1") for text in packets["comment"][comment]]
            self._events.add("comments", times_s[comment], np.array(texts))
