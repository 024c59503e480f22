"""The server of the API: ``python -m api.server``. It is uvicorn with limits for headers, connections and silence.

| a connection | the server |
|---|---|
| sends a long or slow header, or a slow body | answers 431 or 408 and closes it |
| reads nothing of its response | closes it |
| comes from a client that has many | answers 429 and closes it |
| comes when there are too many | closes the oldest one that waits for a request; if all are at work, answers 503 |
"""

import argparse
import asyncio
import fcntl
import gc
import ipaddress
import logging
import resource
import sys
import termios
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.app import create_app
from api.errors import BadRequest, HeadersTooLarge, Problem, RequestTimeout, TooManyRequests, Unavailable
from api.limits.wrong_keys import network_of
from store import metrics
from store.logs import configure
from store.settings import Settings, get_settings

logger = logging.getLogger("latentry.requests")

_MOST_HEADERS = 100
_MOST_PIPELINED = 8
_SLICE_BYTES = 2**14
"""A read of the socket brings up to 256 KiB. The parser gets slices, so that the limits hold within a read."""
_FREE_CHUNKS = 1000
_MIN_CHUNK_BYTES = 16
"""A body of more than `_FREE_CHUNKS` chunks must have at least this many bytes per chunk on average: each chunk costs a call."""
_PROGRESS_BYTES = 1024
"""A body that brings fewer bytes than this in `stall_seconds` is stalled."""
_MOST_FILES = 65_536
_HELD_SECONDS = 1.0
"""Time after which the server refuses a connection too many of a client, so that connecting again at once does no harm."""
_MOST_HELD = 100
"""Such connections that wait at a time; the server refuses further ones at once."""
_SWITCH_SECONDS = 0.001
"""Time after which a thread that computes must let the event loop run; Python's own is 5 ms for each such thread."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the limits of `settings`, which a subclass defines: see `protocol_of`."""

    settings: ClassVar[Settings]
    held: ClassVar[set["LimitedProtocol"]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.network = ""
        self._check_timer: asyncio.TimerHandle | None = None
        self._refusal: Problem | None = None
        self._header_since: float | None = None
        self._header_bytes = 0
        self._beside_body_bytes = (
            0  # since the last byte of a body: sizes of chunks, fields after the last chunk
        )
        self._in_header, self._in_body = True, False
        self._chunks = self._body_bytes = self._beside_body_bytes = 0
        self._body_mark = (0.0, 0)
        self._write_since, self._unsent_bytes = 0.0, 0

    # Events of the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Accept or refuse a connection."""
        others = list(self.connections)
        super().connection_made(transport)
        self._header_since = self._write_since = self.loop.time()
        self._check_timer = self.loop.call_later(self._check_seconds(), self._check)
        host = self.client[0] if self.client else ""
        self.network = network_of(host)
        if host and not _is_in(host, self.settings.trusted_proxies):
            number = sum(
                other.network == self.network for other in others if isinstance(other, LimitedProtocol)
            )
            if number >= self.settings.max_connections_per_client:
                self._refuse_later(
                    TooManyRequests(
                        f"your address {host} has {number} open connections, which is the maximum",
                        hint="close some; a client should reuse its connections, and end streams that it does not read",
                        headers={"Retry-After": "5"},
                    )
                )
                return
        if len(others) >= self.settings.max_connections and not self._make_room(others):
            self._refuse(
                Unavailable(
                    f"the service has {len(others)} open connections, which is the maximum",
                    hint="try again; the operator of this service can raise LATENTRY_MAX_CONNECTIONS",
                    headers={"Retry-After": "5"},
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        if self._check_timer is not None:
            self._check_timer.cancel()
        self.held.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the data to the parser in slices."""
        if self in self.held:
            return  # it is refused whatever it sends
        start = 0
        while start < len(data) and not self.transport.is_closing():
            length = _SLICE_BYTES
            if self._in_header:
                if self._header_since is None:
                    self._header_since = self.loop.time()
                length = min(length, self.settings.max_header_bytes + 1 - self._header_bytes)
                self._header_bytes += len(data[start : start + length])
            else:
                self._beside_body_bytes += len(data[start : start + length])
            super().data_received(data[start : start + length])
            start += length
            if max(self._header_bytes, self._beside_body_bytes) > self.settings.max_header_bytes:
                self._refuse(_too_large(f"{self.settings.max_header_bytes} bytes"))

    def resume_writing(self) -> None:
        """Note that the client has read a part of the response."""
        self._write_since = self.loop.time()
        super().resume_writing()

    # Events of the parser. An exception here ends the parsing: the parser turns it into its own.

    def on_message_begin(self) -> None:
        """Begin a header."""
        if len(self.pipeline) >= _MOST_PIPELINED:
            self._stop(
                BadRequest(f"expected at most {_MOST_PIPELINED} requests ahead of their responses; got more")
            )
        self._in_header = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a field of the header."""
        if len(self.headers) >= _MOST_HEADERS:
            self._stop(_too_large(f"{_MOST_HEADERS} fields"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the body."""
        self._in_header, self._in_body = False, True
        self._header_since, self._header_bytes = None, 0
        self._chunks = self._body_bytes = 0
        self._body_mark = (self.loop.time(), 0)
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Count the chunks of a body."""
        self._chunks += 1
        if self._chunks > _FREE_CHUNKS and self._body_bytes < _MIN_CHUNK_BYTES * self._chunks:
            self._stop(
                BadRequest(f"expected chunks of {_MIN_CHUNK_BYTES} bytes on average; got smaller ones")
            )

    def on_body(self, body: bytes) -> None:
        """Add bytes to the body."""
        self._body_bytes += len(body)
        self._beside_body_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request."""
        self._in_header, self._in_body = True, False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that cannot be parsed."""
        self._refuse(self._refusal or BadRequest(msg, hint="expected a request of HTTP/1.1"))

    # Limits

    def is_waiting(self) -> bool:
        """Return whether the connection waits for a request or for the rest of its header."""
        return self._in_header and (self.cycle is None or self.cycle.response_complete)

    def waiting_since(self) -> float:
        """Return when the connection began to wait; infinity if it has just ended a request."""
        return float("inf") if self._header_since is None else self._header_since

    def _make_room(self, others: list[Any]) -> bool:
        """Close the connection that has waited longest for a request, and return whether there is one."""
        waiting = [other for other in others if isinstance(other, LimitedProtocol) and other.is_waiting()]
        if not waiting:
            return False
        min(waiting, key=LimitedProtocol.waiting_since).transport.abort()
        return True

    def _check_seconds(self) -> float:
        return min(1.0, self.settings.header_seconds / 4, self.settings.stall_seconds / 4)

    def _check(self) -> None:
        """Close the connection if its client is silent for too long; else check again later."""
        if self.transport.is_closing() and not self.transport.get_write_buffer_size():
            return
        now, most = self.loop.time(), self.settings.stall_seconds
        self._check_timer = self.loop.call_later(self._check_seconds(), self._check)
        if self._header_since is not None and now - self._header_since > self.settings.header_seconds:
            if self._header_bytes:
                self._refuse(_timeout(f"the whole header within {self.settings.header_seconds:g} s"))
            else:
                self.transport.abort()
        elif self._is_body_stalled(now):
            if self.cycle.response_started:
                self.transport.abort()
            else:
                self._refuse(_timeout(f"at least {_PROGRESS_BYTES} bytes of the body in {most:g} s"))
        elif self._is_response_stalled(now):
            self.transport.abort()

    def _is_body_stalled(self, now: float) -> bool:
        """Return whether the server waits for a body that does not come.

        After the response, the client has the same time to send the rest of its body.
        """
        since, marked = self._body_mark
        is_answered = self.cycle is not None and self.cycle.response_complete
        has_moved = self._body_bytes - marked >= _PROGRESS_BYTES and not is_answered
        if not self._in_body or self.flow.read_paused or has_moved:
            self._body_mark = (now, self._body_bytes)
            return False
        return now - since > self.settings.stall_seconds

    def _is_response_stalled(self, now: float) -> bool:
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            # The kernel says that there is room only after megabytes, which takes minutes on a slow line.
            unsent += _bytes_in_kernel(self.transport)
        if unsent == 0 or unsent < self._unsent_bytes:
            self._write_since = now
        self._unsent_bytes = unsent
        return now - self._write_since > self.settings.stall_seconds

    def _stop(self, problem: Problem) -> None:
        self._refusal = problem
        raise ValueError(problem.detail)

    def _refuse_later(self, problem: Problem) -> None:
        if len(self.held) >= _MOST_HELD:
            self._refuse(problem)
            return
        self.held.add(self)
        if self._check_timer is not None:
            self._check_timer.cancel()

        def refuse() -> None:
            if self in self.held:  # else the client has left
                self._refuse(problem)

        self.loop.call_later(_HELD_SECONDS, refuse)

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem document, and close the connection."""
        metrics.connections_refused.labels(problem.status).inc()
        logger.info("connection refused", extra={"status": problem.status, "client": self.network})
        if self.cycle is not None:
            # The app learns that the client has left, and what it still sends is dropped.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started and not self.cycle.response_complete:
                self.transport.abort()
                return
        response = problem.response()
        lines = [STATUS_LINE[problem.status]]
        lines += [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
        self.transport.write(b"".join([*lines, b"connection: close\r\n\r\n", bytes(response.body)]))
        self.transport.close()


def _bytes_in_kernel(transport: asyncio.Transport) -> int:
    """Return the number of sent bytes that the client has not acknowledged; 0 on systems that do not tell it."""
    try:
        number = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, AttributeError):
        return 0
    return int.from_bytes(number, sys.byteorder)


def _too_large(limit: str) -> Problem:
    return HeadersTooLarge(f"the header of the request may have at most {limit}; it has more")


def _timeout(expected: str) -> Problem:
    return RequestTimeout(f"expected {expected}", hint="check the connection, and send the request again")


def _is_in(host: str, networks: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
        return any(address in ipaddress.ip_network(one.strip()) for one in networks.split(",") if one.strip())
    except ValueError:
        return False


def protocol_of(settings: Settings) -> type[LimitedProtocol]:
    """Return the protocol with the limits of some settings."""
    return type("ConfiguredProtocol", (LimitedProtocol,), {"settings": settings, "held": set()})


def _tells_more(record: logging.LogRecord) -> bool:
    """Return False for uvicorn's lines about a response that ends early: `api.request_log` and others log why."""
    return not str(record.msg).startswith(("ASGI callable returned without completing", "Exception in ASGI"))


def options_of(settings: Settings) -> dict[str, Any]:
    """Return the options of uvicorn."""
    logging.getLogger("uvicorn.error").addFilter(_tells_more)
    return {
        "http": protocol_of(settings),
        "ws": "none",
        "root_path": settings.root_path,
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": settings.trusted_proxies,
        "timeout_keep_alive": settings.keep_alive_seconds,
        "timeout_graceful_shutdown": 3,
        "server_header": False,
        "log_config": None,  # see `store.logs`
        "access_log": False,  # see `api.request_log`
    }


def main() -> None:
    """Serve the API."""
    parser = argparse.ArgumentParser(description="Serve the API of Latentry.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _MOST_FILES), most))
    configure("api")
    sys.setswitchinterval(_SWITCH_SECONDS)
    metrics.start("api", get_settings(), serves=True)
    app = create_app()
    # The app stays, so the garbage collector need not go through it while requests wait.
    gc.collect()
    gc.freeze()
    uvicorn.run(app, host=given.host, port=given.port, **options_of(get_settings()))


if __name__ == "__main__":
    main()
