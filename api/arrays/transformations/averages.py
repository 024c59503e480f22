"""Averages over the trials of each condition: peri-stimulus time histograms, and condition-averaged latents."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from api.arrays.axes import column, floating, splits_of_trials, trials_of
from api.arrays.groups import ReadContext
from api.arrays.labelled import Coordinate, LabelledArray, flags_of
from api.arrays.messages import described, invalid_parameter
from api.arrays.trial_conditions import condition_name
from domain.errors import listed
from domain.moments import GroupedMoments

Statistic = Literal["mean", "sem", "count", "std"]

_BESIDE: tuple[Statistic, ...] = ("mean", "sem", "count")
_MOST_ELEMENTS = 2**25
"""Most elements of an average: several times the 108 conditions × 180 bins × 182 neurons of a large public data set."""
_ELEMENTS_IN_MEMORY = 2**20
_DESCRIBED = {
    "mean": "mean over the trials of each condition",
    "sem": "standard error over the trials of each condition",
    "std": "standard deviation over the trials of each condition",
    "count": "number of trials of each condition that have a value",
}

Value = int | float | str | bool | None


def average(
    array: LabelledArray, names: str, statistic: Statistic, context: ReadContext
) -> tuple[LabelledArray, ...]:
    """Return statistics over the trials of each condition. NaN is left out bin by bin.

    Parameters
    ----------
    array
        Trials × ….
    names
        Metadata of trials, or ``split``. Of several names, separated by commas, every combination that occurs is a condition.
        A trial without a value belongs to no condition.
    statistic
        The statistic that comes first; the others of mean, standard error and count follow.
    context
        Context of the request.

    Raises
    ------
    Invalid
        If rows are no trials, there is no such metadata, or there are too many conditions.
    """
    trials = trials_of(array, "average")
    wanted = _names(names, array, context)
    labels = [_labels(name, trials, context) for name in wanted]
    per_trial: list[tuple[Value, ...] | None] = [
        None if any(value is None for value in values) else values for values in zip(*labels, strict=True)
    ]
    conditions = sorted({one for one in per_trial if one is not None}, key=_order)
    elements = len(conditions) * int(np.prod(array.shape[1:], dtype=np.int64))
    if elements > _MOST_ELEMENTS:
        raise invalid_parameter(
            "average",
            f"{len(conditions)} conditions by {names} would be {elements} averages; expected at most {_MOST_ELEMENTS}",
            "average by metadata with fewer values, or select fewer bins or features",
        )
    code_of = {condition: code for code, condition in enumerate(conditions)}
    codes = np.array([-1 if one is None else code_of[one] for one in per_trial], np.int64)
    dim = "_".join(_plain(name) for name in wanted)
    found = _Statistics(floating(array), codes, len(conditions))
    of_conditions = [
        _coordinate(name, dim, [condition[place] for condition in conditions])
        for place, name in enumerate(wanted)
    ]
    number = np.bincount(codes[codes >= 0], minlength=len(conditions))
    first = replace(
        found.array,
        dims=(dim, *array.dims[1:]),
        shape=(len(conditions), *array.shape[1:]),
        coordinates=(
            *(one for one in array.coordinates if one.dim != array.dims[0]),
            *of_conditions,
            Coordinate("trials", dim, number, "trials", "trials of the condition"),
        ),
        attributes={
            **array.attributes,
            "averaged_by": ",".join(wanted),
            "trials_without_condition": int((codes < 0).sum()),
        },
    )
    order = (statistic, *(one for one in _BESIDE if one != statistic))
    return tuple(_of(first, one, found) for one in order)


def _of(array: LabelledArray, statistic: Statistic, found: "_Statistics") -> LabelledArray:
    is_count = statistic == "count"
    return replace(
        array,
        name=array.name if statistic == "mean" else f"{array.name}_{statistic}",
        dtype=np.dtype(np.int32) if is_count else array.dtype,
        units="trials" if is_count else array.units,
        description=described(array.description, _DESCRIBED[statistic]),
        attributes={**array.attributes, "statistic": statistic},
        blocks=lambda: found.blocks(statistic),
    )


class _Statistics:
    """The moments of each condition, computed when they are read for the first time.

    Parameters
    ----------
    array
        Trials × …, floating-point.
    codes
        Condition of each trial; negative for none.
    conditions
        Number of conditions.
    """

    def __init__(self, array: LabelledArray, codes: NDArray[np.int64], conditions: int) -> None:
        self.array, self._codes = array, codes
        self._shape = (conditions, *array.shape[1:])
        self._found: GroupedMoments | None = None

    def blocks(self, statistic: Statistic) -> Iterator[NDArray[Any]]:
        """Yield one condition after the other."""
        found = self._found = self._found or self._read()
        for group in range(self._shape[0]):
            values = _statistic(statistic, found, group)
            yield values.astype(np.int32 if statistic == "count" else self.array.dtype)[None]

    def _read(self) -> GroupedMoments:
        found = GroupedMoments(*(_zeros(self._shape, dtype) for dtype in (np.int32, np.float64, np.float64)))
        row = 0
        for block in self.array.blocks():
            found.add(block, self._codes[row : row + len(block)])
            row += len(block)
        return found


def _statistic(statistic: Statistic, of: GroupedMoments, group: int) -> NDArray[Any]:
    count = of.count[group]
    if statistic == "count":
        return np.asarray(count)
    if statistic == "mean":
        return np.where(count > 0, of.mean[group], np.nan)
    variance = of.variance(group)
    return np.asarray(np.sqrt(variance if statistic == "std" else variance / np.maximum(count, 1)))


def _zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return zeros; many of them lie in a temporary file."""
    if np.prod(shape, dtype=np.int64) <= _ELEMENTS_IN_MEMORY:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix="latentry-average-") as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def _names(text: str, array: LabelledArray, context: ReadContext) -> list[str]:
    session, dataset_id = context.session, context.group.dataset_id
    given = [part.strip() for part in text.split(",")]
    names = [condition_name(session, dataset_id, name) or name for name in given]
    if "" in names or len(set(names)) < len(names):
        raise invalid_parameter("average", f"expected names of metadata separated by commas; got {text!r}")
    dim = "_".join(_plain(name) for name in names)
    kept = {one.name for one in array.coordinates if one.dim != array.dims[0]}
    taken = {*array.dims[1:], *kept, "trials"} & {dim, *(_plain(name) for name in names)}
    if taken:
        raise invalid_parameter(
            "average", f"{listed(sorted(taken))} is already an axis or a coordinate of the answer"
        )
    return names


def _plain(name: str) -> str:
    """Return a name for a dim: letters, digits, dots and dashes are kept, others become underscores, as in names of arrays."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _labels(name: str, trials: NDArray[np.int64], context: ReadContext) -> list[Value]:
    """Return the value of each row; None where it has none."""
    if name == "split":
        return _splits(trials, context)
    values = column(context, name, "average")
    return [_value(values.get(int(trial))) for trial in trials]


def _splits(trials: NDArray[np.int64], context: ReadContext) -> list[Value]:
    """Return the split of each row; None where it has none."""
    found = splits_of_trials(context)
    if found is None:
        raise invalid_parameter(
            "average", "no split came with the data set", "a model's latents have that of its own job"
        )
    return [found.get(int(trial)) or None for trial in trials]


def _value(value: Any) -> Value:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, int | float | str | bool) else None


def _order(condition: Sequence[Value]) -> tuple[tuple[bool, Any], ...]:
    """Return a sort key that puts numbers before words."""
    return tuple((isinstance(value, str), value) for value in condition)


def _coordinate(name: str, dim: str, values: Sequence[Value]) -> Coordinate:
    """Return the values of the conditions: numbers, or codes of words, as data sets have them."""
    told = f"{name} of the trials"
    if any(isinstance(value, str) for value in values):
        words = sorted({str(value) for value in values})
        codes = np.array([words.index(str(value)) for value in values], np.int32)
        return Coordinate(_plain(name), dim, codes, "", told, flags_of(words))
    is_whole = all(isinstance(value, int) for value in values)
    return Coordinate(_plain(name), dim, np.array(values, np.int64 if is_whole else np.float64), "", told)
