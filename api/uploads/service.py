"""The operations of the routes of uploads: in the database, on disk and in the bucket."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.dependencies import Context
from api.errors import Gone, Invalid, NotConfigured, NotFound, TooLarge, UploadInUse, WrongState
from api.http.idempotency import fingerprint, store_answer, stored_answer
from api.limits.disk import check_disk
from api.limits.quotas import check_upload, largest_upload
from api.uploads.receiving import ReceivedFile
from api.uploads.schemas import DirectRequest, DirectUpload, UploadDocument
from domain.states import DatasetState, UploadState
from store import audit
from store.database import LOCK, database_now
from store.identifiers import PATTERN
from store.originals import MOST_DIRECT_BYTES, BucketOriginals, file_sha256
from store.settings import Settings
from store.tables import Upload, utc_now
from store.uploads import (
    UploadBusy,
    begin_upload,
    bytes_on_disk,
    expiry,
    forget_upload,
    is_read_by_dataset,
    lock_original,
    locked,
    partial_path,
)

_DIRECT_URL_DURATION = timedelta(hours=1)
_LONGEST_RESERVATION = timedelta(hours=1)
"""After it, the collection deletes what a killed process has reserved."""


def find(session: Session, tenant_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """Return the tenant's upload, or raise `NotFound` or `Gone`."""
    row = None
    if PATTERN.fullmatch(upload_id):
        row = session.get(Upload, upload_id, with_for_update=LOCK if lock else None)
    if row is None or row.tenant_id != tenant_id:
        raise NotFound(f"there is no upload {upload_id}", hint="start a new upload: POST /v1/uploads")
    if row.expires_at <= database_now(session):
        raise Gone(
            f"the upload {upload_id} expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC: nobody continued or used it",
            hint="send the file again: POST /v1/uploads",
        )
    return row


def offset(row: Upload, settings: Settings) -> int:
    """Return how many bytes of an upload have arrived."""
    if row.state == UploadState.COMPLETE or (row.sha256 is not None and not row.is_direct):
        return row.size_bytes
    return min(bytes_on_disk(partial_path(settings, row.id)), row.size_bytes)


def document(row: Upload, context: Context) -> UploadDocument:
    """Return the document of an upload."""
    direct = None
    if (
        row.is_direct
        and row.state == UploadState.RECEIVING
        and isinstance(context.originals, BucketOriginals)
    ):
        until = min(_DIRECT_URL_DURATION, timedelta(seconds=context.settings.upload_keep_seconds))
        url = context.originals.presign_direct(row.id, until)
        direct = DirectRequest(url=url, expires_at=utc_now() + until)
    is_complete = row.state == UploadState.COMPLETE
    return UploadDocument(
        id=row.id,
        filename=row.filename,
        state=row.state,
        offset=offset(row, context.settings),
        bytes=row.size_bytes,
        sha256=row.sha256 if is_complete or row.is_direct else None,
        direct=direct,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        links={"self": f"/v1/uploads/{row.id}"},
    )


def _check_size(context: Context, size_bytes: int) -> None:
    """Raise `TooLarge` if the file is larger than the limit."""
    limit = context.settings.upload_max_bytes
    if size_bytes > limit:
        problem = TooLarge.of(limit, "LATENTRY_UPLOAD_MAX_BYTES", f"the upload has {size_bytes}")
        problem.headers = {"Tus-Max-Size": str(limit)}
        raise problem


def create(
    context: Context, length: int, filename: str, tus_metadata: str, idempotency_key: str | None
) -> Upload:
    """Create a resumable upload.

    Raises
    ------
    TooLarge
        If the file is larger than the limit.
    """
    _check_size(context, length)
    check_disk(context.settings, length)
    request = fingerprint("POST /v1/uploads", f"{length} {tus_metadata}")
    with context.database.write() as session:
        if (stored := stored_answer(session, context.tenant_id, idempotency_key, request)) is not None:
            return find(session, context.tenant_id, stored["id"])
        check_upload(session, context.settings, context.tenant_id, length)
        row = begin_upload(
            session, context.tenant_id, context.settings,
            size_bytes=length, filename=filename, tus_metadata=tus_metadata,
        )  # fmt: skip
        audit.record(session, "upload.created", row)
        store_answer(session, context.tenant_id, idempotency_key, request, {"id": row.id})
    return row


def create_direct(context: Context, wanted: DirectUpload, idempotency_key: str | None) -> Upload:
    """Create an upload whose bytes the client sends directly into the bucket.

    Raises
    ------
    NotConfigured
        If the service has no bucket.
    TooLarge, Invalid
        If the file is larger than the limit of the service, or of a single PUT.
    """
    if not isinstance(context.originals, BucketOriginals):
        raise NotConfigured(
            "this service stores files in a folder and has no direct uploads",
            hint="send the file to the service: POST or PUT /v1/uploads. LATENTRY_UPLOAD_URL configures a bucket",
        )
    _check_size(context, wanted.bytes)
    if wanted.bytes > MOST_DIRECT_BYTES:
        raise Invalid.field(
            "/bytes",
            "less_than_equal",
            f"expected at most {MOST_DIRECT_BYTES} bytes (5 GB) in one direct upload; got {wanted.bytes}",
            "use a resumable upload: POST /v1/uploads",
        )
    request = fingerprint("POST /v1/uploads:direct", wanted.model_dump_json())
    with context.database.write() as session:
        if (stored := stored_answer(session, context.tenant_id, idempotency_key, request)) is not None:
            return find(session, context.tenant_id, stored["id"])
        check_upload(session, context.settings, context.tenant_id, wanted.bytes)
        row = begin_upload(
            session, context.tenant_id, context.settings,
            size_bytes=wanted.bytes, filename=wanted.filename, sha256=wanted.sha256, is_direct=True,
        )  # fmt: skip
        audit.record(session, "upload.created", row)
        store_answer(session, context.tenant_id, idempotency_key, request, {"id": row.id})
    return row


@contextmanager
def reserved(context: Context, size_bytes: int | None) -> Iterator[None]:
    """Count the body of a request as an unfinished upload while it arrives.

    Parameters
    ----------
    size_bytes
        Size of the body; if None, it counts as the largest upload that the service and the quotas allow.

    Raises
    ------
    QuotaReached, DiskFull
        If the quotas or the disk have no space for it.
    """
    settings, tenant_id = context.settings, context.tenant_id
    check_disk(settings, size_bytes or 0)
    with context.database.write() as session:
        if size_bytes is None:
            size_bytes = largest_upload(session, settings, tenant_id)
        check_upload(session, settings, tenant_id, size_bytes)
        row = begin_upload(session, tenant_id, settings, size_bytes=size_bytes, filename="")
        row.expires_at = database_now(session) + _LONGEST_RESERVATION
    try:
        yield
    finally:
        with context.database.write() as session:
            session.execute(delete_rows(Upload).where(Upload.id == row.id))


@contextmanager
def writing(context: Context, upload_id: str) -> Iterator[tuple[Upload, int]]:
    """Lock an upload for writing, and give its row and the descriptor of its file.

    Raises
    ------
    WrongState
        If the upload is complete.
    UploadInUse
        If another request holds the lock.
    """
    with context.database.read() as session:
        _check_receiving(find(session, context.tenant_id, upload_id))
    with _busy_as_problem(upload_id), locked(partial_path(context.settings, upload_id)) as descriptor:
        with context.database.write() as session:
            # The previous holder of the lock may have completed or deleted the upload.
            row = find(session, context.tenant_id, upload_id, lock=True)
            _check_receiving(row)
            row.expires_at = expiry(session, context.settings)
        yield row, descriptor


def _check_receiving(row: Upload) -> None:
    if row.state != UploadState.RECEIVING or row.sha256 is not None:
        what = "goes directly into the bucket" if row.is_direct else "is complete"
        raise WrongState(f"the upload {row.id} {what}: it accepts no bytes here")


@contextmanager
def _busy_as_problem(upload_id: str) -> Iterator[None]:
    """Turn `UploadBusy` into the HTTP error `UploadInUse`."""
    try:
        yield
    except UploadBusy:
        raise UploadInUse(
            f"another request is sending bytes to the upload {upload_id}",
            hint="wait until that request ends; then read the offset with HEAD",
            headers={"Retry-After": "1"},
        ) from None


def complete_if_whole(context: Context, upload_id: str) -> Upload:
    """Return an upload. Complete it first if all bytes are there, for example after a crash."""
    with context.database.read() as session:
        row = find(session, context.tenant_id, upload_id)
    if row.state == UploadState.COMPLETE:
        return row
    if row.is_direct:
        bucket = context.originals
        if isinstance(bucket, BucketOriginals) and bucket.direct_size(row.id) == row.size_bytes:
            return _mark_complete(context, upload_id)
        return row
    path = partial_path(context.settings, upload_id)
    if row.sha256 is None and bytes_on_disk(path) != row.size_bytes:
        return row
    try:
        with locked(path):
            return store_file(context, upload_id)
    except UploadBusy:
        return row  # the request that holds the lock completes it


def store_file(context: Context, upload_id: str) -> Upload:
    """Store the file of an upload that has all its bytes. The caller holds the lock of the file."""
    originals = context.originals
    with context.database.read() as session:
        row = find(session, context.tenant_id, upload_id)
    path = partial_path(context.settings, upload_id)
    if row.state == UploadState.COMPLETE:
        path.unlink(missing_ok=True)  # opening the lock has created the file again
        return row
    if bytes_on_disk(path) == row.size_bytes:
        sha256 = file_sha256(path)
        with context.database.write() as session:
            lock_original(session, sha256)
            find(session, context.tenant_id, upload_id, lock=True).sha256 = sha256
        originals.take_in(path, sha256)
    else:  # an earlier request stored the file and crashed before it could mark the upload as complete
        path.unlink(missing_ok=True)
        if row.sha256 is None or originals.size(row.sha256) != row.size_bytes:
            return row
    return _mark_complete(context, upload_id)


def _mark_complete(context: Context, upload_id: str, action: str = "upload.completed") -> Upload:
    with context.database.write() as session:
        row = find(session, context.tenant_id, upload_id, lock=True)
        if row.state != UploadState.COMPLETE:
            audit.record(session, action, row)
        row.state = UploadState.COMPLETE
        row.expires_at = expiry(session, context.settings)
    return row


def store_received(context: Context, received: ReceivedFile, filename: str) -> tuple[Upload, bool]:
    """Store a file that arrived in one request. An equal file with the same name is the same upload.

    Returns
    -------
    Upload, bool
        The upload, and whether it is new.
    """
    try:
        with context.database.write() as session:
            same = (
                select(Upload)
                .where(
                    Upload.tenant_id == context.tenant_id,
                    Upload.sha256 == received.sha256,
                    Upload.filename == filename,
                    Upload.state == UploadState.COMPLETE,
                    ~Upload.is_direct,
                    Upload.expires_at > database_now(session),
                )
                .limit(1)
                .with_for_update(**LOCK)
            )
            if (row := session.execute(same).scalar_one_or_none()) is not None:
                row.expires_at = expiry(session, context.settings)
                return row, False
        with stored_original(context, received, filename) as upload_id:
            return _mark_complete(context, upload_id, "upload.created"), True
    finally:
        received.path.unlink(missing_ok=True)


@contextmanager
def stored_original(context: Context, received: ReceivedFile, filename: str) -> Iterator[str]:
    """Store a received file as an original and give the id of a new upload that names it; delete both after an error."""
    with context.database.write() as session:
        check_upload(session, context.settings, context.tenant_id, received.size_bytes)
        upload = begin_upload(
            session, context.tenant_id, context.settings,
            size_bytes=received.size_bytes, filename=filename, sha256=received.sha256,
        )  # fmt: skip
    try:
        context.originals.take_in(received.path, received.sha256)
        yield upload.id
    except BaseException:
        with context.database.write() as session:
            if (row := session.get(Upload, upload.id)) is not None:
                forget_upload(session, context.originals, context.settings, row)
        raise


def delete(context: Context, upload_id: str) -> None:
    """Delete an upload and its bytes. A data set that was made from it keeps the file.

    Raises
    ------
    WrongState
        If a data set is being made from it.
    UploadInUse
        If another request is sending bytes to it.
    """
    with context.database.write() as session:
        row = find(session, context.tenant_id, upload_id, lock=True)
        if is_read_by_dataset(session, row):
            raise WrongState(
                f"the upload {upload_id} is in use: a data set made from it is {DatasetState.INGESTING}",
                hint="wait until the data set is ready or rejected",
            )
        audit.record(session, "upload.deleted", row)
        with _busy_as_problem(upload_id):
            forget_upload(session, context.originals, context.settings, row)
