"""Every route that computes does so in turns, and ends when its client leaves."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from api.analyses import decoding_routes
from api.computing.computing import Computing
from api.computing.fair_executor import FairExecutor
from api.openapi import DOCUMENT
from domain.cancellation import cancellation_point
from tests.api.analyses.conftest import Lab

DRAWN = re.compile(r".*\.(png|svg)")
ALSO = {"/v1/jobs/{job_id}/importance"}
BY_PARAMETER = {
    "/arrays/{name}": ({"average": "condition"}, {"rebin_s": "0.1"}, {"format": "hdf5"}, {"format": "mat"}),
    "/download": ({"format": "hdf5"}, {"format": "mat"}, {"format": "nwb"}),
}
"""Parameters by which a route computes, by the ending of its path."""
REQUIRED = {"trial": "1"}
QUERY = "behaviour=velocity&array=factors"


@pytest.fixture
def app(lab: Lab) -> FastAPI:
    found = lab.client.app
    assert isinstance(found, FastAPI)
    return found


@pytest.fixture
def limit(app: FastAPI) -> Iterator[Callable[[float, int], FairExecutor]]:
    """Give the service one thread for computations, a time limit, and a limit for each tenant."""
    before = app.state.executor

    def change(seconds: float, most_of_tenant: int) -> FairExecutor:
        app.state.executor = FairExecutor(1, seconds, most_of_tenant)
        return app.state.executor  # type: ignore[no-any-return]  # a state has no types

    yield change
    app.state.executor = before


def computing_requests() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield the requests that compute. Another test holds the document to the routes of the app."""
    for path, operations in json.loads(DOCUMENT.read_text())["paths"].items():
        for method, operation in operations.items():
            if "analyses" in operation.get("tags", ()) or DRAWN.fullmatch(path) or path in ALSO:
                names = {one["name"] for one in operation.get("parameters", ()) if one.get("required")}
                yield method, path, {name: REQUIRED[name] for name in names & set(REQUIRED)}
            for ending, several in BY_PARAMETER.items():
                if path.endswith(ending) and method == "get":
                    yield from ((method, path, one) for one in several)


def test_every_route_that_computes_waits_for_its_turn(
    lab: Lab, limit: Callable[[float, int], FairExecutor]
) -> None:
    """A tenant that has as many computations as it may have is refused before anything is read."""
    limit(60.0, 0)
    requests = list(computing_requests())
    assert len(requests) > 30
    for method, path, query in requests:
        body = {"vector": [0.0]} if method == "post" else None
        answer = lab.client.request(method, re.sub(r"{\w+}", "any", path), params=query, json=body)
        assert answer.status_code == 429, (method, path, answer.text)
        assert answer.json()["type"] == "urn:latentry:problem:too-many-computations"
        assert answer.headers["Retry-After"]
        assert answer.json()["quota"]["name"] == "analyses"


class Endless:
    """A computation that ends only at a cancellation point."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    def __call__(self, *_arguments: Any) -> None:
        self.begun.set()
        try:
            while not self.ended.wait(0.001):
                cancellation_point()
        finally:
            self.ended.set()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endless]:
    made = Endless()
    monkeypatch.setattr(decoding_routes, "document", made)
    yield made
    made.ended.set()


def test_a_client_that_disconnects_ends_its_analysis(lab: Lab, app: FastAPI, endless: Endless) -> None:
    async def run() -> None:
        messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

        async def receive() -> dict[str, Any]:
            if (message := next(messages, None)) is not None:
                return message
            while not endless.begun.is_set():
                await anyio.sleep(0.001)
            return {"type": "http.disconnect"}

        async def send(_message: Any) -> None:
            pass

        path = f"/v1/models/{lab.model_id}/decoding"
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
            "path": path, "raw_path": path.encode(), "query_string": QUERY.encode(), "root_path": "", "scheme": "http",
            "headers": [(b"host", b"test")], "server": ("test", 80), "client": ("test", 1), "app": app,
        }  # fmt: skip
        with anyio.fail_after(20):
            await app(scope, receive, send)
        assert endless.ended.is_set()

    anyio.run(run)


def test_a_closed_socket_ends_a_running_and_a_waiting_analysis(
    lab: Lab,
    app: FastAPI,
    endless: Endless,
    limit: Callable[[float, int], FairExecutor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor = limit(60.0, 2)
    asked: list[Computing] = []
    run = Computing.run

    async def counted(self: Computing, work: Any) -> Any:
        asked.append(self)
        return await run(self, work)

    monkeypatch.setattr(Computing, "run", counted)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        request = f"GET /v1/models/{lab.model_id}/decoding?{QUERY} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for number, client in enumerate(clients, 1):
            client.sendall(request)
            while len(asked) < number:
                threading.Event().wait(0.005)
        assert endless.begun.wait(20)
        for client in reversed(clients):
            client.close()
        assert endless.ended.wait(20)
        url = f"http://127.0.0.1:{port}/v1/models/{lab.model_id}/distances?by=condition"
        assert httpx.get(url, timeout=20).status_code == 200  # both places are free
        assert not executor._under_way
    finally:
        server.should_exit = True
        thread.join(20)


def test_an_analysis_that_takes_too_long_says_what_to_do(
    lab: Lab, endless: Endless, limit: Callable[[float, int], FairExecutor]
) -> None:
    limit(0.05, 1)
    problem = lab.get("decoding", 504, behaviour="velocity")
    assert problem["type"] == "urn:latentry:problem:computation-timeout"
    assert "LATENTRY_COMPUTATION_SECONDS" in problem["hint"]
    assert endless.ended.is_set()


def test_a_decoding_can_be_stopped_after_every_trial(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[None] = []
    check = FairExecutor._check
    monkeypatch.setattr(
        FairExecutor, "_check", lambda self, turn: (points.append(None), check(self, turn))[1]
    )
    found = lab.get("decoding", array="factors", behaviour="velocity")
    assert len(points) > found["tested"]["trials"]
