"""Long tables of counts: trial, bin, neuron, count."""

import numpy as np
from numpy.typing import NDArray

from worker.ingest.readers.base import ReadOptions, name_is_usable
from worker.ingest.readers.tables.counts import TableOfCounts, understood_counts, whole_counts
from worker.ingest.readers.tables.first_pass import Constants, codes_of_rows
from worker.ingest.readers.tables.layouts import Roles
from worker.ingest.readers.tables.rows_on_disk import Places
from worker.ingest.readers.tables.table import Batch, Table
from worker.ingest.recording import Recording
from worker.ingest.spike_columns import MOST_NEURONS, Labels

_ROWS_TO_TELL = 10


class LongCounts(TableOfCounts):
    """One row for each trial, bin and neuron; absent rows are 0."""

    def __init__(self, table: Table, roles: Roles, options: ReadOptions) -> None:
        super().__init__(table, roles, options, _ROWS_TO_TELL)
        assert roles.neuron is not None
        assert roles.count is not None
        self._neuron, self._count = roles.neuron, roles.count
        self._neurons = Labels("neuron", MOST_NEURONS)
        self._numbers = np.zeros(0, np.int64)
        readable = [name for name in self._others if table.columns[name] in ("whole", "number", "label")]
        readable = [name for name in readable if name_is_usable(name)]
        self._of_trials = Constants(readable if roles.trial is not None else ())
        self._of_neurons = Constants(readable)

    def _wanted(self, is_survey: bool) -> tuple[list[str], list[str]]:
        others = dict.fromkeys([*self._of_trials.names, *self._of_neurons.names]) if is_survey else {}
        return [self._count], [self._neuron, *others]

    def _labelled(self, batch: Batch) -> NDArray[np.bool_]:
        self._numbers = codes_of_rows(self._neurons, batch.labels[self._neuron])
        return self._numbers >= 0

    def _look_at(self, batch: Batch, trials: NDArray[np.int64], rows: NDArray[np.bool_]) -> None:
        self._of_trials.add(trials, batch, rows)
        self._of_neurons.add(self._numbers, batch, rows)

    def _settle(self) -> tuple[int, int]:
        return len(self._neurons.known), 0

    def _gather(self, shape: tuple[int, int, int]) -> Places:
        trials, bins, neurons = shape
        gathered = Places(trials * bins * neurons, 1)
        place_of_neuron = self._neurons.places()
        for batch, trial, rows in self._batches(is_survey=False):
            counts = whole_counts(batch.numbers[self._count], self._count, self._rows_seen + 1)
            place = (self._places[trial[rows]] * bins + self._bins(batch, trial, rows)) * neurons
            gathered.add(place + place_of_neuron[self._numbers[rows]], counts[rows, None])
            self._rows_seen += batch.rows
        return gathered

    def _finish(self, recording: Recording) -> list[str]:
        understood_counts([self._count], "one for each row", recording)
        recording.notes.append(
            "The table was read as one row for each count; trials, bins and neurons without a row have 0."
        )
        order = np.argsort(self._neurons.places()).tolist()
        labels = self._neurons.array().tolist()
        recording.neuron_metadata["neuron_id"] = [labels[number] for number in order]
        taken = [name for name in self._of_neurons.names if name not in self._of_trials.names]
        for name in taken:
            values = self._of_neurons.values(name)
            recording.neuron_metadata[name] = [values[number] for number in order]
        return taken

    def _lengths(
        self, bins: NDArray[np.int64], rows: NDArray[np.int64], recording: Recording
    ) -> NDArray[np.int64] | None:
        """Return the bins up to the last row if every count up to there has a row; else None."""
        complete = bool((rows == bins * recording.spikes.shape[2]).all())
        return bins if complete and self._roles.trial is not None else None
