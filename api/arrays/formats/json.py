"""JSON: small arrays for people and scripts, with their coordinates and attributes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from api.arrays.formats.base import Encoded, WriteContext
from api.arrays.labelled import LabelledArray
from api.errors import Invalid


class CoordinateValues(BaseModel):
    """A value for each entry along a dim: its time, its neuron, the split of its trial."""

    dim: str
    units: str = ""
    description: str = ""
    attributes: dict[str, Any] = Field(
        default_factory=dict, description="`flag_values` and `flag_meanings` say which words codes stand for."
    )
    values: list[Any] = Field(description="One for each entry; NaN is written as null.")


class ArrayValues(BaseModel):
    """Values of an array, or of a slice of it. NaN is written as null."""

    name: str
    dims: list[str]
    shape: list[int]
    dtype: str
    units: str
    description: str = ""
    attributes: dict[str, Any] = Field(default_factory=dict)
    values: Any
    coordinates: dict[str, CoordinateValues] = Field(
        default_factory=dict, description="By name; the one that has the name of its dim is its index."
    )
    beside: list["ArrayValues"] = Field(
        default_factory=list, description="Arrays that belong to it, such as its standard error."
    )


class Json:
    """JSON, of a bounded number of elements."""

    name, media_type, ending = "json", "application/json", "json"
    is_attachment, is_reproducible, is_written_first = False, True, False

    def shrinks(self, array: LabelledArray) -> bool:
        """Return True: text shrinks."""
        return True

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write the first array as a document, with the others in it."""
        array, *others = arrays
        elements = sum(one.size for one in arrays)
        longest = max((len(one.values) for one in array.coordinates), default=0)
        if max(elements, longest) > context.json_max_elements:
            raise Invalid(
                f"{array.name}: this slice has {max(elements, longest)} elements; JSON answers at most "
                f"{context.json_max_elements}",
                hint="ask for format=npy, open the Zarr URL, or take a smaller slice",
            )
        document = _document(array)
        document.beside = [_document(one) for one in others]
        content = document.model_dump_json().encode()
        return Encoded(len(content), iter([content]))


def _document(array: LabelledArray) -> ArrayValues:
    return ArrayValues(
        name=array.name,
        dims=list(array.dims),
        shape=list(array.shape),
        dtype=str(array.dtype),
        units=array.units,
        description=array.description,
        attributes=dict(array.attributes),
        values=_without_nan(array.values()).tolist(),
        coordinates={
            one.name: CoordinateValues(
                dim=one.dim,
                units=one.units,
                description=one.description,
                attributes=dict(one.attributes),
                values=_without_nan(one.values).tolist(),
            )
            for one in array.coordinates
        },
    )


def _without_nan(values: NDArray[Any]) -> NDArray[Any]:
    """Return values as JSON can hold them: None in place of NaN and infinity."""
    if values.dtype.kind != "f" or bool(np.isfinite(values).all()):
        return values
    as_objects = values.astype(object)
    as_objects[~np.isfinite(values)] = None
    return as_objects
