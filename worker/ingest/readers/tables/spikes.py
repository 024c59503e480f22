"""Tables with one row for each spike, or a list of spike times in each row."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from worker.ingest.readers.base import ReadOptions, name_is_usable, neurons_merged
from worker.ingest.readers.tables.first_pass import Constants, codes_of_rows
from worker.ingest.readers.tables.layouts import (
    Roles,
    column_left_out,
    names_neurons,
    plain,
    rows_without_label,
    seconds,
)
from worker.ingest.readers.tables.table import Batch, LabelColumn, Table
from worker.ingest.readers.variables import STARTS, STOPS
from worker.ingest.recording import MetadataValue
from worker.ingest.spike_columns import MOST_NEURONS, MOST_TRIALS, Labels, SpikeColumns
from worker.ingest.spike_trains import SpikeTrains


def read_spikes(table: Table, roles: Roles, options: ReadOptions) -> SpikeTrains:
    """Read a table with a time, or a list of times, in each row.

    Raises
    ------
    RejectedFile
        If times have no known unit, or continue from trial to trial.
    """
    spikes = _Spikes(table, roles, options)
    spikes.survey()
    return spikes.trains()


class _Spikes:
    """Reads a table in two passes: first the constant columns, then the spikes."""

    def __init__(self, table: Table, roles: Roles, options: ReadOptions) -> None:
        assert roles.time is not None
        self._table, self._roles, self._options, self._time = table, roles, options, roles.time
        self._as_lists = table.columns[self._time] == "list"
        self._neurons, self._trials = Labels("neuron", MOST_NEURONS), Labels("trial", MOST_TRIALS)
        self._others = [name for name in table.columns if name not in roles.used()]
        readable = [name for name in self._others if table.columns[name] in ("whole", "number", "label")]
        readable = [name for name in readable if name_is_usable(name)]
        wanted = options.mapping.trial_metadata
        of_trials = [name for name in readable if wanted is None or name in wanted]
        self._of_trials = Constants(of_trials if roles.trial is not None else ())
        self._of_neurons = Constants(readable)
        self._unlabelled = 0

    def survey(self) -> None:
        """Run the first pass: find the labels and the constant columns."""
        others = dict.fromkeys([*self._of_trials.names, *self._of_neurons.names])
        for batch, neurons, trials in self._rows(others):
            labelled = (neurons >= 0) & (trials >= 0)
            self._unlabelled += int(np.count_nonzero(~labelled))
            self._of_trials.add(trials, batch, labelled)
            self._of_neurons.add(neurons, batch, labelled)

    def trains(self) -> SpikeTrains:
        """Run the second pass and return the spikes."""
        by_trial = self._roles.trial is not None
        columns = SpikeColumns(by_trial, self._options)
        neuron_labels, trial_labels = self._neurons.array(), self._trials.array()
        for batch, neurons, trials in self._rows():
            labelled = (neurons >= 0) & (trials >= 0)
            of_rows = trial_labels[trials[labelled]] if by_trial else None
            columns.add(np.zeros(0), neuron_labels[neurons[labelled]], of_rows)  # those without a spike too
            times, neurons, trials = self._spikes(batch, neurons, trials)
            of_spikes = trial_labels[trials] if by_trial else None
            columns.add(
                seconds(self._table, self._time, times, self._options), neuron_labels[neurons], of_spikes
            )
        of_trials: dict[str, dict[int | str, MetadataValue]] = {
            name: dict(zip(trial_labels.tolist(), self._of_trials.values(name), strict=False))
            for name in self._of_trials.names
        }
        bounds = tuple(
            next((name for name in of_trials if plain(name) in map(plain, names)), None)
            for names in (STARTS, STOPS)
        )
        trains = columns.finish(
            self._table.format, self._options, of_trials=of_trials, bounds=(bounds[0], bounds[1])
        )
        self._take_metadata_of_neurons(trains, neuron_labels.tolist())
        self._tell(trains)
        return trains

    def _rows(
        self, others: dict[str, None] | None = None
    ) -> Iterator[tuple[Batch, NDArray[np.int64], NDArray[np.int64]]]:
        """Iterate over the table with the numbers of each row's neuron and trial; -1 where it has none."""
        neuron, trial = self._roles.neuron, self._roles.trial
        labels = [name for name in (neuron, trial, *(others or ())) if name is not None]
        lists, numbers = ([self._time], []) if self._as_lists else ([], [self._time])
        row = 0
        for batch in self._table.batches(numbers, labels, lists):
            rows = np.arange(batch.rows)
            by_row: LabelColumn = (list(range(row, row + batch.rows)), rows)
            neurons = codes_of_rows(self._neurons, by_row if neuron is None else batch.labels[neuron])
            trials = (
                np.zeros_like(rows) if trial is None else codes_of_rows(self._trials, batch.labels[trial])
            )
            row += batch.rows
            yield batch, neurons, trials

    def _spikes(
        self, batch: Batch, neurons: NDArray[np.int64], trials: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the times of the spikes of some rows, unconverted, with the numbers of their neurons and trials."""
        if self._as_lists:
            times, lengths = batch.lists[self._time]
            neurons, trials = np.repeat(neurons, lengths), np.repeat(trials, lengths)
        else:
            times = batch.numbers[self._time]
        labelled = (neurons >= 0) & (trials >= 0)
        return times[labelled], neurons[labelled], trials[labelled]

    def _take_metadata_of_neurons(self, trains: SpikeTrains, labels: list[int | str]) -> None:
        order = trains.neuron_metadata["neuron_id"]
        for name in self._of_neurons.names:
            if name not in self._of_trials.names:
                values = dict(zip(labels, self._of_neurons.values(name), strict=False))
                trains.neuron_metadata[name] = [values.get(label) for label in order]  # type: ignore[arg-type]  # ids of neurons are labels

    def _tell(self, trains: SpikeTrains) -> None:
        trains.understood = self._roles.understood
        each = "list of spike times" if self._as_lists else "spike"
        trains.notes[:0] = [*self._table.notes, f"The table was read as one row for each {each}."]
        of_trials = self._of_trials.names
        of_neurons = [name for name in self._of_neurons.names if name not in of_trials]
        for what, names in (("trials", of_trials), ("neurons", of_neurons)):
            if names:
                trains.notes.append(f"Metadata of {what}, constant in the rows of each: {', '.join(names)}.")
        for name in self._others:
            if name in of_trials or name in of_neurons:
                continue
            if names_neurons(name) and self._roles.neuron is not None:
                trains.warnings.append(neurons_merged(name, self._roles.neuron))
            else:
                trains.warnings.append(column_left_out(name, "it differs between rows, or cannot be read"))
        trains.warnings += rows_without_label(self._unlabelled)
