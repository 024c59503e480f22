"""Send any request to the service: the base of `AsyncClient`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, overload

from latentry.documents import Document
from latentry.errors import LatentryError

if TYPE_CHECKING:
    import httpx

Progress = Callable[[int, int | None], None]
"""Called with the bytes transferred so far and the size of the whole, None if it is unknown."""


class AsyncRequests:
    """Sends requests to one service; parameters as those of `AsyncClient`."""

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout_s: float = 300.0,
        patience_s: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        from latentry.asynchronous.connection import AsyncConnection

        self.url = _address(url or os.environ.get("LATENTRY_URL") or "http://127.0.0.1:8000")
        key = os.environ.get("LATENTRY_KEY", "") if key is None else key
        self._connection = AsyncConnection(self.url, key, timeout_s, patience_s, transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def get(self, path: str, params: Document | None = None, **arguments: Any) -> Document:
        """GET a document; `arguments` may have ``headers``."""
        document: Document = (await self.request("GET", path, params=params, **arguments)).json()
        return document

    async def post(self, path: str, body: Document | None = None, params: Document | None = None) -> Document:
        """POST a document. If the answer is lost, it is sent again with the same key, so that it takes effect once."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        answer = await self.request("POST", path, json=body, params=params, headers=headers)
        document: Document = answer.json()
        return document

    async def act(self, path: str) -> Document:
        """POST a verb, such as ``…:pause``; it is sent again only if it was certainly not carried out."""
        document: Document = (await self.request("POST", path)).json()
        return document

    async def delete(self, path: str, **parameters: Any) -> Document:
        """DELETE what the service deletes in the background, and return what goes with it; ``dry_run=True`` deletes nothing."""
        given = {name: str(value).lower() for name, value in parameters.items() if value}
        document: Document = (await self.request("DELETE", path, params=given)).json()
        return document

    async def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send any request, and again where that is safe.

        Parameters
        ----------
        method, path
            HTTP method, and path on the service.
        arguments
            ``params``, ``json``, ``content`` and ``headers``; with ``is_repeatable=True``, a POST without `Idempotency-Key` is
            sent again even if it may have been carried out.

        Raises
        ------
        LatentryError
            The class corresponds to the problem.
        """
        return await self._connection.request(method, path, **arguments)

    @overload
    async def download(
        self, path: str, to: str | Path, params: Document | None = None, *, progress: Progress | None = None
    ) -> Path: ...

    @overload
    async def download(
        self, path: str, to: BinaryIO, params: Document | None = None, *, progress: Progress | None = None
    ) -> None: ...

    async def download(
        self,
        path: str,
        to: str | Path | BinaryIO,
        params: Document | None = None,
        *,
        progress: Progress | None = None,
    ) -> Path | None:
        """Write the body of a GET to a file, to a folder under the name that the service gives it, or to a stream.

        `progress` is called with the bytes written so far and the size of the body.
        """
        target = Path(to) if isinstance(to, str) else to
        return await self._connection.download(path, target, params, progress)

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that identify you, for other programs that use the service."""
        return dict(self._connection.headers)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.url}>"


def _address(url: str) -> str:
    """Return the address of a service; the address of its API (``…/v1``) is accepted too, because `latentry up` prints it."""
    address = url.strip().rstrip("/").removesuffix("/v1")
    if not address.startswith(("http://", "https://")):
        raise LatentryError(f"{url!r} is not the address of a service", "such as http://127.0.0.1:8000")
    return address
