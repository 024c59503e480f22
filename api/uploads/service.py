"""What routes of uploads do in the database, on disk and in the bucket."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.errors import Gone, Invalid, NotConfigured, NotFound, TooLarge, UploadInUse, WrongState
from api.idempotency import fingerprint, store_answer, stored_answer
from api.uploads.receiving import ReceivedFile
from api.uploads.schemas import DirectRequest, DirectUpload, UploadDocument
from api.validation_errors import FieldProblem
from domain.states import DatasetState, UploadState
from store.database import LOCK, Database, database_now
from store.identifiers import PATTERN
from store.originals import MOST_DIRECT_BYTES, BucketOriginals, OriginalStore, file_sha256
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


def find(session: Session, tenant_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """Return the tenant's upload, or raise `NotFound` or `Gone`."""
    row = None
    if PATTERN.fullmatch(upload_id):
        row = session.get(Upload, upload_id, with_for_update=LOCK if lock else None)
    if row is None or row.tenant_id != tenant_id:
        raise NotFound(f"there is no upload {upload_id}", hint="begin another one: POST /v1/uploads")
    if row.expires_at <= database_now(session):
        raise Gone(
            f"the upload {upload_id} was not gone on with, or not used, until {row.expires_at:%Y-%m-%d %H:%M:%S} UTC",
            hint="send the file again: POST /v1/uploads",
        )
    return row


def offset(row: Upload, settings: Settings) -> int:
    """Bytes of an upload that came so far."""
    if row.state == UploadState.COMPLETE or (row.sha256 is not None and not row.is_direct):
        return row.size_bytes
    return min(bytes_on_disk(partial_path(settings, row.id)), row.size_bytes)


def document(row: Upload, settings: Settings, originals: OriginalStore) -> UploadDocument:
    """An upload as it is answered."""
    direct = None
    if row.is_direct and row.state == UploadState.RECEIVING and isinstance(originals, BucketOriginals):
        until = min(_DIRECT_URL_DURATION, timedelta(seconds=settings.upload_keep_seconds))
        url = originals.presign_direct(row.id, until)
        direct = DirectRequest(url=url, expires_at=utc_now() + until)
    is_complete = row.state == UploadState.COMPLETE
    return UploadDocument(
        id=row.id,
        filename=row.filename,
        state=row.state,
        offset=offset(row, settings),
        bytes=row.size_bytes,
        sha256=row.sha256 if is_complete or row.is_direct else None,
        direct=direct,
        created_at=row.created_at,
        expires_at=row.expires_at,
        links={"self": f"/v1/uploads/{row.id}"},
    )


def create(
    session: Session,
    tenant_id: str,
    settings: Settings,
    length: int,
    filename: str,
    tus_metadata: str,
    idempotency_key: str | None,
) -> Upload:
    """Begin a resumable upload.

    Raises
    ------
    TooLarge
        If the file is larger than is accepted.
    """
    if length > settings.upload_max_bytes:
        problem = TooLarge.of(
            settings.upload_max_bytes, "LATENTRY_UPLOAD_MAX_BYTES", f"the upload has {length}"
        )
        problem.headers = {"Tus-Max-Size": str(settings.upload_max_bytes)}
        raise problem
    request = fingerprint("POST /v1/uploads", f"{length} {tus_metadata}")
    if (answer := stored_answer(session, tenant_id, idempotency_key, request)) is not None:
        return find(session, tenant_id, answer["id"])
    row = begin_upload(
        session, tenant_id, settings, size_bytes=length, filename=filename, tus_metadata=tus_metadata
    )
    store_answer(session, tenant_id, idempotency_key, request, {"id": row.id})
    return row


@contextmanager
def writing(
    database: Database, settings: Settings, tenant_id: str, upload_id: str
) -> Iterator[tuple[Upload, int]]:
    """Hold an upload to write to it: its row, and the descriptor of its file.

    Raises
    ------
    WrongState
        If it is complete.
    UploadInUse
        If another request holds it.
    """
    with database.read() as session:
        _check_receiving(find(session, tenant_id, upload_id))
    with _in_use_is_a_problem(upload_id), locked(partial_path(settings, upload_id)) as descriptor:
        with database.write() as session:
            row = find(session, tenant_id, upload_id, lock=True)  # whoever held it may have ended it
            _check_receiving(row)
            row.expires_at = expiry(session, settings)
        yield row, descriptor


def _check_receiving(row: Upload) -> None:
    if row.state != UploadState.RECEIVING or row.sha256 is not None:
        what = "goes straight into the bucket" if row.is_direct else "is complete"
        raise WrongState(f"the upload {row.id} {what}: it takes no bytes here")


@contextmanager
def _in_use_is_a_problem(upload_id: str) -> Iterator[None]:
    try:
        yield
    except UploadBusy:
        raise UploadInUse(
            f"another request is sending bytes to the upload {upload_id}",
            hint="wait for its end, or a moment if its connection broke; then ask for the offset: HEAD",
            headers={"Retry-After": "1"},
        ) from None


def settle(
    database: Database, originals: OriginalStore, settings: Settings, tenant_id: str, upload_id: str
) -> Upload:
    """Return an upload, `complete` if all of its bytes are here: also when nobody could see to it before."""
    with database.read() as session:
        row = find(session, tenant_id, upload_id)
    if row.state == UploadState.COMPLETE:
        return row
    if row.is_direct:
        if isinstance(originals, BucketOriginals) and originals.direct_size(row.id) == row.size_bytes:
            return _complete(database, settings, tenant_id, upload_id)
        return row
    path = partial_path(settings, upload_id)
    if row.sha256 is None and bytes_on_disk(path) != row.size_bytes:
        return row
    try:
        with locked(path):
            return store_whole(database, originals, settings, tenant_id, upload_id)
    except UploadBusy:
        return row  # by whoever stores it


def store_whole(
    database: Database, originals: OriginalStore, settings: Settings, tenant_id: str, upload_id: str
) -> Upload:
    """Keep an upload whose file, held by the caller, has all its bytes."""
    with database.read() as session:
        row = find(session, tenant_id, upload_id)
    path = partial_path(settings, upload_id)
    if row.state == UploadState.COMPLETE:
        path.unlink(missing_ok=True)  # made anew by the lock
        return row
    if bytes_on_disk(path) == row.size_bytes:
        sha256 = file_sha256(path)
        with database.write() as session:
            lock_original(session, sha256)
            find(session, tenant_id, upload_id, lock=True).sha256 = sha256
        originals.take_in(path, sha256)
    else:  # an earlier request had it taken in and then was cut off
        path.unlink(missing_ok=True)
        if row.sha256 is None or originals.size(row.sha256) != row.size_bytes:
            return row
    return _complete(database, settings, tenant_id, upload_id)


def _complete(database: Database, settings: Settings, tenant_id: str, upload_id: str) -> Upload:
    with database.write() as session:
        row = find(session, tenant_id, upload_id, lock=True)
        row.state = UploadState.COMPLETE
        row.expires_at = expiry(session, settings)
    return row


def keep_whole(
    database: Database,
    originals: OriginalStore,
    settings: Settings,
    tenant_id: str,
    received: ReceivedFile,
    filename: str,
) -> tuple[Upload, bool]:
    """Keep a file that came in one request; the same file again is the same upload.

    Returns
    -------
    Upload, bool
        The upload, and whether it is new.
    """
    try:
        with database.write() as session:
            same = (
                select(Upload)
                .where(
                    Upload.tenant_id == tenant_id,
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
                row.expires_at = expiry(session, settings)
                return row, False
        with taken_in(database, originals, settings, tenant_id, received, filename) as upload_id:
            return _complete(database, settings, tenant_id, upload_id), True
    finally:
        received.path.unlink(missing_ok=True)


@contextmanager
def taken_in(
    database: Database,
    originals: OriginalStore,
    settings: Settings,
    tenant_id: str,
    received: ReceivedFile,
    filename: str,
) -> Iterator[str]:
    """Keep a received file as an original under an upload of its own, whose id this gives; an error lets both go."""
    with database.write() as session:
        upload = begin_upload(
            session, tenant_id, settings,
            size_bytes=received.size_bytes, filename=filename, sha256=received.sha256,
        )  # fmt: skip
    try:
        originals.take_in(received.path, received.sha256)
        yield upload.id
    except BaseException:
        with database.write() as session:
            if (row := session.get(Upload, upload.id)) is not None:
                forget_upload(session, originals, settings, row)
        raise


def create_direct(
    session: Session,
    tenant_id: str,
    settings: Settings,
    originals: OriginalStore,
    wanted: DirectUpload,
    idempotency_key: str | None,
) -> Upload:
    """Begin an upload whose bytes go straight into the bucket.

    Raises
    ------
    NotConfigured
        If there is none.
    TooLarge, Invalid
        If the file is too large for the service, or for one PUT.
    """
    if not isinstance(originals, BucketOriginals):
        raise NotConfigured(
            "this service keeps files in a folder and takes no direct uploads",
            hint="send the file here: POST or PUT /v1/uploads; a bucket is set by LATENTRY_UPLOAD_URL",
        )
    if wanted.bytes > settings.upload_max_bytes:
        raise TooLarge.of(
            settings.upload_max_bytes, "LATENTRY_UPLOAD_MAX_BYTES", f"the upload has {wanted.bytes}"
        )
    if wanted.bytes > MOST_DIRECT_BYTES:
        message = (
            f"bytes is {wanted.bytes}: a bucket takes at most {MOST_DIRECT_BYTES} (5 GB) in one direct upload"
        )
        raise Invalid(
            message,
            hint="send it as a resumable upload: POST /v1/uploads",
            errors=[FieldProblem(pointer="/bytes", code="less_than_equal", message=message)],
        )
    request = fingerprint("POST /v1/uploads:direct", wanted.model_dump_json())
    if (answer := stored_answer(session, tenant_id, idempotency_key, request)) is not None:
        return find(session, tenant_id, answer["id"])
    row = begin_upload(
        session, tenant_id, settings,
        size_bytes=wanted.bytes, filename=wanted.filename, sha256=wanted.sha256, is_direct=True,
    )  # fmt: skip
    store_answer(session, tenant_id, idempotency_key, request, {"id": row.id})
    return row


def end(
    session: Session, tenant_id: str, settings: Settings, originals: OriginalStore, upload_id: str
) -> None:
    """Delete an upload and its bytes; a data set that was made of it keeps them.

    Raises
    ------
    WrongState
        If a data set is being made of it.
    UploadInUse
        If a request sends bytes to it.
    """
    row = find(session, tenant_id, upload_id, lock=True)
    if is_read_by_dataset(session, row):
        raise WrongState(
            f"the upload {upload_id} is being read: a data set made of it is {DatasetState.INGESTING}",
            hint="wait until it is ready or rejected",
        )
    with _in_use_is_a_problem(upload_id):
        forget_upload(session, originals, settings, row)
