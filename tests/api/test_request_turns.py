"""Turns of requests: a client with many requests keeps no other waiting."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from api.limits.request_turns import (
    _AT_WORK_S,
    _LATELY_S,
    RequestTurns,
    Shares,
    without_turn,
)


class Handler:
    """An app whose requests run until they are told to end."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.may_begin_response, self.may_end = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.running.append(scope["path"])
        if not scope["path"].startswith("/quick"):
            await self.may_begin_response.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"].startswith("/download"):
            await self.may_end.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def client_of(app: Any, key: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    state = SimpleNamespace(
        known_keys={
            name: SimpleNamespace(key_id=name, group=name, is_operator=False)
            for name in ("one", "busy", "quiet")
        }
        | {
            name: SimpleNamespace(key_id=name, group="many", is_operator=False)
            for name in ("a", "b", "c", "d")
        }
        | {"operator": SimpleNamespace(key_id=None, group="many", is_operator=True)}
    )

    async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "app": SimpleNamespace(state=state)}, receive, send)

    return httpx.AsyncClient(
        transport=httpx.ASGITransport(with_state), base_url="http://service", headers=headers
    )


@pytest.mark.anyio
async def test_many_requests_of_one_key_run_one_after_the_other_and_others_at_once() -> None:
    handler = Handler()
    app = RequestTurns(handler, at_once=2)
    async with client_of(app, "busy") as busy, client_of(app, "quiet") as quiet:
        asked = [asyncio.create_task(busy.get(f"/{number}")) for number in range(9)]
        await settle()
        assert handler.running == ["/0", "/1"]
        assert (await quiet.get("/quick")).status_code == 200
        handler.may_begin_response.set()
        answers = await asyncio.gather(*asked)
    assert [one.status_code for one in answers] == [200] * 9
    assert [path for path in handler.running if path != "/quick"] == [f"/{number}" for number in range(9)]
    assert not app._places


@pytest.mark.anyio
async def test_guessed_keys_share_the_turns_of_their_address() -> None:
    handler = Handler()
    app = RequestTurns(handler, at_once=2)
    async with client_of(app, "guessed") as guessing, client_of(app, "quiet") as quiet:
        asked = [
            asyncio.create_task(guessing.get("/", headers={"Authorization": f"Bearer lat_{number}"}))
            for number in range(9)
        ]
        await settle()
        assert handler.running == ["/", "/"]
        assert (await quiet.get("/quick")).status_code == 200
        handler.may_begin_response.set()
        await asyncio.gather(*asked)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/jobs", {"Authorization": "bearer   one"}),
        ("/v1/jobs", {"Authorization": "Basic YW55b25lOm9uZQ=="}),
        ("/v1/jobs", {"Prefer": "wait=30"}),
        ("/v1/jobs", {"Transfer-Encoding": "chunked"}),
        ("/v1/jobs", {"Content-Length": "5000000"}),
        ("/v1/datasets/one/zarr/events/stream", {}),
    ],
)
async def test_no_header_and_no_path_gives_a_key_more_turns(path: str, headers: dict[str, str]) -> None:
    handler = Handler()
    app = RequestTurns(handler, at_once=1)
    async with client_of(app, "one") as client:
        asked = [
            asyncio.create_task(client.get("/first")),
            asyncio.create_task(client.get(path, headers=headers)),
        ]
        await settle()
        assert handler.running == ["/first"]
        handler.may_begin_response.set()
        await asyncio.gather(*asked)
    assert not app._places


@pytest.mark.anyio
async def test_a_request_that_waits_lets_others_run_and_then_takes_its_turn_again() -> None:
    handler, has_changed = Handler(), asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/waits":
            async with without_turn():
                await has_changed.wait()
        await handler(scope, receive, send)

    app = RequestTurns(waits, at_once=1)
    async with client_of(app, "one") as client:
        asked = [asyncio.create_task(client.get(path)) for path in ("/waits", "/waits", "/long")]
        await settle()
        assert handler.running == ["/long"]
        has_changed.set()
        await settle()
        assert handler.running == ["/long"]
        handler.may_begin_response.set()
        answers = await asyncio.gather(*asked)
    assert [one.status_code for one in answers] == [200] * 3
    assert handler.running == ["/long", "/waits", "/waits"]
    assert not app._places


@pytest.mark.anyio
async def test_a_download_that_has_begun_needs_no_turn() -> None:
    handler = Handler()
    handler.may_begin_response.set()
    app = RequestTurns(handler, at_once=1)
    async with client_of(app, "one") as client:
        asked = [asyncio.create_task(client.get("/download")) for _ in range(3)]
        await settle()
        assert len(handler.running) == 3
        handler.may_end.set()
        await asyncio.gather(*asked)


@pytest.mark.anyio
async def test_a_request_that_fails_or_is_given_up_gives_its_turn_back() -> None:
    handler = Handler()
    app = RequestTurns(handler, at_once=1)
    async with client_of(app, "one") as client:
        running, waiting = (asyncio.create_task(client.get(path)) for path in ("/first", "/second"))
        await settle()
        for task in (waiting, running):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        assert (await client.get("/quick")).status_code == 200
    assert not any(place.locked() for place in app._places.values())


@pytest.mark.anyio
async def test_all_keys_of_a_tenant_share_three_times_the_turns_of_a_key() -> None:
    handler = Handler()
    app = RequestTurns(handler, at_once=2)
    clients = [client_of(app, key) for key in ("a", "b", "c", "d")]
    asked = [asyncio.create_task(client.get("/")) for client in clients for _ in range(2)]
    async with client_of(app, "quiet") as quiet, client_of(app, "operator") as operator:
        await settle()
        assert len(handler.running) == 6
        assert (await quiet.get("/quick")).status_code == 200
        assert (await operator.get("/quick")).status_code == 200
    handler.may_begin_response.set()
    await asyncio.gather(*asked, *(client.aclose() for client in clients))


def test_requests_of_a_tenant_that_used_much_wait_for_those_of_others() -> None:
    now = 0.0
    shares = Shares(lambda: now)
    for tenant in (*["busy"] * 5, "quiet", *["busy"] * 25):
        if tenant == "quiet":
            shares.begin("a request", "quiet")
            assert not shares.must_wait("busy"), "it used little"
            shares.end("a request")
        shares.begin(tenant, tenant)
        now += 0.05
        shares.end(tenant)
    assert not shares.must_wait("busy")
    shares.begin("a request", "quiet")
    assert shares.must_wait("busy")
    assert not shares.must_wait("quiet")
    now += _AT_WORK_S
    assert not shares.must_wait("busy"), "what takes long probably waits itself"
    shares.end("a request")
    shares.begin("a request", "busy")
    assert shares.must_wait("busy"), "one request at a time beside another tenant"
    assert not shares.must_wait("quiet")
    now += 1.1 * _LATELY_S
    shares.end("a request")
    shares.begin("a request", "busy")
    assert not shares.must_wait("busy"), "the other tenant has left"


@pytest.mark.anyio
async def test_a_request_that_waits_for_lighter_ones_begins_when_they_end() -> None:
    now = 0.0
    shares = Shares(lambda: now)
    for _ in range(30):
        shares.begin("a", "busy")
        now += 0.05
        shares.end("a")
    shares.begin("b", "quiet")
    waiting = asyncio.create_task(shares.wait("busy"))
    await settle()
    assert not waiting.done()
    shares.end("b")
    await waiting
