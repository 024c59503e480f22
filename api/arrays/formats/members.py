"""What goes into a file that holds more than one array."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from api.arrays.labelled import Coordinate, LabelledArray


def coordinates_of(arrays: Sequence[LabelledArray]) -> list[Coordinate]:
    """Coordinates of all of some arrays, each once; those that are among the arrays themselves are left out."""
    found: dict[str, Coordinate] = {}
    themselves = {array.name for array in arrays}
    for array in arrays:
        for one in array.coordinates:
            if one.name not in themselves:
                found.setdefault(one.name, one)
    return list(found.values())


def in_memory(
    name: str,
    values: NDArray[Any],
    dims: tuple[str, ...],
    units: str = "",
    description: str = "",
    attributes: Mapping[str, Any] | None = None,
) -> LabelledArray:
    """An array whose values are there already."""
    return LabelledArray(
        name,
        dims,
        values.shape,
        values.dtype,
        units,
        description,
        (),
        attributes or {},
        lambda: iter((values,)),
    )
