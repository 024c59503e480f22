"""The time axis of an array: where it is, and how wide its bins are."""

import re
from dataclasses import dataclass

import numpy as np

from api.arrays.labelled import LabelledArray
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.wording import listed, refusal

_DIM = re.compile(r"time_s|continuous_time_s(_[0-9]+)?")
_TOLERANCE = 1e-3
"""Of a bin width, by which the times of bins may be off."""


@dataclass(frozen=True)
class TimeAxis:
    """The time axis of an array.

    Attributes
    ----------
    axis
        Its place.
    dim
        Its name.
    bins
        How many there are.
    start_s
        When the first begins.
    width_s
        How long each is; they follow each other without a gap.
    """

    axis: int
    dim: str
    bins: int
    start_s: float
    width_s: float


def time_dim(array: LabelledArray) -> str | None:
    """Name of the time axis; None without one."""
    return next((dim for dim in array.dims if _DIM.fullmatch(dim)), None)


def bin_width_s(array: LabelledArray, surroundings: Surroundings) -> float | None:
    """Width of the array's bins: of its own if it was rebinned, else of all arrays of its group."""
    group = surroundings.group.open(surroundings.store)
    width_s = array.attributes.get("bin_width_s", group.attrs.get("bin_width_s"))
    return float(width_s) if isinstance(width_s, int | float) and width_s > 0 else None


def time_axis(array: LabelledArray, surroundings: Surroundings, parameter: str) -> TimeAxis:
    """The time axis of an array whose bins follow each other.

    Raises
    ------
    Invalid
        If it has none, or bins are missing between others.
    """
    dim = time_dim(array)
    index = None if dim is None else array.index(dim)
    width_s = bin_width_s(array, surroundings)
    if dim is None or index is None or width_s is None:
        raise refusal(
            parameter,
            f"expected an array with a time axis; {array.name} has the axes {listed(array.dims)}",
            "a range keeps the axis: slice=:,0:1",
        )
    if not len(index.values):
        raise refusal(parameter, f"no bin of {array.name} is selected")
    if (np.abs(np.diff(index.values) - width_s) > _TOLERANCE * width_s).any():
        raise refusal(
            parameter,
            f"expected bins of {width_s:g} s that follow each other; between those selected others are left out",
            "select a range of time without a step; of a continuous recording, one stretch",
        )
    return TimeAxis(array.dims.index(dim), dim, len(index.values), float(index.values[0]), width_s)
