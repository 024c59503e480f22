"""Time series of NWB: behaviours sampled in time, and events."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.base import ReadOptions, name_is_usable
from worker.ingest.readers.hdf5.safety import blocks
from worker.ingest.readers.nwb.file import NwbFile, short_names
from worker.ingest.recording import MetadataValue, Understood
from worker.ingest.rows import zeros
from worker.ingest.spike_trains import Signal, SpikeTrains
from worker.ingest.time_units import trial_seconds

LARGEST_BEHAVIOUR_BYTES = 256 * 2**20
MOST_TIMESTAMP_BYTES = 96 * 2**20
"""Limit for all behaviours together: timestamps are kept in memory."""
MOST_CHANNELS = 64
MOST_EVENTS = 1_000_000
MOST_CODES = 100
_READ = ("acquisition", "processing", "events")
"""Groups from which series are read; the mapping may name others."""
_RAW = {
    "ElectricalSeries", "SpikeEventSeries", "FeatureExtraction", "DecompositionSeries", "ImageSeries", "ImageMaskSeries",
    "OpticalSeries", "IndexSeries", "TwoPhotonSeries", "OnePhotonSeries", "RoiResponseSeries", "PatchClampSeries",
    "CurrentClampSeries", "CurrentClampStimulusSeries", "IZeroClampSeries", "VoltageClampSeries",
    "VoltageClampStimulusSeries", "OptogeneticSeries", "FiberPhotometryResponseSeries",
}  # fmt: skip
"""Types of series that are not behaviour: voltages, fluorescence, images."""
_WITHOUT_UNIT = {
    "", "na", "n/a", "none", "no unit", "unknown", "unspecified", "not available", "unitless", "arbitrary", "a.u.", "au",
    "code", "codes", "event", "events", "event_code", "marker", "ttl", "integer", "int",
}  # fmt: skip


@dataclass(frozen=True)
class _Series:
    """A series: path, short name, `neurodata_type`, and whether it is read unless the mapping says otherwise."""

    path: str
    name: str
    kind: str
    is_default: bool

    @property
    def data(self) -> str:
        """Path of its values."""
        return f"{self.path}/data"


def read_series(file: NwbFile, trains: SpikeTrains, options: ReadOptions) -> None:
    """Add events and behaviours, and note what is never read.

    Raises
    ------
    RejectedFile
        If the mapping names a behaviour that the file does not have.
    """
    paths = [path for path in file.groups if _is_series(file, path)]
    names = short_names(paths)
    series = [_Series(path, names[path], file.type_of(path), _is_default(path)) for path in paths]
    raw = [one for one in series if one.kind in _RAW]
    others = [one for one in series if one.kind not in _RAW]
    wanted = _wanted(file, others, options)
    events = [one for one in others if one.is_default and one.path not in wanted and _are_events(file, one)]
    for one in events:
        _take_events(file, one, trains, options)
    rest = [one for one in others if one not in events]
    candidates = [one for one in rest if file.is_numbers(one.data)]
    for one in rest:
        if one.is_default and one not in candidates:
            why = file.set_aside.get(one.data, "its data are not numbers")
            trains.warnings.append(_left_out("behaviour", one.path, why))
    budget = _Budget()
    for one in candidates:
        if one.path in wanted or (options.mapping.behaviour is None and one.is_default):
            _take_behaviour(file, one, trains, options, budget)
    taken = (
        {*wanted} if options.mapping.behaviour is not None else {o.path for o in candidates if o.is_default}
    )
    unread = [o for o in candidates if o.path not in taken]
    if raw:
        told = listed(f"{one.path} ({one.kind})" for one in raw)
        trains.notes.append(f"Raw signals and images are never read: {told}.")
    if unread:
        told = listed(one.path for one in unread)
        trains.notes.append(
            f"Series that were not used as behaviour (mapping.behaviour can name them): {told}."
        )


def _is_series(file: NwbFile, path: str) -> bool:
    members = file.members(path)
    return path.split("/")[0] in (*_READ, "stimulus", "analysis", "scratch") and (
        "data" in members or "timestamps" in members or "timestamp" in members
    )


def _is_default(path: str) -> bool:
    return path.split("/")[0] in _READ


def _wanted(file: NwbFile, series: list[_Series], options: ReadOptions) -> set[str]:
    """Return the paths of the series that `mapping.behaviour` names."""
    found = set()
    for name in options.mapping.behaviour or ():
        asked = name.strip("/")
        fits = [one.path for one in series if asked in (one.path, one.name) and file.is_numbers(one.data)]
        if not fits:
            seen = listed((f"{o.path} {file.shape(o.data)}" for o in series if file.is_numbers(o.data)), 30)
            said = f"mapping.behaviour names `{name}`, which is not a series of numbers in this NWB file. The file has {seen}."
            raise rejected("variable_unknown", said, "Name one of these.", "/mapping/behaviour")
        found.add(fits[0])
    return found


def _are_events(file: NwbFile, series: _Series) -> bool:
    """Return whether a series holds events with codes or texts rather than a sampled signal."""
    members = file.members(series.path)
    if "data" not in members or "timestamp" in members:
        return series.kind != "ImageSeries" and "external_file" not in members
    if "timestamps" not in members:
        return False
    if series.data in file.texts or series.kind in ("AnnotationSeries", "IntervalSeries"):
        return True
    if file.type_of(series.path.rpartition("/")[0]) == "BehavioralEvents":
        return True
    whole = file.is_numbers(series.data) and file.numbers[series.data].dtype.kind in "bui"
    unit = file.text_attribute(series.data, "unit").strip().lower()
    scaled = file.number_attribute(series.data, "conversion", 1.0) != 1.0
    return whole and len(file.shape(series.data)) == 1 and unit in _WITHOUT_UNIT and not scaled


def _take_events(file: NwbFile, series: _Series, trains: SpikeTrains, options: ReadOptions) -> None:
    """Add all events of a series under its name, and those of each code or text under `name=code`."""
    members = file.members(series.path)
    path = f"{series.path}/{'timestamp' if 'timestamp' in members else 'timestamps'}"
    shape = file.shape(path)
    if not file.is_numbers(path) or len(shape) != 1 or not 0 < shape[0] <= MOST_EVENTS:
        if shape != (0,):
            why = f"their times have shape {shape}: expected a list of at most {MOST_EVENTS} numbers"
            trains.warnings.append(_left_out("events", series.path, why))
        return
    if not name_is_usable(series.name):
        trains.warnings.append(_left_out("events", series.path, "their name cannot be used"))
        return
    times_s = trial_seconds(file.read(path), options, path, "s")
    finite = np.isfinite(times_s)
    trains.events[series.name] = times_s[finite]
    columns = ["data"] if "data" in members else [n for n in members if f"{series.path}/{n}" in file.texts]
    codes = 0
    for column in columns:
        for code, chosen in _by_code(file, f"{series.path}/{column}", shape[0]):
            if name_is_usable(f"{series.name}={code}".replace("=", " ")):
                trains.events[f"{series.name}={code}"] = times_s[chosen & finite]
                codes += 1
    how = f"{int(finite.sum())} events" + (
        f"; each of {codes} codes as `{series.name}=code` too" if codes else ""
    )
    trains.understood.append(Understood("events", series.path, how, shape))


def _by_code(file: NwbFile, path: str, number: int) -> Iterator[tuple[MetadataValue, NDArray[np.bool_]]]:
    """Yield each code of events and which events have it, if there are few codes."""
    if file.shape(path) != (number,) or (file.is_numbers(path) and file.numbers[path].dtype.kind == "f"):
        return
    values = np.array(file.column(path), dtype=object)
    codes = sorted(set(values.tolist()), key=lambda code: (isinstance(code, str), code))
    if len(codes) <= MOST_CODES:
        for code in codes:
            yield code, np.array([value == code for value in values], np.bool_)


class _Budget:
    """Cache of timestamps, which several series may share; their total size is limited."""

    def __init__(self) -> None:
        self._known: dict[int, NDArray[np.float64]] = {}
        self._bytes = 0

    def times_s(self, file: NwbFile, path: str, options: ReadOptions) -> NDArray[np.float64] | None:
        """Return the timestamps of a series in seconds; None if they are too many."""
        key = id(file.numbers[path])
        if key not in self._known:
            self._bytes += 8 * file.shape(path)[0]
            if self._bytes > MOST_TIMESTAMP_BYTES:
                self._bytes -= 8 * file.shape(path)[0]
                return None
            self._known[key] = trial_seconds(file.read(path), options, path, "s")
        return self._known[key]


def _take_behaviour(
    file: NwbFile, series: _Series, trains: SpikeTrains, options: ReadOptions, budget: _Budget
) -> None:
    shape = file.shape(series.data)
    why = _why_not(file, series, shape)
    signal = None
    if why is None:
        signal, why = _timed(file, series, shape, options, budget)
    if signal is None or why is not None:
        trains.warnings.append(_left_out("behaviour", series.path, f"{why}"))
        return
    conversion = file.number_attribute(series.data, "conversion", 1.0) or 1.0
    offset = file.number_attribute(series.data, "offset", 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        for first, block in blocks(file.open(series.data), 24):
            values = block.reshape(len(block), -1).astype(np.float64) * conversion + offset
            signal.values[first : first + len(block)] = values.astype(np.float32)
    signal.unit = file.text_attribute(series.data, "unit")
    trains.signals[series.name] = signal
    unit = f" in {signal.unit}" if signal.unit else ""
    scaled = f", times {conversion:g} plus {offset:g}" if (conversion, offset) != (1.0, 0.0) else ""
    how = f"{series.kind or 'a series'}{unit}{scaled}, called `{series.name}`"
    trains.understood.append(Understood("behaviour", series.path, how, shape))


def _why_not(file: NwbFile, series: _Series, shape: tuple[int, ...]) -> str | None:
    """Return why a series of numbers cannot be a behaviour, or None."""
    size = int(np.prod(shape, dtype=object)) * max(4, file.numbers[series.data].dtype.itemsize)
    if not name_is_usable(series.name):
        return "its name cannot be used"
    if len(shape) not in (1, 2) or 0 in shape:
        return f"its data have shape {shape}: expected samples, or samples × k"
    if len(shape) == 2 and shape[1] > MOST_CHANNELS:
        return f"it has {shape[1]} channels: at most {MOST_CHANNELS} are read"
    if size > LARGEST_BEHAVIOUR_BYTES:
        return f"it is {size / 2**20:.0f} MiB: at most {LARGEST_BEHAVIOUR_BYTES // 2**20} MiB are read"
    return None


def _timed(
    file: NwbFile, series: _Series, shape: tuple[int, ...], options: ReadOptions, budget: _Budget
) -> tuple[Signal | None, str | None]:
    """Return a signal with its times and space for its values, or why it has no times."""
    members, path = file.members(series.path), f"{series.path}/timestamps"
    kept = (shape[0], shape[1] if len(shape) == 2 else 1)
    if "timestamps" in members:
        if not file.is_numbers(path) or file.shape(path) != shape[:1]:
            return None, f"it has {shape[0]} samples, and timestamps of shape {file.shape(path)}"
        times_s = budget.times_s(file, path, options)
        if times_s is None:
            return None, f"the timestamps of all behaviours would be over {MOST_TIMESTAMP_BYTES // 2**20} MiB"
        if not bool((times_s[1:] >= times_s[:-1]).all()) or not np.isfinite(times_s[[0, -1]]).all():
            return None, "its timestamps do not increase"
        return Signal(zeros(kept, np.float32), times_s=times_s), None
    start = f"{series.path}/starting_time"
    rate_hz = file.number_attribute(start, "rate", 0.0)
    if not file.is_numbers(start) or file.shape(start) not in ((), (1,)) or not rate_hz > 0:
        return None, "it has neither timestamps nor a starting_time with a rate"
    start_s = float(trial_seconds(file.read(start).reshape(-1), options, start, "s")[0])
    if not np.isfinite(start_s):
        return None, "its starting_time is not a number"
    return Signal(zeros(kept, np.float32), start_s=start_s, rate_hz=rate_hz), None


def _left_out(what: str, path: str, why: str) -> Problem:
    said = f"The {what} `{path[:200]}` {'were' if what == 'events' else 'was'} left out: {why}."
    hint = "Behaviours are series of samples, or samples × k, with timestamps or a rate; mapping.behaviour chooses among them."
    return Problem(f"{what}_left_out", said, hint, f"/{path[:200]}")
