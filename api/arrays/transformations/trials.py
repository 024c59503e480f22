"""The trials that the rows of an array are: which they are, what is known of them, and where each ends."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.time_axis import bin_width_s, time_dim
from api.arrays.transformations.wording import listed, refusal
from api.arrays.trial_conditions import condition_candidates
from store.tables import Trial

LENGTH = "trial_length_bins"
_DIM = re.compile(r"trial(_[0-9]+)?")
_ROWS_AT_A_TIME = 1000


def trials_of(array: LabelledArray, parameter: str) -> NDArray[np.int64]:
    """Which trial of the data set each row is.

    Raises
    ------
    Invalid
        If rows are no trials.
    """
    if not array.dims or not _DIM.fullmatch(array.dims[0]):
        raise refusal(
            parameter,
            f"expected an array whose first axis is trials; {array.name} has the axes {listed(array.dims)}",
            "one trial keeps its axis as a range: slice=3:4; an average has no trials",
        )
    return _numbers(array)


def _numbers(array: LabelledArray) -> NDArray[np.int64]:
    index = array.index(array.dims[0])  # without one, they are all trials
    return np.arange(array.shape[0]) if index is None else index.values.astype(np.int64)


def trial_rows(surroundings: Surroundings) -> Iterator[tuple[int, str | None, dict[str, Any]]]:
    """Number, split and metadata of each trial of the data set, in order."""
    query = select(Trial.trial, Trial.split, Trial.details).order_by(Trial.trial)
    query = query.where(Trial.dataset_id == surroundings.group.dataset_id)
    rows = surroundings.session.execute(query.execution_options(yield_per=_ROWS_AT_A_TIME))
    yield from rows


def column(surroundings: Surroundings, name: str, parameter: str) -> dict[int, Any]:
    """One column of the trials' metadata: trial → value, None where a trial has none.

    Raises
    ------
    Invalid
        If no trial has it; the message says what there is.
    """
    names: dict[str, None] = {}
    values = {}
    for trial, _, details in trial_rows(surroundings):
        names |= dict.fromkeys(details)
        values[trial] = details.get(name)
    if name not in names:
        candidates = condition_candidates(surroundings.session, surroundings.group.dataset_id)
        may_be = (
            f"; conditions may be: {listed(candidates)}" if candidates and parameter != "align_to" else ""
        )
        raise refusal(
            parameter,
            f"the trials have no metadata {name!r}",
            f"their metadata: {listed(sorted(names))}{may_be}",
        )
    return values


def with_recorded_bins(array: LabelledArray, surroundings: Surroundings) -> LabelledArray:
    """The array with a coordinate that says how many of its own bins were recorded in each trial.

    What a data set says of the whole trial is so brought to the bins that were selected. Arrays without trials and time are
    returned as they are.
    """
    if len(array.dims) < 2 or not _DIM.fullmatch(array.dims[0]) or time_dim(array) != array.dims[1]:
        return array
    time = array.index(array.dims[1])
    start_s, width_s = first_bin_s(surroundings), bin_width_s(array, surroundings)
    if time is None or start_s is None or width_s is None:
        return array
    known = select(Trial.trial, Trial.length_bins).where(Trial.dataset_id == surroundings.group.dataset_id)
    lengths = dict(surroundings.session.execute(known).all())
    bins = np.rint((time.values - start_s) / width_s)
    recorded = [
        np.searchsorted(bins, lengths[trial]) if trial in lengths else len(bins) for trial in _numbers(array)
    ]
    return with_coordinate(
        array,
        Coordinate(
            LENGTH, array.dims[0], np.array(recorded, np.int64), "bins", "bins recorded, of those answered"
        ),
    )


def first_bin_s(surroundings: Surroundings) -> float | None:
    """When the first bin of a trial begins, in seconds from what trials are aligned to."""
    group = surroundings.group.opened(surroundings.store)
    times_s = group.values("time_s") if "time_s" in group.arrays else np.empty(0)
    return float(times_s[0]) if times_s.ndim and len(times_s) else None


def with_coordinate(array: LabelledArray, coordinate: Coordinate) -> LabelledArray:
    """The array with a coordinate, in place of one of the same name."""
    others = tuple(one for one in array.coordinates if one.name != coordinate.name)
    return replace(array, coordinates=(*others, coordinate))


def recorded_bins(array: LabelledArray) -> NDArray[np.int64] | None:
    """How many bins of each row were recorded; None where all were, or NaN says which were not."""
    found = next((one.values for one in array.coordinates if one.name == LENGTH), None)
    if found is None or len(array.dims) < 2 or time_dim(array) != array.dims[1]:
        return None
    return None if bool((found >= array.shape[1]).all()) else found.astype(np.int64)


def floating(array: LabelledArray) -> LabelledArray:
    """The array as floating-point numbers, NaN in bins past a trial's end and at counts that were not observed.

    A statistic leaves these out.
    """
    dtype = np.result_type(array.dtype, np.float32)
    lengths = recorded_bins(array)
    if lengths is None and dtype == array.dtype and array.missing is None:
        return array
    missing = array.missing

    def blocks() -> Iterator[NDArray[Any]]:
        row = 0
        rows_of_missing = None if missing is None else _RowsInOrder(missing())
        for block in array.blocks():
            values = block.astype(dtype)
            if rows_of_missing is not None:
                values = np.where(rows_of_missing.next(block.shape), dtype.type(np.nan), values)
            if lengths is not None:
                ends = lengths[row : row + len(block), None]
                values[np.arange(block.shape[1]) >= ends] = np.nan
            row += len(block) if block.ndim else 0
            yield values

    return replace(array, dtype=dtype, blocks=blocks, missing=None)


class _RowsInOrder:
    """Gives the rows of blocks in pieces of other lengths."""

    def __init__(self, blocks: Iterator[NDArray[Any]]) -> None:
        self._blocks, self._held = blocks, next(blocks)

    def next(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """The next rows, as many as an array of this shape has, as bool."""
        if not shape:
            return np.asarray(self._held, np.bool_)
        while len(self._held) < shape[0]:
            self._held = np.concatenate((self._held, next(self._blocks)))
        taken, self._held = self._held[: shape[0]], self._held[shape[0] :]
        return taken.astype(np.bool_)
