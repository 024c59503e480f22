"""Which part of an array is read: positions along its axes, labels of its dims, trials by their split and metadata."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from sqlalchemy import select as select_rows

from api.arrays.axes import is_trial_dim, splits_of_trials, trials_along
from api.arrays.grammar import (
    MOST_CONDITIONS,
    WHERE_DESCRIPTION,
    label_error,
    labelled_positions,
    parse_slice,
)
from api.arrays.groups import ReadContext, StoredRows, Taken, taken_entries
from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.trial_conditions import trial_conditions
from domain.split_groups import SPLITS
from store.tables import Trial

Labels = list[str]
"""Each with labels and ranges of labels, separated by commas."""


def _labels(described: str) -> Any:
    return Field(default_factory=list, max_length=50, description=described)


class Selection(BaseModel):
    """Parameters that select a part of an array; a dim of another name is a parameter of that name."""

    slice_: str | None = Field(
        None,
        alias="slice",
        max_length=400,
        description="Positions along each axis from the first, e.g. `0:5,::2,3`: an integer takes one entry and drops its axis.",
    )
    trial: Labels = _labels("Trials by their number, e.g. `3,5` or `0:50` (which ends before 50).")
    time_s: Labels = _labels("Bins by when they begin, in seconds, e.g. `0.1:0.4` (which ends before 0.4).")
    neuron: Labels = _labels("Neurons by their number, e.g. `0,4,7`.")
    factor: Labels = _labels("Factors by their number.")
    input: Labels = _labels("Inferred inputs by their number.")
    external_input: Labels = _labels("External inputs by their number.")
    initial_condition_dim: Labels = _labels("Dimensions of the initial condition by their number.")
    generator_unit: Labels = _labels("Units of the generator by their number.")
    split: Labels = _labels("Trials of a split: `train`, `valid`, `test`, `gap`, or several of them.")
    where: list[str] = Field(default_factory=list, max_length=MOST_CONDITIONS, description=WHERE_DESCRIPTION)

    def labels(self) -> dict[str, Labels]:
        """Return labels by dim; every parameter that is no field names a dim, too."""
        further = {
            name: given if isinstance(given, list) else [given]
            for name, given in (self.model_extra or {}).items()
        }
        known = {name: getattr(self, name) for name in _DIMS}
        return {name: given for name, given in (known | further).items() if given}


_DIMS = ("trial", "time_s", "neuron", "factor", "input", "external_input", "initial_condition_dim", "generator_unit")  # fmt: skip


class _Chosen(NamedTuple):
    """The positions that are selected along a dim, and the last parameter that selected them."""

    parameter: str
    positions: NDArray[np.int64]


def select(whole: LabelledArray, selection: Selection, context: ReadContext) -> LabelledArray:
    """Return the selected part of an array; only chunks that hold some of it are read.

    Parameters that select along one dim are combined with AND. The order is always that of the array.

    Raises
    ------
    Invalid
        If there is no such part.
    """
    parts = parse_slice(selection.slice_, whole.shape)
    chosen = _chosen(whole, selection, context)
    taken: list[Taken] = []
    for axis, (dim, part) in enumerate(zip(whole.dims, parts, strict=True)):
        if dim in chosen and part != slice(0, whole.shape[axis], 1):
            parameter = chosen[dim].parameter
            message = f"slice and {parameter} both select along {dim}, axis {axis}; expected one of them"
            raise label_error(parameter, message, "leave that axis whole in the slice, as in slice=:,0:10")
        taken.append(_simplest(chosen[dim].positions) if dim in chosen else part)
    kept = {dim: part for dim, part in zip(whole.dims, taken, strict=True) if not isinstance(part, int)}
    group = context.opened
    return replace(
        whole,
        dims=tuple(kept),
        shape=tuple(taken_entries(part) for part in kept.values()),
        coordinates=tuple(
            one.taken(kept[one.dim]) for one in _with_positions(whole, kept) if one.dim in kept
        ),
        blocks=StoredRows(group.arrays[whole.name], tuple(taken)),
        missing=group.missing_rows(whole.name, tuple(taken)),
    )


def trials_of_splits(given: Sequence[str], context: ReadContext) -> NDArray[np.int64]:
    """Return the trials of some splits.

    Raises
    ------
    Invalid
        If there is no such split, or none came with the data set.
    """
    wanted = [item.strip() for item in ",".join(given).split(",")]
    for name in wanted:
        if name not in SPLITS:
            raise label_error("split", f"expected {', '.join(SPLITS)}, or several of them; got {name!r}")
    found = splits_of_trials(context)
    if found is None:
        message = "no split came with the data set; each job makes its own"
        raise label_error("split", message, "ask for the arrays of a model")
    return np.array([trial for trial, split in found.items() if split in wanted], np.int64)


def _trials_where(given: list[str], context: ReadContext) -> NDArray[np.int64]:
    """Return the trials of the data set that meet conditions on their metadata."""
    dataset_id = context.group.dataset_id
    query = select_rows(Trial.trial).where(Trial.dataset_id == dataset_id)
    query = query.where(*trial_conditions(context.session, dataset_id, given))
    return np.fromiter(context.session.execute(query).scalars(), np.int64)


def _chosen(whole: LabelledArray, selection: Selection, context: ReadContext) -> dict[str, _Chosen]:
    """Return what labels and conditions select, by dim."""
    sizes = dict(zip(whole.dims, whole.shape, strict=True))
    chosen: dict[str, _Chosen] = {}
    for dim, given in selection.labels().items():
        if dim not in sizes:
            dims = ", ".join(whole.dims) or "none"
            message = f"expected a parameter, or a dim of {whole.name}, whose dims are {dims}; got {dim!r}"
            raise label_error(dim, message, _similar(dim, whole, selection))
        chosen[dim] = _Chosen(dim, labelled_positions(given, dim, whole.index(dim), sizes[dim]))
    for parameter, asked, find in (
        ("split", selection.split, trials_of_splits),
        ("where", selection.where, _trials_where),
    ):
        if asked:
            dim, numbers = _trial_numbers(whole, parameter)
            found = np.flatnonzero(np.isin(numbers, find(asked, context)))
            before = chosen.get(dim)
            both = found if before is None else np.intersect1d(before.positions, found)
            chosen[dim] = _Chosen(parameter, both)
    return chosen


def _trial_numbers(array: LabelledArray, parameter: str) -> tuple[str, NDArray[np.int64]]:
    """Return the dim of trials of an array, and which trial of the data set each entry is.

    Raises
    ------
    Invalid
        If it has no trials.
    """
    dim = next(filter(is_trial_dim, array.dims), None)
    if dim is None:
        dims = ", ".join(array.dims) or "none"
        raise label_error(parameter, f"{array.name} has no dim of trials; its dims are {dims}")
    return dim, trials_along(array, dim)


def _similar(name: str, whole: LabelledArray, selection: Selection) -> str:
    """Return a hint for an unknown parameter."""
    fields = type(selection).model_fields.items()
    others = [field.alias or one for one, field in fields if one not in _DIMS]
    likely = difflib.get_close_matches(name, [*whole.dims, *others], 1)
    hint = f"did you mean {likely[0]}? " if likely else ""
    return f"{hint}docs/querying.md and docs/transformations.md list the parameters"


def _simplest(positions: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return positions as a range, if they are one."""
    first, count = (int(positions[0]), len(positions)) if len(positions) else (0, 0)
    is_range = count == 0 or int(positions[-1]) - first + 1 == count
    return slice(first, first + count, 1) if is_range else positions


def _with_positions(whole: LabelledArray, kept: Mapping[str, slice | NDArray[np.int64]]) -> list[Coordinate]:
    """Return the coordinates, and the positions of a dim that has no index and is not whole: else they would be unknown."""
    found = list(whole.coordinates)
    for dim, size in zip(whole.dims, whole.shape, strict=True):
        if dim in kept and whole.index(dim) is None and taken_entries(kept[dim]) < size:
            found.append(Coordinate(dim, dim, np.arange(size), "", "index in the order given"))
    return found
