"""Wide tables of counts: trial, bin or time, and a column for each neuron."""

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Gatherer, Problem, rejected
from worker.ingest.readers.base import ReadOptions, name_is_usable
from worker.ingest.readers.tables.counts import TableOfCounts, understood_counts, whole_counts
from worker.ingest.readers.tables.first_pass import Constants
from worker.ingest.readers.tables.layouts import Roles, is_of_neuron
from worker.ingest.readers.tables.rows_on_disk import Places, Stretch
from worker.ingest.readers.tables.table import Batch, Table
from worker.ingest.recording import Recording
from worker.ingest.rows import Rows, filled


class WideCounts(TableOfCounts):
    """One row for each trial and bin (or each bin of a continuous recording), a column for each neuron.

    Neurons are the columns whose names say so, if there are any; else those that hold whole numbers from 0, and change within
    some trial or are 0 throughout.
    """

    def __init__(self, table: Table, roles: Roles, options: ReadOptions) -> None:
        count, roles.count = roles.count, None
        super().__init__(table, roles, options, rows_to_tell=2)
        mapping = options.mapping
        numbers = [name for name in self._others if table.columns[name] in ("whole", "number")]
        kept = {*(mapping.behaviour or ()), *(mapping.trial_metadata or ())}
        free = [name for name in numbers if name not in kept]
        self._named = [name for name in free if is_of_neuron(name) or name == count]
        named = set(self._named)
        self._signals = [name for name in numbers if name not in named]
        self._texts = [
            name for name in self._others if table.columns[name] == "label" and name_is_usable(name)
        ]
        usable = [
            name for name in self._signals if name_is_usable(name) and name not in (mapping.behaviour or ())
        ]
        self._of_trials = Constants([*usable, *self._texts] if roles.trial is not None else ())
        self._like_counts = {name: True for name in free if not self._named}
        self._always_zero = dict(self._like_counts)
        self._neurons: list[str] = []
        self._behaviour: list[str] = []
        self._outputs: dict[str, Rows] = {}

    def _wanted(self, is_survey: bool) -> tuple[list[str], list[str]]:
        if not is_survey:
            return [*self._neurons, *self._behaviour], []
        wanted = dict.fromkeys([*self._like_counts, *self._of_trials.names])
        texts = {name: None for name in self._texts if name in wanted}
        return [name for name in wanted if name not in texts], list(texts)

    def _look_at(self, batch: Batch, trials: NDArray[np.int64], rows: NDArray[np.bool_]) -> None:
        self._of_trials.add(trials, batch, rows)
        for name, so_far in self._like_counts.items():
            values = batch.numbers[name]
            self._like_counts[name] = so_far and bool(((values >= 0) & (values == np.trunc(values))).all())
            self._always_zero[name] = self._always_zero[name] and not values.any()

    def _settle(self) -> tuple[int, int]:
        constant = {name for name in self._of_trials.names if not self._always_zero.get(name)}
        self._neurons = self._named or [
            name for name, is_so in self._like_counts.items() if is_so and name not in constant
        ]
        for name in self._neurons:
            self._of_trials.drop(name)
        wanted = self._options.mapping.behaviour
        taken = {*self._neurons, *constant}
        rest = [name for name in self._signals if name not in taken]
        self._behaviour = [
            name for name in rest if name_is_usable(name) and (wanted is None or name in wanted)
        ]
        if not self._neurons:
            said = (
                "No column of the table looks like the counts of a neuron (whole numbers from 0). It has: "
                f"{listed(self._table.columns, 30)}."
            )
            hint = "Give a column for each neuron, or columns of neurons and times (mapping.neuron, mapping.time)."
            raise rejected("spikes_missing", said, hint, "/mapping")
        return len(self._neurons), len(self._behaviour)

    def _gather(self, shape: tuple[int, int, int]) -> Places:
        trials, bins, neurons = shape
        gathered = Places(trials * bins, neurons, len(self._behaviour))
        self._outputs = {name: filled((trials * bins, 1), np.float32, np.nan) for name in self._behaviour}
        for batch, trial, rows in self._batches(is_survey=False):
            first = self._rows_seen + 1
            counts = np.empty((batch.rows, neurons), np.uint16)
            problems = Gatherer()
            for number, name in enumerate(self._neurons):
                with problems:
                    counts[:, number] = whole_counts(batch.numbers[name], name, first)
            problems.refuse()
            signals = np.empty((batch.rows, len(self._behaviour)), np.float32)
            with np.errstate(over="ignore"):
                for number, name in enumerate(self._behaviour):
                    signals[:, number] = batch.numbers[name]
            place = self._places[trial[rows]] * bins + self._bins(batch, trial, rows)
            gathered.add(place, counts[rows], signals[rows])
            self._rows_seen += batch.rows
        return gathered

    def _take(self, stretch: Stretch) -> None:
        for number, output in enumerate(self._outputs.values()):
            output[stretch.first : stretch.first + len(stretch.signals)] = stretch.signals[
                :, number : number + 1
            ]

    def _finish(self, recording: Recording) -> list[str]:
        trials, bins, _ = recording.spikes.shape
        how = (
            "by the names of columns"
            if self._named
            else "the columns of whole numbers that change within trials"
        )
        understood_counts(self._neurons, how, recording)
        recording.notes.append(f"The table was read as one column for each of {len(self._neurons)} neurons.")
        recording.neuron_metadata["neuron_id"] = list(self._neurons)
        for name, output in self._outputs.items():
            recording.behaviour[name] = output.reshape(trials, bins, 1)
        return [*self._neurons, *self._behaviour]

    def _lengths(
        self, bins: NDArray[np.int64], rows: NDArray[np.int64], recording: Recording
    ) -> NDArray[np.int64] | None:
        """Return the bins up to the last row of each trial."""
        missing = int((bins - rows).sum())
        if missing:
            said = f"{missing} bins have no row, though later ones of the same trial do: they count as bins without a spike."
            hint = "Give a row for each bin, and check that bins or times begin alike in all trials."
            recording.warnings.append(Problem("bins_missing", said, hint))
        return bins
