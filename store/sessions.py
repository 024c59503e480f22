"""The sessions of a data set: recordings of different neurons that one model is trained on together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # not at run time: the process that reads files loads no database and no zarr
    from sqlalchemy.orm import Session

    from store.arrays import NamedArray
    from store.tables import Dataset


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


def sessions_of(dataset: "Dataset") -> list[RecordedSession]:
    """The sessions of a data set that is ready, in order; an ordinary one is the only one of its own."""
    alone = RecordedSession(dataset.id, dataset.trials or 0, dataset.bins or 0, dataset.neurons or 0)
    return sessions_in(dataset.report) or [alone]


def sessions_in(report: Mapping[str, Any] | None) -> list[RecordedSession]:
    """The sessions that the report of a combined data set tells; none in that of another."""
    found: list[RecordedSession] = []
    first_trial = 0
    for number, told in enumerate((report or {}).get("sessions", [])):
        sizes = {name: int(told[name]) for name in ("trials", "bins", "neurons")}
        found.append(
            RecordedSession(told["dataset_id"], **sizes, first_trial=first_trial, suffix=f"_{number}")
        )
        first_trial += sizes["trials"]
    return found


def neurons_per_trial(dataset: "Dataset") -> int:
    """Neurons of a trial's own session, the mean over trials: what a trial costs."""
    sessions = sessions_of(dataset)
    trials = sum(session.trials for session in sessions)
    if len(sessions) == 1 or trials == 0:
        return dataset.neurons or 0
    return round(sum(session.trials * session.neurons for session in sessions) / trials)


def largest_read_in(sessions: Sequence[RecordedSession]) -> int:
    """The largest read-in that can begin with principal components: averages have no more of them."""
    return min(sum(session.neurons for session in sessions), min(session.bins for session in sessions))


def session_coordinates(sessions: Sequence[RecordedSession]) -> "list[NamedArray]":
    """Neurons of each session; where there are several, also which trials are whose."""
    from store.arrays import NamedArray

    coordinates = [
        NamedArray(
            one.named("neuron"),
            np.arange(one.neurons),
            (one.named("neuron"),),
            "",
            "index in the order given",
        )
        for one in sessions
    ]
    if len(sessions) == 1:
        return coordinates
    for one in sessions:
        rows = np.arange(one.rows.start, one.rows.stop)
        described = "index among the trials of all sessions"
        coordinates.append(NamedArray(one.named("trial"), rows, (one.named("trial"),), "", described))
    of_trials = np.repeat(np.arange(len(sessions)), [one.trials for one in sessions])
    return [*coordinates, NamedArray("session", of_trials, ("trial",), "", "session that the trial is of")]


def recordings_of(session: "Session", dataset: "Dataset") -> set[str]:
    """Return what the trials of a data set come from: files by their digests, synthetic data sets by their ids."""
    rows = (session.get(type(dataset), recorded.dataset_id) for recorded in sessions_of(dataset))
    return {row.original or row.id for row in rows if row is not None}
