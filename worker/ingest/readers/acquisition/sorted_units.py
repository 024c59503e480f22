"""Shared parts of the readers of acquisition systems: spikes by channel and unit, events by label."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.base import ReadOptions
from worker.ingest.recording import Understood
from worker.ingest.spike_columns import SpikeColumns
from worker.ingest.spike_trains import SpikeTrains, TrialTable

MOST_EVENTS = 5_000_000
MOST_LABELS = 200
MOST_SERIES = 1000
_UNITS = 2**16
UNSORTED, SORTED, NOISE = "unsorted", "sorted", "noise"


class UnitSpikes:
    """Collects spikes by channel and unit; each pair that has a spike is a neuron.

    Parameters
    ----------
    source_format
        Name of the reader's format.
    options
        Options of the request; spikes of noise units are left out unless `neurons.where` names `unit_class`.
    noise_unit
        The unit that marks noise, if the system has one. Unit 0 holds unsorted spikes.
    """

    def __init__(self, source_format: str, options: ReadOptions, noise_unit: int | None = None) -> None:
        self._format, self._options, self._noise_unit = source_format, options, noise_unit
        self._leaves_noise = noise_unit is not None and "unit_class" not in options.neurons.where
        self._spikes = SpikeColumns(by_trial=False)
        self._noise = 0

    def add(
        self, times_s: NDArray[np.float64], channels: NDArray[np.integer], units: NDArray[np.integer]
    ) -> None:
        """Add spikes.

        Parameters
        ----------
        times_s : float64, [spikes]
            Spike times in seconds.
        channels, units : integer, [spikes]
            Channel and unit of each spike, from 0; units are below 65536.
        """
        if len(units) and (int(units.max()) >= _UNITS or int(units.min()) < 0):
            raise ValueError(f"a spike has the unit {int(units.max())}")
        if self._leaves_noise:
            kept = units != self._noise_unit
            self._noise += int(np.count_nonzero(~kept))
            times_s, channels, units = times_s[kept], channels[kept], units[kept]
        self._spikes.add(times_s, channels.astype(np.int64) * _UNITS + units.astype(np.int64))

    def finish(self, channel_names: Mapping[int, str]) -> SpikeTrains:
        """Return the trains, neurons sorted by channel and unit."""
        trains = self._spikes.finish(self._format, self._options)
        codes = [int(code or 0) for code in trains.neuron_metadata["neuron_id"]]
        pairs = [divmod(code, _UNITS) for code in codes]
        names = [channel_names.get(channel) or f"ch{channel}" for channel, _ in pairs]
        trains.neuron_metadata = {
            "neuron_id": [f"{name}#{unit}" for name, (_, unit) in zip(names, pairs, strict=True)],
            "channel": [channel for channel, _ in pairs],
            "channel_name": list(names),
            "unit": [unit for _, unit in pairs],
            "unit_class": [self._class(unit) for _, unit in pairs],
        }
        classes = trains.neuron_metadata["unit_class"]
        counts = ", ".join(f"{classes.count(one)} {one}" for one in dict.fromkeys(classes))
        trains.understood.append(
            Understood("neuron", "channel and unit", f"each pair with a spike is one: {counts or 'none'}")
        )
        if UNSORTED in classes:
            trains.notes.append(
                "Unit 0 of a channel holds unsorted spikes, perhaps of several neurons; neurons.where "
                '{"unit_class": "sorted"} leaves them out.'
            )
        if self._noise:
            said = f"{self._noise} spikes of units marked as noise were left out."
            hint = 'To keep them, give neurons.where, such as {"unit_class": ["sorted", "noise"]}.'
            trains.warnings.append(Problem("noise_left_out", said, hint, "/neurons/where/unit_class"))
        return trains

    def _class(self, unit: int) -> str:
        return NOISE if unit == self._noise_unit else SORTED if unit else UNSORTED


@dataclass
class _Series:
    """Events of one name: times, and the index of each event's label in `labels`; 0 once there are too many labels."""

    times_s: list[NDArray[np.float64]] = field(default_factory=list)
    codes: list[NDArray[np.int64]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def add(self, times_s: NDArray[np.float64], labels: NDArray[Any]) -> None:
        codes = np.zeros(len(labels), np.int64)
        if len(self.labels) <= MOST_LABELS:
            known, place = np.unique(labels, return_inverse=True)
            texts = (
                str(label).replace("\x00", "").strip()[:60] for label in known[: MOST_LABELS + 1].tolist()
            )
            numbers = [self.labels.setdefault(text, len(self.labels)) for text in texts]
            if len(self.labels) <= MOST_LABELS:
                codes = np.array(numbers, np.int64)[place]
        self.times_s.append(np.array(times_s, np.float64))
        self.codes.append(codes)


class EventLists:
    """Collects events of several series; each event has a number or a text as its label."""

    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}
        self._total, self._beyond = 0, 0

    def add(self, name: str, times_s: NDArray[np.float64], labels: NDArray[Any]) -> None:
        """Add events: times in seconds, and the label of each."""
        if len(times_s) == 0:
            return
        is_new = name not in self._series
        room = 0 if is_new and len(self._series) >= MOST_SERIES else max(0, MOST_EVENTS - self._total)
        self._beyond += max(0, len(times_s) - room)
        if room:
            self._total += min(room, len(times_s))
            self._series.setdefault(name, _Series()).add(times_s[:room], labels[:room])

    def put_into(self, trains: SpikeTrains) -> None:
        """Add each series to the trains under its name; if it has several labels, add each under `series=label` too."""
        for name, series in self._series.items():
            times_s, codes = np.concatenate(series.times_s), np.concatenate(series.codes)
            trains.events[_free(name, trains)] = times_s
            if len(series.labels) > MOST_LABELS:
                trains.notes.append(
                    f"The events `{name}` have more than {MOST_LABELS} labels: they are one series."
                )
            elif len(series.labels) > 1 and len(trains.events) < MOST_SERIES:
                for label, code in series.labels.items():
                    trains.events[_free(f"{name}={label}", trains)] = times_s[codes == code]
        if self._series:
            trains.notes.append(
                f"Events that trials can be aligned to (trials.align_to): {listed(trains.events, 20)}."
            )
        if self._beyond:
            said = f"{self._beyond} events were left out: at most {MOST_EVENTS}, in {MOST_SERIES} series, are read."
            trains.warnings.append(
                Problem("events_left_out", said, "Upload the recording in parts.", "/trials")
            )


def _free(name: str, trains: SpikeTrains) -> str:
    """Return a name that no other series has."""
    name = name.replace("\x00", "").strip()[:100] or "events"
    number, free = 2, name
    while free in trains.events:
        number, free = number + 1, f"{name} ({number})"
    return free


def refuse_mapping_of_arrays(options: ReadOptions, format_name: str) -> None:
    """Reject a mapping that names arrays: files of acquisition systems have none."""
    for role in ("spikes", "spike_times", "neuron"):
        name = getattr(options.mapping, role)
        if name is not None:
            said = f"mapping.{role} is `{name}`: {format_name} has channels with units, and no variables to name."
            hint = "Leave it out; neurons.where chooses by channel, unit and unit_class."
            raise rejected("variable_unknown", said, hint, f"/mapping/{role}")


def add_segments(trains: SpikeTrains, start_s: list[float], stop_s: list[float]) -> None:
    """Add the table `segments` if the recording was paused."""
    if len(start_s) > 1:
        starts, stops = np.array(start_s, np.float64), np.array(stop_s, np.float64)
        trains.tables["segments"] = TrialTable(starts, stops, {"segment": list(range(len(start_s)))})
        trains.notes.append(f"The recording was paused: the table `segments` has its {len(start_s)} parts.")


def end_is_missing(what: str) -> Problem:
    """Return the warning for a file whose last record is cut off."""
    said = f"The file ends within {what}, which was left out."
    hint = "If its size differs from the original, upload it again. A recording that was interrupted ends like this too."
    return Problem("file_ends_early", said, hint)


def broken_events(name: str, what: str) -> Problem:
    """Return the warning for damaged events in a file whose spikes are intact."""
    hint = "If you need them, write the file again with the program that made it. The spikes are whole."
    return Problem("events_left_out", f"`{name[:100]}`: {what[:300]}.", hint, "/trials")
