"""Originals: uploaded files, each stored once under the SHA-256 of its bytes, in a folder or in a bucket.

The service hashes a file before it stores it under its SHA-256. If a client writes a file into the bucket itself, the file stays
under the id of its upload until a worker has read it.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from store.settings import Settings

_BLOCK_BYTES = 2**20
MOST_DIRECT_BYTES = 5 * 10**9
"""S3 accepts no more bytes in one PUT."""


class OriginalStore(ABC):
    """Stores uploaded files."""

    @abstractmethod
    def take_in(self, path: Path, sha256: str) -> None:
        """Store a file with this SHA-256, and remove `path`."""

    @abstractmethod
    def size(self, sha256: str) -> int | None:
        """Return the size of a stored file in bytes; None if it is not stored."""

    @abstractmethod
    def local_path(self, sha256: str, folder: Path) -> Path:
        """Return a path where the file can be read: the stored file, or a copy in `folder`.

        Raises
        ------
        FileNotFoundError
            If the file is not stored.
        OSError
            If the bytes have another SHA-256.
        """

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Delete a file if it exists."""


class FolderOriginals(OriginalStore):
    """Originals in a folder that API and ingest workers share.

    Parameters
    ----------
    folder
        The folder. Files to store are in it, or on the same disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take_in(self, path: Path, sha256: str) -> None:
        """Flush a file to the disk, then rename it."""
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(self._folder / sha256)

    def size(self, sha256: str) -> int | None:
        """Return the size of a stored file in bytes; None if it is not stored."""
        try:
            return (self._folder / sha256).stat().st_size
        except FileNotFoundError:
            return None

    def local_path(self, sha256: str, folder: Path) -> Path:
        """Return the path of the stored file."""
        path = self._folder / sha256
        if not path.exists():
            raise FileNotFoundError(f"no file with the SHA-256 {sha256} is in {self._folder}")
        return path

    def delete(self, sha256: str) -> None:
        """Delete a file if it exists."""
        (self._folder / sha256).unlink(missing_ok=True)


class BucketOriginals(OriginalStore):
    """Originals in an S3-compatible bucket.

    Parameters
    ----------
    url
        ``s3://bucket/prefix``. Endpoint, region and keys come from the environment: ``AWS_ENDPOINT_URL``, ``AWS_REGION``,
        ``AWS_ACCESS_KEY_ID``, ….
    """

    def __init__(self, url: str) -> None:
        self._bucket = S3Store.from_url(url)

    def take_in(self, path: Path, sha256: str) -> None:
        """Upload a file, in parts if it is large; then delete it from this disk."""
        self.put(path, sha256)
        path.unlink()

    def size(self, sha256: str) -> int | None:
        """Return the size of a stored file in bytes; None if it is not stored."""
        return self._size(_kept(sha256))

    def local_path(self, sha256: str, folder: Path) -> Path:
        """Return the path of a copy in `folder`."""
        path = folder / "original"
        found = self._download(_kept(sha256), path)
        if found != sha256:
            raise OSError(f"the object {_kept(sha256)} is damaged: its SHA-256 is {found}")
        return path

    def delete(self, sha256: str) -> None:
        """Delete a file if it exists."""
        self._delete(_kept(sha256))

    def presign_direct(self, upload_id: str, duration: timedelta) -> str:
        """Return the URL that accepts the bytes of a direct upload by PUT."""
        return obstore.sign(self._bucket, "PUT", _direct(upload_id), duration)

    def direct_size(self, upload_id: str) -> int | None:
        """Return the size of a direct upload in bytes; None if the client has not written it."""
        return self._size(_direct(upload_id))

    def fetch_direct(self, upload_id: str, folder: Path) -> tuple[Path, str]:
        """Copy a direct upload into `folder`; return the path and the SHA-256.

        Raises
        ------
        FileNotFoundError
            If the client has not written it.
        """
        path = folder / "original"
        return path, self._download(_direct(upload_id), path)

    def delete_direct(self, upload_id: str) -> None:
        """Delete a direct upload if it exists."""
        self._delete(_direct(upload_id))

    def put(self, path: Path, sha256: str) -> None:
        """Store a file with this SHA-256, and do not remove `path`."""
        with path.open("rb") as file:
            obstore.put(self._bucket, _kept(sha256), file)

    def _size(self, key: str) -> int | None:
        try:
            return obstore.head(self._bucket, key)["size"]
        except FileNotFoundError:
            return None

    def _download(self, key: str, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for block in obstore.get(self._bucket, key).stream(_BLOCK_BYTES):
                digest.update(block)
                file.write(block)
        return digest.hexdigest()

    def _delete(self, key: str) -> None:
        obstore.delete(self._bucket, key)


def _kept(sha256: str) -> str:
    return f"originals/{sha256}"


def _direct(upload_id: str) -> str:
    return f"direct/{upload_id}"


def open_originals(settings: Settings) -> OriginalStore:
    """Open the store of originals that the settings name."""
    if urlsplit(settings.upload_url).scheme == "s3":
        return BucketOriginals(settings.upload_url)
    return FolderOriginals(settings.uploads_dir)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
