"""One line in the log for each request, and the id that all lines of a request have."""

import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from store import metrics
from store.logs import identified

logger = logging.getLogger("latentry.requests")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HEADER = "X-Request-Id"
_VALID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class RequestLog:
    """Middleware that logs each request when its response ends, by its route and never with its query or headers.

    A request may have an id in `X-Request-Id`: up to 128 letters, digits and characters of ``._:/+=@-``. Else it gets one. The
    response has the same header.

    Parameters
    ----------
    app
        The next ASGI app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        clear_contextvars()
        bind_contextvars(request_id=(request_id := _request_id(scope)))
        scope.setdefault("state", {})  # the caller is noted in it
        started, status, location = time.perf_counter(), 0, ""

        async def send_with_id(message: Message) -> None:
            nonlocal status, location
            if message["type"] == "http.response.start":
                status = message["status"]
                location = Headers(raw=message["headers"]).get("location", "")
                MutableHeaders(scope=message)[_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if status:
                logger.exception("the response ends early")
                raise
            # Here instead of outside all middleware, so that this response has the id too.
            response = await scope["app"].exception_handlers[Exception](Request(scope), error)
            await response(scope, receive, send_with_id)
        finally:
            fields, seconds = _fields(scope, location) | {"status": status}, time.perf_counter() - started
            logger.info("request", extra=fields | {"seconds": round(seconds, 4)})
            _count(fields, seconds, waits="prefer" in Headers(scope=scope))


def _count(fields: dict[str, Any], seconds: float, *, waits: bool) -> None:
    # A client can send any word as the method, and each would be a separate series.
    method = fields["method"] if fields["method"] in _METHODS else "other"
    metrics.requests.labels(method, fields["route"], fields["status"]).inc()
    if not waits and not fields["route"].endswith("/stream"):
        metrics.request_seconds.labels(method, fields["route"]).observe(seconds)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(_HEADER, "")
    return given if _VALID.fullmatch(given) else secrets.token_hex(12)


def _fields(scope: Scope, location: str) -> dict[str, Any]:
    """Return what the line of a request says. Ids come from its path, and from the `Location` of what it made."""
    caller = scope["state"].get("caller") or scope["state"].get("refused_caller")
    route = getattr(scope.get("route"), "path", None)
    fields: dict[str, Any] = {
        "method": scope["method"][:16],
        "route": route or "none",
        "client": (scope.get("client") or ("",))[0],
        **identified(scope["path"][:500], location[:500]),
    }
    if route is None:
        fields["path"] = scope["path"][:200]
    if caller is not None:
        fields |= {"tenant": caller.tenant_id, "key": caller.key_id or caller.name}
    return fields
