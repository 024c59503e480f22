"""The kinds of pictures, without matplotlib, which takes a second to import; `api.computing.drawing` draws them."""

from typing import Any, Literal

from fastapi import Response

from api.http.http_cache import NOT_MODIFIED

PictureKind = Literal["png", "svg"]
_MEDIA_TYPES: dict[PictureKind, str] = {"png": "image/png", "svg": "image/svg+xml"}


def picture_response(picture: bytes, kind: PictureKind, headers: dict[str, str] | None = None) -> Response:
    """Return a picture as a response."""
    return Response(picture, media_type=_MEDIA_TYPES[kind], headers=headers)


def picture_answers(kind: PictureKind) -> dict[int | str, dict[str, Any]]:
    """Describe the response of a route that draws for OpenAPI."""
    schema = {"type": "string", "format": "binary"} if kind == "png" else {"type": "string"}
    return {
        200: {"description": "The picture.", "content": {_MEDIA_TYPES[kind]: {"schema": schema}}},
        **NOT_MODIFIED,
    }
