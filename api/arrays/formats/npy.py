"""NumPy's own format: one array, without what it means."""

import io
from collections.abc import Iterator, Sequence

import numpy as np

from api.arrays.formats.base import Encoded
from api.arrays.labelled import LabelledArray


class Npy:
    """npy: the values alone, to be read by `numpy.load`."""

    name, media_type, ending = "npy", "application/octet-stream", "npy"

    def encode(self, arrays: Sequence[LabelledArray], json_max_elements: int) -> Encoded:
        """The first array, row by row."""
        array = arrays[0]
        head = npy_header(array)

        def pieces() -> Iterator[bytes]:
            yield head
            for block in array.blocks():
                yield np.ascontiguousarray(block).tobytes()

        return Encoded(len(head) + array.nbytes, pieces())


def npy_header(array: LabelledArray) -> bytes:
    """The beginning of an npy file of an array."""
    head = io.BytesIO()
    described = np.lib.format.dtype_to_descr(array.dtype)
    np.lib.format.write_array_header_1_0(
        head, {"descr": described, "fortran_order": False, "shape": array.shape}
    )
    return head.getvalue()
