"""A file sent in pieces by the protocol tus 1.0.0, gone on with where it was when the connection breaks."""

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

Progress = Callable[[int, int], None]
"""Called with the bytes sent so far and the size of the file."""

PATIENCE_SECONDS = 60.0
_BLOCK_BYTES = 2**20
_PIECE_BYTES = 32 * 2**20


def pieces(file: BinaryIO, size: int, progress: Progress | None, sent: int = 0) -> Iterator[bytes]:
    """Blocks of a file from where it stands up to `size`, told to `progress` as they go."""
    while sent < size and (block := file.read(min(_BLOCK_BYTES, size - sent))):
        yield block
        sent += len(block)
        if progress is not None:
            progress(sent, size)


class ResumableUpload:
    """One file on its way.

    Parameters
    ----------
    http
        Connections to the service.
    path
        The file; it must not change meanwhile.
    progress
        Told the bytes sent so far and the size of the file.
    """

    def __init__(self, http: httpx.Client, path: Path, progress: Progress | None) -> None:
        self._http, self._path, self._progress = http, path, progress
        self._size = path.stat().st_size

    def send(self, error_of: Callable[[httpx.Response], Exception]) -> str:
        """Send all of it and return the id of the upload.

        Parameters
        ----------
        error_of
            Makes an error of an answer that refuses.

        Raises
        ------
        httpx.TransportError
            If the service does not answer for a minute.
        OSError
            If other bytes arrived: the file changed meanwhile.
        """
        filename = base64.b64encode(self._path.name.encode()).decode()
        # The key lets a repeated request (a lost answer) begin no second upload.
        begin = {
            "Upload-Length": str(self._size),
            "Upload-Metadata": f"filename {filename}",
            "Idempotency-Key": uuid.uuid4().hex,
        }
        url = self._patiently(lambda: self._ask("POST", "/v1/uploads", begin), error_of).headers["Location"]
        offset, last_sign = 0, time.monotonic()
        with self._path.open("rb") as file:
            while offset < self._size:
                try:
                    answer = _checked(self._ask("PATCH", url, *self._piece(file, offset)), error_of)
                except (httpx.TransportError, _MayPass) as failure:
                    if time.monotonic() - last_sign > PATIENCE_SECONDS:
                        raise _cause(failure) from None
                    time.sleep(0.5)
                    answer = self._patiently(lambda: self._ask("HEAD", url, {}), error_of)
                came = int(answer.headers["Upload-Offset"])
                if came > offset:
                    last_sign = time.monotonic()
                offset = came
        kept = self._patiently(lambda: self._http.get(url), error_of).json()
        with self._path.open("rb") as file:
            sent = hashlib.file_digest(file, "sha256").hexdigest()
        if kept["sha256"] != sent:
            raise OSError(
                f"{self._path.name} arrived as other bytes: their SHA-256 is {kept['sha256']}, the file's {sent}"
            )
        return str(kept["id"])

    def _piece(self, file: BinaryIO, offset: int) -> tuple[dict[str, str], Iterator[bytes]]:
        """Headers and body of the next piece."""
        end = min(offset + _PIECE_BYTES, self._size)
        file.seek(offset)
        headers = {
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(end - offset),
            "Upload-Offset": str(offset),
        }

        def told(sent: int, _end: int) -> None:
            if self._progress is not None:
                self._progress(sent, self._size)

        return headers, pieces(file, end, told, offset)

    def _ask(
        self, method: str, url: str, headers: dict[str, str], body: Iterator[bytes] | None = None
    ) -> httpx.Response:
        return self._http.request(method, url, headers={"Tus-Resumable": "1.0.0", **headers}, content=body)

    def _patiently(
        self, ask: Callable[[], httpx.Response], error_of: Callable[[httpx.Response], Exception]
    ) -> httpx.Response:
        """Ask until the service answers, for up to a minute."""
        started = time.monotonic()
        while True:
            try:
                return _checked(ask(), error_of)
            except (httpx.TransportError, _MayPass) as failure:
                if time.monotonic() - started > PATIENCE_SECONDS:
                    raise _cause(failure) from None
                time.sleep(0.5)


class _MayPass(Exception):
    """An answer that may be another one in a moment: another request is at it, or the service is not well."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _checked(answer: httpx.Response, error_of: Callable[[httpx.Response], Exception]) -> httpx.Response:
    if answer.status_code in (httpx.codes.CONFLICT, httpx.codes.LOCKED) or answer.is_server_error:
        raise _MayPass(error_of(answer))
    if answer.is_error:
        raise error_of(answer)
    return answer


def _cause(failure: Exception) -> Exception:
    return failure.error if isinstance(failure, _MayPass) else failure
