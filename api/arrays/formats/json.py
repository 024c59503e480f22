"""JSON: small arrays for people and scripts, with all that is known of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.formats.base import Encoded
from api.arrays.labelled import LabelledArray
from api.arrays.schemas import ArrayValues
from api.errors import Invalid


class Json:
    """JSON, of a bounded number of elements."""

    name, media_type, ending = "json", "application/json", "json"

    def encode(self, arrays: Sequence[LabelledArray], json_max_elements: int) -> Encoded:
        """The first array as a document."""
        array = arrays[0]
        if array.size > json_max_elements:
            raise Invalid(
                f"{array.name}: this slice has {array.size} elements; JSON answers at most {json_max_elements}",
                hint="ask for format=npy, open the Zarr URL, or take a smaller slice",
            )
        document = ArrayValues(
            name=array.name,
            dims=list(array.dims),
            shape=list(array.shape),
            dtype=str(array.dtype),
            units=array.units,
            values=without_nan(array.values()).tolist(),
        )
        content = document.model_dump_json().encode()
        return Encoded(len(content), iter([content]))


def without_nan(values: NDArray[Any]) -> NDArray[Any]:
    """Values as JSON has them: null for what is no number."""
    if values.dtype.kind != "f" or bool(np.isfinite(values).all()):
        return values
    as_objects = values.astype(object)
    as_objects[~np.isfinite(values)] = None
    return as_objects
