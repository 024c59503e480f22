"""Turns of requests: only a few requests of one key run at a time, so that those of other keys need not wait for many."""

import asyncio
import re
from collections.abc import Callable
from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_Client = tuple[asyncio.AbstractEventLoop, str]
_UPLOADS = re.compile(r"POST .*/v1/datasets|(POST|PUT|PATCH) .*/v1/uploads.*")
_release: ContextVar[Callable[[], None] | None] = ContextVar("release", default=None)


class RequestTurns:
    """Middleware that lets some requests of one key run at a time. Further ones wait, in their order, without a thread.

    A request has its turn until its response begins, so downloads and streams hold none, or until it only waits: for its turn to
    compute, or for a change (`give_turn_back`). Uploads need no turn, since they mostly wait for their client. Requests without a
    key count by the address of the client.

    Parameters
    ----------
    app
        The next ASGI app.
    at_once
        Number of requests of one key that run at a time.
    """

    def __init__(self, app: ASGIApp, at_once: int) -> None:
        self._app, self._at_once = app, at_once
        self._turns: dict[_Client, asyncio.Semaphore] = {}
        self._users: dict[_Client, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a turn, and pass the request on."""
        if scope["type"] != "http" or _UPLOADS.fullmatch(f"{scope['method']} {scope['path']}"):
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()  # a process has one; tests have several
        client = (loop, Headers(scope=scope).get("authorization") or (scope.get("client") or ("",))[0])
        turn = self._turns.setdefault(client, asyncio.Semaphore(self._at_once))
        self._users[client] = self._users.get(client, 0) + 1
        try:
            await self._run(turn, scope, receive, send)
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client], self._turns[client]

    async def _run(self, turn: asyncio.Semaphore, scope: Scope, receive: Receive, send: Send) -> None:
        await turn.acquire()
        has_turn = True

        def release() -> None:
            nonlocal has_turn
            if has_turn:
                has_turn = False
                turn.release()

        async def send_and_release(message: Message) -> None:
            if message["type"] == "http.response.start":
                release()
            await send(message)

        outer = _release.set(release)
        try:
            await self._app(scope, receive, send_and_release)
        finally:
            _release.reset(outer)
            release()


def give_turn_back() -> None:
    """Let another request of the same key run, because this one only waits from now on. Call it in the event loop."""
    if (release := _release.get()) is not None:
        release()
