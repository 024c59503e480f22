"""What makes two data sets the same: what they are made of, and how; not their names."""

import hashlib
import json
from typing import Any


def content_digest(kind: str, content: Any) -> str:
    """SHA-256 that data sets of the same content have.

    Parameters
    ----------
    kind
        Of the source: ``upload``, ``synthetic``, ….
    content
        As JSON: of an upload the SHA-256 of the file and the canonical options, of a synthetic system its parameters.
    """
    text = json.dumps([kind, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
