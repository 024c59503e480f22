"""Identifiers: a prefix for the kind, the time, and random digits. They sort by creation."""

import re
import secrets
import time

_ID = "(?:dat|job|mod|sli|upl|inf|key|shr|whk|dlv)_[0-9a-f]{24}"
PATTERN = re.compile(f"^{_ID}$")
ANYWHERE = re.compile(_ID)
"""An identifier within a text."""


def new_id(prefix: str) -> str:
    """Return e.g. ``job_0192f3c4a5b6`` + 12 random hex digits: 48 bits of milliseconds, 48 random bits."""
    return f"{prefix}_{int(time.time() * 1000):012x}{secrets.token_hex(6)}"
