"""Send one message over HTTP: signed, to a checked address, before a deadline.

Redirects are not followed, and the body of the response is not read.
"""

import json
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpcore
from standardwebhooks import Webhook

from store.public_addresses import AddressRefused, check_url, resolve


@dataclass(frozen=True)
class Answer:
    """The result of an attempt.

    Parameters
    ----------
    status
        HTTP status of the response; None if there was no response.
    error
        Why there was no response.
    retry_after_s
        The delay that the receiver asks for, in seconds; 0 if it does not ask.
    """

    status: int | None
    error: str | None = None
    retry_after_s: float = 0.0

    @property
    def is_taken(self) -> bool:
        """Return whether the message is delivered."""
        return self.status is not None and 200 <= self.status < 300


def send(
    url: str,
    secret: str,
    message_id: str,
    body: Mapping[str, Any],
    *,
    timeout_s: float,
    allow_private: bool,
    agent: str = "Latentry",
) -> Answer:
    """Send a message once.

    Parameters
    ----------
    url, secret
        URL and secret of the webhook.
    message_id
        Id of the message, the same at every attempt.
    body
        The message, sent as JSON.
    timeout_s
        Time from the first connection to the headers of the response, in seconds.
    allow_private
        Whether private addresses are allowed, see `store.public_addresses`.
    agent
        Value of the header `User-Agent`.
    """
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    content = text.encode()
    network = _CheckedNetwork(time.monotonic() + timeout_s, allow_private)
    try:
        parsed = check_url(url, allow_private=allow_private)
        headers = {
            "Host": parsed.netloc.decode(),
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            "User-Agent": agent,
            **signature_headers(secret, message_id, datetime.now(UTC), text),
        }
        with (
            httpcore.ConnectionPool(
                ssl_context=ssl.create_default_context(), network_backend=network
            ) as pool,
            pool.stream(
                "POST",
                str(parsed),
                headers=list(headers.items()),
                content=content,
                extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)},
            ) as answer,
        ):
            given = {name.lower(): value for name, value in answer.headers}
            return Answer(
                answer.status, retry_after_s=_seconds(given.get(b"retry-after", b"").decode("latin-1"))
            )
    except AddressRefused as error:
        return Answer(None, str(error))
    except (httpcore.TimeoutException, TimeoutError):
        return Answer(None, f"no response within {timeout_s:g} s")
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError, ValueError) as error:
        return Answer(None, f"{type(error).__name__}: {error}"[:500])


def signature_headers(secret: str, message_id: str, now: datetime, content: str) -> dict[str, str]:
    """Return the headers of the Standard Webhooks specification for a message that is sent now (UTC)."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now, content),
    }


def _seconds(retry_after: str) -> float:
    """Return the delay that a header `Retry-After` asks for: it has seconds, or a time."""
    if retry_after.isascii() and retry_after.isdigit() and len(retry_after) <= 9:
        return float(retry_after)
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


class _CheckedNetwork(httpcore.NetworkBackend):
    """Connects to addresses that it has just checked, and ends every read and write at a deadline.

    TLS still verifies the certificate for the host of the URL; only the address below it is resolved here.
    """

    def __init__(self, deadline: float, allow_private: bool) -> None:
        self._network = httpcore.SyncBackend()
        self._deadline, self._allow_private = deadline, allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of a host that accepts; all addresses are checked before the first attempt."""
        failure: Exception | None = None
        for address in resolve(host, port, allow_private=self._allow_private):
            try:
                left = _left(self._deadline)
                stream = self._network.connect_tcp(address, port, left, local_address, socket_options)
                return _TimedStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None  # a name that resolves has an address
        raise failure


class _TimedStream(httpcore.NetworkStream):
    """A stream with one deadline for all reads and writes: a receiver that sends single bytes gains no time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read the bytes that have arrived."""
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write the whole buffer."""
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Continue in TLS."""
        secured = self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline))
        return _TimedStream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """Return information about the connection."""
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the deadline has passed")
    return left
