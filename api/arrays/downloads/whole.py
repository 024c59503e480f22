"""What a download holds: arrays of one group, with their coordinates."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store

from api.arrays.formats import Context
from api.arrays.formats.categories import as_words
from api.arrays.formats.members import coordinates_of, in_memory
from api.arrays.group import ArrayGroup
from api.arrays.labelled import LabelledArray, labelled
from api.errors import Invalid
from api.validation_errors import FieldProblem


@dataclass(frozen=True)
class Whole:
    """Arrays of a group.

    Attributes
    ----------
    group, store
        Where they lie.
    arrays
        Those that are wanted, but for those that are coordinates of others.
    context
        Whose they are.
    is_dataset
        Whether they are of a data set, not latents.
    attributes
        Of the group.
    """

    group: ArrayGroup
    store: Store
    arrays: tuple[LabelledArray, ...]
    context: Context
    is_dataset: bool
    attributes: dict[str, Any]

    @property
    def names(self) -> set[str]:
        """Of the arrays and of their coordinates."""
        return {array.name for array in self.arrays} | {one.name for one in coordinates_of(self.arrays)}

    @property
    def bin_width_s(self) -> float:
        """Width of a bin, in seconds."""
        return float(self.attributes.get("bin_width_s", self.context.origin.bin_width_s))

    def told_by_rows(self) -> tuple[LabelledArray, ...]:
        """What a group does not have as arrays: the width of its bins; of a data set, the split of its trials as it came."""
        width = in_memory("bin_width_s", np.array(self.bin_width_s), (), "s")
        if not self.is_dataset:
            return (width,)
        flags = {"flag_values": [-2, -1, 0, 1], "flag_meanings": "gap none train valid"}
        codes = {"train": 0, "valid": 1, "gap": -2}
        split = np.array([codes.get(one.split or "", -1) for one in self.context.origin.trials()], np.int8)
        return width, in_memory("split", split, ("trial",), "", "part that the trial is for, as given", flags)

    def splits(self) -> NDArray[np.str_]:
        """Split of every trial of the data set: of latents as the job had it, of a data set as it came.

        Trials without one are ``test``; if no trial has one, all are ``train``.
        """
        stored = self.group.opened(self.store)
        if not self.is_dataset and "split" in stored.arrays:
            return as_words(stored.values("split"), dict(stored.arrays["split"].attrs)).astype(str)
        given = [one.split or "test" for one in self.context.origin.trials()]
        return np.array(given if "train" in given else ["train"] * len(given), np.str_)


def gather(
    group: ArrayGroup, store: Store, wanted: list[str] | None, context: Context, *, is_dataset: bool
) -> Whole:
    """The arrays of a group that are wanted: all of them where none is named.

    Raises
    ------
    Invalid
        If one is named that there is not.
    """
    opened = group.opened(store)
    missing = [name for name in wanted or () if name not in opened.arrays]
    if missing:
        message = f"{group.owner} has no array {missing[0]!r}"
        raise Invalid(
            f"arrays: {message}",
            hint=f"it has {', '.join(opened.arrays)}",
            errors=[FieldProblem(pointer="arrays", code="array", message=message)],
        )
    found = [labelled(name, opened) for name in dict.fromkeys(wanted or opened.arrays)]
    return Whole(group, store, _without_coordinates(found), context, is_dataset, dict(opened.group.attrs))


def _without_coordinates(arrays: list[LabelledArray]) -> tuple[LabelledArray, ...]:
    """Arrays but for those that come as coordinates of others."""
    told = {one.name for array in arrays for one in array.coordinates}
    kept = [array for array in arrays if array.name not in told]
    for array in arrays:
        if array.name not in {one.name for one in kept} | {one.name for one in coordinates_of(kept)}:
            kept.append(array)
    return tuple(kept)
