"""JSON: small arrays for people and scripts, with all that is known of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.formats.base import Context, Encoded
from api.arrays.labelled import LabelledArray
from api.arrays.schemas import ArrayValues, CoordinateValues
from api.errors import Invalid


class Json:
    """JSON, of a bounded number of elements."""

    name, media_type, ending = "json", "application/json", "json"
    is_attachment, is_reproducible, is_written_first = False, True, False

    def shrinks(self, array: LabelledArray) -> bool:
        """Text does."""
        return True

    def encode(self, arrays: Sequence[LabelledArray], context: Context) -> Encoded:
        """The first array as a document, the others in it."""
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
        values=without_nan(array.values()).tolist(),
        coordinates={
            one.name: CoordinateValues(
                dim=one.dim,
                units=one.units,
                description=one.description,
                attributes=dict(one.attributes),
                values=without_nan(one.values).tolist(),
            )
            for one in array.coordinates
        },
    )


def without_nan(values: NDArray[Any]) -> NDArray[Any]:
    """Values as JSON has them: null for what is no number."""
    if values.dtype.kind != "f" or bool(np.isfinite(values).all()):
        return values
    as_objects = values.astype(object)
    as_objects[~np.isfinite(values)] = None
    return as_objects
