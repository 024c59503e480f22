"""What a format of answers is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from api.arrays.labelled import LabelledArray


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
    """

    name: str
    media_type: str
    ending: str

    def encode(self, arrays: Sequence[LabelledArray], json_max_elements: int) -> Encoded:
        """Write arrays; the first is the one that was asked for, others belong to it.

        Raises
        ------
        Invalid
            If they can't be written so: too large, too many axes, several where one is possible.
        """
