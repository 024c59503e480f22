"""Tables of spike counts: one count in each row, or one column for each neuron."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.bin_width import SECONDS_PER_UNIT, BinWidthClues, bin_width_missing
from worker.ingest.counts import CountsBuilder, count_faults, counts_problem
from worker.ingest.problems import Gatherer, Problem, RejectedFile, rejected
from worker.ingest.readers.base import ReadOptions, parse_trial_lengths, refuse_giant
from worker.ingest.readers.splits import parse_split, settle_split
from worker.ingest.readers.tables.first_pass import Clock, Constants, codes_of_rows
from worker.ingest.readers.tables.layouts import (
    Roles,
    column_left_out,
    known_column,
    plain,
    rows_without_label,
    seconds,
)
from worker.ingest.readers.tables.rows_on_disk import Places, Stretch
from worker.ingest.readers.tables.table import Batch, Table
from worker.ingest.recording import SPLIT_NOT_GIVEN, MetadataValue, Recording, Understood
from worker.ingest.rows import Rows, zeros
from worker.ingest.spike_columns import MOST_TRIALS, Labels


class TableOfCounts(ABC):
    """Reads a table in two passes: first what is in it, then the counts.

    Parameters
    ----------
    table, roles, options
        The table, the roles of its columns, and the options of the request.
    rows_to_tell
        Mean number of rows of a trial that is needed to tell whether the clock continues from trial to trial.
    """

    def __init__(self, table: Table, roles: Roles, options: ReadOptions, rows_to_tell: int) -> None:
        self._table, self._roles, self._options = table, roles, options
        self._rows_to_tell = rows_to_tell
        self._labels = Labels("trial", MOST_TRIALS)
        self._clock = Clock(None if roles.bin is None and roles.time is not None else 1.0)
        self._times = Clock() if roles.bin is not None and roles.time is not None else None
        self._width = self._width_column()
        self._of_file = Constants([self._width] if self._width is not None else ())
        used = {*roles.used(), *([self._width] if self._width is not None else [])}
        self._others = [name for name in table.columns if name not in used]
        self._of_trials = Constants(())
        self._unlabelled = self._rows_seen = 0

    def _width_column(self) -> str | None:
        named = self._options.mapping.bin_width
        if named is not None:
            return known_column(self._table, "bin_width", named)
        return next((name for name in self._table.columns if name.lower() in SECONDS_PER_UNIT), None)

    @abstractmethod
    def _wanted(self, is_survey: bool) -> tuple[list[str], list[str]]:
        """Return the columns to read as numbers and as labels, in addition to those with a role."""

    def _labelled(self, batch: Batch) -> NDArray[np.bool_]:
        """Return which rows have all labels (the trial's aside)."""
        return np.ones(batch.rows, bool)

    @abstractmethod
    def _look_at(self, batch: Batch, trials: NDArray[np.int64], rows: NDArray[np.bool_]) -> None:
        """Process a batch of the first pass; `rows` have all labels."""

    @abstractmethod
    def _settle(self) -> tuple[int, int]:
        """Return the numbers of neurons and signals after the first pass."""

    @abstractmethod
    def _gather(self, shape: tuple[int, int, int]) -> Places:
        """Run the second pass."""

    @abstractmethod
    def _lengths(
        self, bins: NDArray[np.int64], rows: NDArray[np.int64], recording: Recording
    ) -> NDArray[np.int64] | None:
        """Return the length of each trial from the bin of its last row and its number of rows; None if all have full length."""

    def _take(self, stretch: Stretch) -> None:  # noqa: B027 long tables have no signals
        """Store the signals of some places."""

    @abstractmethod
    def _finish(self, recording: Recording) -> list[str]:
        """Add what does not belong to trials to the recording; return the names of the columns that were used."""

    def survey(self) -> None:
        """Run the first pass: find the labels, constant columns, and where bins lie."""
        self._refuse_unbinned()
        for batch, trials, rows in self._batches(is_survey=True):
            self._unlabelled += int(np.count_nonzero(~rows))
            self._clock.add(trials[rows], self._positions(batch)[rows])
            if self._times is not None and self._roles.time is not None:
                times_s = self._seconds(batch)
                self._times.add(trials[rows & np.isfinite(times_s)], times_s[rows & np.isfinite(times_s)])
            self._of_file.add(np.zeros_like(trials), batch, rows)
            self._look_at(batch, trials, rows)
            self._rows_seen += batch.rows
        if not self._clock.rows.sum():
            said = "The table has no row with a count."
            raise rejected("no_spikes", said, "Check what was written into it.")

    def recording(self) -> Recording:
        """Run the second pass and return the recording."""
        self._places = self._labels.places() if self._roles.trial is not None else np.zeros(1, np.int64)
        order = np.argsort(self._places)
        trials = len(order)
        self._clock.extend(trials)
        self._start = self._starts(order)
        step = self._clock.step or 1.0
        last = np.where(self._clock.rows > 0, np.rint((self._clock.last - self._start) / step), 0)
        bins = int(min(float(last.max()), 2.0**62)) + 1
        neurons, signals = self._settle()
        refuse_giant(trials * bins * (neurons + 4 * signals), self._options)
        recording = Recording(
            spikes=zeros((trials, bins, neurons), np.uint8),
            bin_width_s=float("nan"),
            trial_length_bins=np.full(trials, bins, np.int64),
            split=np.full(trials, SPLIT_NOT_GIVEN, np.int8),
            is_continuous=self._roles.trial is None,
            source_format=self._table.format,
            understood=self._roles.understood,
            notes=[*self._table.notes, *self._notes],
        )
        problems = Gatherer()
        with problems:
            recording.spikes = self._counts((trials, bins, neurons))
        with problems:
            self._take_metadata(recording, order, self._finish(recording), problems)
        with problems:
            self._settle_lengths(recording, order, last[order].astype(np.int64) + 1)
        with problems:
            self._settle_time(recording, bins, order)
        problems.refuse()
        return recording

    def _refuse_unbinned(self) -> None:
        roles = self._roles
        if roles.bin is None and roles.time is None and (roles.trial is not None or roles.neuron is not None):
            said = (
                "The table has counts, but no column with the bin of each row: it is not binned, or its columns of bins "
                f"have other names. It has: {listed(self._table.columns, 30)}."
            )
            hint = "Give one row for each trial and bin, with a column `bin` or `time`; mapping.bin or mapping.time names it."
            problems = [Problem("table_not_binned", said, hint, "/mapping/bin")]
            if self._width is None and self._options.bin_width_s is None:
                problems.append(bin_width_missing())
            raise RejectedFile(problems)

    def _batches(self, is_survey: bool) -> Iterator[tuple[Batch, NDArray[np.int64], NDArray[np.bool_]]]:
        """Iterate over the table: yield each batch, the number of each row's trial, and which rows have all labels."""
        roles = self._roles
        numbers, labels = self._wanted(is_survey)
        own = [name for name in (roles.bin, roles.time) if name is not None]
        if is_survey and self._width is not None:
            own.append(self._width)
        labels = [*labels, *([roles.trial] if roles.trial is not None else [])]
        self._rows_seen = 0
        for batch in self._table.batches([*own, *numbers], labels):
            trials = np.zeros(batch.rows, np.int64)
            if roles.trial is not None:
                trials = codes_of_rows(self._labels, batch.labels[roles.trial])
            yield batch, trials, (trials >= 0) & self._labelled(batch)

    def _positions(self, batch: Batch) -> NDArray[np.float64]:
        """Return the clock value of each row."""
        roles = self._roles
        if roles.bin is None and roles.time is None:
            return np.arange(self._rows_seen, self._rows_seen + batch.rows, dtype=np.float64)
        name = roles.bin or roles.time
        assert name is not None
        values = batch.numbers[name] if roles.bin is not None else self._seconds(batch)
        missing = int(np.count_nonzero(~np.isfinite(values)))
        if missing:
            said = f"`{name}` is missing in {missing} rows."
            raise rejected("bin_missing", said, "Give the bin or the time of each row.", f"/{name}")
        return values

    def _seconds(self, batch: Batch) -> NDArray[np.float64]:
        assert self._roles.time is not None
        return seconds(self._table, self._roles.time, batch.numbers[self._roles.time], self._options)

    def _bins(self, batch: Batch, trials: NDArray[np.int64], rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the bin of some rows, from 0."""
        name = self._roles.bin or self._roles.time or "row"
        return self._clock.bins_from(self._start, trials[rows], self._positions(batch)[rows], name)

    def _starts(self, order: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the clock value of the first bin of each trial."""
        name = self._roles.bin or self._roles.time
        often = self._clock.rows.mean() >= self._rows_to_tell
        self._goes_on = bool(often and self._clock.goes_on(order))
        self._notes = []
        if self._goes_on:
            self._notes.append(f"`{name}` continues from trial to trial: each trial begins at its first row.")
            return np.where(self._clock.rows > 0, self._clock.first, 0.0)
        first = float(self._clock.first.min())
        if self._roles.bin is not None:
            self._notes.append(f"Bins are counted from {first:g} in `{name}`.")
        elif self._roles.time is not None:
            self._notes.append(f"`{name}` is the start of each bin; the first begins at {first:g} s.")
        return np.full(len(order), first)

    def _counts(self, shape: tuple[int, int, int]) -> Rows:
        trials, bins, neurons = shape
        places = self._gather(shape)
        width = trials * bins * neurons // places.places
        builder, done = CountsBuilder((places.places, 1, width)), 0
        for stretch in places.stretches():
            rows = np.arange(done, done + len(stretch.counts))
            builder.add("spikes", done, rows, stretch.counts[:, None, :])
            self._take(stretch)
            done += len(rows)
        if places.repeated is not None:
            raise RejectedFile(self._repeated(places.repeated * width, shape))
        return builder.finish().reshape(trials, bins, neurons)

    def _repeated(self, place: int, shape: tuple[int, int, int]) -> Problem:
        trial, time_bin, neuron = (int(index) for index in np.unravel_index(place, shape))
        parts = [f"bin {time_bin} (counted from 0)"]
        if self._roles.trial is not None:
            parts.insert(0, f"trial {self._labels.array()[np.argsort(self._places)][trial]}")
        if self._roles.neuron is not None:
            parts.append(f"neuron number {neuron} (counted from 0)")
        said = f"There is more than one row for {', '.join(parts)}."
        hint = "Give one row each: add up counts of the same bin, and check the roles of the columns."
        return Problem("rows_repeated", said, hint, f"/{self._roles.bin or self._roles.time}")

    def _take_metadata(
        self, recording: Recording, order: NDArray[np.int64], taken: list[str], problems: Gatherer
    ) -> None:
        """Add constant columns as metadata of trials, and warn of the other columns."""
        mapping = self._options.mapping
        if self._roles.trial is not None:
            recording.trial_metadata["trial_id"] = self._labels.array()[order].tolist()
        for name in self._of_trials.names if self._roles.trial is not None else ():
            values = self._of_trials.values(name)
            in_order: list[MetadataValue] = [values[number] for number in order.tolist()]
            if name == mapping.split or (mapping.split is None and plain(name) == "split"):
                how = "by its name" if mapping.split is None else "given in the mapping"
                with problems:
                    recording.split = parse_split(in_order, name, self._options, recording.warnings)
                    recording.understood.append(Understood("split", name, how, (len(order),)))
                    settle_split(recording)
            elif name == mapping.trial_length_bins or plain(name) == "triallengthbins":
                bins = recording.spikes.shape[1]
                numbers = np.array(
                    [np.nan if not isinstance(value, int) else value for value in in_order], np.float64
                )
                with problems:
                    recording.trial_length_bins = parse_trial_lengths(numbers, name, bins)
                self._clock.rows = np.zeros(0, np.int64)
            elif mapping.trial_metadata is None or name in mapping.trial_metadata:
                recording.trial_metadata[name] = in_order
            else:
                continue
            taken.append(name)
        for name in self._others:
            if name not in taken:
                recording.warnings.append(
                    column_left_out(name, "it has no known meaning, or was not requested")
                )

    def _settle_lengths(
        self, recording: Recording, order: NDArray[np.int64], bins: NDArray[np.int64]
    ) -> None:
        recording.warnings += rows_without_label(self._unlabelled)
        if len(self._clock.rows) == 0:
            return
        lengths = self._lengths(bins, self._clock.rows[order], recording)
        if lengths is None:
            return
        recording.trial_length_bins = lengths
        if (lengths != lengths[0]).any():
            recording.notes.append(f"Trials have from {lengths.min()} to {lengths.max()} bins.")

    def _settle_time(self, recording: Recording, bins: int, order: NDArray[np.int64]) -> None:
        clues, time = BinWidthClues(option_s=self._options.bin_width_s), self._roles.time
        if self._width is not None and self._of_file.names:
            value = self._of_file.values(self._width)[0]
            unit = self._width.lower() if self._width.lower() in SECONDS_PER_UNIT else "bin_width_s"
            if isinstance(value, int | float):
                clues.stated[unit] = float(value)
        elif self._width is not None:
            recording.warnings.append(column_left_out(self._width, "expected one width for all bins"))
        step_s = None if time is None else (self._times or self._clock).step
        if time is not None and step_s is not None:
            clues.time_axes_s[time] = np.arange(max(2, min(bins, 1000))) * step_s
        recording.bin_width_s = clues.settle(recording.notes, recording.warnings)
        start = self._start[order]
        if self._roles.bin is None and time is not None:
            if self._goes_on or recording.is_continuous:
                recording.trial_start_s = start
            else:
                recording.time_zero_s = float(start[0])
        elif self._roles.bin is not None and not self._goes_on and start[0] < 0:
            recording.time_zero_s = float(start[0]) * recording.bin_width_s


def whole_counts(values: NDArray[np.float64], name: str, first_row: int) -> NDArray[np.uint16]:
    """Return the counts of some rows, checked to be whole numbers from 0 to 65535.

    Parameters
    ----------
    values : float64, [rows]
        As the file has them.
    name, first_row
        Column, and number of its first row from 1, for messages.
    """
    for code, wrong in count_faults(values).items():
        if wrong.any():
            row = int(np.argmax(wrong))
            where = f"the first in row {first_row + row} of `{name[:100]}`"
            number, value = int(wrong.sum()), values[row].item()
            raise RejectedFile(counts_problem(code, number, where, value, f"/{name[:100]}"))
    return values.astype(np.uint16)


def understood_counts(names: list[str], how: str, recording: Recording) -> None:
    """Report which columns the counts came from."""
    recording.understood.append(Understood("spikes", listed(names, 6), how, recording.spikes.shape))
