"""Uploaded files as they came, each kept once under the SHA-256 of its bytes: in a folder, or in a bucket.

What lies under a SHA-256 has it: nothing gets there before its bytes were read and hashed here. A file that a client puts into
the bucket itself lies apart, under the id of its upload, until a worker has read it.
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
"""S3 takes no more in one PUT."""


class OriginalStore(ABC):
    """Where uploaded files are kept."""

    @abstractmethod
    def take_in(self, path: Path, sha256: str) -> None:
        """Keep a file whose SHA-256 this is; `path` is gone afterwards."""

    @abstractmethod
    def size(self, sha256: str) -> int | None:
        """Bytes of a file that is kept; None when it is not."""

    @abstractmethod
    def local_path(self, sha256: str, folder: Path) -> Path:
        """Path to read a file at: the very one that is kept, or a copy in `folder`.

        Raises
        ------
        FileNotFoundError
            If it is not kept.
        OSError
            If its bytes have another SHA-256.
        """

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Delete a file; no error when there is none."""


class FolderOriginals(OriginalStore):
    """Originals in a folder that API and ingest workers share.

    Parameters
    ----------
    folder
        The folder; files to take in lie in it, or on the same disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take_in(self, path: Path, sha256: str) -> None:
        """Keep a file, by renaming it once it is safely on the disk."""
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(self._folder / sha256)

    def size(self, sha256: str) -> int | None:
        """Bytes of a file that is kept; None when it is not."""
        try:
            return (self._folder / sha256).stat().st_size
        except FileNotFoundError:
            return None

    def local_path(self, sha256: str, folder: Path) -> Path:
        """Path of the very file."""
        path = self._folder / sha256
        if not path.exists():
            raise FileNotFoundError(f"no file with the SHA-256 {sha256} is in {self._folder}")
        return path

    def delete(self, sha256: str) -> None:
        """Delete a file; no error when there is none."""
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
        """Send a file, in parts when it is large; then delete it here."""
        self.put(path, sha256)
        path.unlink()

    def size(self, sha256: str) -> int | None:
        """Bytes of a file that is kept; None when it is not."""
        return self._size(_kept(sha256))

    def local_path(self, sha256: str, folder: Path) -> Path:
        """Path of a copy in `folder`."""
        path = folder / "original"
        found = self._download(_kept(sha256), path)
        if found != sha256:
            raise OSError(f"the object {_kept(sha256)} is damaged: its SHA-256 is {found}")
        return path

    def delete(self, sha256: str) -> None:
        """Delete a file; no error when there is none."""
        self._delete(_kept(sha256))

    def presign_direct(self, upload_id: str, duration: timedelta) -> str:
        """URL that takes the bytes of a direct upload by PUT."""
        return obstore.sign(self._bucket, "PUT", _direct(upload_id), duration)

    def direct_size(self, upload_id: str) -> int | None:
        """Bytes that a client put into the bucket; None when it has not."""
        return self._size(_direct(upload_id))

    def fetch_direct(self, upload_id: str, folder: Path) -> tuple[Path, str]:
        """Copy of a direct upload in `folder`, and its SHA-256.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        path = folder / "original"
        return path, self._download(_direct(upload_id), path)

    def delete_direct(self, upload_id: str) -> None:
        """Delete a direct upload; no error when there is none."""
        self._delete(_direct(upload_id))

    def put(self, path: Path, sha256: str) -> None:
        """Keep a file whose SHA-256 this is, and leave it where it lies."""
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
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
