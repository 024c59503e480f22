"""Which trial metadata are the experimental conditions: one rule for the report, the API and the scores."""

from collections.abc import Mapping, Sequence

CONDITION = "condition"
"""Name of the conditions; it stands for the likeliest metadata where the trials have none of this name."""

NAMES = (CONDITION, "direction", "target", "stimulus", "stim", "cue", "type", "angle", "choice", "outcome")
"""Words in the names of metadata that tell conditions, the likeliest first."""
MOST_UNNAMED = 12
"""Metadata of another name are conditions if they have 2 to this many values."""
NO_CONDITIONS = frozenset(
    {"split", "segment", "segment_first_bin", "start_time", "stop_time", "session", "trial"}
)


def condition_names(columns: Mapping[str, Sequence[object]]) -> list[str]:
    """Return the names of metadata that look like conditions, the likeliest first.

    Those in `NAMES` go first, then those with the fewest values. A value must have at least two trials on average, so that an
    identifier or a time is not taken; of metadata named `condition`, one value must have two trials.

    Parameters
    ----------
    columns
        By name: the value of each trial, None where it is missing.
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


def _rank(name: str) -> int:
    lower = name.lower()
    exact = (place for place, word in enumerate(NAMES) if lower in (word, word + "s", word + "_id"))
    part = (len(NAMES) + place for place, word in enumerate(NAMES) if word in lower)
    return min([*exact, *part], default=2 * len(NAMES))
