"""Find the trial metadata that holds the experimental conditions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.conditions import condition_names
from worker.ingest.recording import MetadataValue, Recording


@dataclass(frozen=True)
class Conditions:
    """The condition of each trial.

    Attributes
    ----------
    name
        Name of the metadata.
    values
        The conditions, in order.
    code : int64, [trials]
        Index into `values`; -1 where it is missing.
    trials : int64, [conditions]
        Number of trials of each.
    alternatives
        Other metadata that look like conditions.
    """

    name: str
    values: list[MetadataValue]
    code: NDArray[np.int64]
    trials: NDArray[np.int64]
    alternatives: tuple[str, ...]


def find_conditions(recording: Recording) -> Conditions | None:
    """Return the trial metadata that look most like conditions (see `domain.conditions`), or None."""
    found = condition_names(recording.trial_metadata)
    return _encode(found[0], recording.trial_metadata[found[0]], tuple(found[1:])) if found else None


def _encode(name: str, column: Sequence[MetadataValue], alternatives: tuple[str, ...]) -> Conditions:
    counts = Counter(value for value in column if value is not None)
    values = sorted(counts, key=_order)
    places = {value: place for place, value in enumerate(values)}
    code = [-1 if value is None else places[value] for value in column]
    trials = np.array([counts[value] for value in values])
    return Conditions(name, list(values), np.array(code, np.int64), trials, alternatives)


def _order(value: Any) -> tuple[bool, float, str]:
    is_text = isinstance(value, str)
    return is_text, 0.0 if is_text else float(value), str(value)
