"""Ranges of bytes: of objects as they are stored, and of npy answers, which are made from the rows that they have."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest

from api.arrays.formats.npy import npy_header
from api.arrays.labelled import LabelledArray
from api.arrays.rows import StoredRows
from api.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*")


def wanted_range(header: str | None, if_range: str | None, tag: str, size: int) -> RangeByteRequest | None:
    """The range that a request asks for; None where the whole is to be answered.

    Parameters
    ----------
    header, if_range
        The headers `Range` and `If-Range`.
    tag
        The strong entity tag of the whole; the range holds only if `If-Range` names it.
    size
        Of the whole, in bytes.

    Raises
    ------
    RangeNotSatisfiable
        If it begins beyond the end.
    """
    return parse_range(header, size) if if_range is None or if_range.strip() == tag else None


def parse_range(header: str | None, size: int) -> RangeByteRequest | None:
    """Parse a `Range` header; None for none, for several ranges and for other units, which are answered whole.

    Raises
    ------
    RangeNotSatisfiable
        If it begins beyond the end.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or not match[1] + match[2]:
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
    if start >= size or (first == "" and int(last) == 0):
        raise RangeNotSatisfiable(
            f"the range {header!r} lies outside an object of {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return RangeByteRequest(start, end) if start < end else None


def npy_range(array: LabelledArray, wanted: RangeByteRequest) -> Iterator[bytes]:
    """Some bytes of an array's npy file; of a stored array no chunk is read that has none of them."""
    head = npy_header(array)
    row_bytes = array.nbytes // array.shape[0] if array.shape and array.shape[0] else 0
    if wanted.start < len(head) or not row_bytes:
        first_row, position, begins = 0, 0, [head]
    else:
        first_row = (wanted.start - len(head)) // row_bytes
        position, begins = len(head) + first_row * row_bytes, []
    bodies = (np.ascontiguousarray(block).tobytes() for block in blocks_from(array, first_row))
    for piece in chain(begins, bodies):
        part = piece[max(0, wanted.start - position) : wanted.end - position]
        position += len(piece)
        if part:
            yield part
        if position >= wanted.end:
            return


def blocks_from(array: LabelledArray, row: int) -> Iterator[NDArray[Any]]:
    """The blocks of an array from a row on: those before are made and dropped, unless they are as stored."""
    if isinstance(array.blocks, StoredRows):
        yield from array.blocks.starting_at(row)
        return
    for block in array.blocks():
        rows = len(block) if block.ndim else 1
        if row < rows:
            yield block[row:] if row else block
        row = max(0, row - rows)
