"""Keys and the tokens of shares: their secrets, and their rows."""

import hashlib
import secrets
from datetime import datetime
from typing import Any, Literal

from store.identifiers import new_id
from store.tables import Key

KEY_PREFIX, SHARE_PREFIX = "lat_", "ltshare_"
_SHOWN = 6
"""Random characters of the secret that lists show."""


def new_key(kind: Literal["key", "share"], created_at: datetime, **columns: Any) -> tuple[Key, str]:
    """Return the row of a new key or share, and its secret, which only its maker sees.

    Parameters
    ----------
    kind, created_at
        Of the key.
    columns
        All other columns but those that follow from the secret.
    """
    id_prefix, prefix = ("key", KEY_PREFIX) if kind == "key" else ("shr", SHARE_PREFIX)
    secret = f"{prefix}{secrets.token_urlsafe(32)}"
    row = Key(
        id=new_id(id_prefix),
        digest=secret_digest(secret),
        beginning=secret[: len(prefix) + _SHOWN],
        created_at=created_at,
        **columns,
    )
    return row, secret


def secret_digest(secret: str) -> str:
    """Return the digest that the database stores. The secret has 256 random bits, so it needs no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
