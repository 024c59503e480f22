"""First pass over a table: its labels, the columns that are constant for each label, and where bins lie."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from worker.ingest.problems import rejected
from worker.ingest.readers.tables.table import Batch, LabelColumn
from worker.ingest.recording import MetadataValue
from worker.ingest.spike_columns import Labels

_MOST_CONSTANTS = 50_000_000
_MOST_VALUES = 1_000_000
_FEWEST_TRIALS_TO_TELL = 3
_EVEN = 0.25
"""Tolerance in bins: a time further away from the start of a bin is not the time of a bin."""


def codes_of_rows(labels: Labels, column: LabelColumn) -> NDArray[np.int64]:
    """Return the number of each row's label; -1 where the row has none."""
    values, indices = column
    return np.append(labels.codes_of_values(values), -1)[indices]


class Constants:
    """Finds the columns with one value in all rows of a trial (or of a neuron).

    Parameters
    ----------
    names
        Columns of numbers or labels.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._first = {name: np.zeros(0) for name in names}
        self._known: dict[str, dict[MetadataValue, int]] = {}
        self._seen = np.zeros(0, bool)

    @property
    def names(self) -> list[str]:
        """Return the columns that are constant so far."""
        return list(self._first)

    def drop(self, name: str) -> None:
        """Stop checking a column."""
        self._first.pop(name, None)

    def add(self, codes: NDArray[np.int64], batch: Batch, rows: NDArray[np.bool_]) -> None:
        """Add some rows of a batch; `codes` numbers the trial (or neuron) of each row from 0."""
        codes = codes[rows]
        if len(codes) == 0 or not self._first:
            return
        self._grow(int(codes.max()) + 1)
        groups, first = np.unique(codes, return_index=True)
        fresh = ~self._seen[groups]
        for name in list(self._first):
            values = batch.numbers.get(name)
            values = self._numbered(name, batch.labels[name]) if values is None else values
            if values is None:
                del self._first[name]
                continue
            values = values[rows]
            stored = self._first[name]
            stored[groups[fresh]] = values[first[fresh]]
            of_rows = stored[codes]
            if not ((of_rows == values) | (np.isnan(of_rows) & np.isnan(values))).all():
                del self._first[name]
        self._seen[groups] = True

    def values(self, name: str) -> list[MetadataValue]:
        """Return the value of each trial (or neuron), by its number."""
        stored = self._first[name]
        if name in self._known:
            texts = list(self._known[name])
            return [None if np.isnan(number) else texts[int(number)] for number in stored.tolist()]
        finite = stored[np.isfinite(stored)]
        whole = bool((finite == np.trunc(finite)).all() and (np.abs(finite) < 2**53).all())
        return [
            None if not np.isfinite(value) else int(value) if whole else value for value in stored.tolist()
        ]

    def _numbered(self, name: str, column: LabelColumn) -> NDArray[np.float64] | None:
        """Return the values of a label column as numbers; None if there are too many different ones."""
        values, indices = column
        known = self._known.setdefault(name, {})
        numbers = [np.nan if value is None else known.setdefault(value, len(known)) for value in values]
        return None if len(known) > _MOST_VALUES else np.array([*numbers, np.nan], np.float64)[indices]

    def _grow(self, number: int) -> None:
        if number <= len(self._seen):
            return
        number = max(number, 2 * len(self._seen))
        if number * len(self._first) > _MOST_CONSTANTS:
            said = f"{len(self._first)} columns seem to be metadata of {number} trials: too many."
            hint = (
                "Name the columns to keep with mapping.trial_metadata, and behaviours with mapping.behaviour."
            )
            raise rejected("too_many_columns", said, hint, "/mapping/trial_metadata")
        for name, stored in self._first.items():
            self._first[name] = np.concatenate([stored, np.full(number - len(stored), np.nan)])
        self._seen = np.concatenate([self._seen, np.zeros(number - len(self._seen), bool)])


class Clock:
    """Finds where the bins of each trial lie on a column of bins or times.

    Parameters
    ----------
    step
        Step from one bin to the next; by default determined from the values.
    """

    def __init__(self, step: float | None = None) -> None:
        self._given = step
        self.first, self.last = np.zeros(0), np.zeros(0)
        self.rows = np.zeros(0, np.int64)
        self._shortest, self._sum, self._number = np.inf, 0.0, 0

    def add(self, trials: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Add clock values of rows of some trials, numbered from 0."""
        if len(trials) == 0:
            return
        self.extend(int(trials.max()) + 1)
        np.minimum.at(self.first, trials, values)
        np.maximum.at(self.last, trials, values)
        np.add.at(self.rows, trials, 1)
        if self._given is None:
            self._measure(trials, values)

    def extend(self, trials: int) -> None:
        """Extend to at least `trials` trials; some may have no row."""
        more = trials - len(self.first)
        if more > 0:
            self.first = np.concatenate([self.first, np.full(more, np.inf)])
            self.last = np.concatenate([self.last, np.full(more, -np.inf)])
            self.rows = np.concatenate([self.rows, np.zeros(more, np.int64)])

    def _measure(self, trials: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        order = np.lexsort((values, trials))
        steps = np.diff(values[order])[np.diff(trials[order]) == 0]
        steps = steps[steps > 1e-9 * max(1.0, float(np.abs(values).max()))]
        if len(steps) == 0:
            return
        shortest = float(steps.min())
        if shortest < self._shortest / 1.5:
            self._sum, self._number = 0.0, 0
        self._shortest = min(self._shortest, shortest)
        near = steps[steps < 1.5 * self._shortest]
        self._sum, self._number = self._sum + float(near.sum()), self._number + len(near)

    @property
    def step(self) -> float | None:
        """Return the step from one bin to the next; None if no trial has two bins."""
        if self._given is not None:
            return self._given
        return float(f"{self._sum / self._number:.6g}") if self._number else None

    def goes_on(self, order: NDArray[np.int64]) -> bool:
        """Return whether the clock continues from trial to trial rather than restarting in each.

        Parameters
        ----------
        order
            Numbers of the trials in their order.
        """
        first, last = self.first[order], self.last[order]
        return len(order) >= _FEWEST_TRIALS_TO_TELL and bool((first[1:] > last[:-1]).all())

    def bins_from(
        self, start: NDArray[np.float64], trials: NDArray[np.int64], values: NDArray[np.float64], name: str
    ) -> NDArray[np.int64]:
        """Return the bin of each row, from 0.

        Parameters
        ----------
        start : float64, [trials]
            Clock value of the first bin of each trial.
        trials, values, name
            Trial and value of each row; the column's name, for messages.

        Raises
        ------
        RejectedFile
            If a value lies between bins.
        """
        step = self.step or 1.0
        exact = (values - start[trials]) / step
        bins = np.rint(exact)
        off = np.abs(exact - bins) > _EVEN
        if off.any():
            value, earlier = float(values[off][0]), float((start[trials] + np.floor(exact) * step)[off][0])
            said = f"`{name}` is not evenly spaced: {value:g} lies between {earlier:g} and {earlier + step:g} (step {step:g})."
            hint = "Give each bin's number from 0 in a column `bin`, or times in equal steps; spikes need a column of neurons."
            raise rejected("bins_uneven", said, hint, f"/{name}")
        return bins.astype(np.int64)
