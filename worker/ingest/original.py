"""The uploaded file of a data set, made available on this machine."""

from pathlib import Path

from store.database import Database
from store.originals import BucketOriginals, open_originals
from store.settings import Settings
from store.tables import Dataset, Upload
from store.uploads import begin_upload
from worker.ingest.problems import rejected
from worker.scheduling.leases import Lease

_AGAIN = "Upload the file again."


def fetch_original(database: Database, settings: Settings, lease: Lease, row: Dataset, folder: Path) -> Path:
    """Return the local path of a data set's file.

    Parameters
    ----------
    database, settings
        Of the service.
    lease, row
        The data set, held.
    folder
        For a copy, where files are kept in a bucket.

    Raises
    ------
    RejectedFile
        If the file is not there, or is another one than was announced.
    """
    originals = open_originals(settings)
    if row.original is None and row.direct_upload_id is not None and isinstance(originals, BucketOriginals):
        return _take_in_direct(database, originals, settings, lease=lease, row=row, folder=folder)
    try:
        if row.original is None:
            raise FileNotFoundError
        return originals.local_path(row.original, folder)
    except FileNotFoundError:
        raise rejected("file_missing", "The uploaded file was deleted from the storage.", _AGAIN) from None


def _take_in_direct(
    database: Database,
    originals: BucketOriginals,
    settings: Settings,
    *,
    lease: Lease,
    row: Dataset,
    folder: Path,
) -> Path:
    """Fetch a file that a client put into the bucket, check its SHA-256, and keep it among the originals."""
    try:
        path, sha256 = originals.fetch_direct(str(row.direct_upload_id), folder)
    except FileNotFoundError:
        raise rejected("file_missing", "The file was deleted from the bucket.", _AGAIN) from None
    announced = row.source["sha256"]
    if sha256 != announced:
        raise rejected(
            "digest_mismatch",
            f"The file in the bucket differs from the announced one: its SHA-256 is {sha256}, expected {announced}.",
            "It was damaged or changed. Start another upload with the SHA-256 of the present file.",
        )
    with database.write() as session:
        lease.keep(session, settings)
        holder = begin_upload(
            session, row.tenant_id, settings,
            size_bytes=path.stat().st_size, filename=row.source["filename"], sha256=sha256,
        )  # fmt: skip
    originals.put(path, sha256)
    with database.write() as session:
        lease.keep(session, settings)
        session.get_one(Dataset, row.id).original = sha256
        session.delete(session.get_one(Upload, holder.id))  # from here on the data set keeps the file
    return path
