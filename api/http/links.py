"""Links in answers begin with the path under which a reverse proxy offers the service."""

from contextvars import ContextVar
from typing import Annotated

from pydantic import PlainSerializer
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_root_path: ContextVar[str] = ContextVar("root_path", default="")


def _with_root(path: str) -> str:
    root = _root_path.get()
    return root + path if path.startswith("/") and not path.startswith(root + "/") else path


Link = Annotated[str, PlainSerializer(_with_root, return_type=str)]
"""A path of the service, such as ``/v1/jobs/…``."""


class RootPath:
    """Middleware that puts the path of the service before `Location`, and before each `Link` of a document.

    Parameters
    ----------
    app
        The next ASGI app. The server tells the path in `scope["root_path"]`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if not scope.get("root_path"):
            await self._app(scope, receive, send)
            return
        _root_path.set(scope["root_path"])

        async def send_with_root(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "location" in headers:
                    headers["location"] = _with_root(headers["location"])
            await send(message)

        await self._app(scope, receive, send_with_root)
