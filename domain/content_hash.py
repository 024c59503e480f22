"""The hash that identifies the content of a data set: its source and its options, but not its name."""

import hashlib
import json
from typing import Any


def content_digest(kind: str, content: Any) -> str:
    """Return a SHA-256. Data sets of equal content have equal digests.

    Parameters
    ----------
    kind
        Kind of the source: ``upload``, ``synthetic``, ….
    content
        The content, as JSON values: for an upload, the SHA-256 of the file and the canonical options; for a synthetic system, its
        parameters.
    """
    text = json.dumps([kind, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
