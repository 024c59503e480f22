"""Which part of an array: positions along its axes, labels of its dims, trials by what is known of them."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.arrays.chosen_trials import trial_numbers, trials_of_splits, trials_where
from api.arrays.group import ArrayGroup
from api.arrays.labelled import Coordinate, LabelledArray, missing_rows
from api.arrays.labels import label_problem, labelled_positions
from api.arrays.rows import StoredRows, Taken, taken_entries
from api.arrays.slices import parse_slice
from api.arrays.where import DESCRIPTION, MOST_CONDITIONS

Labels = list[str]
"""Each with labels and ranges of labels, separated by commas."""


def _labels(described: str) -> Any:
    return Field(default_factory=list, max_length=50, description=described)


class Selection(BaseModel):
    """Parameters of a request that say which part of an array is wanted; a dim of another name is a parameter of that name."""

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
    where: list[str] = Field(default_factory=list, max_length=MOST_CONDITIONS, description=DESCRIPTION)

    def labels(self) -> dict[str, Labels]:
        """Labels by the dim that they are of; what stands in no other field is of dims too."""
        further = {
            name: given if isinstance(given, list) else [given]
            for name, given in (self.model_extra or {}).items()
        }
        known = {name: getattr(self, name) for name in _DIMS}
        return {name: given for name, given in (known | further).items() if given}


_DIMS = ("trial", "time_s", "neuron", "factor", "input", "external_input", "initial_condition_dim", "generator_unit")  # fmt: skip


class _Chosen(NamedTuple):
    """What is selected along a dim, and the last parameter that did."""

    parameter: str
    positions: NDArray[np.int64]


def select(
    whole: LabelledArray, selection: Selection, group: ArrayGroup, store: Store, session: Session
) -> LabelledArray:
    """The part of an array that is asked for; only chunks that have some of it are read.

    Whatever selects along one dim takes what all of it has in common; the order is always the array's own.

    Raises
    ------
    Invalid
        If there is no such part.
    """
    parts = parse_slice(selection.slice_, whole.shape)
    chosen = _chosen(whole, selection, group, store, session)
    taken: list[Taken] = []
    for axis, (dim, part) in enumerate(zip(whole.dims, parts, strict=True)):
        if dim in chosen and part != slice(0, whole.shape[axis], 1):
            parameter = chosen[dim].parameter
            message = f"slice and {parameter} both select along {dim}, axis {axis}; expected one of them"
            raise label_problem(parameter, message, "leave that axis whole in the slice, as in slice=:,0:10")
        taken.append(_simplest(chosen[dim].positions) if dim in chosen else part)
    kept = {dim: part for dim, part in zip(whole.dims, taken, strict=True) if not isinstance(part, int)}
    return replace(
        whole,
        dims=tuple(kept),
        shape=tuple(taken_entries(part) for part in kept.values()),
        coordinates=tuple(
            one.taken(kept[one.dim]) for one in _with_positions(whole, kept) if one.dim in kept
        ),
        blocks=StoredRows(group.opened(store).arrays[whole.name], tuple(taken)),
        missing=missing_rows(whole.name, group.opened(store), tuple(taken)),
    )


def _meant(name: str, whole: LabelledArray, selection: Selection) -> str:
    """What to do about a parameter that is not known."""
    fields = type(selection).model_fields.items()
    others = [field.alias or one for one, field in fields if one not in _DIMS]
    likely = difflib.get_close_matches(name, [*whole.dims, *others], 1)
    hint = f"did you mean {likely[0]}? " if likely else ""
    return f"{hint}docs/querying.md and docs/transformations.md list the parameters"


def _chosen(
    whole: LabelledArray, selection: Selection, group: ArrayGroup, store: Store, session: Session
) -> dict[str, _Chosen]:
    """What labels and conditions select, by dim."""
    sizes = dict(zip(whole.dims, whole.shape, strict=True))
    chosen: dict[str, _Chosen] = {}
    for dim, given in selection.labels().items():
        if dim not in sizes:
            dims = ", ".join(whole.dims) or "none"
            message = f"expected a parameter, or a dim of {whole.name}, whose dims are {dims}; got {dim!r}"
            raise label_problem(dim, message, _meant(dim, whole, selection))
        chosen[dim] = _Chosen(dim, labelled_positions(given, dim, whole.index(dim), sizes[dim]))
    if selection.split:
        dim, numbers = trial_numbers(whole, "split")
        split = trials_of_splits(selection.split, group, store, session)
        chosen[dim] = _narrowed(chosen.get(dim), "split", np.flatnonzero(np.isin(numbers, split)))
    if selection.where:
        dim, numbers = trial_numbers(whole, "where")
        found = trials_where(selection.where, group.dataset_id, session)
        chosen[dim] = _narrowed(chosen.get(dim), "where", np.flatnonzero(np.isin(numbers, found)))
    return chosen


def _narrowed(before: _Chosen | None, parameter: str, positions: NDArray[np.int64]) -> _Chosen:
    """What two parameters select along one dim: what both do."""
    return _Chosen(parameter, positions if before is None else np.intersect1d(before.positions, positions))


def _simplest(positions: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Positions as a range, if they are one."""
    first, count = (int(positions[0]), len(positions)) if len(positions) else (0, 0)
    is_range = count == 0 or int(positions[-1]) - first + 1 == count
    return slice(first, first + count, 1) if is_range else positions


def _with_positions(whole: LabelledArray, kept: Mapping[str, slice | NDArray[np.int64]]) -> list[Coordinate]:
    """The coordinates; of a dim without an index that is not kept whole, also the positions: else nobody knew which they were."""
    found = list(whole.coordinates)
    for dim, size in zip(whole.dims, whole.shape, strict=True):
        if dim in kept and whole.index(dim) is None and taken_entries(kept[dim]) < size:
            found.append(Coordinate(dim, dim, np.arange(size), "", "index in the order given"))
    return found
