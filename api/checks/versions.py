"""What is installed."""

import platform
from importlib.metadata import PackageNotFoundError, version

from api.checks.base import Finding, Parts, ok, warning

_PACKAGES = ("latentry", "torch", "celery", "redis", "sqlalchemy", "zarr", "numpy", "fastapi", "pydantic")


def check_versions(_parts: Parts) -> Finding:
    """Versions of Python and of what the service is made of, where the API runs."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    message = ", ".join(f"{name} {number}" for name, number in found.items() if name != "latentry")
    details = {**found, "system": platform.platform()}
    if "torch" not in found:
        hint = "the API itself needs none; where a worker runs on this machine, install it"
        return warning(f"torch is not installed here; {message}", hint, **details)
    return ok(message, **details)
