"""What is installed here."""

from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

from latentry.errors import LatentryError


def own_version() -> str:
    """The version of this client, which comes with the service or by itself."""
    for distribution in ("latentry", "latentry-client"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"


def load_embedded_service() -> Any:
    """Return the class that runs the whole service here; the service offers it, the client knows no service code."""
    found = entry_points(group="latentry.service", name="embedded")
    if not found:
        raise LatentryError(
            "this installation has the client only",
            "install the service, `pip install latentry`, to run it here",
        )
    return next(iter(found)).load()
