"""Requests to the service: sent again where that is safe, with its problems as exceptions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import httpx

from latentry.documents import Document
from latentry.errors import LatentryError, NoAnswer, TooManyRequests, Unavailable, error_of
from latentry.retry import Patience

_FIRST_PATIENCE_SECONDS = 1.0
_TELLS_HOW_IT_IS = ("/healthz", "/readyz")
"""Paths whose answer 503 is what was asked for, now."""
_IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")

MakeContent = Callable[[], AsyncIterator[bytes]]


class AsyncConnection:
    """One service, and how it is spoken to.

    Parameters
    ----------
    url
        Where it is.
    key
        Sent with every request as ``Authorization: Bearer``; none if empty.
    timeout_s
        For the answer to one request, in seconds.
    patience_s
        For so many seconds a request is sent again when the service does not answer or asks to wait.
    transport
        What carries the requests; the network unless given.
    """

    def __init__(
        self,
        url: str,
        key: str,
        timeout_s: float,
        patience_s: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not (key.isascii() and key.isprintable()):
            raise LatentryError(
                "the key has characters that are in no key", "copy it again: it begins with lat_"
            )
        self.url, self.patience_s = url, patience_s
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._has_answered = False
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=timeout_s,
            headers={"User-Agent": f"latentry-client/{_version()}", **self.headers},
            transport=transport,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Document | None = None,
        content: MakeContent | bytes | None = None,
        is_repeatable: bool | None = None,
        **arguments: Any,
    ) -> httpx.Response:
        """Send a request until it is answered, or patience is over.

        Parameters
        ----------
        method, path, params
            As HTTP has them. A query in `path` and `params` are merged; parameters that are None are left out.
        content
            The body, or what makes it anew each time it is sent.
        is_repeatable
            Whether doing it twice does what doing it once does; by its method and `Idempotency-Key` unless given.
        arguments
            ``json`` and ``headers``.

        Raises
        ------
        LatentryError
            Of the class that belongs to the problem; also if `path` and `params` give one parameter different values.
        """
        target = merged_url(path, params)
        if is_repeatable is None:
            is_repeatable = method in _IDEMPOTENT or "Idempotency-Key" in arguments.get("headers", {})
        patience = self._patience(is_repeatable)
        while True:
            body = content() if callable(content) else content
            try:
                answer = await self._open.request(method, target, content=body, **arguments)
            except httpx.TransportError as error:
                delay = self._delay_after(error, patience)
                if delay is None:
                    raise self._no_answer(error) from None
            else:
                if not self._has_answered:
                    self._has_answered = True
                    patience = self._patience(is_repeatable)
                if not answer.is_error:
                    return answer
                delay = patience.after_answer(answer.status_code, answer.headers.get("Retry-After"))
                if delay is None or target.path in _TELLS_HOW_IT_IS:
                    raise error_of(answer)
            await asyncio.sleep(delay)

    async def events(self, path: str, timeout_s: float | None = None) -> AsyncIterator[Document]:
        """Server-sent events to their end; a connection that breaks is taken up where it was.

        Raises
        ------
        TimeoutError
            If they have not ended in so many seconds.
        """
        started, patience, last_id = monotonic(), self._patience(), "0"
        while True:
            try:
                async with self._open.stream("GET", path, headers={"Last-Event-ID": last_id}) as answer:
                    self._has_answered = True
                    if answer.is_error:
                        await answer.aread()
                        raise error_of(answer)
                    async for line in answer.aiter_lines():
                        patience = self._patience()  # also a comment is a sign of life
                        if timeout_s is not None and monotonic() - started > timeout_s:
                            raise TimeoutError(f"{path} did not end in {timeout_s:g} s")
                        if line.startswith("data:"):
                            event: Document = json.loads(line[5:])
                            last_id = str(event["id"])
                            yield event
                return
            except (Unavailable, TooManyRequests) as error:
                delay = patience.after_answer(error.status, answer.headers.get("Retry-After"))
                if delay is None:
                    raise
            except httpx.TransportError as error:
                delay = self._delay_after(error, patience)
                if delay is None:
                    raise self._no_answer(error) from None
            await asyncio.sleep(delay)

    async def download(self, path: str, to: Path, params: Document | None = None) -> Path:
        """GET a body into a file, which is there when all of it came; one that breaks off is begun again.

        Parameters
        ----------
        path, params
            As in `request`.
        to
            The file, or a folder to put it into under the name that the service gives it.
        """
        target_url, patience = merged_url(path, params), self._patience()
        while True:
            try:
                async with self._open.stream("GET", target_url) as answer:
                    self._has_answered = True
                    if answer.is_error:
                        await answer.aread()
                        raise error_of(answer)
                    target = to / _filename(answer) if to.is_dir() else to
                    with _whole_or_not_at_all(target) as file:
                        async for block in answer.aiter_bytes():
                            file.write(block)
                return target
            except (Unavailable, TooManyRequests) as error:
                delay = patience.after_answer(error.status, answer.headers.get("Retry-After"))
                if delay is None:
                    raise
            except httpx.TransportError as error:
                delay = self._delay_after(error, patience)
                if delay is None:
                    raise self._no_answer(error) from None
            await asyncio.sleep(delay)

    @property
    def _open(self) -> httpx.AsyncClient:
        if self._http.is_closed:
            raise LatentryError("this client was closed", "make another: Client(…)")
        return self._http

    def _patience(self, is_repeatable: bool = True) -> Patience:
        """Patience for one request: little until the service has answered once, for then the address may be wrong."""
        longest = self.patience_s if self._has_answered else _FIRST_PATIENCE_SECONDS
        return Patience(min(longest, self.patience_s), is_repeatable)

    def _delay_after(self, error: httpx.TransportError, patience: Patience) -> float | None:
        was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        return patience.after_failure(was_sent) if self._has_answered or not was_sent else None

    def _no_answer(self, error: httpx.TransportError) -> LatentryError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            hint = "is the service running? `latentry up` starts one; for another address, set LATENTRY_URL"
            return NoAnswer(f"nothing answers at {self.url}", hint)
        return NoAnswer(f"the connection to {self.url} broke: {error or type(error).__name__}")


def merged_url(path: str, params: Document | None) -> httpx.URL:
    """Return a URL with the query of `path` and `params` merged; parameters that are None are left out.

    httpx itself drops the query of a URL when it is given `params`, even empty ones.

    Raises
    ------
    LatentryError
        If both give one parameter, with different values.
    """
    url = httpx.URL(path)
    given = httpx.QueryParams({name: value for name, value in (params or {}).items() if value is not None})
    for name in given:
        in_path, in_params = url.params.get_list(name), given.get_list(name)
        if in_path and in_path != in_params:
            raise LatentryError(
                f"the query parameter {name!r} is {', '.join(in_path)} in the path and {', '.join(in_params)} in params",
                "give it once: in the path or in params",
            )
    return url.copy_merge_params(given) if given else url


def _filename(answer: httpx.Response) -> str:
    """The name that an answer gives its body, or else that of its path; never a path itself."""
    found = re.search(r'filename="([^"]+)"', answer.headers.get("Content-Disposition", ""))
    name = found[1] if found else answer.url.path.rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "download"


@contextmanager
def _whole_or_not_at_all(path: Path) -> Iterator[BinaryIO]:
    """A file under another name, which gets its own when all went well."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _version() -> str:
    for distribution in ("latentry-client", "latentry"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"
