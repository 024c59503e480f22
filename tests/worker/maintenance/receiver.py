"""A receiver of webhooks: a server of the standard library that keeps what came, and answers as it is told."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Came:
    """A request that came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What came, and how the next requests are answered: a status each, then 200.

    Parameters
    ----------
    statuses
        Of the next answers.
    headers
        Of every answer.
    silent_s
        How long every answer is kept back; while it is, a byte of it comes now and then.
    """

    url: str = ""
    came: list[Came] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    silent_s: float = 0.0


@contextmanager
def receiving(certificate: Path | None = None) -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1, with TLS if there is a certificate."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.came.append(
                Came(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            if receiver.silent_s:
                self._drip()
                return
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _drip(self) -> None:
            end = time.monotonic() + receiver.silent_s
            try:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
                while time.monotonic() < end:
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    scheme = "http" if certificate is None else "https"
    receiver.url = f"{scheme}://127.0.0.1:{server.server_port}/hook"
    yield receiver
    server.shutdown()
    server.server_close()
