"""Upload files: whole, or in pieces by the protocol tus 1.0.0, which can resume after a lost connection."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO

from latentry.documents import Document
from latentry.errors import ServiceFault, Unavailable, UploadInUse, WrongState

if TYPE_CHECKING:
    import httpx

    from latentry.asynchronous.connection import AsyncConnection

Progress = Callable[[int, int], None]
"""Called with the bytes sent so far and the size of the file."""

_BLOCK_BYTES = 2**20
_PIECE_BYTES = 32 * 2**20
_PAUSE_SECONDS = 0.5
_MAY_PASS = (Unavailable, UploadInUse, WrongState, ServiceFault)
"""Temporary problems: another request writes to the upload, or the service has an internal error."""


async def pieces(file: BinaryIO, size: int, progress: Progress | None, sent: int = 0) -> AsyncIterator[bytes]:
    """Yield blocks of a file from its position up to `size`, and report them to `progress`."""
    while sent < size and (block := file.read(min(_BLOCK_BYTES, size - sent))):
        yield block
        sent += len(block)
        if progress is not None:
            progress(sent, size)


async def upload_whole(
    connection: AsyncConnection, path: Path, parameters: Document, progress: Progress | None
) -> httpx.Response:
    """Create a data set from a file in one request."""
    size = path.stat().st_size
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Idempotency-Key": uuid.uuid4().hex,
    }
    with path.open("rb") as file:

        def content() -> AsyncIterator[bytes]:
            file.seek(0)
            return pieces(file, size, progress)

        return await connection.request(
            "POST", "/v1/datasets", params=parameters, content=content, headers=headers
        )


class AsyncResumableUpload:
    """The upload of one file in pieces.

    Parameters
    ----------
    connection
        Connection to the service.
    path
        The file; it must not change during the upload.
    progress
        Called with the bytes sent so far and the size of the file.
    """

    def __init__(self, connection: AsyncConnection, path: Path, progress: Progress | None) -> None:
        self._connection, self._path, self._progress = connection, path, progress
        self._size = path.stat().st_size

    async def send(self) -> str:
        """Send the whole file and return the id of the upload.

        Raises
        ------
        LatentryError
            If the service refuses it, or does not answer for the time of the retries.
        OSError
            If other bytes arrived: the file has changed during the upload.
        """
        url = await self._begin()
        offset, last_sign = 0, monotonic()
        with self._path.open("rb") as file:
            while offset < self._size:
                try:
                    answer = await self._send_piece(url, file, offset)
                except _MAY_PASS:
                    if monotonic() - last_sign > self._connection.patience_s:
                        raise
                    await asyncio.sleep(_PAUSE_SECONDS)
                    answer = await self._ask_offset(url)
                came = int(answer.headers["Upload-Offset"])
                if came > offset:
                    last_sign = monotonic()
                offset = came
        return await self._check(url)

    async def _begin(self) -> str:
        filename = base64.b64encode(self._path.name.encode()).decode()
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(self._size),
            "Upload-Metadata": f"filename {filename}",
            "Idempotency-Key": uuid.uuid4().hex,
        }
        answer = await self._connection.request("POST", "/v1/uploads", headers=headers)
        # Behind a reverse proxy, `Location` begins with the path of the service.
        return str(answer.url.join(answer.headers["Location"]))

    async def _send_piece(self, url: str, file: BinaryIO, offset: int) -> httpx.Response:
        end = min(offset + _PIECE_BYTES, self._size)
        headers = {
            "Tus-Resumable": "1.0.0",
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(end - offset),
            "Upload-Offset": str(offset),
        }

        def told(sent: int, _end: int) -> None:
            if self._progress is not None:
                self._progress(sent, self._size)

        def piece() -> AsyncIterator[bytes]:
            file.seek(offset)
            return pieces(file, end, told, offset)

        return await self._connection.request(
            "PATCH", url, content=piece, headers=headers, is_repeatable=False
        )

    async def _ask_offset(self, url: str) -> httpx.Response:
        started = monotonic()
        while True:
            try:
                return await self._connection.request("HEAD", url, headers={"Tus-Resumable": "1.0.0"})
            except _MAY_PASS:
                if monotonic() - started > self._connection.patience_s:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _check(self, url: str) -> str:
        kept = (await self._connection.request("GET", url)).json()
        with self._path.open("rb") as file:
            sent = hashlib.file_digest(file, "sha256").hexdigest()
        if kept["sha256"] != sent:
            raise OSError(
                f"{self._path.name} arrived as other bytes: their SHA-256 is {kept['sha256']}, that of the file is {sent}"
            )
        return str(kept["id"])
