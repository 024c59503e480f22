"""Send requests to the service: again where that is safe, with its problems as exceptions."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import httpx

from latentry.documents import Document
from latentry.errors import ComputationTimeout, LatentryError, NoAnswer, error_of
from latentry.installation import own_version
from latentry.retry import Patience

_FIRST_PATIENCE_SECONDS = 1.0
_REPORTS_STATE = ("/healthz", "/readyz")
"""Paths whose answer 503 is the requested information, and no reason to ask again."""
_DOWNLOAD_SECONDS = 300.0
"""Longest pause in a download: the service may make a whole file before it sends the first byte."""
_IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")

MakeContent = Callable[[], AsyncIterator[bytes]]


class AsyncConnection:
    """The connection to one service.

    Parameters
    ----------
    url
        Address of the service.
    key
        Key, sent with every request as ``Authorization: Bearer``; not sent if empty.
    timeout_s
        Longest time to wait for the answer to one request, in seconds.
    patience_s
        For this many seconds a request is sent again while the service does not answer or asks to wait.
    transport
        Transport of httpx; the network by default.
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
                "the key has characters that no key has", "copy it again: it begins with lat_"
            )
        self.url, self.patience_s = url, patience_s
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._has_answered = False
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            headers={"User-Agent": f"latentry-client/{own_version()}", **self.headers},
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
        """Send a request until a response arrives, or the time for retries is over.

        Parameters
        ----------
        method, path, params
            Method, path and parameters. The query in `path` and `params` are merged; parameters that are None are left out.
        content
            The body, or a function that makes it each time the request is sent.
        is_repeatable
            Whether two requests have the effect of one; by default, this depends on the method and on `Idempotency-Key`.
        arguments
            ``json`` and ``headers``.

        Raises
        ------
        LatentryError
            The class corresponds to the problem; also if `path` and `params` give one parameter different values.
        """
        target = merged_url(path, params)
        if is_repeatable is None:
            is_repeatable = method in _IDEMPOTENT or "Idempotency-Key" in arguments.get("headers", {})
        patience = self._patience(is_repeatable)
        while True:
            body = content() if callable(content) else content
            try:
                answer = await self._open.request(method, target, content=body, **arguments)
                if not self._has_answered:
                    self._has_answered = True
                    patience = self._patience(is_repeatable)
                if not answer.is_error:
                    return answer
                raise error_of(answer)
            except (LatentryError, httpx.TransportError) as error:
                if isinstance(error, LatentryError) and target.path in _REPORTS_STATE:
                    raise
                delay = self._delay_after(error, patience)
            await asyncio.sleep(delay)

    async def events(self, path: str, timeout_s: float | None = None) -> AsyncIterator[Document]:
        """Yield server-sent events until they end; after a lost connection, continue with the next event.

        Raises
        ------
        TimeoutError
            If they have not ended after `timeout_s` seconds.
        """
        started, patience, last_id = monotonic(), self._patience(), "0"
        while True:
            is_complete = True
            try:
                async with self._open.stream("GET", path, headers={"Last-Event-ID": last_id}) as answer:
                    await self._check(answer)
                    async for line in answer.aiter_lines():
                        if line.startswith("retry:"):  # the stream ends, but not the events
                            is_complete = False
                        patience = self._patience()  # a comment, too, shows that the service is alive
                        if timeout_s is not None and monotonic() - started > timeout_s:
                            raise TimeoutError(f"{path} did not end in {timeout_s:g} s")
                        if line.startswith("data:"):
                            event: Document = json.loads(line[5:])
                            last_id = str(event["id"])
                            yield event
                if is_complete:
                    return
                delay = 1.0
            except (LatentryError, httpx.TransportError) as error:
                delay = self._delay_after(error, patience)
            await asyncio.sleep(delay)

    async def download(
        self,
        path: str,
        to: Path | BinaryIO,
        params: Document | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Path | None:
        """Write the body of a GET to a file, which exists only once it is complete; after a lost connection, start again.

        Parameters
        ----------
        path, params
            As in `request`.
        to
            The file, or a folder, in which the file gets the name that the service gives it. Or an open stream; a download to
            a stream cannot start again once bytes are written.
        progress
            Called with the bytes written so far and the size of the body, None if it is unknown.

        Returns
        -------
        Path or None
            The file; None for a stream.
        """
        url, patience, written = merged_url(path, params), self._patience(), 0
        while True:
            try:
                async with self._open.stream("GET", url, timeout=_DOWNLOAD_SECONDS) as answer:
                    await self._check(answer)
                    target = to / _filename(answer) if isinstance(to, Path) and to.is_dir() else to
                    length = answer.headers.get("Content-Length")
                    with (
                        _complete_or_absent(target)
                        if isinstance(target, Path)
                        else nullcontext(target) as file
                    ):
                        written = 0
                        async for block in answer.aiter_bytes():
                            written += file.write(block)
                            if progress is not None:
                                progress(written, int(length) if length else None)
                return target if isinstance(target, Path) else None
            except (LatentryError, httpx.TransportError) as error:
                if written and not isinstance(to, Path):
                    raise self._connection_error(error) from None
                delay = self._delay_after(error, patience)
            await asyncio.sleep(delay)

    async def _check(self, answer: httpx.Response) -> None:
        """Raise the error of an answer whose body has not been read yet."""
        self._has_answered = True
        if answer.is_error:
            await answer.aread()
            raise error_of(answer)

    @property
    def _open(self) -> httpx.AsyncClient:
        if self._http.is_closed:
            raise LatentryError("this client is closed", "create another one: Client(…)")
        return self._http

    def _patience(self, is_repeatable: bool = True) -> Patience:
        """Return the patience for one request: short until the service has answered once, because the address may be wrong."""
        longest = self.patience_s if self._has_answered else _FIRST_PATIENCE_SECONDS
        return Patience(min(longest, self.patience_s), is_repeatable)

    def _delay_after(self, error: LatentryError | httpx.TransportError, patience: Patience) -> float:
        """Return the seconds to wait before the request is sent again; raise the error if it is not to be sent again."""
        if isinstance(error, LatentryError):
            may_pass = not isinstance(error, ComputationTimeout)
            delay = patience.after_answer(error.status, error.retry_after) if may_pass else None
        else:
            was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            delay = patience.after_failure(was_sent) if self._has_answered or not was_sent else None
        if delay is None:
            raise self._connection_error(error) from None
        return delay

    def _connection_error(self, error: LatentryError | httpx.TransportError) -> LatentryError:
        """Return the error of this library for an error of a connection."""
        if isinstance(error, LatentryError):
            return error
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
    """Return the file name that an answer gives for its body, else the last part of its path; never a path."""
    found = re.search(r'filename="([^"]+)"', answer.headers.get("Content-Disposition", ""))
    name = found[1] if found else answer.url.path.rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "download"


@contextmanager
def _complete_or_absent(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name; it gets its own name when it is complete."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
