"""Turns of requests: only a few requests of one key run at a time, so that those of other keys need not wait for many."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from threading import Event, Lock

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.limits.wrong_keys import given_secret

_Client = tuple[asyncio.AbstractEventLoop, bytes]


_SHORT_SECONDS = 0.05


class AtWork:
    """What of this process is at work and short: requests that have a turn, and short computations."""

    def __init__(self) -> None:
        self._members: dict[object, float] = {}
        self._lock, self._idle = Lock(), Event()
        self._idle.set()

    def add(self, member: object) -> None:
        """Note that a member has begun."""
        with self._lock:
            self._members[member] = time.monotonic()
            self._idle.clear()

    def discard(self, member: object) -> None:
        """Note that a member has ended, waits, or is no longer short."""
        with self._lock:
            self._members.pop(member, None)
            if not self._members:
                self._idle.set()

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until nothing is at work, or the time is over. What takes longer probably waits itself, and does not count."""
        with self._lock:
            began = max(self._members.values(), default=0.0)
        if time.monotonic() - began < _SHORT_SECONDS:
            self._idle.wait(seconds)


at_work = AtWork()


class _Turn:
    """The turn of one request."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns, self._is_held = turns, False

    async def take(self) -> None:
        """Wait for a turn."""
        await self._turns.acquire()
        self._is_held = True
        at_work.add(self)

    def give_back(self) -> bool:
        """Let another request run, and return whether this one had a turn."""
        had, self._is_held = self._is_held, False
        if had:
            at_work.discard(self)
            self._turns.release()
        return had


_turn: ContextVar[_Turn | None] = ContextVar("turn", default=None)


@asynccontextmanager
async def without_turn() -> AsyncIterator[None]:
    """Let other requests of the key run while this one waits for a change or for the bytes of its body."""
    turn = _turn.get()
    had = turn is not None and turn.give_back()
    yield
    if turn is not None and had:  # after an error the request only answers, which needs no turn
        await turn.take()


class RequestTurns:
    """Middleware that lets some requests of one key run at a time. Further ones wait, in their order, without a thread.

    A request has its turn until its response begins, so downloads and streams hold none. `without_turn` gives it up for a while.
    Whatever the form of the header `Authorization`, a key is one client. Requests without a key, and those with a key that this
    process has not looked up, count by the address of the client: otherwise each guessed key would count as another client.

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
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A process has one event loop; tests have several.
        client = (asyncio.get_running_loop(), _client_of(scope))
        turns = self._turns.setdefault(client, asyncio.Semaphore(self._at_once))
        self._users[client] = self._users.get(client, 0) + 1
        try:
            await self._run(_Turn(turns), scope, receive, send)
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client], self._turns[client]

    async def _run(self, turn: _Turn, scope: Scope, receive: Receive, send: Send) -> None:
        await turn.take()
        before = _turn.set(turn)

        async def send_and_give_back(message: Message) -> None:
            if message["type"] == "http.response.start":
                turn.give_back()
            await send(message)

        try:
            await self._app(scope, receive, send_and_give_back)
        finally:
            _turn.reset(before)
            turn.give_back()


def _client_of(scope: Scope) -> bytes:
    """Return the digest of the key of a request, or of the address of its client."""
    secret = given_secret(scope)
    is_key = secret is not None and scope["app"].state.known_keys.get(secret) is not None
    name = f"key {secret}" if is_key else "address " + (scope.get("client") or ("",))[0]
    return hashlib.sha256(name.encode(errors="surrogatepass")).digest()
