"""Spikes that came one by one, each with the label of its neuron and perhaps of its trial."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.dataset_options import DatasetOptions
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.recording import MetadataValue
from worker.ingest.spike_trains import SpikeTimes, SpikeTrains, lay_trials_end_to_end

MOST_NEURONS = 20_000
MOST_TRIALS = 1_000_000


class _Labels:
    """Numbers labels by their first appearance."""

    def __init__(self, what: str, most: int) -> None:
        self._what, self._most = what, most
        self.known: dict[int | str, int] = {}

    def codes(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """The number of each label; whole floats count as whole numbers."""
        if labels.dtype.kind == "f":
            whole = labels.astype(np.int64)
            if not (whole == labels).all():
                said = f"The {self._what} of some spikes is no whole number, such as {labels[whole != labels][0]!r}."
                hint = f"Give whole numbers or names for the {self._what} of each spike."
                raise RejectedFile(Problem("label_not_whole", said, hint, f"/mapping/{self._what}"))
            labels = whole
        unique, inverse = np.unique(labels, return_inverse=True)
        numbers = np.array(
            [self.known.setdefault(label, len(self.known)) for label in unique.tolist()], np.int64
        )
        if len(self.known) > self._most:
            said = f"There are more than {self._most} different values in the column of the {self._what}."
            hint = f"Check which column is the {self._what}: mapping.{self._what} names it."
            raise RejectedFile(Problem(f"too_many_{self._what}s", said, hint, f"/mapping/{self._what}"))
        return numbers[inverse] if len(numbers) else np.zeros(0, np.int64)

    def ordered(self, fill_gaps: bool) -> list[int | str]:
        """All labels in order; whole numbers with those between if gaps are filled, from 0 or 1 (or the lowest)."""
        numbers = [label for label in self.known if isinstance(label, int)]
        if len(numbers) < len(self.known):
            return sorted(self.known, key=str)
        if not fill_gaps or not numbers:
            return sorted(numbers)
        first = min(numbers) if min(numbers) < 0 else min(min(numbers), 1)
        if max(numbers) - first >= self._most:
            return sorted(numbers)
        return list(range(first, max(numbers) + 1))


class SpikeColumns:
    """Gathers spikes that came one by one, block by block.

    Parameters
    ----------
    by_trial
        Whether each spike comes with a trial, and its time is from the trial's beginning.
    """

    def __init__(self, by_trial: bool) -> None:
        self._by_trial = by_trial
        self._times = SpikeTimes()
        self._neurons, self._trials = _Labels("neuron", MOST_NEURONS), _Labels("trial", MOST_TRIALS)
        self.left_out = 0
        """Spikes without a time."""

    def add(
        self, times_s: NDArray[np.float64], neurons: NDArray[Any], trials: NDArray[Any] | None = None
    ) -> None:
        """Take in spikes.

        Parameters
        ----------
        times_s : float64, [spikes]
            In seconds.
        neurons, trials : whole numbers or text, [spikes]
            The label of each.
        """
        self.left_out += int(np.count_nonzero(~np.isfinite(times_s)))
        codes = None if trials is None else self._trials.codes(trials)
        self._times.add(times_s, self._neurons.codes(neurons), codes)

    @property
    def trial_labels(self) -> list[int | str]:
        """Labels of the trials in the order that `finish` gives them, those numbered between others too."""
        return self._trials.ordered(fill_gaps=True)

    def finish(
        self,
        source_format: str,
        options: DatasetOptions,
        trial_columns: dict[str, list[MetadataValue]] | None = None,
        neurons: Iterable[int | str] = (),
    ) -> SpikeTrains:
        """Give the trains: neurons in the order of their labels, trials too; those numbered between others are empty trials.

        Parameters
        ----------
        source_format
            Format of the file.
        options
            As for `lay_trials_end_to_end`.
        trial_columns
            Metadata of all trials; their number is that of the trials.
        neurons
            Labels that may have no spike.
        """
        for label in neurons:
            self._neurons.known.setdefault(label, len(self._neurons.known))
        labels = self._neurons.ordered(fill_gaps=False)
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
            self._lay_out_trials(trains, dict(trial_columns or {}), options)
        return trains

    def _lay_out_trials(
        self, trains: SpikeTrains, columns: dict[str, list[MetadataValue]], options: DatasetOptions
    ) -> None:
        labels = self._trials.ordered(fill_gaps=True)
        given = {len(values) for values in columns.values()}
        number = given.pop() if len(given) == 1 else len(labels)
        number = max(number, len(labels))
        columns = {name: [*values, *[None] * (number - len(values))] for name, values in columns.items()}
        extra = [None] * (number - len(labels))
        columns.setdefault("trial_id", [*labels, *extra])
        empty = number - len(self._trials.known)
        if empty:
            trains.notes.append(f"{empty} of {number} trials have no spike.")
        lay_trials_end_to_end(trains, columns, number, options)
        # Spikes carry the number under which their trial first appeared.
        place = {label: index for index, label in enumerate(labels)}
        appeared = np.array([place[label] for label in self._trials.known], np.int64)
        assert trains.trial_offset_s is not None
        trains.trial_offset_of_spikes_s = trains.trial_offset_s[appeared]
