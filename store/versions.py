"""Versions of installed packages."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


def installed(*packages: str) -> dict[str, str | None]:
    """Return the version of each package; None if it is not installed."""
    return {name: _version(name) for name in packages}


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
