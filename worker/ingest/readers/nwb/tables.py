"""Tables of NWB: their columns, and the tables of intervals that may be trials."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.readers.base import UNREADABLE, ReadOptions, name_is_usable, why_unreadable
from worker.ingest.readers.nwb.file import NwbFile, short_names
from worker.ingest.recording import MetadataValue
from worker.ingest.spike_trains import SpikeTrains, TrialTable
from worker.ingest.time_units import trial_seconds

MOST_ROWS = 200_000
_NOT_TRIALS = "invalid_times"
_LAST = ("epochs", _NOT_TRIALS)


@dataclass
class Columns:
    """Columns of a table with one value for each row, and warnings of omitted columns."""

    values: dict[str, list[MetadataValue]] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)


def read_columns(file: NwbFile, table: str, rows: int, skip: set[str]) -> Columns:
    """Read the columns of a table; lists of texts, such as tags, become one text for each row."""
    found = Columns()
    members = file.members(table)
    for name in members:
        is_index = name.endswith("_index") and name.removesuffix("_index") in members
        if name in skip or is_index:
            continue
        path, ragged = f"{table}/{name}", f"{name}_index" in members
        why = None
        if not name_is_usable(name):
            why = "its name cannot be used"
        elif path in file.set_aside:
            why = file.set_aside[path]
        elif ragged:
            joined = _joined_texts(file, path, rows)
            if joined is not None:
                found.values[name] = joined
            else:
                why = "it has several values for each row"
        elif file.shape(path) != (rows,):
            why = f"its shape is {file.shape(path)}, not one value for each of {rows} rows"
        else:
            try:
                found.values[name] = file.column(path)
            except UNREADABLE as error:
                why = why_unreadable(error)
            except RejectedFile as error:
                why = error.problems[0].message
        if why is not None:
            said = f"The column `{name[:100]}` of `{table}` was left out: {why}."
            hint = "Columns of one number or text for each row are kept."
            found.warnings.append(Problem("column_left_out", said, hint, f"/{path[:200]}"))
    return found


def _joined_texts(file: NwbFile, path: str, rows: int) -> list[MetadataValue] | None:
    if path not in file.texts:
        return None
    ends = ends_of_lists(file, path, rows)
    if ends is None:
        return None
    texts = [str(text) for text in file.column(path)]
    return [", ".join(texts[first:last]) for first, last in zip([0, *ends[:-1]], ends, strict=True)]


def ends_of_lists(file: NwbFile, path: str, rows: int) -> list[int] | None:
    """Return where the values of each row of a ragged column end; None if its index does not fit."""
    index = f"{path}_index"
    if not file.is_numbers(index) or file.shape(index) != (rows,) or len(file.shape(path)) != 1:
        return None
    ends = file.read(index)
    fits = ends.dtype.kind in "iu" and rises(ends, file.shape(path)[0])
    return [int(end) for end in ends] if fits else None


def rises(ends: NDArray[np.integer], most: int) -> bool:
    """Return whether an index never decreases and does not exceed `most`."""
    as_python = ends.tolist()
    pairs = zip([0, *as_python], [*as_python, most], strict=True)
    return all(before <= after for before, after in pairs)


def read_trial_tables(file: NwbFile, trains: SpikeTrains, options: ReadOptions) -> None:
    """Read the tables of intervals, the likeliest table of trials first; `invalid_times` only if the mapping names it."""
    wanted = options.mapping.trials
    paths = [group for group in file.groups if {"start_time", "stop_time"} <= set(file.members(group))]
    names = short_names(paths)
    rows = {path: _rows(file, path, trains.warnings) for path in paths}
    likely = sorted((path for path in paths if rows[path]), key=lambda p: _likelihood(names[p], rows[p]))
    invalid_s = _invalid_times(file, [path for path in likely if names[path] == _NOT_TRIALS], options)
    for path in likely:
        name = names[path]
        if wanted is None and (rows[path] < 2 or name == _NOT_TRIALS):
            said = (
                f"`{path}` ({rows[path]} rows) was not used as a table of trials; mapping.trials can name it."
            )
            trains.notes.append(said)
            continue
        key = wanted if wanted is not None and wanted.strip("/") == path else name
        trains.tables[key] = _read_trials(file, path, rows[path], trains, options)
    _warn_of_guess(trains, likely, names, rows, options)
    if wanted is None or wanted.strip("/").rpartition("/")[2] != _NOT_TRIALS:
        trains.invalid_s = invalid_s


def _warn_of_guess(
    trains: SpikeTrains, likely: list[str], names: dict[str, str], rows: dict[str, int], options: ReadOptions
) -> None:
    """Warn if the table of trials is a guess: several tables may be it, and none is called `trials`."""
    if options.mapping.trials is not None or options.trials.align_to in trains.events:
        return
    plausible = {names[path]: rows[path] for path in likely if names[path] in trains.tables}
    if len(plausible) < 2 or "trials" in plausible:
        return
    align_to = options.trials.align_to
    with_column = [name for name in trains.tables if align_to in trains.tables[name].columns]
    if len(with_column) == 1:
        return  # only one has the column that trials are aligned to
    taken = next(iter(with_column or trains.tables))
    others = listed(f"`{name}` ({number} rows)" for name, number in plausible.items() if name != taken)
    said = (
        f"The file has {len(plausible)} tables of intervals that may be the trials, and none is called `trials`: `{taken}` "
        f"({plausible[taken]} rows) was used, because it {f'has `{align_to}`' if with_column else 'has most rows'}. "
        f"The others are {others}."
    )
    hint = (
        'If another one holds the trials, name it: {"mapping": {"trials": "'
        + next(name for name in plausible if name != taken)
        + '"}}.'
    )
    trains.warnings.append(Problem("trials_table_guessed", said, hint, "/mapping/trials"))


def _likelihood(name: str, rows: int) -> tuple[int, int, str]:
    """Return the sort key of a table: trials, others by their number of rows, epochs, invalid times."""
    if name in _LAST:
        return 2 + _LAST.index(name), 0, name
    return (0 if name == "trials" else 1), -rows, name


def _rows(file: NwbFile, table: str, warnings: list[Problem]) -> int:
    """Return the number of rows of a table of intervals; 0 with a warning if it is unreadable."""
    starts, stops = f"{table}/start_time", f"{table}/stop_time"
    shape = file.shape(starts)
    if file.is_numbers(starts) and file.is_numbers(stops) and len(shape) == 1 and shape == file.shape(stops):
        if shape[0] <= MOST_ROWS:
            return shape[0]
        why = f"it has {shape[0]} rows, and at most {MOST_ROWS} are read"
    else:
        why = f"start_time {shape} and stop_time {file.shape(stops)} are not numbers of one length"
    said = f"The table `{table[:200]}` was left out: {why}."
    warnings.append(Problem("table_left_out", said, "Check how it was written.", f"/{table[:200]}"))
    return 0


def _read_trials(
    file: NwbFile, path: str, rows: int, trains: SpikeTrains, options: ReadOptions
) -> TrialTable:
    start_s, stop_s = (
        trial_seconds(file.read(f"{path}/{name}"), options, f"{path}/{name}", "s")
        for name in ("start_time", "stop_time")
    )
    chosen = options.mapping.trial_metadata
    skip = {"start_time", "stop_time"}
    if chosen is not None:
        needed = {*chosen, options.trials.align_to, options.mapping.split, *options.trials.where, "split"}
        skip |= {name for name in file.members(path) if name not in needed and not name.endswith("_index")}
    columns = read_columns(file, path, rows, skip)
    trains.warnings += columns.warnings
    return TrialTable(start_s, stop_s, columns.values)


def _invalid_times(file: NwbFile, paths: list[str], options: ReadOptions) -> NDArray[np.float64]:
    """Return the invalid intervals in seconds: float64 [intervals, 2]."""
    found = [
        np.stack(
            [trial_seconds(file.read(f"{path}/{n}"), options, n, "s") for n in ("start_time", "stop_time")],
            -1,
        )
        for path in paths
    ]
    return np.concatenate(found) if found else np.zeros((0, 2))
