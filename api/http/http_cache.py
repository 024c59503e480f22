"""How clients may cache responses: entity tags and `Cache-Control`."""

import hashlib
from typing import Any

CACHE = "private, max-age=31536000, immutable"
"""For responses that never change: the client need not ask again."""
REVALIDATED = "private, no-cache"
"""For responses that may change, such as latents of a job that may be extended: the client asks whether its copy is valid."""

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Your cached copy is still valid."}}
"""OpenAPI's description of the response 304."""


def etag(*parts: str) -> str:
    """Return a strong entity tag of the texts that determine a response."""
    return '"' + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32] + '"'


def matches_tag(if_none_match: str | None, tag: str) -> bool:
    """Return whether the header `If-None-Match` names a tag."""
    given = [item.strip().removeprefix("W/") for item in (if_none_match or "").split(",")]
    return tag in given or given == ["*"]
