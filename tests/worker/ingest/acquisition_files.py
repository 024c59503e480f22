"""Small files of acquisition systems, written by their specifications."""

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Spikes = Sequence[tuple[float, int, int]]
"""Time in seconds, channel, unit."""
Events = Sequence[tuple[float, int]]
"""Time in seconds, value."""

RATE_HZ = 30_000


def ticks(time_s: float, rate_hz: float = RATE_HZ) -> int:
    return round(time_s * rate_hz)


def write_nev(
    path: Path,
    spikes: Spikes,
    events: Events = (),
    version: tuple[int, int] = (2, 3),
    comments: Sequence[tuple[float, str]] = (),
    resets_s: Sequence[float] = (),
) -> Path:
    """Blackrock NEV; times go on after each reset, while the clock of the file begins anew."""
    channels = sorted({channel for _, channel, _ in spikes})
    size, wide = 60, version[0] >= 3
    start = "<QHBB" if wide else "<IHBB"
    packets = [(time, channel, unit, 0, b"\x01\x02" * 20) for time, channel, unit in spikes]
    packets += [(time, 0, 1, 0, struct.pack("<H", value)) for time, value in events]
    packets += [(time, 0xFFFF, 0, 0, bytes(4) + text.encode()) for time, text in comments]
    extended = b"".join(
        b"NEUEVWAV"
        + struct.pack("<HBBHHhhBB", channel, 1, 1, 1000, 0, 0, 0, 2, 2)
        + struct.pack("<H", 20)
        + bytes(8)
        for channel in channels
    )
    extended += b"".join(
        b"NEUEVLBL" + struct.pack("<H", channel) + f"elec{channel}".encode().ljust(16, b"\x00") + bytes(6)
        for channel in channels
    )
    header = (
        b"NEURALEV" + bytes(version) + struct.pack("<HIIII", 1, 336 + len(extended), size, RATE_HZ, RATE_HZ)
    )
    header += struct.pack("<8H", 2026, 1, 4, 1, 12, 0, 0, 0) + bytes(32) + bytes(256)
    header += struct.pack("<I", 2 * len(channels))
    body = b""
    for time, *head, rest in sorted(packets):
        since = max((reset for reset in resets_s if reset <= time), default=0.0)
        body += (struct.pack(start, ticks(time - since), *head) + rest).ljust(size, b"\x00")[:size]
    path.write_bytes(header + extended + body)
    return path


def write_plx(path: Path, spikes: Spikes, events: Events = (), pauses: Events = (), signals: int = 3) -> Path:
    """Plexon PLX of version 106, with waveforms and blocks of a continuous signal between.

    `pauses` are times with 258 where recording starts, and 259 where it stops.
    """
    channels = sorted({one for _, one, _ in spikes})
    header = b"PLEX" + struct.pack("<i128s", 106, b"test")
    header += struct.pack("<14i", RATE_HZ, len(channels), 1, 1, 32, 8, 2026, 1, 2, 3, 4, 5, 0, RATE_HZ)
    header += struct.pack("<d4B3H", 0.0, 1, 1, 12, 12, 3000, 5000, 1000)
    header = header.ljust(7504, b"\x00")
    for one in channels:
        start = f"sig{one:03d}".encode().ljust(32, b"\x00") + bytes(32)
        header += (start + struct.pack("<5i", one, 30, 0, 0, 1)).ljust(1020, b"\x00")
    header += (b"Strobed".ljust(32, b"\x00") + struct.pack("<i", 257)).ljust(296, b"\x00")
    header += (b"WB01".ljust(32, b"\x00") + struct.pack("<5i", 0, 1000, 1, 1, 1)).ljust(296, b"\x00")
    blocks = [(time, 1, one, unit, 1, 32) for time, one, unit in spikes]
    blocks += [(time, 4, 257, value, 0, 0) for time, value in events]
    blocks += [(time, 4, one, 0, 0, 0) for time, one in pauses]
    blocks += [(0.001 * number, 5, 0, 0, 1, 100) for number in range(signals)]
    body = b""
    for time, kind, one, unit, waveforms, words in sorted(blocks):
        tick = ticks(time)
        body += struct.pack("<HHIHHHH", kind, tick >> 32, tick & 0xFFFFFFFF, one, unit, waveforms, words)
        body += bytes(2 * waveforms * words)
    path.write_bytes(header + body)
    return path


def write_nex(
    path: Path,
    neurons: dict[str, Sequence[float]],
    events: dict[str, Sequence[float]] | None = None,
    intervals: dict[str, Sequence[tuple[float, float]]] | None = None,
    markers: dict[str, Sequence[tuple[float, str]]] | None = None,
    waveforms: Sequence[str] = (),
) -> Path:
    """NeuroExplorer NEX; the neurons named in `waveforms` come again as `…_wf` with waveforms."""

    def packed(times: Sequence[float]) -> bytes:
        return np.array([ticks(time) for time in times], "<i4").tobytes()

    variables: list[tuple[int, str, int, bytes, tuple[int, int, int]]] = []
    for name, times in neurons.items():
        variables.append((0, name, len(times), packed(times), (0, 0, 0)))
        if name in waveforms:
            data = packed(times) + bytes(2 * 8 * len(times))
            variables.append((3, name + "_wf", len(times), data, (8, 0, 0)))
    for name, times in (events or {}).items():
        variables.append((1, name, len(times), packed(times), (0, 0, 0)))
    for name, spans in (intervals or {}).items():
        data = packed([start for start, _ in spans]) + packed([stop for _, stop in spans])
        variables.append((2, name, len(spans), data, (0, 0, 0)))
    for name, marks in (markers or {}).items():
        texts = b"".join(text.encode().ljust(6, b"\x00") for _, text in marks)
        data = packed([time for time, _ in marks]) + b"label".ljust(64, b"\x00") + texts
        variables.append((6, name, len(marks), data, (0, 1, 6)))
    place = 544 + 208 * len(variables)
    header = b"NEX1" + struct.pack("<i256sdiii", 104, b"test", RATE_HZ, 0, RATE_HZ * 10, len(variables))
    table, body = b"", b""
    for kind, name, number, data, (points, fields, length) in variables:
        entry = struct.pack("<ii64sIi", kind, 101, name.encode(), place + len(body), number)
        entry += struct.pack("<4i", 0, 0, 0, 0) + struct.pack("<4d", 0, 0, 30_000, 0.001)
        entry += struct.pack("<3i", points, fields, length) + struct.pack("<2d", 0, 0)
        table += entry.ljust(208, b"\x00")
        body += data
    path.write_bytes(header.ljust(544, b"\x00") + table + body)
    return path


def write_smr(path: Path, spikes: Spikes, events: Sequence[float] = (), items: int = 5) -> Path:
    """32-bit Spike2: waveform marks by channel, the unit in the first code, and a channel of events, in small blocks."""
    channels = sorted({channel for _, channel, _ in spikes})
    kinds = dict.fromkeys(channels, 6) | {max(channels) + 1: 3}
    number, tick_s, rate = max(kinds) + 1, 1e-5, 1e5
    header = struct.pack(
        "<h10s8shhhihhhhhid", 9, b"(C) CED 87", b"test", 10, 1, 0, 0, number, 140, 0, 0, 0, 0, 1e-6
    )
    blocks: list[bytes] = []
    first_block = 1 + -(-(140 * number) // 512)
    table = b""
    assert tick_s * rate == 1
    for channel in range(number):
        kind = kinds.get(channel, 0)
        if kind == 6:
            chosen = sorted((time, unit) for time, one, unit in spikes if one == channel)
            data = [struct.pack("<iB3x8h", ticks(time, rate), unit, *range(8)) for time, unit in chosen]
            times = [ticks(time, rate) for time, _ in chosen]
        else:
            times = [ticks(time, rate) for time in sorted(events)] if kind == 3 else []
            data = [struct.pack("<i", time) for time in times]
        own = range(0, len(data), items)
        begin = first_block + len(blocks)
        for place, first in enumerate(own):
            after = begin + place + 1 if place + 1 < len(own) else -1
            stretch = times[first : first + items]
            block = struct.pack("<iiiihh", -1, after, stretch[0], stretch[-1], channel + 1, len(stretch))
            blocks.append((block + b"".join(data[first : first + items])).ljust(512, b"\x00"))
        entry = struct.pack("<hiiihhhhhh", 0, 0, begin if len(own) else 0, 0, len(own), 16, 0, 0, 512, items)
        title = f"ch{channel}".encode()
        entry += (
            bytes(72) + struct.pack("<iih", 0, 4, channel) + bytes([len(title)]) + title.ljust(9, b"\x00")
        )
        entry += struct.pack("<fBb", 1000.0, kind, 0)
        entry += struct.pack("<ff6sh", 1.0, 0.0, b"\x01V", 1) if kind == 6 else b""
        table += entry.ljust(140, b"\x00")
    whole = (header.ljust(512, b"\x00") + table).ljust(512 * first_block, b"\x00") + b"".join(blocks)
    path.write_bytes(whole)
    return path


def nlx_header(name: str, channels: str = "0 1 2 3") -> bytes:
    text = (
        "######## Neuralynx Data File Header\r\n## File Name C:\\data\\file\r\n"
        "## Time Opened (m/d/y): 1/4/2026  (h:m:s.ms) 12:00:00.000\r\n-CheetahRev 5.5.1\r\n"
        f"-AcqEntName {name}\r\n-ADChannel {channels}\r\n-SamplingFrequency 32000\r\n-ADBitVolts 1e-8\r\n-WaveformLength 32\r\n"
    )
    return text.encode().ljust(2**14, b"\x00")


def write_neuralynx(
    path: Path, files: dict[str, Sequence[tuple[float, int]]], events: Sequence[tuple[float, str]] = ()
) -> Path:
    """Neuralynx files in a ZIP archive: file name → time and unit of each spike; `Events.nev` beside them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, spikes in files.items():
            wires = {"nse": 1, "nst": 2, "ntt": 4}[name.rsplit(".", 1)[-1].lower()]
            channels = " ".join(str(wire) for wire in range(wires))
            records = [
                struct.pack("<QII", round(time * 1e6), 0, unit) + bytes(32 + 2 * 32 * wires)
                for time, unit in sorted(spikes)
            ]
            archive.writestr(f"session/{name}", nlx_header(name.split(".")[0], channels) + b"".join(records))
        if events:
            records = [
                struct.pack(
                    "<hhhQhhhhh8i128s", 0, 0, 0, round(time * 1e6), 11, 1, 0, 0, 0, *[0] * 8, text.encode()
                )
                for time, text in events
            ]
            archive.writestr("session/Events.nev", nlx_header("Events", "0") + b"".join(records))
    return path
