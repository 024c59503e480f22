"""What is installed."""

import platform

from api.checks.base import Finding, Parts, ok, warning
from store.versions import installed

_PACKAGES = ("latentry", "torch", "celery", "redis", "sqlalchemy", "zarr", "numpy", "fastapi", "pydantic")


def check_versions(_parts: Parts) -> Finding:
    """Versions of Python and of what the service is made of, where the API runs."""
    found = {"python": platform.python_version()}
    found |= {name: number for name, number in installed(*_PACKAGES).items() if number is not None}
    message = ", ".join(f"{name} {number}" for name, number in found.items() if name != "latentry")
    details = {**found, "system": platform.platform()}
    if "torch" not in found:
        hint = "the API itself needs none; where a worker runs on this machine, install it"
        return warning(f"torch is not installed here; {message}", hint, **details)
    return ok(message, **details)
