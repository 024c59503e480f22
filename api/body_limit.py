"""The limit of bodies: refused by their `Content-Length`, or while they come. The framework's own answers plain text."""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import CarriedProblem, TooLarge
from store.settings import Settings

_INFER = re.compile(r"POST /v1/models/[^/]+:infer")
_TAKE_FILES = re.compile(r"(POST /v1/datasets|(POST|PUT) /v1/uploads|PATCH /v1/uploads/[^/]+)")


class BodyLimit:
    """Middleware that answers 413 to a body that is too large, before its end has come.

    Parameters
    ----------
    app
        The app inside. The limits of uploads, of requests for latents and of every other body are in the settings
        of the whole app's state.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit, setting = _limit(f"{scope['method']} {scope['path']}", headers, scope["app"].state.settings)
        told = headers.get("content-length", "")
        if told.isascii() and told.isdigit() and int(told[:20]) > limit:
            await TooLarge.of(limit, setting, f"it has {told[:20]}").response()(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise CarriedProblem(TooLarge.of(limit, setting, "it has more"))
            return message

        await self._app(scope, counted, send)


def _limit(route: str, headers: Headers, settings: Settings) -> tuple[int, str]:
    """How many bytes the body of a request may have, and the setting that says so."""
    if _INFER.fullmatch(route):
        return settings.infer_max_bytes, "LATENTRY_INFER_MAX_BYTES"
    is_json = headers.get("content-type", "").startswith("application/json")
    if not is_json and _TAKE_FILES.fullmatch(route):
        return settings.upload_max_bytes, "LATENTRY_UPLOAD_MAX_BYTES"
    return settings.body_max_bytes, "LATENTRY_BODY_MAX_BYTES"
