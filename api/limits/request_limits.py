"""Limits of requests: the size of bodies, and the number of parameters in the query."""

import re
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import CarriedProblem, Invalid, NotFound, Problem, TooLarge, UnsupportedMediaType
from store.settings import Settings

_MOST_PARAMETERS = 500
_LONGEST_PATH = 2_000
_LONGEST_MEDIA_TYPE = 1_000

_KIB = 2**10
_FILE_ROUTES = re.compile(r"(POST /v1/datasets|(POST|PUT) /v1/uploads|PATCH /v1/uploads/[^/]+)")
_INFER = re.compile(r"POST /v1/models/[^/]+:infer")
_NEAREST = re.compile(r"POST /v1/[^/]+/[^/]+/nearest")
_LARGE_DOCUMENTS = re.compile(r"POST /v1/(jobs|datasets(:combine|/[^/]+:derive)?)")
"""Jobs, and documents with options of data sets, which may list trials and neurons. All other documents are small."""


class _Limit(NamedTuple):
    """The most bytes of a body, and the setting of this limit. Limits of kinds of documents have no setting."""

    bytes: int
    setting: str | None


class BodyLimit:
    """Middleware that refuses a body above the limit with 413: by its `Content-Length`, or while the bytes arrive.

    It also refuses queries, paths and media types that the framework would parse on the event loop for milliseconds, and drops
    cookies, which no route reads.

    Parameters
    ----------
    app
        The next ASGI app. The limits come from the settings.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count the bytes of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["headers"] = [header for header in scope["headers"] if header[0] != b"cookie"]
        headers = Headers(scope=scope)
        if (problem := _excess(scope, headers)) is not None:
            await problem.response()(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        limit = _limit(f"{scope['method']} {path}", headers, scope["app"].state.settings)
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > limit.bytes:
            problem = TooLarge.of(limit.bytes, limit.setting, f"it has {length[:20]}")
            await problem.response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit.bytes:
                raise CarriedProblem(TooLarge.of(limit.bytes, limit.setting, "it has more"))
            return message

        await self._app(scope, counted, send)


def _excess(scope: Scope, headers: Headers) -> Problem | None:
    """Return the error of a request whose path, query or media type is too long to be valid."""
    if len(scope["path"]) > _LONGEST_PATH:
        return NotFound(f"there is no route with a path of {len(scope['path'])} characters")
    if (parameters := scope["query_string"].count(b"&") + 1) > _MOST_PARAMETERS:
        message = f"expected at most {_MOST_PARAMETERS} parameters; got {parameters}"
        return Invalid.field("query", "too_many", message)
    if (length := len(headers.get("content-type", ""))) > _LONGEST_MEDIA_TYPE:
        return UnsupportedMediaType(
            f"expected a Content-Type of at most {_LONGEST_MEDIA_TYPE} characters; got {length}"
        )
    return None


def _limit(route: str, headers: Headers, settings: Settings) -> _Limit:
    """Return the limit of the body of a request."""
    if _INFER.fullmatch(route):
        return _Limit(settings.infer_max_bytes, "LATENTRY_INFER_MAX_BYTES")
    is_json = headers.get("content-type", "").startswith("application/json")
    if not is_json and _FILE_ROUTES.fullmatch(route):
        return _Limit(settings.upload_max_bytes, "LATENTRY_UPLOAD_MAX_BYTES")
    most = _Limit(settings.body_max_bytes, "LATENTRY_BODY_MAX_BYTES")
    if _NEAREST.fullmatch(route):
        return most
    of_kind = _Limit(256 * _KIB if _LARGE_DOCUMENTS.fullmatch(route) else 64 * _KIB, None)
    return min(most, of_kind, key=lambda limit: limit.bytes)
