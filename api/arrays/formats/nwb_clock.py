"""When the trials of an NWB file begin: in the session where that is known, else end to end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from api.arrays.formats.base import Context
from api.arrays.labelled import LabelledArray
from api.arrays.provenance import TrialFacts

END_TO_END = "When trials began in the session is not known: they are laid end to end in their order, the first at 0 s."
IN_SESSION = "Seconds are those of the session."


@dataclass(frozen=True)
class Clock:
    """The trials of a file, and when each begins.

    Attributes
    ----------
    trials : int, [n]
        Their indices in the user's order.
    start_s, duration_s : float, [n]
        When each one's first bin begins, and how long it was recorded.
    facts
        What the database knows of each; None for one that it does not know.
    is_of_session
        Whether starts are true ones.
    is_ordered
        Whether each trial begins after the one before it has ended, so that all of them make one series.
    """

    trials: NDArray[np.int64]
    start_s: NDArray[np.float64]
    duration_s: NDArray[np.float64]
    facts: list[TrialFacts | None]
    is_of_session: bool
    is_ordered: bool

    def places(self, trials: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where some trials are among those of the file."""
        order = np.argsort(self.trials, kind="stable")
        return order[np.searchsorted(self.trials[order], trials)]


def trial_dim(array: LabelledArray) -> str | None:
    """The dim of an array along which its trials are: ``trial``, or ``trial_1`` of the second of several sessions."""
    first = array.dims[0] if array.dims else ""
    return first if first == "trial" or (first.startswith("trial_") and first[6:].isdigit()) else None


def trials_of(array: LabelledArray) -> NDArray[np.int64]:
    """The trials that are the rows of an array, by index in the user's order."""
    index = array.index(array.dims[0])
    return np.arange(array.shape[0]) if index is None else index.values.astype(np.int64)


def read_clock(arrays: Sequence[LabelledArray], context: Context) -> Clock | None:
    """When the trials of some arrays begin; None if no array has trials."""
    of_trials = [trials_of(array) for array in arrays if trial_dim(array) is not None]
    if not of_trials:
        return None
    joined = np.concatenate(of_trials)
    _, first = np.unique(joined, return_index=True)
    trials = joined[np.sort(first)]
    known = context.origin.trials()
    facts = [known[trial] if 0 <= trial < len(known) else None for trial in trials.tolist()]
    width, bins = context.origin.bin_width_s, _most_bins(arrays)
    duration_s = np.array([bins if one is None else one.length_bins for one in facts], np.float64) * width
    starts = context.origin.trial_start_s()
    if starts is None or len(starts) < len(known) or None in facts or not np.isfinite(starts[trials]).all():
        start_s = np.cumsum(duration_s) - duration_s
        return Clock(trials, start_s, duration_s, facts, is_of_session=False, is_ordered=True)
    start_s = starts[trials]
    ordered = bool((start_s[1:] >= start_s[:-1] + duration_s[:-1] - width / 2).all())
    return Clock(trials, start_s, duration_s, facts, is_of_session=True, is_ordered=ordered)


def _most_bins(arrays: Sequence[LabelledArray]) -> int:
    return max((array.shape[1] for array in arrays if array.dims[1:2] == ("time_s",)), default=0)
