"""Checks of what keeps bytes: arrays, originals, the disk."""

import hashlib
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from api.checks.base import Finding, Parts, failed, ok, reason, warning
from store.array_store import delete_object, read_object, write_object

_PROBE_BYTES = 2**16
_LITTLE_BYTES, _TOO_LITTLE_BYTES = 5 * 10**9, 5 * 10**8


def check_array_storage(parts: Parts) -> Finding:
    """An object can be written, read and deleted."""
    where = {"url": parts.settings.array_url.split(":", 1)[0] + ":"}
    key, value, begun = f"probes/{secrets.token_hex(12)}", secrets.token_bytes(_PROBE_BYTES), time.monotonic()
    try:
        write_object(parts.arrays, key, value)
        try:
            came = read_object(parts.arrays, key)
        finally:
            delete_object(parts.arrays, key)
    except Exception as error:
        hint = "no model can be saved: is the database, or the folder of LATENTRY_ARRAY_URL, writable and not full?"
        return failed("an object could not be written, read and deleted", hint, error=reason(error), **where)
    if came != value:
        return failed("other bytes came back than were written", "do not trust what is stored there", **where)
    seconds = time.monotonic() - begun
    kind = "the database" if where["url"] == "sql:" else "a folder"
    return ok(f"64 kB were written to {kind}, read and deleted in {seconds * 1000:.0f} ms", **where)


def check_originals(parts: Parts) -> Finding:
    """A file can be kept, read and deleted."""
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
                came = parts.originals.local_path(sha256, Path(own)).read_bytes()
            finally:
                parts.originals.delete(sha256)
    except Exception as error:
        hint = "no upload can be kept: is the folder, or the bucket of LATENTRY_UPLOAD_URL, there, writable and not full?"
        return failed("a file could not be kept, read and deleted", hint, error=reason(error), **where)
    if came != value:
        return failed("other bytes came back than were written", "do not trust what is stored there", **where)
    kind = "a bucket" if parts.settings.upload_url else "a folder"
    return ok(
        f"64 kB were kept in {kind}, read and deleted in {(time.monotonic() - begun) * 1000:.0f} ms", **where
    )


def check_disk(parts: Parts) -> Finding:
    """There is room on the disks that the service writes to."""
    folders = {"LATENTRY_DATA_DIR": parts.settings.data_dir}
    if (url := urlsplit(parts.settings.array_url)).scheme == "file":
        folders["LATENTRY_ARRAY_URL"] = Path(url2pathname(url.path))
    free = {name: shutil.disk_usage(_existing(folder)).free for name, folder in folders.items()}
    name, least = min(free.items(), key=lambda item: item[1])
    message = f"{least / 1e9:.1f} GB are free where {name} lies"
    details = {"free_bytes": free, "folders": {name: str(folder) for name, folder in folders.items()}}
    hint = "make room: delete what is not needed, or move the folder to a larger disk"
    if least < _TOO_LITTLE_BYTES:
        return failed(message, hint, **details)
    if least < _LITTLE_BYTES:
        return warning(message, hint, **details)
    return ok(message, **details)


def _existing(folder: Path) -> Path:
    """The folder, or what it will be made in."""
    return next(one for one in (folder, *folder.parents) if one.exists())
