"""Refusals before any other work: of wrong keys, of event streams, and of requests above a rate."""

import re
import time

import anyio
from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth import Caller, KnownKeys, find_caller
from api.errors import Problem, Unauthorized
from api.jobs.event_stream import too_many_streams
from api.limits.request_rates import RequestRates
from api.limits.wrong_keys import WrongKeys, given_secret

_STREAM = re.compile(r"/v1/jobs/[^/]+/events/stream")
_HELD_SECONDS = 1.0
"""Time for which a request waits, without a thread, before it is refused. So a client that repeats it at once does no harm."""
_MOST_HELD = 1000
"""Requests that wait at a time; further ones are refused at once."""


class EarlyRefusals:
    """Middleware that refuses requests before their bodies and the database are read, if an earlier request was refused too.

    | a request | is refused, after a second |
    |---|---|
    | has an unknown key, and its address sent too many wrong ones | unless the database knows the key |
    | opens an event stream, and its key has as many as it may have | unless one has ended meanwhile |
    | exceeds the rate of its key or tenant | unless there is room meanwhile |

    All other requests pass: `api.auth` and the routes check and count them.

    Parameters
    ----------
    app
        The next ASGI app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        problem = await self._problem(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await problem.response()(scope, receive, send)

    async def _problem(self, scope: Scope) -> Problem | None:
        if not _path(scope).startswith("/v1/") or (secret := given_secret(scope)) is None:
            return None
        state: State = scope["app"].state
        known: KnownKeys = state.known_keys
        if (caller := known.get(secret)) is None:
            return await self._problem_of_unknown(scope, state, secret)
        if caller.is_operator or _excess(scope, state, caller) is None:
            return None
        scope["state"]["refused_caller"] = caller  # for the log
        # The quotas, and the key, may have changed: all requests that are held at a time need one look at the database.
        caller = await self._held_caller(state, secret)
        return None if caller is None else _excess(scope, state, caller)

    async def _problem_of_unknown(self, scope: Scope, state: State, secret: str) -> Problem | None:
        wrong_keys: WrongKeys = state.wrong_keys
        problem = wrong_keys.refusal((scope.get("client") or ("",))[0])
        if problem is None or await self._held_caller(state, secret) is not None:
            return None
        return problem

    async def _held_caller(self, state: State, secret: str) -> Caller | None:
        """Hold a request, and return its caller as the database knows it then; None if the key is wrong."""
        known: KnownKeys = state.known_keys
        arrived = time.monotonic()

        def look_up() -> Caller | None:
            try:
                return known.get(secret, arrived) or find_caller(state, secret)
            except (Unauthorized, SQLAlchemyError):  # without the database the route answers 503
                return None

        await self._hold()
        return known.get(secret, arrived) or await to_thread.run_sync(look_up, limiter=state.late_lookups)

    async def _hold(self) -> None:
        if self._held < _MOST_HELD:
            self._held += 1
            try:
                await anyio.sleep(_HELD_SECONDS)
            finally:
                self._held -= 1


def _excess(scope: Scope, state: State, caller: Caller) -> Problem | None:
    """Return the error of a request above a rate, or of one stream too many."""
    rates: RequestRates = state.request_rates
    for problem in (
        rates.excess("key_requests_per_minute", caller.key_id or "", caller.quotas),
        rates.excess("requests_per_minute", caller.group, caller.quotas),
    ):
        if problem is not None:
            return problem
    if _STREAM.fullmatch(_path(scope)):
        used = state.feed.streams()[caller.tenant_id, caller.key_id]
        if used >= (most := state.settings.streams_per_key):
            return too_many_streams(used, most)
    return None


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
