"""What a check is given, and what it finds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zarr.abc.store import Store

from api.checks.schemas import CheckStatus
from store.database import Database
from store.originals import OriginalStore
from store.settings import Settings


@dataclass(frozen=True)
class Parts:
    """The parts of the service that are looked at."""

    settings: Settings
    database: Database
    arrays: Store
    originals: OriginalStore


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes
    ----------
    status
        How bad it is.
    message
        What it is, without addresses: any tenant may read it.
    hint
        What to do; empty where nothing needs to be done.
    details
        Figures and addresses, for whoever runs the service.
    """

    status: CheckStatus
    message: str
    hint: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def ok(message: str, **details: Any) -> Finding:
    """All is well."""
    return Finding(CheckStatus.OK, message, details=details)


def warning(message: str, hint: str, **details: Any) -> Finding:
    """It works, but not for long or not well."""
    return Finding(CheckStatus.WARNING, message, hint, details)


def failed(message: str, hint: str, **details: Any) -> Finding:
    """It does not work."""
    return Finding(CheckStatus.FAILED, message, hint, details)


Check = Callable[[Parts], Finding]
"""It may raise or hang: both are found."""


def reason(error: Exception) -> str:
    """The kind of an error and its first line, for whoever runs the service."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__
