"""Turns of requests: only a few requests of one key run at a time, so that those of other keys need not wait for many."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_Client = tuple[asyncio.AbstractEventLoop, str]
_WAITS_ITSELF = "/events/stream"


class RequestTurns:
    """Middleware that lets some requests of one key run at a time. Further ones wait, in their order, without a thread.

    A request has its turn until its response begins, so downloads and streams hold none. Requests that wait for a change need no
    turn. Nor do those with a body of unknown length or of more than a megabyte, which mostly wait for the client. Requests
    without a key count by the address of the client.

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
        headers = Headers(scope=scope) if scope["type"] == "http" else None
        if headers is None or _waits_for_others(scope, headers):
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()  # a process has one; tests have several
        client = (loop, headers.get("authorization") or (scope.get("client") or ("",))[0])
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

        async def send_and_release(message: Message) -> None:
            nonlocal has_turn
            if has_turn and message["type"] == "http.response.start":
                has_turn = False
                turn.release()
            await send(message)

        try:
            await self._app(scope, receive, send_and_release)
        finally:
            if has_turn:
                turn.release()


def _waits_for_others(scope: Scope, headers: Headers) -> bool:
    """Return whether a request mostly waits: for a change, or for the bytes of its body."""
    length = headers.get("content-length", "0")
    is_small = length.isascii() and length.isdigit() and int(length[:20]) <= 2**20
    return (
        scope["path"].endswith(_WAITS_ITSELF)
        or "wait" in headers.get("prefer", "")
        or "transfer-encoding" in headers
        or not is_small
    )
