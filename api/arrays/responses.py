"""Responses that carry arrays: headers for caches, compression, and ranges of bytes."""

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from typing import Annotated, Any

import numpy as np
import zstandard
from fastapi import Depends, Header, Request, Response
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest

from api.arrays.formats import FORMATS, Encoded, Format
from api.arrays.formats.json import ArrayValues
from api.arrays.formats.npy import npy_header
from api.arrays.groups import StoredRows
from api.arrays.labelled import LabelledArray
from api.computing.streamed_response import Streamed
from api.errors import RangeNotSatisfiable
from api.http.http_cache import NOT_MODIFIED, etag, matches_tag

_VERSION = version("latentry")
"""Another version may write the same values in other bytes."""
_AT_ONCE_BYTES = 2**16
"""A body of known size up to this is made before the first byte is sent: this is faster, and an error gets its own status."""
_LEVEL = 1
"""Level of zstd and gzip. Higher ones take several times as long for a tenth less: docs/formats.md has the figures."""
_GZIP = 16 + zlib.MAX_WBITS
LEAST_BYTES = 1024
"""Smaller arrays are not compressed: they are one packet either way."""
_CODING = re.compile(r"\s*([\w*-]+)\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?)\s*)?")
BINARY = {"schema": {"type": "string", "format": "binary"}}
"""OpenAPI's description of a body of bytes."""


def values_responses(description: str) -> dict[int | str, dict[str, Any]]:
    """Describe a response in any format for OpenAPI."""
    content = {one.media_type: BINARY for one in FORMATS if one.name != "json"}
    return {200: {"description": description, "model": ArrayValues, "content": content}, **NOT_MODIFIED}


_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*")


@dataclass(frozen=True)
class Conditions:
    """What the headers of a request say: the copy that the client has, the compression it reads, the bytes it wants."""

    if_none_match: str | None
    accept_encoding: str | None
    range_: str | None = None
    if_range: str | None = None
    is_head: bool = False


async def _conditions(
    request: Request,
    if_none_match: Annotated[str | None, Header()] = None,
    accept_encoding: Annotated[str | None, Header(include_in_schema=False)] = None,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Conditions:
    return Conditions(if_none_match, accept_encoding, range_, if_range, request.method == "HEAD")


ConditionsDependency = Annotated[Conditions, Depends(_conditions)]


@dataclass(frozen=True)
class ArrayResponse:
    """The response to one request in one format.

    Attributes
    ----------
    format
        The format.
    key
        The cache key: equal keys imply equal values.
    cache_control
        The header `Cache-Control`.
    conditions
        The headers of the request.
    """

    format: Format
    key: tuple[str, ...]
    cache_control: str
    conditions: Conditions

    def unchanged(self) -> Response | None:
        """Return the response 304 if the client has a valid copy, compressed or not; the arrays are not read."""
        if (self.conditions.if_none_match or "*").strip() == "*":
            return None
        for coding in (None, choose_coding(self.conditions.accept_encoding)):
            if self._is_known(tag := self._tag(coding)):
                return Response(status_code=304, headers=self._headers(tag))
        return None

    def send(
        self,
        filename: str,
        encode: Callable[[], Encoded],
        array: LabelledArray | None = None,
        *,
        has_ranges: bool = False,
    ) -> Response:
        """Return the response, or a range of its bytes, or 304 if the client has a valid copy.

        Parameters
        ----------
        filename
            Name of the file without ending.
        encode
            Makes the bytes.
        array
            The array that is sent, which may be compressed. A file of several arrays is not.
        has_ranges
            Whether a range of an npy file may be sent.

        Raises
        ------
        RangeNotSatisfiable
            If the range begins beyond the end.
        """
        chosen, conditions = self.format, self.conditions
        coding = None if array is None else coding_of(array, chosen, conditions)
        tag = self._tag(coding)
        headers = self._headers(tag)
        if self._is_known(tag):
            return Response(status_code=304, headers=headers)
        encoded, status = encode(), 200
        size, pieces = encoded.size, encoded.pieces
        if chosen.is_attachment:
            headers["Content-Disposition"] = f'attachment; filename="{filename}.{chosen.ending}"'
        if coding is not None:
            headers["Content-Encoding"] = coding
            size, pieces = None, compressed(pieces, coding)
        elif has_ranges and array is not None and size is not None and chosen.name == "npy":
            headers["Accept-Ranges"] = "bytes"
            wanted = None
            if not conditions.is_head:
                wanted = wanted_range(conditions.range_, conditions.if_range, tag, size)
            if wanted is not None:
                headers["Content-Range"] = f"bytes {wanted.start}-{wanted.end - 1}/{size}"
                status, size, pieces = 206, wanted.end - wanted.start, npy_range(array, wanted)
        if size is not None:
            headers["Content-Length"] = str(size)
        if conditions.is_head:
            return Streamed(iter(()), 200, headers, chosen.media_type)
        if size is not None and size <= _AT_ONCE_BYTES:
            return Response(b"".join(pieces), status, headers, chosen.media_type)
        return Streamed(pieces, status, headers, chosen.media_type)

    def _tag(self, coding: str | None) -> str:
        # Each coding is another representation, so it has its own entity tag (RFC 9110, 8.8.3).
        tag = etag(_VERSION, *self.key, self.format.name, coding or "identity")
        return tag if self.format.is_reproducible else f"W/{tag}"

    def _is_known(self, tag: str) -> bool:
        return matches_tag(self.conditions.if_none_match, tag.removeprefix("W/"))

    def _headers(self, tag: str) -> dict[str, str]:
        return {"ETag": tag, "Cache-Control": self.cache_control, "Vary": "Accept, Accept-Encoding"}


def coding_of(array: LabelledArray, chosen: Format, conditions: Conditions) -> str | None:
    """Return the compression of a response; None where it does not pay, or where a range of bytes is wanted."""
    pays = chosen.shrinks(array) and array.nbytes >= LEAST_BYTES and conditions.range_ is None
    return choose_coding(conditions.accept_encoding) if pays else None


def choose_coding(accept_encoding: str | None) -> str | None:
    """Return `zstd`, `gzip`, or None for no compression: what the client prefers, and zstd if it likes both equally."""
    accepted = {}
    for item in (accept_encoding or "").lower().split(","):
        if match := _CODING.fullmatch(item):
            accepted[match[1]] = float(match[2] or 1)
    weights = {coding: accepted.get(coding, accepted.get("*", 0.0)) for coding in ("zstd", "gzip")}
    best = max(weights, key=lambda coding: weights[coding])
    return best if weights[best] > 0 and weights[best] >= accepted.get("identity", 0.0) else None


def compressed(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """Yield the same bytes, compressed piece by piece."""
    made = zstandard.ZstdCompressor(_LEVEL).compressobj() if coding == "zstd" else zlib.compressobj(
        _LEVEL, wbits=_GZIP
    )  # fmt: skip
    for piece in pieces:
        if part := made.compress(piece):
            yield part
    yield made.flush()


def wanted_range(header: str | None, if_range: str | None, tag: str, size: int) -> RangeByteRequest | None:
    """Return the range of bytes that a request asks for; None if the whole is sent.

    Parameters
    ----------
    header, if_range
        The headers `Range` and `If-Range`.
    tag
        The strong entity tag of the whole; if there is `If-Range`, it must name this tag.
    size
        Size of the whole, in bytes.

    Raises
    ------
    RangeNotSatisfiable
        If the range begins beyond the end.
    """
    return parse_range(header, size) if if_range is None or if_range.strip() == tag else None


def parse_range(header: str | None, size: int) -> RangeByteRequest | None:
    """Parse a `Range` header; None for no range, for several ranges and for other units, which get the whole.

    Raises
    ------
    RangeNotSatisfiable
        If the range begins beyond the end.
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
    """Yield some bytes of an array's npy file; of a stored array, only chunks that hold some of them are read."""
    head = npy_header(array)
    row_bytes = array.nbytes // array.shape[0] if array.shape and array.shape[0] else 0
    if wanted.start < len(head) or not row_bytes:
        first_row, position, begins = 0, 0, [head]
    else:
        first_row = (wanted.start - len(head)) // row_bytes
        position, begins = len(head) + first_row * row_bytes, []
    bodies = (np.ascontiguousarray(block).tobytes() for block in _blocks_from(array, first_row))
    for piece in chain(begins, bodies):
        part = piece[max(0, wanted.start - position) : wanted.end - position]
        position += len(piece)
        if part:
            yield part
        if position >= wanted.end:
            return


def _blocks_from(array: LabelledArray, row: int) -> Iterator[NDArray[Any]]:
    """Yield the blocks of an array from a row on; a stored array reads nothing before it."""
    if isinstance(array.blocks, StoredRows):
        yield from array.blocks.starting_at(row)
        return
    for block in array.blocks():
        rows = len(block) if block.ndim else 1
        if row < rows:
            yield block[row:] if row else block
        row = max(0, row - rows)
