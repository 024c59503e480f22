"""The trial axis and the time axis of an array: which trials and bins it has, and what is known of its trials."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from api.arrays.groups import ReadContext
from api.arrays.labelled import Coordinate, LabelledArray, RowReader, as_words
from api.arrays.messages import invalid_parameter
from api.arrays.trial_conditions import condition_candidates
from domain.errors import listed
from store.tables import Trial

LENGTH = "trial_length_bins"
_TRIALS = re.compile(r"trial(_[0-9]+)?")
"""The dim of the only session of a data set, or of one of several."""
_TIME = re.compile(r"time_s|continuous_time_s(_[0-9]+)?")
_TOLERANCE = 1e-3
"""The times of bins may be off by this share of a bin width."""
_ROWS_AT_A_TIME = 1000


def is_trial_dim(dim: str) -> bool:
    """Return whether a dim is one of trials: ``trial``, or ``trial_1`` of the second of several sessions."""
    return _TRIALS.fullmatch(dim) is not None


def trial_dim(array: LabelledArray) -> str | None:
    """Return the first dim of an array if its rows are trials."""
    first = array.dims[0] if array.dims else ""
    return first if is_trial_dim(first) else None


def trials_along(array: LabelledArray, dim: str) -> NDArray[np.int64]:
    """Return which trial of the data set each entry of a dim of trials is."""
    index = array.index(dim)  # without one, the entries are all trials
    size = array.shape[array.dims.index(dim)]
    return np.arange(size) if index is None else index.values.astype(np.int64)


def trials_of(array: LabelledArray, parameter: str) -> NDArray[np.int64]:
    """Return which trial of the data set each row is.

    Raises
    ------
    Invalid
        If rows are no trials.
    """
    dim = trial_dim(array)
    if dim is None:
        raise invalid_parameter(
            parameter,
            f"expected an array whose first axis is trials; {array.name} has the axes {listed(array.dims)}",
            "one trial keeps its axis as a range: slice=3:4; an average has no trials",
        )
    return trials_along(array, dim)


def trial_rows(context: ReadContext) -> Iterator[tuple[int, str | None, dict[str, Any]]]:
    """Yield number, split and metadata of each trial of the data set, in order."""
    query = select(Trial.trial, Trial.split, Trial.details).order_by(Trial.trial)
    query = query.where(Trial.dataset_id == context.group.dataset_id)
    yield from context.session.execute(query.execution_options(yield_per=_ROWS_AT_A_TIME))


def column(context: ReadContext, name: str, parameter: str) -> dict[int, Any]:
    """Return one column of the trials' metadata: trial → value, None where a trial has none.

    Raises
    ------
    Invalid
        If no trial has it; the message lists the names.
    """
    names: dict[str, None] = {}
    values = {}
    for trial, _, details in trial_rows(context):
        names |= dict.fromkeys(details)
        values[trial] = details.get(name)
    if name not in names:
        candidates = condition_candidates(context.session, context.group.dataset_id)
        may_be = (
            f"; conditions may be: {listed(candidates)}" if candidates and parameter != "align_to" else ""
        )
        raise invalid_parameter(
            parameter,
            f"the trials have no metadata {name!r}",
            f"their metadata: {listed(sorted(names))}{may_be}",
        )
    return values


def splits_of_trials(context: ReadContext) -> dict[int, str] | None:
    """Return the split of each trial that has one: of latents the job's split, of a data set the split that came with it.

    None if no split came with the data set.
    """
    group = context.opened
    if "model_id" in group.group.attrs and "split" in group.arrays:
        stored = group.labelled("split")
        words = as_words(group.values("split"), stored.attributes)
        numbers = group.values("trial") if "trial" in group.arrays else np.arange(stored.size)
        return dict(zip(numbers.tolist(), words.tolist(), strict=True))
    given = select(Trial.trial, Trial.split).where(Trial.dataset_id == context.group.dataset_id)
    found = {trial: split for trial, split in context.session.execute(given) if split is not None}
    return found or None


@dataclass(frozen=True)
class TimeAxis:
    """The time axis of an array, whose bins follow each other without a gap.

    Attributes
    ----------
    axis, dim
        Its position and its name.
    bins
        Number of bins.
    start_s, width_s
        Start of the first bin, and width of every bin, in seconds.
    """

    axis: int
    dim: str
    bins: int
    start_s: float
    width_s: float


def time_dim(array: LabelledArray) -> str | None:
    """Return the name of the time axis; None without one."""
    return next((dim for dim in array.dims if _TIME.fullmatch(dim)), None)


def time_axis(array: LabelledArray, context: ReadContext, parameter: str) -> TimeAxis:
    """Return the time axis of an array whose bins follow each other.

    Raises
    ------
    Invalid
        If it has none, or bins are missing between others.
    """
    dim = time_dim(array)
    index = None if dim is None else array.index(dim)
    width_s = bin_width_s(array, context)
    if dim is None or index is None or width_s is None:
        raise invalid_parameter(
            parameter,
            f"expected an array with a time axis; {array.name} has the axes {listed(array.dims)}",
            "a range keeps the axis: slice=:,0:1",
        )
    if not len(index.values):
        raise invalid_parameter(parameter, f"no bin of {array.name} is selected")
    if (np.abs(np.diff(index.values) - width_s) > _TOLERANCE * width_s).any():
        raise invalid_parameter(
            parameter,
            f"expected bins of {width_s:g} s that follow each other; between those selected others are left out",
            "select a range of time without a step; of a continuous recording, one stretch",
        )
    return TimeAxis(array.dims.index(dim), dim, len(index.values), float(index.values[0]), width_s)


def bin_width_s(array: LabelledArray, context: ReadContext) -> float | None:
    """Return the width of the array's bins: its own if it was rebinned, else that of its group."""
    width_s = array.attributes.get("bin_width_s", context.opened.group.attrs.get("bin_width_s"))
    return float(width_s) if isinstance(width_s, int | float) and width_s > 0 else None


def first_bin_s(context: ReadContext) -> float | None:
    """Return when the first bin of a trial begins, in seconds from the event that trials are aligned to."""
    group = context.opened
    times_s = group.values("time_s") if "time_s" in group.arrays else np.empty(0)
    return float(times_s[0]) if times_s.ndim and len(times_s) else None


def with_recorded_bins(array: LabelledArray, context: ReadContext) -> LabelledArray:
    """Return the array with a coordinate that contains the number of recorded bins of each trial.

    The data set knows the length of the whole trial; the coordinate counts only selected bins. Arrays without trials and time
    are returned unchanged.
    """
    dim = trial_dim(array)
    if dim is None or len(array.dims) < 2 or time_dim(array) != array.dims[1]:
        return array
    time = array.index(array.dims[1])
    start_s, width_s = first_bin_s(context), bin_width_s(array, context)
    if time is None or start_s is None or width_s is None:
        return array
    known = select(Trial.trial, Trial.length_bins).where(Trial.dataset_id == context.group.dataset_id)
    lengths = dict(context.session.execute(known).all())
    bins = np.rint((time.values - start_s) / width_s)
    recorded = [
        np.searchsorted(bins, lengths[trial]) if trial in lengths else len(bins)
        for trial in trials_along(array, dim)
    ]
    return array.with_coordinate(
        Coordinate(
            LENGTH,
            dim,
            np.array(recorded, np.int64),
            "bins",
            "number of recorded bins among the bins in this response",
        )
    )


def recorded_bins(array: LabelledArray) -> NDArray[np.int64] | None:
    """Return how many bins of each row were recorded; None where all were, or where NaN marks the others."""
    found = next((one.values for one in array.coordinates if one.name == LENGTH), None)
    if found is None or len(array.dims) < 2 or time_dim(array) != array.dims[1]:
        return None
    return None if bool((found >= array.shape[1]).all()) else found.astype(np.int64)


def floating(array: LabelledArray) -> LabelledArray:
    """Return the array as floating-point numbers, with NaN in bins past a trial's end and at missing counts.

    A statistic leaves these out.
    """
    dtype = np.result_type(array.dtype, np.float32)
    lengths = recorded_bins(array)
    if lengths is None and dtype == array.dtype and array.missing is None:
        return array
    missing = array.missing

    def blocks() -> Iterator[NDArray[Any]]:
        row = 0
        missing_rows = None if missing is None else RowReader(missing())
        for block in array.blocks():
            values = block.astype(dtype)
            if missing_rows is not None:
                is_missing = missing_rows.next(len(block) if block.ndim else None).astype(np.bool_)
                values = np.where(is_missing, dtype.type(np.nan), values)
            if lengths is not None:
                ends = lengths[row : row + len(block), None]
                values[np.arange(block.shape[1]) >= ends] = np.nan
            row += len(block) if block.ndim else 0
            yield values

    return replace(array, dtype=dtype, blocks=blocks, missing=None)
