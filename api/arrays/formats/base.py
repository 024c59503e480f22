"""The protocol of formats."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from api.arrays.labelled import LabelledArray
from api.arrays.provenance import Provenance


@dataclass(frozen=True)
class Encoded:
    """The body of a response.

    Attributes
    ----------
    size
        In bytes, if it is known before the body is made.
    pieces
        The bytes, made one piece after the other.
    """

    size: int | None
    pieces: Iterator[bytes]


@dataclass(frozen=True)
class WriteContext:
    """What a format may need beside the arrays.

    Attributes
    ----------
    json_max_elements
        Most elements of a response as JSON.
    provenance
        Where the arrays come from.
    """

    json_max_elements: int
    provenance: Provenance


class Format(Protocol):
    """A way to write arrays.

    Attributes
    ----------
    name
        As in ``format=``.
    media_type
        As in ``Accept`` and ``Content-Type``.
    ending
        Ending of a file name, without the dot.
    is_attachment
        Whether a browser saves it instead of showing it.
    is_reproducible
        Whether the same arrays give the same bytes each time.
    is_written_first
        Whether a whole file is written before its first byte is sent.
    """

    name: str
    media_type: str
    ending: str
    is_attachment: bool
    is_reproducible: bool
    is_written_first: bool

    def shrinks(self, array: LabelledArray) -> bool:
        """Return whether it pays to compress the response: text and whole numbers that are not compressed already."""

    def encode(self, arrays: Sequence[LabelledArray], context: WriteContext) -> Encoded:
        """Write arrays; the first is the one that was asked for, others belong to it.

        Raises
        ------
        Invalid
            If the format cannot hold them: too large, too many axes, or several arrays where it holds one.
        """


class FileFormat:
    """A format that is saved as a file, the same each time, and that uses its own compression where that pays."""

    is_attachment = True
    is_reproducible = True
    is_written_first = False

    def shrinks(self, array: LabelledArray) -> bool:
        """Return False."""
        return False
