"""What every analysis goes over: the trajectories of the trials that a question selects, in blocks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from api.arrays.labelled import LabelledArray
from api.arrays.query import ArrayQuery, ask
from api.arrays.transformations import Transformation
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.trials import floating, trials_of, with_recorded_bins
from api.arrays.transformations.wording import listed, refusal

TIME = "time_s"
BLOCK_VALUES = 2**21
"""Most values that are worked on at a time: 16 MiB as float64."""


@dataclass(frozen=True)
class Trajectories:
    """An array of trials, each a trajectory of states.

    Attributes
    ----------
    array
        Of dims (trial, time_s, component), or without one of the last two.
    trials
        [rows] the trial of the data set that each row is.
    time_s
        [bins] when each bin begins; None where the array has no time, such as initial conditions.
    """

    array: LabelledArray
    trials: NDArray[np.int64]
    time_s: NDArray[np.float64] | None

    @property
    def bins(self) -> int:
        """States of a trial; 1 where the array has no time."""
        return 1 if self.time_s is None else len(self.time_s)

    @property
    def components(self) -> int:
        """Numbers of a state."""
        return 1 if self.array.dims[-1] in (TIME, self.array.dims[0]) else self.array.shape[-1]

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """The rows in order, some at a time, each block with values [rows, bins, components]."""
        rows_at_once = max(1, BLOCK_VALUES // max(1, self.bins * self.components))
        row = 0
        for block in self.array.blocks():
            for start in range(0, len(block), rows_at_once):
                part = block[start : start + rows_at_once]
                values = np.asarray(part, np.float64).reshape(len(part), self.bins, self.components)
                yield slice(row, row + len(part)), values
                row += len(part)


def shared_query(query: BaseModel, *leave_out: str) -> ArrayQuery:
    """The part of a question that every array understands: selection and transformations, without some of them."""
    given = query.model_fields_set & set(ArrayQuery.model_fields) - set(leave_out)
    return ArrayQuery.model_construct(given, **{name: getattr(query, name) for name in given})


def is_transformed(query: ArrayQuery) -> bool:
    """Whether a question asks for more than a part of an array."""
    return any(getattr(query, name) is not None for name in Transformation.model_fields)


def ask_trajectories(
    name: str, query: ArrayQuery, surroundings: Surroundings, parameter: str = "array"
) -> Trajectories:
    """The trajectories that a question selects, NaN past the end of a trial; few of their values are read yet.

    Parameters
    ----------
    name
        Of the array.
    query, surroundings
        The question.
    parameter
        Of the request, that names the array.

    Raises
    ------
    NotFound
        If there is no such array.
    Invalid
        If the question does not fit it, or what it gives are no trajectories of trials.
    """
    array = ask(name, query, surroundings)[0]
    trials = trials_of(array, parameter)
    others = array.dims[1:]
    if (
        len(others) not in (1, 2)
        or (len(others) == 2 and others[0] != TIME)
        or array.dtype.kind not in "fiub"
    ):
        raise refusal(
            parameter,
            f"expected numbers of dims (trial, {TIME}, …) or (trial, …); {name} is {array.dtype} of dims {listed(array.dims)}",
            "factors, rates and initial_conditions are such arrays",
        )
    time = array.index(TIME)
    time_s = None if time is None or TIME not in others else np.asarray(time.values, np.float64)
    if not is_transformed(query):
        array = with_recorded_bins(array, surroundings)
    return Trajectories(floating(array), trials, time_s)
