"""The page for a browser, and its files.

The files have addresses with a digest of them all, so that browsers keep them until another version is installed.
"""

import gzip
import hashlib
from functools import cache, lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Request, Response

from api.errors import NotFound
from api.http.http_cache import REVALIDATED, etag, matches_tag

_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".npz": "application/octet-stream",
}
_PRELOADED = (
    "js/main.js",
    "js/ui.js",
    "js/api.js",
    "js/router.js",
    "js/npy.js",
    "js/views/home.js",
    "js/format.js",
)
"""What the first view needs. The browser loads them at the same time instead of one import after the other."""

_PLOTLY_STYLE = "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='"
"""Digest of the one style sheet that Plotly's map library adds when it is loaded."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    f"style-src 'self' {_PLOTLY_STYLE}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


def install(app: FastAPI) -> None:
    """Serve the page at ``/`` and its files at ``/assets``. They need no key: they contain no data."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    def show_page(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        tag = etag(_digest())
        headers = {**_HEADERS, "ETag": tag, "Cache-Control": REVALIDATED}
        if matches_tag(if_none_match, tag):
            return Response(status_code=304, headers=headers)
        return Response(_index(), media_type="text/html", headers=headers)

    @router.api_route("/assets/{digest}/{path:path}", methods=["GET", "HEAD"])
    def show_file(request: Request, digest: str, path: str) -> Response:
        suffix = "." + path.rpartition(".")[2]
        if digest != _digest() or path not in _contents():
            raise NotFound(
                f"the page has no file {path!r} of this version",
                hint="reload the page: another version of the service was installed",
            )
        headers = {
            "Cache-Control": "public, max-age=31536000, immutable",
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
        }
        content = _contents()[path]
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(_compressed(path), media_type=_TYPES[suffix], headers=headers)
        return Response(content.read_bytes(), media_type=_TYPES[suffix], headers=headers)

    app.include_router(router)


@cache
def _contents() -> dict[str, Traversable]:
    """Return the files that are served, by path."""
    found: dict[str, Traversable] = {}

    def add(folder: Traversable, prefix: str) -> None:
        for item in folder.iterdir():
            if item.is_dir():
                add(item, f"{prefix}{item.name}/")
            elif "." + item.name.rpartition(".")[2] in _TYPES:
                found[prefix + item.name] = item

    add(files("web"), "")
    return found


@cache
def _digest() -> str:
    digest = hashlib.sha256()
    for path, content in sorted(_contents().items()):
        digest.update(f"{path}\n".encode() + content.read_bytes())
    digest.update((files("web") / "index.html").read_bytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=64)
def _compressed(path: str) -> bytes:
    return gzip.compress(_contents()[path].read_bytes(), 6)


@cache
def _index() -> str:
    assets = f"assets/{_digest()}"
    preload = "\n    ".join(f'<link rel="modulepreload" href="{assets}/{path}">' for path in _PRELOADED)
    text = (files("web") / "index.html").read_text()
    return text.replace("{assets}", assets).replace("{preload}", preload)
