"""Answers that carry arrays: their headers, what is kept by who asked, and compression on the way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

import anyio
from anyio import to_thread
from fastapi import Depends, Header, Request, Response
from zarr.abc.store import RangeByteRequest

from api.arrays.compression import LEAST_BYTES, choose_coding, compressed
from api.arrays.formats.base import Encoded, Format
from api.arrays.labelled import LabelledArray
from api.arrays.ranges import npy_range, wanted_range
from api.arrays.service import etag, matches_tag
from api.streamed import Streamed

_VERSION = version("latentry")
"""Another version may write the same values in other bytes."""
_AT_ONCE_BYTES = 2**16
"""Answers of a known size up to this are made before the first byte is sent: that is quicker, and what fails is told."""
_writing_files = anyio.CapacityLimiter(4)
"""Threads that may write files of answers, apart from those of other requests: who asks for many of them keeps nobody waiting."""


@dataclass(frozen=True)
class Conditions:
    """Under which a client takes an answer: what it has already, which compression it reads, which bytes it wants."""

    if_none_match: str | None
    accept_encoding: str | None
    range_: str | None = None
    if_range: str | None = None
    is_head: bool = False


def _conditions(
    request: Request,
    if_none_match: Annotated[str | None, Header()] = None,
    accept_encoding: Annotated[str | None, Header(include_in_schema=False)] = None,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Conditions:
    return Conditions(if_none_match, accept_encoding, range_, if_range, request.method == "HEAD")


ConditionsDependency = Annotated[Conditions, Depends(_conditions)]


def coding_of(array: LabelledArray, chosen: Format, conditions: Conditions) -> str | None:
    """How an answer is compressed: not at all where it does not pay, or where a range of its bytes is wanted."""
    pays = chosen.shrinks(array) and array.nbytes >= LEAST_BYTES and conditions.range_ is None
    return choose_coding(conditions.accept_encoding) if pays else None


def unchanged(chosen: Format, tag_parts: Sequence[str], conditions: Conditions, kept: str) -> Response | None:
    """The answer 304 if the client has what was asked, however it was compressed: told without looking at the arrays."""
    if (conditions.if_none_match or "*").strip() == "*":
        return None
    for coding in (None, choose_coding(conditions.accept_encoding)):
        tag = _tag(chosen, tag_parts, coding)
        if matches_tag(conditions.if_none_match, tag.removeprefix("W/")):
            return Response(status_code=304, headers=_headers(tag, kept))
    return None


async def in_thread(chosen: Format, make: Callable[[], Response]) -> Response:
    """Make an answer in a thread: where a whole file is written before it is sent, in one of the few that are for that."""
    return await to_thread.run_sync(make, limiter=_writing_files if chosen.is_written_first else None)


def answer(
    chosen: Format,
    filename: str,
    tag_parts: Sequence[str],
    conditions: Conditions,
    kept: str,
    coding: str | None,
    encode: Callable[[], Encoded],
    ranged: Callable[[RangeByteRequest], Iterator[bytes]] | None = None,
) -> Response:
    """An answer, or a range of its bytes, or 304 if the client has it.

    Parameters
    ----------
    chosen
        Its format.
    filename
        To be saved as, without ending.
    tag_parts
        What was asked: whoever asks the same again gets the same.
    conditions
        Of the client.
    kept
        The header `Cache-Control`.
    coding
        How the bytes are compressed.
    encode
        Makes the bytes.
    ranged
        Makes some of the bytes, for formats of which that can be done; the size is then known.

    Raises
    ------
    RangeNotSatisfiable
        If the wanted range begins beyond the end.
    """
    tag = _tag(chosen, tag_parts, coding)
    headers = _headers(tag, kept)
    if matches_tag(conditions.if_none_match, tag.removeprefix("W/")):
        return Response(status_code=304, headers=headers)
    encoded, status = encode(), 200
    size, pieces = encoded.size, encoded.pieces
    if chosen.is_attachment:
        headers["Content-Disposition"] = f'attachment; filename="{filename}.{chosen.ending}"'
    if coding is not None:
        headers["Content-Encoding"] = coding
        size, pieces = None, compressed(pieces, coding)
    elif ranged is not None and size is not None:
        headers["Accept-Ranges"] = "bytes"
        wanted = (
            None if conditions.is_head else wanted_range(conditions.range_, conditions.if_range, tag, size)
        )
        if wanted is not None:
            headers["Content-Range"] = f"bytes {wanted.start}-{wanted.end - 1}/{size}"
            status, size, pieces = 206, wanted.end - wanted.start, ranged(wanted)
    if size is not None:
        headers["Content-Length"] = str(size)
    if conditions.is_head:
        return Streamed(iter(()), 200, headers, chosen.media_type)
    if size is not None and size <= _AT_ONCE_BYTES:
        return Response(b"".join(pieces), status, headers, chosen.media_type)
    return Streamed(pieces, status, headers, chosen.media_type)


def ranges_of(chosen: Format, array: LabelledArray) -> Callable[[RangeByteRequest], Iterator[bytes]] | None:
    """What makes a range of the bytes of an answer: there is one for npy."""
    return (lambda wanted: npy_range(array, wanted)) if chosen.name == "npy" else None


def _tag(chosen: Format, tag_parts: Sequence[str], coding: str | None) -> str:
    # Each coding is another representation, so it has an entity tag of its own (RFC 9110, 8.8.3).
    tag = etag(_VERSION, *tag_parts, chosen.name, coding or "identity")
    return tag if chosen.is_reproducible else f"W/{tag}"


def _headers(tag: str, kept: str) -> dict[str, str]:
    return {"ETag": tag, "Cache-Control": kept, "Vary": "Accept, Accept-Encoding"}
