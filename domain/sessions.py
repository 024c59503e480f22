"""The sessions of a data set: recordings of different neurons that one model is trained on together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class DescribedDataset(Protocol):
    """What rules need to know of a data set's row. Sizes are None before the data set is ready."""

    @property
    def id(self) -> str:
        """Identifier of the data set."""

    @property
    def trials(self) -> int | None:
        """Number of trials."""

    @property
    def bins(self) -> int | None:
        """Bins of the longest trial."""

    @property
    def neurons(self) -> int | None:
        """Neurons of all sessions."""

    @property
    def report(self) -> Mapping[str, Any] | None:
        """Report of the ingest, see docs/report.md."""


@dataclass(frozen=True)
class RecordedSession:
    """One recording of one set of neurons, as it lies in a data set.

    Parameters
    ----------
    dataset_id
        The data set that it is by itself.
    trials, bins, neurons
        Its own numbers; a data set of several sessions has as many bins as the longest.
    first_trial
        Where its trials begin among those of the data set.
    suffix
        What the names of its arrays and dims end with: nothing where it is the only one, else ``_0``, ``_1``, …
    """

    dataset_id: str
    trials: int
    bins: int
    neurons: int
    first_trial: int = 0
    suffix: str = ""

    @property
    def rows(self) -> slice:
        """Its trials among those of the data set."""
        return slice(self.first_trial, self.first_trial + self.trials)

    def named(self, name: str) -> str:
        """Name of one of its arrays or dims, such as ``spikes`` or ``spikes_1``."""
        return name + self.suffix


def sessions_in(report: Mapping[str, Any] | None) -> list[RecordedSession]:
    """Return the sessions that the report of a combined data set names; none for any other data set."""
    found: list[RecordedSession] = []
    first_trial = 0
    for number, told in enumerate((report or {}).get("sessions", [])):
        sizes = {name: int(told[name]) for name in ("trials", "bins", "neurons")}
        found.append(
            RecordedSession(told["dataset_id"], **sizes, first_trial=first_trial, suffix=f"_{number}")
        )
        first_trial += sizes["trials"]
    return found


def sessions_of(dataset: DescribedDataset) -> list[RecordedSession]:
    """Return the sessions of a data set that is ready, in order; a data set that is not combined is its own only session."""
    alone = RecordedSession(dataset.id, dataset.trials or 0, dataset.bins or 0, dataset.neurons or 0)
    return sessions_in(dataset.report) or [alone]


def neurons_per_trial(dataset: DescribedDataset) -> int:
    """Return the mean over trials of the neurons in a trial's own session: what a trial costs."""
    sessions = sessions_of(dataset)
    trials = sum(session.trials for session in sessions)
    if len(sessions) == 1 or trials == 0:
        return dataset.neurons or 0
    return round(sum(session.trials * session.neurons for session in sessions) / trials)


def largest_read_in(sessions: Sequence[RecordedSession]) -> int:
    """Return the largest size of a read-in that can begin with principal components of the averages."""
    return min(sum(session.neurons for session in sessions), min(session.bins for session in sessions))
