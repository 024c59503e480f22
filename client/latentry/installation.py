"""What is installed on this machine."""

from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

from latentry.errors import LatentryError


def own_version() -> str:
    """Return the version of this client, which is installed with the service or alone."""
    for distribution in ("latentry", "latentry-client"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"


def load_embedded_service() -> Any:
    """Return the class that runs the whole service in this process.

    The service registers it as an entry point; the client imports no code of the service.
    """
    found = entry_points(group="latentry.service", name="embedded")
    if not found:
        raise LatentryError(
            "this installation has only the client",
            "install the service, `pip install .` in a clone of Latentry, to run it on this machine",
        )
    return next(iter(found)).load()
