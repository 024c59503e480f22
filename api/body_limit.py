"""The size limit of request bodies."""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import CarriedProblem, TooLarge
from store.settings import Settings

_INFER = re.compile(r"POST /v1/models/[^/]+:infer")
_FILE_ROUTES = re.compile(r"(POST /v1/datasets|(POST|PUT) /v1/uploads|PATCH /v1/uploads/[^/]+)")


class BodyLimit:
    """Middleware that refuses a body above the limit with 413: by its `Content-Length`, or while the bytes arrive.

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
        headers = Headers(scope=scope)
        limit, setting = _limit(f"{scope['method']} {scope['path']}", headers, scope["app"].state.settings)
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > limit:
            await TooLarge.of(limit, setting, f"it has {length[:20]}").response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise CarriedProblem(TooLarge.of(limit, setting, "it has more"))
            return message

        await self._app(scope, counted, send)


def _limit(route: str, headers: Headers, settings: Settings) -> tuple[int, str]:
    """Return the most bytes that the body of a request may have, and the setting of this limit."""
    if _INFER.fullmatch(route):
        return settings.infer_max_bytes, "LATENTRY_INFER_MAX_BYTES"
    is_json = headers.get("content-type", "").startswith("application/json")
    if not is_json and _FILE_ROUTES.fullmatch(route):
        return settings.upload_max_bytes, "LATENTRY_UPLOAD_MAX_BYTES"
    return settings.body_max_bytes, "LATENTRY_BODY_MAX_BYTES"
