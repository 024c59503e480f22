"""What a format of answers is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from api.arrays.labelled import LabelledArray
from api.arrays.provenance import Origin


@dataclass(frozen=True)
class Encoded:
    """An answer on its way.

    Attributes
    ----------
    size
        In bytes, where it is known before it is made.
    pieces
        The bytes, made as they are asked for.
    """

    size: int | None
    pieces: Iterator[bytes]


@dataclass(frozen=True)
class Context:
    """What a format may need beside the arrays.

    Attributes
    ----------
    json_max_elements
        Most elements of an answer as JSON.
    origin
        Whose arrays they are, and what is known of their trials.
    """

    json_max_elements: int
    origin: Origin


class Format(Protocol):
    """One way to write arrays.

    Attributes
    ----------
    name
        As in ``format=``.
    media_type
        As in ``Accept`` and ``Content-Type``.
    ending
        Of a file name, without the dot.
    is_attachment
        Whether a browser saves it rather than shows it.
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
        """Whether compressing what becomes of an array pays: it is text, or whole numbers, and not compressed already."""

    def encode(self, arrays: Sequence[LabelledArray], context: Context) -> Encoded:
        """Write arrays; the first is the one that was asked for, others belong to it.

        Raises
        ------
        Invalid
            If they can't be written so: too large, too many axes, several where one is possible.
        """


class FileFormat:
    """A format that is a file of its own kind: saved, the same each time, and as small as it pays to make it."""

    is_attachment = True
    is_reproducible = True
    is_written_first = False

    def shrinks(self, array: LabelledArray) -> bool:
        """No: its own compression is used where that pays."""
        return False
