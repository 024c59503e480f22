"""The trajectories of the selected trials, in blocks, with their conditions, splits and metadata: what analyses compare."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from sqlalchemy import select

from api.arrays.axes import column, floating, splits_of_trials, trials_of, with_recorded_bins
from api.arrays.groups import ReadContext
from api.arrays.labelled import LabelledArray
from api.arrays.messages import invalid_parameter
from api.arrays.query import ArrayQuery, query_array
from api.arrays.trial_conditions import condition_candidates, condition_name, metadata_kinds
from domain.cancellation import cancellation_point
from domain.errors import listed
from store.tables import Trial

Value = str | int | float | bool

TIME = "time_s"
BLOCK_VALUES = 2**21
"""Most values that are processed at a time: 16 MiB as float64."""
MOST_CONDITIONS = 200


@dataclass(frozen=True)
class Trajectories:
    """An array of trials, each a trajectory of states.

    Attributes
    ----------
    array
        With dims (trial, time_s, component), or without one of the last two.
    trials
        [rows], the trial of the data set that each row is.
    time_s
        [bins], start of each bin; None where the array has no time, such as initial conditions.
    """

    array: LabelledArray
    trials: NDArray[np.int64]
    time_s: NDArray[np.float64] | None

    @property
    def bins(self) -> int:
        """Return the number of states of a trial; 1 where the array has no time."""
        return 1 if self.time_s is None else len(self.time_s)

    @property
    def components(self) -> int:
        """Return the number of components of a state."""
        return 1 if self.array.dims[-1] in (TIME, self.array.dims[0]) else self.array.shape[-1]

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Yield the rows in order, some at a time, each block with values [rows, bins, components]."""
        rows_at_once = max(1, BLOCK_VALUES // max(1, self.bins * self.components))
        row = 0
        for block in self.array.blocks():
            for start in range(0, len(block), rows_at_once):
                cancellation_point()
                part = block[start : start + rows_at_once]
                values = np.asarray(part, np.float64).reshape(len(part), self.bins, self.components)
                yield slice(row, row + len(part)), values
                row += len(part)


def shared_query(query: BaseModel, *leave_out: str) -> ArrayQuery:
    """Return the part of a request that every array understands: selection and transformations, without some of them."""
    given = query.model_fields_set & set(ArrayQuery.model_fields) - set(leave_out)
    return ArrayQuery.model_construct(given, **{name: getattr(query, name) for name in given})


def query_trajectories(
    name: str, query: ArrayQuery, context: ReadContext, parameter: str = "array"
) -> Trajectories:
    """Return the trajectories that a request selects, with NaN past the end of a trial; values are read later.

    Parameters
    ----------
    name
        Name of the array.
    query, context
        The request.
    parameter
        The parameter that names the array.

    Raises
    ------
    NotFound
        If there is no such array.
    Invalid
        If the request does not fit it, or the result are no trajectories of trials.
    """
    cancellation_point()
    array = query_array(name, query, context)[0]
    cancellation_point()
    trials = trials_of(array, parameter)
    others = array.dims[1:]
    if (
        len(others) not in (1, 2)
        or (len(others) == 2 and others[0] != TIME)
        or array.dtype.kind not in "fiub"
    ):
        raise invalid_parameter(
            parameter,
            f"expected numbers of dims (trial, {TIME}, …) or (trial, …); {name} is {array.dtype} of dims {listed(array.dims)}",
            "factors, rates and initial_conditions are such arrays",
        )
    time = array.index(TIME)
    time_s = None if time is None or TIME not in others else np.asarray(time.values, np.float64)
    if not query.is_transformation:
        array = with_recorded_bins(array, context)
    return Trajectories(floating(array), trials, time_s)


def conditions_of(
    trajectories: Trajectories, by: str | None, context: ReadContext
) -> tuple[str, list[Value], NDArray[np.int64]]:
    """Group the rows of trajectories by metadata of their trials, or by their split.

    Returns
    -------
    name
        Name of the metadata, see `api.arrays.trial_conditions.condition_name`.
    conditions
        Its different values, in order.
    codes
        [rows], which of them each row has; -1 for none.

    Raises
    ------
    Invalid
        If the trials have no such metadata, or too many values of it; the message lists the names.
    """
    of_rows: list[Any]
    session, dataset_id = context.session, context.group.dataset_id
    if (by := condition_name(session, dataset_id, by)) is None:
        there = ", ".join(metadata_kinds(session, dataset_id)) or "none"
        raise invalid_parameter(
            "by",
            "expected the metadata whose values are the conditions; no metadata of these trials look like conditions",
            f"name some with by=; their metadata: {there}",
        )
    if by == "split" and (split := split_of(trajectories.trials, context)) is not None:
        of_rows = [one or None for one in split.tolist()]
    else:
        values = column(context, by, "by")
        of_rows = [values.get(int(trial)) for trial in trajectories.trials]
    of_rows = [value if isinstance(value, Value) and value == value else None for value in of_rows]  # no NaN
    found = Counter(value for value in of_rows if value is not None)
    if not 2 <= len(found) <= MOST_CONDITIONS:
        others = [name for name in condition_candidates(session, dataset_id) if name != by]
        may_be = f"; conditions may be: {', '.join(others)}" if others else ""
        raise invalid_parameter(
            "by",
            f"expected 2 to {MOST_CONDITIONS} conditions; the selected trials have {len(found)} values of {by!r}",
            f"choose other metadata, or other trials{may_be}",
        )
    conditions = sorted(found, key=lambda value: (isinstance(value, str), value))
    place = {value: code for code, value in enumerate(conditions)}
    return by, conditions, np.array([-1 if value is None else place[value] for value in of_rows], np.int64)


def split_of(trials: NDArray[np.int64], context: ReadContext) -> NDArray[np.str_] | None:
    """Return the split of each of some trials, by the job or else as it came with the data set; empty for none.

    The result is None if no trial of the data set has a split.
    """
    found = splits_of_trials(context)
    return None if found is None else np.array([found.get(int(one), "") for one in trials], "U5")


def metadata_of(context: ReadContext, trials: Sequence[int]) -> Mapping[int, dict[str, Any]]:
    """Return the metadata of some trials."""
    asked = select(Trial.trial, Trial.details).where(
        Trial.dataset_id == context.group.dataset_id, Trial.trial.in_(trials)
    )
    return {row.trial: row.details for row in context.session.execute(asked)}
