"""Choose the table of trials for spike times, and time 0 of each trial."""

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, rejected
from worker.ingest.readers.base import ReadOptions
from worker.ingest.recording import Understood
from worker.ingest.spike_trains import SpikeTrains, TrialTable
from worker.ingest.time_units import column_seconds

_TOLERANCE_S = 1e-6


def choose_trials(
    trains: SpikeTrains, options: ReadOptions
) -> tuple[str, TrialTable | None, NDArray[np.float64]]:
    """Return the table of trials and its name, and time 0 of each trial in seconds of the session."""
    wanted, align_to = options.mapping.trials, options.trials.align_to
    if wanted is not None and wanted not in trains.tables:
        said = f"mapping.trials is `{wanted}`, which is no table of trials in this file: it has {listed(trains.tables)}."
        raise rejected("trials_unknown", said, "Name one of these, or leave it out.", "/mapping/trials")
    if align_to is None:
        name = wanted or next(iter(trains.tables), "")
        table = trains.tables.get(name)
        if table is not None:
            _note_choice(trains, name, "given in the mapping" if wanted else "the likeliest table of trials")
        start_s = np.zeros(0) if table is None else table.start_s
        return name, table, start_s if trains.trial_offset_s is None else trains.trial_offset_s
    tables = {wanted: trains.tables[wanted]} if wanted is not None else trains.tables
    for name, table in tables.items():
        own_s = {"start_time": table.start_s, "stop_time": table.stop_s}
        if align_to in table.columns or align_to in own_s:
            _note_choice(trains, name, "given in the mapping" if wanted else f"has the column `{align_to}`")
            if align_to in own_s:
                return name, table, own_s[align_to]
            zero_s = column_seconds(
                table.columns[align_to], options, align_to, trains.column_unit, trains.sampling_rate_hz
            )
            if trains.trial_offset_s is None:
                return name, table, _on_session_clock(trains, table, zero_s, options)
            return name, table, zero_s + trains.trial_offset_s
    if align_to in trains.events:
        return _aligned_to_events(trains, align_to, wanted, options)
    columns = [column for table in tables.values() for column in ("start_time", "stop_time", *table.columns)]
    said = (
        f"trials.align_to is `{align_to}`, which is neither a column of the table of trials ({listed(dict.fromkeys(columns))}) "
        f"nor a series of events ({listed(trains.events)})."
    )
    raise rejected("align_to_unknown", said, "Name one of these.", "/trials/align_to")


def _on_session_clock(
    trains: SpikeTrains, table: TrialTable, zero_s: NDArray[np.float64], options: ReadOptions
) -> NDArray[np.float64]:
    """Return times of the session from a column of times that may count from each trial's start."""
    clock = options.trials.align_to_clock
    if clock == "session":
        return zero_s
    from_start_s = table.start_s + zero_s
    if clock == "trial":
        return from_start_s
    inside, inside_from_start = (
        np.mean((times_s >= table.start_s - _TOLERANCE_S) & (times_s <= table.stop_s + _TOLERANCE_S))
        for times_s in (zero_s, from_start_s)
    )
    if inside >= 0.5 or inside_from_start < 0.9:
        return zero_s
    said = (
        f"`{options.trials.align_to}` lies within its own trial in {inside:.0%} of the trials if it is a time of the session, "
        f"and in {inside_from_start:.0%} if it counts from each trial's start. It was read as counting from there."
    )
    hint = 'Set trials.align_to_clock to "trial" (as it was read) or "session".'
    trains.warnings.append(Problem("align_to_clock_guessed", said, hint, "/trials/align_to_clock"))
    return from_start_s


def _aligned_to_events(
    trains: SpikeTrains, name: str, wanted: str | None, options: ReadOptions
) -> tuple[str, TrialTable, NDArray[np.float64]]:
    events_s = np.sort(trains.events[name])
    if options.trials.window_s is None:
        said = f"Trials are aligned to the events `{name}`, which have no duration, and there is no trials.window_s."
        hint = "Give the window around each event in seconds, such as [-0.25, 0.75]."
        raise rejected("window_needed", said, hint, "/trials/window_s")
    if wanted is None:
        trains.understood.append(Understood("trials", name, "each event is a trial", events_s.shape))
        return name, TrialTable(events_s, events_s + options.trials.window_s[1]), events_s
    table = trains.tables[wanted]
    first = np.searchsorted(events_s, table.start_s)
    zero_s = np.append(events_s, np.inf)[first]
    zero_s = np.where(zero_s <= table.stop_s, zero_s, np.nan)
    _note_choice(trains, wanted, f"given in the mapping; time 0 is the first `{name}` within each trial")
    return wanted, table, zero_s


def _note_choice(trains: SpikeTrains, name: str, how: str) -> None:
    others = tuple(
        f"{other} ({len(table.start_s)} trials)" for other, table in trains.tables.items() if other != name
    )
    events = tuple(f"{event} ({len(times)} events)" for event, times in trains.events.items())
    shape = (len(trains.tables[name].start_s),)
    trains.understood.append(Understood("trials", name, how, shape, others + events))
