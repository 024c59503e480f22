"""Which trial metadata tells the experimental conditions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.ingest.recording import MetadataValue, Recording

NAMES = ("condition", "direction", "target", "stimulus", "stim", "cue", "type", "angle", "choice", "outcome")
"""Words in the names of metadata that tell conditions, the likeliest first."""
MOST_UNNAMED = 12
"""Metadata of another name are conditions if they have 2 to this many values."""
NO_CONDITIONS = frozenset(
    {"split", "segment", "segment_first_bin", "start_time", "stop_time", "session", "trial"}
)


@dataclass(frozen=True)
class Conditions:
    """The condition of each trial.

    Attributes
    ----------
    name
        Of the metadata.
    values
        The conditions, in order.
    code : int64, [trials]
        Index into `values`; -1 where it is missing.
    trials : int64, [conditions]
        How many trials each has.
    """

    name: str
    values: list[MetadataValue]
    code: NDArray[np.int64]
    trials: NDArray[np.int64]


def find_conditions(recording: Recording) -> Conditions | None:
    """Find the metadata that most look like conditions.

    Those named so go first; of others, those with the fewest values. Every value must have two trials or more on average, so
    that an identifier or a time is none.

    Returns
    -------
    Conditions or None
        None if no metadata look like it.
    """
    found: list[tuple[int, int, str]] = []
    for name, column in recording.trial_metadata.items():
        distinct = len(set(column) - {None})
        rank = _rank(name)
        is_few = rank < 2 * len(NAMES) or distinct <= MOST_UNNAMED
        if name.lower() not in NO_CONDITIONS and distinct >= 2 and is_few and 2 * distinct <= len(column):
            found.append((rank, distinct, name))
    if not found:
        return None
    name = min(found)[2]
    return _encode(name, recording.trial_metadata[name])


def _rank(name: str) -> int:
    lower = name.lower()
    exact = (place for place, word in enumerate(NAMES) if lower in (word, word + "s", word + "_id"))
    part = (len(NAMES) + place for place, word in enumerate(NAMES) if word in lower)
    return min([*exact, *part], default=2 * len(NAMES))


def _encode(name: str, column: Sequence[MetadataValue]) -> Conditions:
    counts = Counter(value for value in column if value is not None)
    values = sorted(counts, key=_order)
    places = {value: place for place, value in enumerate(values)}
    code = [-1 if value is None else places[value] for value in column]
    return Conditions(name, list(values), np.array(code, np.int64), np.array([counts[v] for v in values]))


def _order(value: Any) -> tuple[bool, float, str]:
    is_text = isinstance(value, str)
    return is_text, 0.0 if is_text else float(value), str(value)
