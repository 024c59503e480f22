"""Spikes that come one by one, each with the label of its neuron and perhaps of its trial."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import DatasetOptions
from domain.errors import listed
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.recording import MetadataValue
from worker.ingest.spike_trains import SpikeTimes, SpikeTrains, TrialTable, lay_trials_end_to_end
from worker.ingest.time_units import column_seconds
from worker.ingest.trial_ids import TrialIds, find_trials, in_natural_order

MOST_NEURONS = 20_000
MOST_TRIALS = 1_000_000
_FEWEST_TRIALS_TO_TELL, _SPIKES_TO_TELL = 3, 10
"""Fewest trials, and mean number of spikes in each, that are needed to tell whether times continue from trial to trial."""
_TOLERANCE_S = 1e-6


class Labels:
    """Numbers the labels of neurons or trials by their first appearance.

    Parameters
    ----------
    what
        `neuron` or `trial`.
    most
        How many different labels are allowed.
    """

    def __init__(self, what: str, most: int) -> None:
        self._what, self._most = what, most
        self.known: dict[int | str, int] = {}

    def codes(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """Return the number of each label; whole floats count as whole numbers."""
        unique, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        order = np.argsort(first)
        numbers = np.empty(len(unique), np.int64)
        numbers[order] = self.codes_of_values(unique[order].tolist())
        return numbers[inverse]

    def codes_of_values(self, values: Sequence[Any]) -> NDArray[np.int64]:
        """Return the number of each of some different values; -1 for None."""
        numbers = np.array([-1 if value is None else self._number(value) for value in values], np.int64)
        if len(self.known) > self._most:
            said = f"There are more than {self._most} different values in the column of the {self._what}."
            hint = f"Check which column is the {self._what}: mapping.{self._what} names it."
            raise rejected(f"too_many_{self._what}s", said, hint, f"/mapping/{self._what}")
        return numbers

    def _number(self, value: Any) -> int:
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, float):
            if not value.is_integer():
                said = f"The {self._what} of some spikes or rows is not a whole number, such as {value!r}."
                hint = f"Give whole numbers or names for the {self._what}."
                raise rejected("label_not_whole", said, hint, f"/mapping/{self._what}")
            value = int(value)
        return self.known.setdefault(int(value) if isinstance(value, bool) else value, len(self.known))

    def ordered(self) -> list[int | str]:
        """Return all labels in order: whole numbers by size, texts by the size of the numbers within them."""
        return in_natural_order(self.known)

    def array(self) -> NDArray[np.int64] | NDArray[np.str_]:
        """Return the label of each number: whole numbers, or text if any label is text."""
        if any(isinstance(label, str) for label in self.known):
            return np.array([str(label) for label in self.known])
        return np.array(list(self.known), np.int64)

    def places(self) -> NDArray[np.int64]:
        """Return the place of each number among the ordered labels: whole numbers by size, text by appearance."""
        labels = self.array()
        return np.argsort(np.argsort(labels)) if labels.dtype.kind == "i" else np.arange(len(labels))


class SpikeColumns:
    """Collects spikes that come one by one, block by block.

    Parameters
    ----------
    by_trial
        Whether each spike has a trial and its time counts from the trial's beginning.
    options
        Options of the request; spikes of trials outside `trials.ids` are left out.
    """

    def __init__(self, by_trial: bool, options: DatasetOptions | None = None) -> None:
        ids = options.trials.ids if options is not None else None
        self._by_trial, self._range = by_trial, ids if isinstance(ids, tuple) else None
        self._outside: dict[str, int] = {}
        self._times = SpikeTimes()
        self._neurons, self._trials = Labels("neuron", MOST_NEURONS), Labels("trial", MOST_TRIALS)
        self._last_trial, self._runs = -1, 0
        self._first_s, self._last_s = np.zeros(0), np.zeros(0)
        self.left_out = 0
        """Number of spikes without a time."""

    def add(
        self, times_s: NDArray[np.float64], neurons: NDArray[Any], trials: NDArray[Any] | None = None
    ) -> None:
        """Add spikes.

        Parameters
        ----------
        times_s : float64, [spikes]
            Spike times in seconds.
        neurons, trials : whole numbers or text, [spikes]
            Label of each spike's neuron and trial.
        """
        codes_of_neurons = self._neurons.codes(neurons)
        if trials is not None and self._range is not None and trials.dtype.kind in "iuf":
            inside = (trials >= self._range[0]) & (trials <= self._range[1])
            if len(times_s) == len(trials):
                times_s = times_s[inside]
                for label, number in zip(*np.unique(trials[~inside], return_counts=True), strict=True):
                    name = str(label.item()).removesuffix(".0")
                    self._outside[name] = self._outside.get(name, 0) + int(number)
                codes_of_neurons = codes_of_neurons[inside]
            trials = trials[inside]
        self.left_out += int(np.count_nonzero(~np.isfinite(times_s)))
        codes = None if trials is None else self._trials.codes(trials)
        if codes is not None and len(codes):
            self._runs += int(np.count_nonzero(np.diff(codes, prepend=self._last_trial)))
            self._last_trial = int(codes[-1])
            self._widen(codes, times_s)
        self._times.add(times_s, codes_of_neurons, codes)

    def _widen(self, trials: NDArray[np.int64], times_s: NDArray[np.float64]) -> None:
        """Update the first and the last time of each trial."""
        more = len(self._trials.known) - len(self._first_s)
        self._first_s = np.concatenate([self._first_s, np.full(more, np.inf)])
        self._last_s = np.concatenate([self._last_s, np.full(more, -np.inf)])
        finite = np.isfinite(times_s)
        np.minimum.at(self._first_s, trials[finite], times_s[finite])
        np.maximum.at(self._last_s, trials[finite], times_s[finite])

    @property
    def neuron_labels(self) -> list[int | str]:
        """Return the labels of the neurons so far, in the order that `finish` gives them."""
        return self._neurons.ordered()

    @property
    def neurons_as_they_appear(self) -> list[int | str]:
        """Return the labels of the neurons in the order in which they first appear."""
        return list(self._neurons.known)

    @property
    def trials_seen(self) -> int:
        """Return how many different trials the spikes have so far."""
        return len(self._trials.known)

    @property
    def most_trials(self) -> int:
        """Return the largest plausible number of trials: a longer column does not belong to trials."""
        numbers = [label for label in self._trials.known if isinstance(label, int)]
        span = max(numbers) - min(numbers) if numbers else 0
        return min(4 * len(self._trials.known) + span + 1000, MOST_TRIALS)

    def finish(
        self,
        source_format: str,
        options: DatasetOptions,
        trial_columns: Mapping[str, list[MetadataValue]] | None = None,
        *,
        of_trials: Mapping[str, Mapping[int | str, MetadataValue]] | None = None,
        trial_ids: Sequence[int] | None = None,
        neurons: Iterable[int | str] = (),
        bounds: tuple[str | None, str | None] = (None, None),
    ) -> SpikeTrains:
        """Return the trains: neurons in the order of their labels, trials as `trial_ids.find_trials` says.

        Parameters
        ----------
        source_format
            Format of the file.
        options
            Options of the request.
        trial_columns
            One value for each trial, in the order of the trials.
        of_trials
            The same, by the id of the trial.
        trial_ids
            The ids of all trials, if the file has them.
        neurons
            Labels of neurons that may have no spike.
        bounds
            Names of the columns with start and stop of each trial in the session, if there are any.

        Raises
        ------
        RejectedFile
            If times continue from trial to trial and the start of trials is unknown.
        """
        for label in neurons:
            self._neurons.known.setdefault(label, len(self._neurons.known))
        labels = self._neurons.ordered()
        self._times.renumber({self._neurons.known[label]: place for place, label in enumerate(labels)})
        trains = SpikeTrains(
            self._times, len(labels), {"neuron_id": list(labels)}, source_format=source_format
        )
        if self.left_out:
            said = f"{self.left_out} spikes have no time (NaN or infinite), and were left out."
            trains.warnings.append(
                Problem("spikes_without_time", said, "Check the column of times.", "/spike_times")
            )
        if self._by_trial:
            if trial_ids is not None:
                trials = TrialIds(list(trial_ids)).take(trial_columns or {})
            else:
                in_blocks = self._runs == len(self._trials.known)
                trials = find_trials(list(self._trials.known), in_blocks, trial_columns or {}, options)
            for name, values in (of_trials or {}).items():
                trials.columns[name] = [values.get(label) for label in trials.labels]
            self._lay_out_trials(trains, trials, options, bounds)
        return trains

    def _lay_out_trials(
        self,
        trains: SpikeTrains,
        trials: TrialIds,
        options: DatasetOptions,
        bounds: tuple[str | None, str | None],
    ) -> None:
        labels = trials.labels
        self._tell_outside(trains)
        trains.notes += trials.notes
        trains.warnings += trials.warnings
        trials.columns.setdefault("trial_id", list(labels))
        empty = len(labels) - len(self._trials.known)
        if empty:
            trains.notes.append(f"{empty} of {len(labels)} trials have no spike.")
        # Spikes carry the number under which their trial first appeared.
        place = {label: index for index, label in enumerate(labels)}
        appeared = np.array([place[label] for label in self._trials.known], np.int64)
        table = self._session_table(trials, appeared, bounds, options)
        if table is not None:
            trains.tables["trials"] = table
            trains.notes.append(
                f"Spike times lie between `{bounds[0]}` and `{bounds[1]}`: they are times of the session."
            )
            return
        self._refuse_going_on(np.argsort(appeared))
        lay_trials_end_to_end(trains, trials.columns, len(labels), options)
        assert trains.trial_offset_s is not None
        trains.trial_offset_of_spikes_s = trains.trial_offset_s[appeared]

    def _tell_outside(self, trains: SpikeTrains) -> None:
        """Warn of spikes of trials outside `trials.ids`; reject the file if these are most spikes."""
        if not self._outside or self._range is None:
            return
        number, first_and_last = sum(self._outside.values()), list(self._range)
        said = (
            f"trials.ids is {first_and_last}, and {number} spikes have the trial ids {listed(self._outside)}"
        )
        hint = "Give the first id and the last of all trials."
        if number > self._times.total:
            said += f", more than the {self._times.total} of these trials."
            raise rejected("trial_ids_outside", said, hint, "/trials/ids")
        said += ": these spikes were left out."
        trains.warnings.append(
            Problem("spikes_outside_trials_ids", said, f"If they are of trials: {hint}", "/trials/ids")
        )

    def _session_table(
        self,
        trials: TrialIds,
        appeared: NDArray[np.int64],
        bounds: tuple[str | None, str | None],
        options: DatasetOptions,
    ) -> TrialTable | None:
        """Return the table of trials on the session's clock if all spikes lie between the start and stop of their trials."""
        start, stop = bounds
        if start is None or stop is None or not {start, stop} <= set(trials.columns) or len(appeared) < 2:
            return None
        try:
            start_s, stop_s = (column_seconds(trials.columns[name], options, name) for name in (start, stop))
        except RejectedFile:
            return None  # they are no times, or of no known unit: then they are metadata
        starts_s, stops_s = start_s[appeared], stop_s[appeared]
        spiking = self._last_s >= self._first_s
        inside = (self._first_s >= starts_s - _TOLERANCE_S) & (self._last_s <= stops_s + _TOLERANCE_S)
        if not inside[spiking].all() or len(np.unique(starts_s)) < len(starts_s):
            return None
        columns = {name: values for name, values in trials.columns.items() if name not in bounds}
        return TrialTable(start_s, stop_s, columns)

    def _refuse_going_on(self, order: NDArray[np.int64]) -> None:
        """Reject times that continue from trial to trial."""
        first_s, last_s = self._first_s[order], self._last_s[order]
        often = self._times.total >= _SPIKES_TO_TELL * len(order)
        if len(order) < _FEWEST_TRIALS_TO_TELL or not often or not (first_s[1:] > last_s[:-1]).all():
            return
        said = (
            f"Spike times continue from trial to trial, from {first_s[0]:g} to {last_s[0]:g} s in the first and from "
            f"{first_s[1]:g} to {last_s[1]:g} s in the second: expected times that count from each trial's beginning."
        )
        hint = (
            "Subtract from each time that of its trial's beginning, or of the event it is aligned to; or give columns of one "
            "value for each trial, `trial_start` and `trial_stop`, on the same clock."
        )
        raise rejected("trial_times_go_on", said, hint, "/spike_times")
