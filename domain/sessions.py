"""The sessions of a data set: recordings of different neurons on which one model is trained."""

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
    """One recording of one set of neurons within a data set.

    Parameters
    ----------
    dataset_id
        The data set of this session alone.
    trials, bins, neurons
        Sizes of the session. A data set of several sessions has as many bins as its longest session.
    first_trial
        Index of the session's first trial in the data set.
    suffix
        Suffix of the names of its arrays and dims: ``_0``, ``_1``, …; empty if the session is the only one.
    """

    dataset_id: str
    trials: int
    bins: int
    neurons: int
    first_trial: int = 0
    suffix: str = ""

    @property
    def rows(self) -> slice:
        """The trials of the session in the data set."""
        return slice(self.first_trial, self.first_trial + self.trials)

    def named(self, name: str) -> str:
        """Return the name of an array or dim of the session, such as ``spikes`` or ``spikes_1``."""
        return name + self.suffix


def sessions_in(report: Mapping[str, Any] | None) -> list[RecordedSession]:
    """Return the sessions in the report of a combined data set; an empty list for any other data set."""
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
    """Return the largest read-in that can be initialised by principal components: trial averages have no more components."""
    return min(sum(session.neurons for session in sessions), min(session.bins for session in sessions))
