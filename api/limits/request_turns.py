"""Turns of requests: only a few requests of one key run at a time, and those of tenants that used little come first."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Event, Lock
from weakref import WeakKeyDictionary, WeakValueDictionary

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.limits.wrong_keys import given_secret

_SHORT_SECONDS = 0.05
"""What takes longer probably waits itself, and keeps no other waiting."""
_LONGEST_WAIT_S = 1.0
"""Longest time for which a request waits for those of tenants that used less."""
_AT_WORK_S = 0.2
"""Time for which a request of another tenant counts as being at work. After that it probably waits itself."""
_LITTLE_S = 0.7
"""A tenant that used less than this waits for nobody. One that uses all the time of a process comes to 1.4 (see `Shares`)."""
_LATELY_S = 1.0
"""Time after which a tenant without requests keeps none waiting."""
_KEYS_AT_ONCE = 3
"""Number of keys of one tenant that can have all their turns at the same time."""


class AtWork:
    """What of this process is at work and short: requests that have a turn, and short computations.

    Parameters
    ----------
    clock
        Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._members: dict[object, float] = {}
        self._lock, self._idle = Lock(), Event()
        self._idle.set()

    def add(self, member: object) -> None:
        """Note that a member has begun."""
        with self._lock:
            self._members[member] = self._clock()
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
        if self._clock() - began < _SHORT_SECONDS:
            self._idle.wait(seconds)


at_work = AtWork()


class LatelyUsed:
    """Seconds that each tenant used lately: sums that halve each second. Not for several threads at a time.

    Parameters
    ----------
    clock
        Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Of each tenant: seconds, and when they were added up.
        self._used: dict[str, tuple[float, float]] = {}

    def add(self, tenant: str, seconds: float) -> None:
        """Add seconds of a tenant, and forget tenants that used nothing for a while."""
        now = self._clock()
        self._used[tenant] = self.of(tenant) + seconds, now
        for other in [one for one, (_, then) in self._used.items() if now - then > _LATELY_S]:
            del self._used[other]

    def of(self, tenant: str) -> float:
        """Return what a tenant used."""
        seconds, then = self._used.get(tenant, (0.0, 0.0))
        return seconds * math.pow(0.5, self._clock() - then)

    def less_than(self, seconds: float) -> set[str]:
        """Return the tenants that used something, but less than this."""
        return {tenant for tenant in self._used if self.of(tenant) < seconds}


class Shares:
    """How much each tenant used this process lately, so that requests of a tenant that used much wait for those of others.

    Parameters
    ----------
    clock
        Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._used = clock, LatelyUsed(clock)
        self._running: dict[object, tuple[str, float]] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order in which they came

    def begin(self, request: object, tenant: str) -> None:
        """Note that a request of a tenant runs."""
        self._running[request] = tenant, self._clock()
        self._used.add(tenant, 0.0)

    def end(self, request: object) -> None:
        """Note that a request has ended."""
        if request not in self._running:
            return
        tenant, began = self._running.pop(request)
        self._used.add(tenant, min(self._clock() - began, _SHORT_SECONDS))
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def must_wait(self, tenant: str) -> bool:
        """Return whether a request of a tenant has to wait.

        If it used much, and there are tenants that used less than half as much lately, one request of the tenant runs at a time,
        and none beside requests of those tenants.
        """
        used = self._used.of(tenant)
        if used < _LITTLE_S:
            return False
        lighter = self._used.less_than(used / 2)
        recent = self._clock() - _AT_WORK_S
        return bool(lighter) and any(
            one == tenant or (one in lighter and began > recent) for one, began in self._running.values()
        )

    async def wait(self, tenant: str) -> None:
        """Wait until a request of a tenant may begin, or for the longest time that one waits."""
        until = self._clock() + _LONGEST_WAIT_S
        while self.must_wait(tenant) and (left := until - self._clock()) > 0:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting[waiting] = None
            try:
                await asyncio.wait([waiting], timeout=left)
            finally:
                del self._waiting[waiting]


@dataclass(eq=False)
class _Turn:
    """The turn of one request: a place of its key, and one of its tenant."""

    places: list[asyncio.Semaphore]
    is_held: bool = False

    async def take(self) -> None:
        """Wait for a turn."""
        async with AsyncExitStack() as taken:
            for place in self.places:
                await taken.enter_async_context(place)
            taken.pop_all()  # given back later
        self.is_held = True
        at_work.add(self)

    def give_back(self) -> bool:
        """Let another request run, and return whether this one had a turn."""
        had, self.is_held = self.is_held, False
        if had:
            at_work.discard(self)
            for place in self.places:
                place.release()
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
    All keys of a tenant together have three times as many turns as one key, and their tenant's `Shares`. The operator needs no
    turn of a tenant.

    Parameters
    ----------
    app
        The next ASGI app.
    at_once
        Number of requests of one key that run at a time.
    """

    def __init__(self, app: ASGIApp, at_once: int) -> None:
        self._app, self._at_once = app, at_once
        # A process has one event loop; tests have several.
        self._places = WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], asyncio.Semaphore]()
        self._shares = WeakKeyDictionary[asyncio.AbstractEventLoop, Shares]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a turn, and pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        turn, tenant = self._turn(scope)
        shares = self._shares.setdefault(asyncio.get_running_loop(), Shares())
        await turn.take()
        before = _turn.set(turn)

        async def send_and_give_back(message: Message) -> None:
            if message["type"] == "http.response.start":
                turn.give_back()
                shares.end(turn)
            await send(message)

        try:
            await shares.wait(tenant)
            shares.begin(turn, tenant)
            await self._app(scope, receive, send_and_give_back)
        finally:
            _turn.reset(before)
            turn.give_back()
            shares.end(turn)

    def _turn(self, scope: Scope) -> tuple[_Turn, str]:
        """Return a turn of the client of a request, and its tenant."""
        secret, loop = given_secret(scope), asyncio.get_running_loop()
        caller = None if secret is None else scope["app"].state.known_keys.get(secret)
        if caller is None:
            client = tenant = "address " + (scope.get("client") or ("",))[0]
        else:
            client, tenant = f"key {caller.key_id}", f"tenant {caller.group}"
        numbers = {client: self._at_once} | (
            {} if caller is None or caller.is_operator else {tenant: _KEYS_AT_ONCE * self._at_once}
        )
        places = [
            self._places.setdefault((loop, name), asyncio.Semaphore(number))
            for name, number in numbers.items()
        ]
        return _Turn(places), tenant
