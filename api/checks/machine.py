"""Checks of the storage of arrays and of uploaded files, of the disk, and of the installed packages."""

import hashlib
import platform
import secrets
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from api.checks.base import Finding, Parts, failed, ok, reason, warning
from store.array_store import delete_object, read_object, write_object
from store.disk_errors import free_bytes
from store.versions import installed

_CORRUPT, _CORRUPT_HINT = "read other bytes than were written", "do not trust the data that are stored there"
_PROBE_BYTES = 2**16
_PACKAGES = ("latentry", "torch", "celery", "redis", "sqlalchemy", "zarr", "numpy", "fastapi", "pydantic")
_LITTLE_BYTES, _TOO_LITTLE_BYTES = 5 * 10**9, 5 * 10**8


def check_array_storage(parts: Parts) -> Finding:
    """Check that an object can be written, read and deleted."""
    where = {"url": parts.settings.array_url.split(":", 1)[0] + ":"}
    key, value, begun = f"probes/{secrets.token_hex(12)}", secrets.token_bytes(_PROBE_BYTES), time.monotonic()
    try:
        write_object(parts.arrays, key, value)
        try:
            stored = read_object(parts.arrays, key)
        finally:
            delete_object(parts.arrays, key)
    except Exception as error:
        hint = "no model can be saved: check that the database, or the folder of LATENTRY_ARRAY_URL, is writable and not full"
        return failed("cannot write, read and delete an object", hint, error=reason(error), **where)
    if stored != value:
        return failed(_CORRUPT, _CORRUPT_HINT, **where)
    seconds = time.monotonic() - begun
    kind = "the database" if where["url"] == "sql:" else "a folder"
    return ok(f"wrote 64 kB to {kind}, read and deleted them in {seconds * 1000:.0f} ms", **where)


def check_originals(parts: Parts) -> Finding:
    """Check that a file can be stored, read and deleted."""
    folder, value, begun = parts.settings.uploads_dir, secrets.token_bytes(_PROBE_BYTES), time.monotonic()
    sha256 = hashlib.sha256(value).hexdigest()
    where = {"url": parts.settings.upload_url or str(folder)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="probe-", dir=folder) as own:
            path = Path(own) / "probe"
            path.write_bytes(value)
            try:
                parts.originals.take_in(path, sha256)
                stored = parts.originals.local_path(sha256, Path(own)).read_bytes()
            finally:
                parts.originals.delete(sha256)
    except Exception as error:
        hint = (
            "no upload can be stored: check that the folder, or the bucket of LATENTRY_UPLOAD_URL, exists, is writable and not "
            "full"
        )
        return failed("cannot store, read and delete a file", hint, error=reason(error), **where)
    if stored != value:
        return failed(_CORRUPT, _CORRUPT_HINT, **where)
    seconds = time.monotonic() - begun
    kind = "a bucket" if parts.settings.upload_url else "a folder"
    return ok(f"stored 64 kB in {kind}, read and deleted them in {seconds * 1000:.0f} ms", **where)


def check_disk(parts: Parts) -> Finding:
    """Check the free space of the disks that the service writes to."""
    folders = {"LATENTRY_DATA_DIR": parts.settings.data_dir}
    if (url := urlsplit(parts.settings.array_url)).scheme == "file":
        folders["LATENTRY_ARRAY_URL"] = Path(url2pathname(url.path))
    free = {name: free_bytes(folder) for name, folder in folders.items()}
    name, least = min(free.items(), key=lambda item: item[1])
    message = f"{least / 1e9:.1f} GB are free on the disk of {name}"
    details = {"free_bytes": free, "folders": {name: str(folder) for name, folder in folders.items()}}
    hint = "free some space, or move the folder to a larger disk"
    kept = parts.settings.disk_min_free_bytes
    if free["LATENTRY_DATA_DIR"] < kept:
        refused = (
            f"{message}; uploads are refused, because LATENTRY_DISK_MIN_FREE_BYTES keeps {kept / 1e9:.1f} GB"
        )
        return failed(refused, hint, **details)
    if least < _TOO_LITTLE_BYTES:
        return failed(message, hint, **details)
    if least < _LITTLE_BYTES + kept:
        return warning(message, hint, **details)
    return ok(message, **details)


def check_versions(_parts: Parts) -> Finding:
    """Report the versions of Python and of the main packages in the environment of the API."""
    found = {"python": platform.python_version()}
    found |= {name: number for name, number in installed(*_PACKAGES).items() if number is not None}
    message = ", ".join(f"{name} {number}" for name, number in found.items() if name != "latentry")
    details = {**found, "system": platform.platform()}
    if "torch" not in found:
        hint = "the API does not need torch; install it if a worker runs on this machine"
        return warning(f"torch is not installed here; {message}", hint, **details)
    return ok(message, **details)
