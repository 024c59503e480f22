"""The sessions of a data set: recordings of different neurons that one model is trained on together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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


def largest_read_in(sessions: Sequence[RecordedSession]) -> int:
    """The largest read-in that can begin with principal components: averages have no more of them."""
    return min(sum(session.neurons for session in sessions), min(session.bins for session in sessions))
