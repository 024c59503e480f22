"""Requests that take long keep no thread from those that are quick."""

import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx
import pytest
from anyio import to_thread
from fastapi import FastAPI

from api.computing.streamed_response import Streamed
from api.errors import NotFound
from api.models import routes as model_routes

MORE_THAN_THREADS = 50
SCOPE: dict[str, Any] = {"type": "http", "asgi": {"spec_version": "2.3"}}
Message = MutableMapping[str, Any]


def blocked_pieces(goes_on: threading.Event) -> Iterator[bytes]:
    goes_on.wait()
    yield b"piece"


async def while_many_run(begin: Callable[[threading.Event], Awaitable[Any]]) -> str:
    """What a quick request gets while many of another kind are in the middle of their work."""
    goes_on = threading.Event()
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(MORE_THAN_THREADS):
                tasks.start_soon(begin, goes_on)
            await anyio.sleep(0.05)
            with anyio.move_on_after(5, shield=True):
                found = await to_thread.run_sync(lambda: "quick")
                goes_on.set()
                return found
            goes_on.set()
    finally:
        goes_on.set()
    return "not answered"


async def stream(goes_on: threading.Event) -> None:
    await Streamed(blocked_pieces(goes_on))(SCOPE, anyio.sleep_forever, drop)


async def drop(_message: Message) -> None:
    pass


def test_streams_have_threads_of_their_own() -> None:
    assert anyio.run(while_many_run, stream) == "quick"


def test_a_process_that_has_all_threads_at_work_is_alive(light_app: FastAPI) -> None:
    async def run() -> int:
        goes_on = threading.Event()
        async with (
            anyio.create_task_group() as tasks,
            httpx.AsyncClient(transport=httpx.ASGITransport(light_app), base_url="http://test") as client,
        ):
            for _ in range(MORE_THAN_THREADS):
                tasks.start_soon(to_thread.run_sync, goes_on.wait)
            await anyio.sleep(0.05)
            status = 0
            with anyio.move_on_after(5):
                status = (await client.get("/healthz")).status_code
            goes_on.set()
        return status

    assert anyio.run(run) == 200


def test_whoever_waits_for_a_program_keeps_nobody_waiting(
    light_app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def find_export(*_arguments: Any, **_options: Any) -> None:
        goes_on.wait()
        raise NotFound("there is no such model")

    monkeypatch.setattr(model_routes, "find_export", find_export)

    async def run() -> int:
        async with (
            AsyncExitStack() as opened,
            anyio.create_task_group() as tasks,
            httpx.AsyncClient(transport=httpx.ASGITransport(light_app), base_url="http://test") as client,
        ):
            for number in range(MORE_THAN_THREADS):  # each of another client, since one has a few at a time
                transport = httpx.ASGITransport(light_app, client=(f"10.0.0.{number}", 1))
                busy = await opened.enter_async_context(
                    httpx.AsyncClient(transport=transport, base_url="http://test")
                )
                tasks.start_soon(busy.get, "/v1/models/any/export?program=onnx")
            await anyio.sleep(0.2)
            status = 0
            with anyio.move_on_after(5):
                status = (await client.get("/v1/datasets")).status_code
            goes_on.set()
        return status

    assert anyio.run(run) == 200


def test_what_makes_an_answer_is_closed_when_the_client_leaves() -> None:
    closed = []

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"piece"
        finally:
            closed.append(True)

    async def run() -> Streamed:
        sent = anyio.Event()

        async def send(message: Message) -> None:
            if message.get("body"):
                sent.set()
                await anyio.sleep_forever()

        async def receive() -> Message:
            await sent.wait()
            return {"type": "http.disconnect"}

        answer = Streamed(endless())
        await answer(SCOPE, receive, send)
        return answer

    answer = anyio.run(run)
    assert closed == [True], answer
