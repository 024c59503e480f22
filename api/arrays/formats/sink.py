"""A file that pyarrow writes to and whose bytes are taken away while it does."""

from typing import Any

import pyarrow as pa


class Sink:
    """Where a writer of pyarrow's puts its bytes."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0
        self.file: Any = pa.PythonFile(self, mode="w")

    def write(self, data: Any) -> int:
        """Keep bytes until they are taken."""
        piece = bytes(data)
        self._pieces.append(piece)
        self._position += len(piece)
        return len(piece)

    def tell(self) -> int:
        """How many bytes came so far."""
        return self._position

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held but what was not taken."""

    def taken(self) -> bytes:
        """What was written since."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
