"""The limits of connections, on a real server with real sockets."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from api import error_handlers
from api.computing.streamed_response import Streamed
from api.errors import NotFound
from api.server import options_of
from store.settings import Settings
from tests.api.conftest import serve
from tests.waiting import wait_until

PIECES = 500
REQUEST = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Served:
    """A server of a small app."""

    url: str

    def connect(self, address: str = "127.0.0.1") -> socket.socket:
        """Open a connection from an address of the loopback network."""
        port = int(self.url.rpartition(":")[2])
        return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(address, 0))

    def responds(self) -> bool:
        """Whether another client gets its answer, perhaps after it was told to try again."""
        answers = (httpx.get(self.url + "/small", timeout=5) for _ in range(20))
        return any(answer.text == '"small"' for answer in answers)


def small_app() -> FastAPI:
    app = FastAPI()
    error_handlers.install(app)

    @app.get("/small")
    async def small() -> str:
        return "small"

    @app.get("/broken/{error}")
    async def broken(error: str) -> Streamed:
        def pieces() -> Iterator[bytes]:
            yield b"begin"
            raise NotFound("the data set was deleted") if error == "expected" else KeyError("chunk")

        return Streamed(pieces(), headers={"Content-Length": "100"} if error == "length" else None)

    @app.get("/large")
    async def large() -> StreamingResponse:
        async def pieces() -> Any:
            try:
                for _ in range(PIECES):
                    yield bytes(2**16)
            finally:
                app.state.ended.append(True)

        return StreamingResponse(pieces())

    @app.post("/body")
    async def body(request: Request) -> str:
        return str(len(await request.body()))

    app.state.ended = []
    return app


APP = small_app()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    settings = Settings(
        data_dir=tmp_path, header_seconds=0.5, stall_seconds=0.5, keep_alive_seconds=1, max_connections=60,
        max_connections_per_client=40,
    )  # fmt: skip
    for url in serve(APP, **options_of(settings)):
        yield Served(url)


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Read until the server closes the connection; a reset may hide the answer to one who still sends."""
    received = b""
    try:
        while piece := connection.recv(2**16):
            received += piece
    except ConnectionResetError:
        pass
    head, _, body = received.partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else 0), (json.loads(body) if body[:1] == b"{" else {})


@pytest.mark.parametrize(
    "header",
    [b"x: " + b"a" * 2**20, b"x: a\r\n" * 150, b"Cookie: " + b"a=b;" * 10_000, b"a" * 2**16],
    ids=["long", "many", "cookies", "name"],
)
def test_large_header(served: Served, header: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(REQUEST[:-2])
        with suppress(ConnectionError):
            connection.sendall(header + b"\r\n\r\n")
        status, problem = answer(connection)
        assert status in (431, 0)
        assert problem.get("type", "urn:latentry:problem:headers-too-large").endswith("headers-too-large")
    with served.connect() as connection:  # exactly one byte too many, so that nothing resets the connection
        connection.sendall(REQUEST[:-4] + b"\r\nx: " + b"a" * (2**15 + 1 - len(REQUEST) - 3 + 2))
        status, problem = answer(connection)
        assert (status, problem["status"]) == (431, 431)
        assert "32768 bytes" in problem["detail"]
    assert served.responds()


def test_header_within_the_limits(served: Served) -> None:
    headers = {f"x{i}": "a" * 300 for i in range(90)}
    assert httpx.get(served.url + "/small", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "begin", [b"", REQUEST[:10], REQUEST + REQUEST[:5]], ids=["nothing", "slow", "second"]
)
def test_half_open_connections_end_and_stop_nobody(served: Served, begin: bytes) -> None:
    with ExitStack() as stack:
        connections = [
            stack.enter_context(served.connect(f"127.0.0.{2 + number % 5}")) for number in range(100)
        ]
        for connection in connections:
            with suppress(ConnectionError):  # one may have made room for another
                connection.sendall(begin)
        assert served.responds()
        statuses = [answer(connection)[0] for connection in connections]
    assert set(statuses) <= {0, 200, 408, 503}
    assert statuses.count(408) > 0 or begin in (b"", REQUEST + REQUEST[:5])
    assert served.responds()


def test_slow_body(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc")
        status, problem = answer(connection)
        assert (status, problem["type"]) == (408, "urn:latentry:problem:request-timeout")


def slow_body_status(served: Served) -> int:
    with served.connect() as connection:
        connection.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 8000\r\n\r\n")
        for _ in range(4):
            time.sleep(0.2)
            with suppress(ConnectionError):
                connection.sendall(bytes(2000))
        return answer(connection)[0]


def slowly_read(served: Served) -> int:
    with served.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = 0
        for _ in range(5):
            time.sleep(0.2)
            received += len(connection.recv(2**20))
        with suppress(ConnectionError):
            while piece := connection.recv(2**20):
                received += len(piece)
    return received


def test_slow_clients_that_go_on_are_served(served: Served) -> None:
    # A busy machine may stop this process for so long that the server takes it for a stalled client.
    assert any(slow_body_status(served) == 200 for _ in range(3))
    assert any(slowly_read(served) > PIECES * 2**16 for _ in range(3))


def test_stalled_readers_are_cut_off(served: Served) -> None:
    APP.state.ended.clear()
    with ExitStack() as stack:
        connections = [stack.enter_context(served.connect()) for _ in range(30)]
        for connection in connections:
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 60
        while len(APP.state.ended) < 30:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert served.responds()


@pytest.mark.parametrize("error", ["expected", "unexpected", "length"])
def test_a_response_that_fails_midway_ends_early_with_one_line_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "api.computing.streamed_response")]
    for logger in loggers:  # libraries of other tests may have changed their levels, or disabled them
        logger.disabled = False
        logger.addHandler(caplog.handler)
        logger.setLevel(logging.INFO)
    try:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{served.url}/broken/{error}")
        wait_until(lambda: any(one.levelno >= logging.WARNING for one in caplog.records))
    finally:
        for logger in loggers:
            logger.removeHandler(caplog.handler)
    (record,) = {id(one): one for one in caplog.records if one.levelno >= logging.WARNING}.values()
    assert f"GET /broken/{error}: the response ends early" in record.getMessage()
    assert (record.exc_info is None) == (error == "expected")


def test_connections_per_client(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(served.connect("127.0.0.9"))
        with served.connect("127.0.0.9") as connection:
            status, problem = answer(connection)
            assert (status, problem["type"]) == (429, "urn:latentry:problem:too-many-requests")
            assert "127.0.0.9 has 40 open connections" in problem["detail"]
        assert served.responds()


def test_all_connections_at_work(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for url in serve(APP, **options_of(Settings(data_dir=tmp_path, max_connections=3))):
            for _ in range(3):
                connection = stack.enter_context(Served(url).connect())
                connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.recv(1)
            with Served(url).connect() as connection:
                status, problem = answer(connection)
            assert (status, problem["status"]) == (503, 503)
            assert "3 open connections" in problem["detail"]
            stack.close()


@pytest.mark.parametrize("ending", [b"0\r\nX: ", b"0\r\n", b"1;x="], ids=["value", "name", "extension"])
def test_what_follows_a_body_is_no_longer_than_a_header(served: Served, ending: bytes) -> None:
    """The parser joins what it has of a field for each piece that it gets, so a long one would stop everybody."""
    begin = b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served.connect() as connection:
        connection.sendall(begin + ending + b"a" * 2**16)
        status, problem = answer(connection)
        assert status in (431, 0)
        assert "32768 bytes" in problem.get("detail", "32768 bytes")
    assert served.responds()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (REQUEST * 5000, 400),
        (
            b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 50_000,
            400,
        ),
        (b"no HTTP at all\r\n\r\n", 400),
    ],
    ids=["pipelined", "chunks", "no HTTP"],
)
def test_requests_that_cost_much(served: Served, sent: bytes, status: int) -> None:
    with served.connect() as connection:
        sender = threading.Thread(target=_send, args=(connection, sent), daemon=True)
        sender.start()
        assert answer(connection)[0] in (status, 200, 0)
        sender.join()
    assert served.responds()


def _send(connection: socket.socket, sent: bytes) -> None:
    with suppress(OSError):
        connection.sendall(sent)


def test_idle_connection_is_closed(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(REQUEST)
        assert answer(connection)[0] == 200


def test_forwarded_headers_come_from_trusted_proxies_alone(tmp_path: Path) -> None:
    app = FastAPI()

    @app.get("/client")
    async def client(request: Request) -> list[Any]:
        return [request.client.host, request.url.scheme]

    forwarded = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    for trusted, seen in (("", ["127.0.0.1", "http"]), ("10.0.0.0/8, 127.0.0.0/8", ["203.0.113.7", "https"])):
        for url in serve(app, **options_of(Settings(data_dir=tmp_path, trusted_proxies=trusted))):
            assert httpx.get(url + "/client", headers=forwarded).json() == seen
