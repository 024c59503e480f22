"""Find the trial metadata that define the experimental conditions: one rule for the report, the API and the scores."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from domain.scores.baselines import NO_CONDITION

Condition = int | float | str | None
"""The condition of a trial; None where it is not known."""

CONDITION = "condition"
"""The usual name of the conditions. If no metadata have this name, it means the metadata that most likely define them."""

NAMES = (CONDITION, "direction", "target", "stimulus", "stim", "cue", "type", "angle", "choice", "outcome")
"""Words in the names of metadata that define conditions, the most likely first."""
MOST_UNNAMED = 12
"""Metadata with another name count as conditions if they have from 2 to this many values."""
NO_CONDITIONS = frozenset(
    {"split", "segment", "segment_first_bin", "start_time", "stop_time", "session", "trial"}
)


def condition_names(columns: Mapping[str, Sequence[object]]) -> list[str]:
    """Return the names of metadata that look like conditions, the most likely first.

    Names in `NAMES` come first, then the names with the fewest values. There must be at least two trials per value on average,
    which excludes identifiers and times. For metadata named `condition`, it is enough that one value has two trials.

    Parameters
    ----------
    columns
        For each name, the value of each trial; None where it is missing.
    """
    found: list[tuple[int, int, str]] = []
    for name, column in columns.items():
        distinct = len({value for value in column if isinstance(value, str | int | float)})
        rank = _rank(name)
        most = len(column) - 1 if rank == 0 else len(column) // 2
        if rank == 2 * len(NAMES):
            most = min(most, MOST_UNNAMED)
        if name.lower() not in NO_CONDITIONS and 2 <= distinct <= most:
            found.append((rank, distinct, name))
    return [name for *_, name in sorted(found)]


def condition_names_of_trials(details: Sequence[Mapping[str, object]]) -> list[str]:
    """Return `condition_names` of the metadata of each trial."""
    names = dict.fromkeys(name for one in details for name in one)
    return condition_names({name: [one.get(name) for one in details] for name in names})


def number_conditions(conditions: Sequence[Condition]) -> dict[int | float | str, int]:
    """Return a number for each condition, in the order of their first trials."""
    known = dict.fromkeys(one for one in conditions if one is not None)
    return {condition: number for number, condition in enumerate(known)}


def condition_numbers(
    numbers: Mapping[int | float | str, int], conditions: Sequence[Condition]
) -> NDArray[np.int64]:
    """Return the number of each trial's condition, int64 [trials]; `NO_CONDITION` where it is unknown or has no number."""
    found = [NO_CONDITION if one is None else numbers.get(one, NO_CONDITION) for one in conditions]
    return np.array(found, np.int64)


def _rank(name: str) -> int:
    lower = name.lower()
    exact = (place for place, word in enumerate(NAMES) if lower in (word, word + "s", word + "_id"))
    part = (len(NAMES) + place for place, word in enumerate(NAMES) if word in lower)
    return min([*exact, *part], default=2 * len(NAMES))
