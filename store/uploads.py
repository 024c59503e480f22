"""Uploads: their bytes on this machine's disk, and when they are deleted.

An original is stored as long as the row of an upload or a data set names it. A process that stores one commits the row first. A
process that deletes one looks for such rows under a lock for which this commit waits.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, exists, func, or_, select
from sqlalchemy.orm import Session

from domain.states import DatasetState, UploadState
from store.database import database_now
from store.identifiers import new_id
from store.originals import BucketOriginals, OriginalStore
from store.settings import Settings
from store.tables import Dataset, IdempotentRequest, Upload

_ENDING = ".partial"


class UploadBusy(Exception):
    """Another request or process is writing the upload."""


def partial_path(settings: Settings, upload_id: str) -> Path:
    """Return the path of an upload's bytes until it is complete."""
    return settings.uploads_dir / f"{upload_id}{_ENDING}"


def begin_upload(
    session: Session,
    tenant_id: str,
    settings: Settings,
    *,
    size_bytes: int,
    filename: str,
    sha256: str | None = None,
    is_direct: bool = False,
    tus_metadata: str = "",
) -> Upload:
    """Write the row of an upload before its first byte. With a SHA-256, the original is kept from the commit on."""
    if sha256 is not None:
        lock_original(session, sha256)
    upload = Upload(
        id=new_id("upl"),
        tenant_id=tenant_id,
        state=UploadState.RECEIVING,
        filename=filename,
        size_bytes=size_bytes,
        sha256=sha256,
        is_direct=is_direct,
        tus_metadata=tus_metadata,
        expires_at=expiry(session, settings),
    )
    session.add(upload)
    session.flush()
    return upload


def expiry(session: Session, settings: Settings) -> datetime:
    """Return when an upload expires that is used now and not again."""
    return database_now(session) + timedelta(seconds=settings.upload_keep_seconds)


def bytes_on_disk(path: Path) -> int:
    """Return the size of a file; 0 if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Open a partial file for a single writer, and yield its descriptor. The lock ends with the process at the latest.

    Raises
    ------
    UploadBusy
        If another writer has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UploadBusy(path.name) from None
        yield descriptor
    finally:
        os.close(descriptor)


def lock_original(session: Session, sha256: str) -> None:
    """Let no other transaction add or delete an original until this one ends. SQLite's transactions never overlap anyway."""
    if session.get_bind().dialect.name == "postgresql":
        key = func.hashtextextended(f"original {sha256}", 0)
        session.execute(select(func.pg_advisory_xact_lock(key)))


def is_read_by_dataset(session: Session, upload: Upload) -> bool:
    """Return whether a data set still has to read the file of a direct upload."""
    reader = exists().where(
        Dataset.direct_upload_id == upload.id,
        Dataset.original.is_(None),
        Dataset.state == DatasetState.INGESTING,
    )
    return session.execute(select(reader)).scalar_one()


def forget_upload(session: Session, originals: OriginalStore, settings: Settings, upload: Upload) -> None:
    """Delete an upload, and its bytes unless another row names them.

    Raises
    ------
    UploadBusy
        If another writer has its file.
    """
    path = partial_path(settings, upload.id)
    if path.exists():
        with locked(path):
            path.unlink(missing_ok=True)
    session.delete(upload)
    session.execute(delete(IdempotentRequest).where(IdempotentRequest.resource_id == upload.id))
    session.flush()
    if upload.is_direct:
        if isinstance(originals, BucketOriginals):
            originals.delete_direct(upload.id)
    elif upload.sha256 is not None:
        release_original(session, originals, upload.sha256)


def release_original(
    session: Session, originals: OriginalStore, sha256: str, *, dataset_id: str | None = None
) -> bool:
    """Delete an original unless an upload or a data set other than `dataset_id` names it; return whether it was deleted."""
    lock_original(session, sha256)
    others = or_(
        exists().where(Upload.sha256 == sha256, ~Upload.is_direct),
        exists().where(Dataset.original == sha256, Dataset.id.is_distinct_from(dataset_id)),
    )
    if session.execute(select(others)).scalar_one():
        return False
    originals.delete(sha256)
    return True


def delete_stray_partials(settings: Settings) -> int:
    """Delete partial files on this machine that have not changed for `upload_keep_seconds`; return how many."""
    deleted, oldest = 0, time.time() - settings.upload_keep_seconds
    for path in settings.uploads_dir.glob(f"*{_ENDING}"):
        try:
            if path.stat().st_mtime < oldest:
                with locked(path):
                    path.unlink()
                deleted += 1
        except (FileNotFoundError, UploadBusy):
            continue
    return deleted
