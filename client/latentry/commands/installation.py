"""What is installed here."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The version of this client, which comes with the service or by itself."""
    for distribution in ("latentry", "latentry-client"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"
