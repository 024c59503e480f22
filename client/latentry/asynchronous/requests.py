"""Any request to the service: what `AsyncClient` is made of."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from latentry.documents import Document
from latentry.errors import LatentryError

if TYPE_CHECKING:
    import httpx


class AsyncRequests:
    """Sends requests to one service.

    Parameters
    ----------
    url
        Where it is; the environment's ``LATENTRY_URL`` unless given, else ``http://127.0.0.1:8000``.
    key
        Your key, ``lat_…``; the environment's ``LATENTRY_KEY`` unless given.
    timeout_s
        For the answer to one request, in seconds.
    patience_s
        For so many seconds a request is sent again when the service does not answer, or asks to wait; 0 for never.
    transport
        What carries the requests, for tests; the network unless given.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout_s: float = 90.0,
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
        """GET a document; `arguments` may be ``headers``."""
        document: Document = (await self.request("GET", path, params=params, **arguments)).json()
        return document

    async def post(self, path: str, body: Document | None = None, params: Document | None = None) -> Document:
        """POST a document; when its answer is lost it is sent again with the same key, and nothing is done twice."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        answer = await self.request("POST", path, json=body, params=params, headers=headers)
        document: Document = answer.json()
        return document

    async def act(self, path: str) -> Document:
        """POST a verb, such as ``…:pause``; it is sent again only where it was surely not carried out."""
        document: Document = (await self.request("POST", path)).json()
        return document

    async def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send any request, and again where that is safe.

        Parameters
        ----------
        method, path
            As HTTP has them.
        arguments
            ``params``, ``json``, ``content`` and ``headers``; with ``is_repeatable=True`` a POST without an `Idempotency-Key` is
            sent again even where it may have been carried out.

        Raises
        ------
        LatentryError
            Of the class that belongs to the problem.
        """
        return await self._connection.request(method, path, **arguments)

    async def download(self, path: str, to: str | Path, params: Document | None = None) -> Path:
        """GET a body into a file, or under the name that the service gives it into a folder."""
        return await self._connection.download(path, Path(to), params)

    @property
    def headers(self) -> dict[str, str]:
        """Headers by which the service knows you, for other programs that ask it."""
        return dict(self._connection.headers)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.url}>"


def _address(url: str) -> str:
    """The address of a service, also where that of its API is given: `latentry up` shows both."""
    address = url.strip().rstrip("/").removesuffix("/v1")
    if not address.startswith(("http://", "https://")):
        raise LatentryError(f"{url!r} is no address of a service", "such as http://127.0.0.1:8000")
    return address
