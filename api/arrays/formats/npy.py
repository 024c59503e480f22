"""NumPy's own format: one array, without what it means."""

import io
from collections.abc import Iterator, Sequence

import numpy as np

from api.arrays.formats.base import Context, Encoded, FileFormat
from api.arrays.labelled import LabelledArray


class Npy(FileFormat):
    """npy: the values alone, to be read by `numpy.load`."""

    name, media_type, ending = "npy", "application/octet-stream", "npy"

    def shrinks(self, array: LabelledArray) -> bool:
        """Whole numbers do, counts ten times and more; the noise in the last digits of others does not."""
        return array.dtype.kind in "biu"

    def encode(self, arrays: Sequence[LabelledArray], context: Context) -> Encoded:
        """The first array, row by row."""
        array = arrays[0]
        return Encoded(len(npy_header(array)) + array.nbytes, npy_pieces(array))


def npy_pieces(array: LabelledArray) -> Iterator[bytes]:
    """An npy file of an array, row by row."""
    yield npy_header(array)
    for block in array.blocks():
        yield np.ascontiguousarray(block).tobytes()


def npy_header(array: LabelledArray) -> bytes:
    """The beginning of an npy file of an array."""
    head = io.BytesIO()
    described = np.lib.format.dtype_to_descr(array.dtype)
    np.lib.format.write_array_header_1_0(
        head, {"descr": described, "fortran_order": False, "shape": array.shape}
    )
    return head.getvalue()
