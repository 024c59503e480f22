"""Formats whose files are written back and forth: first to a temporary file, then sent."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from api.arrays.formats.base import Encoded

_PIECE_BYTES = 2**20


def spooled(write: Callable[[Path], None], ending: str) -> Encoded:
    """What a function writes into the file it is given; the file is gone from its folder before the answer begins."""
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
