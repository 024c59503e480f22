"""Bodies that are made while they are sent: files whose bytes are taken away while they are written, and temporary files."""

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from api.arrays.formats.base import Encoded

_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of every member of a zip archive, so that the same members make the same bytes."""
_PIECE_BYTES = 2**20


class Sink:
    """A file that cannot be rewound, whose bytes are taken away while it is written."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def write(self, data: Any, /) -> int:
        """Keep bytes until they are taken."""
        piece = bytes(data)
        self._pieces.append(piece)
        self._position += len(piece)
        return len(piece)

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self._position

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def close(self) -> None:
        """Do nothing: there is no resource to release."""

    def taken(self) -> bytes:
        """Return the bytes that were written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def zip_pieces(members: Iterable[tuple[str, Iterable[bytes]]]) -> Iterator[bytes]:
    """Yield a zip archive of any size, member after member, without compression.

    Parameters
    ----------
    members
        Name and bytes of each.
    """
    sink = Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, pieces in members:
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as member:
                for piece in pieces:
                    member.write(piece)
                    yield sink.taken()
        yield sink.taken()
    yield sink.taken()


def spooled(write: Callable[[Path], None], ending: str) -> Encoded:
    """Return what a function writes into a temporary file, which is deleted from its folder before the response begins.

    Libraries that seek back and forth need this.
    """
    with tempfile.TemporaryDirectory(prefix="latentry-answer-") as folder:
        path = Path(folder) / f"answer.{ending}"
        write(path)
        size = path.stat().st_size
        file = path.open("rb")
    return Encoded(size, _pieces(file))


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
