"""Ingest: an uploaded file, or a synthetic system, becomes a data set that is `ready`, `rejected` or `failed`."""

import errno
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import delete, insert
from structlog.contextvars import bind_contextvars
from zarr.abc.store import Store

from domain.states import DatasetState
from store import metrics
from store.array_store import delete_objects, objects_size, write_object
from store.database import Database, database_now
from store.originals import BucketOriginals, open_originals
from store.settings import Settings
from store.tables import Dataset, Trial, Upload, trial_bytes
from store.uploads import begin_upload, release_original
from worker.ingest.combine import combine_sessions
from worker.ingest.dataset_arrays import write_dataset
from worker.ingest.parse import DISK_ERROR
from worker.ingest.preprocessing.splits import given_split, split_groups
from worker.ingest.problems import MOST_TEXT, RejectedFile, rejected
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import Recording
from worker.ingest.sandbox import (
    ParsedFile,
    ParseLimits,
    Rejection,
    SandboxError,
    check_sandbox,
    parse_in_sandbox,
)
from worker.scheduling.failures import report_failure
from worker.scheduling.fair_queue import claim_ingest
from worker.scheduling.leases import Lease, LeaseLost

logger = logging.getLogger(__name__)
_AGAIN = "Upload the file again."


def ingest_dataset(
    database: Database, arrays: Store, settings: Settings, dataset_id: str | None, worker: str
) -> None:
    """Parse, check and store a data set; do nothing if none waits.

    Parameters
    ----------
    database, arrays, settings
        Of the service.
    dataset_id
        Id of the data set. None: the one whose turn it is.
    worker
        Name written into the lease.
    """
    with database.write() as session:
        lease = claim_ingest(session, worker, settings, dataset_id)
        row = None if lease is None else session.get_one(Dataset, lease.row_id)
    if lease is None or row is None:
        return
    bind_contextvars(**lease.log_fields)
    started, source_format, ended = time.monotonic(), "unknown", "failed"
    try:
        with (
            tempfile.TemporaryDirectory(prefix="latentry-ingest-") as folder,
            _kept(database, lease, settings),
        ):
            outcome = (
                combine_sessions(database, arrays, settings, lease, row)
                if row.source["kind"] == "sessions"
                else _parse(database, settings, lease, row, Path(folder))
            )
            if isinstance(outcome, Rejection):
                logger.info("%s is rejected: %s", row.id, outcome.log or outcome.problems)
                problems = [problem.to_json() for problem in outcome.problems]
                _reject(database, settings, lease, problems)
                ended = "rejected"
            elif outcome is not None:
                _store(database, arrays, settings, lease, outcome)
                source_format, ended = outcome.report["format"], "ready"
            else:
                source_format, ended = "sessions", "ready"
    except LeaseLost:
        ended = "lost"
        metrics.leases_lost.labels("ingest").inc()
        logger.warning("the ingest of %s went to another worker, or it was deleted", row.id)
        _discard_if_deleted(database, arrays, row.id)
    except Exception as error:
        problem = {
            "code": "ingest_failed",
            "message": f"The service failed while it read this file; the file is not the cause. {error}"[
                :MOST_TEXT
            ],
            "hint": "Run `latentry doctor`, repair what it names, then retry: `latentry datasets retry` or POST …:retry. The "
            "log of the ingest worker has the details.",
        }
        if report_failure(database, settings, lease, error, problem):
            raise  # for the log
        _discard_if_deleted(database, arrays, row.id)
    finally:
        seconds = time.monotonic() - started
        metrics.ingests.labels(source_format, ended).inc()
        metrics.ingest_seconds.labels(source_format).observe(seconds)
        logger.info("the ingest ended", extra={"seconds": round(seconds, 3), "outcome": ended})


def _discard_if_deleted(database: Database, arrays: Store, dataset_id: str) -> None:
    """Delete what was written for a data set that was deleted meanwhile."""
    with database.read() as session:
        is_kept = session.get(Dataset, dataset_id) is not None
    if not is_kept:
        delete_objects(arrays, f"datasets/{dataset_id}")


@contextmanager
def _kept(database: Database, lease: Lease, settings: Settings) -> Iterator[None]:
    """Renew a lease while a subprocess works; the subprocess has its own time limit."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(settings.heartbeat_seconds):
            try:
                with database.write() as session:
                    lease.keep(session, settings)
            except LeaseLost:
                return  # the next write of the ingest learns it too
            except Exception:
                logger.exception("could not renew the lease of %s", lease.row_id)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def parse_limits(settings: Settings) -> ParseLimits:
    """Return the limits for reading one file, from the settings."""
    return ParseLimits(memory_bytes=settings.parse_memory_bytes, wall_s=settings.parse_seconds)


def log_sandbox(settings: Settings) -> bool:
    """Read a tiny valid file; log an error and return False if this installation cannot."""
    try:
        check_sandbox(parse_limits(settings))
    except (SandboxError, OSError) as error:
        logger.error("This process cannot read uploads, and `latentry doctor` reports the same: %s", error)
        return False
    return True


def _parse(
    database: Database, settings: Settings, lease: Lease, row: Dataset, folder: Path
) -> ParsedFile | Rejection:
    source = row.source
    if source["kind"] == "synthetic":
        path = folder / "synthetic.npz"
        parameters = {key: value for key, value in source.items() if key not in ("kind", "system")}
        arguments = [f"{key}={value}" for key, value in parameters.items()]
        made = subprocess.run(
            [sys.executable, "-m", "worker.ingest.synthesize", source["system"], str(path), *arguments],
            check=False,
            timeout=settings.parse_seconds,
        )
        if made.returncode == DISK_ERROR:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made.check_returncode()
        options = ReadOptions(format="npz", bin_width_s=None)
    else:
        try:
            path = _fetch_original(database, settings, lease, row, folder)
        except RejectedFile as error:
            return Rejection(error.problems, seconds=0.0)
        options = ReadOptions.model_validate(source["options"])
    out = folder / "parsed"
    out.mkdir()
    return parse_in_sandbox(path, out, options, parse_limits(settings))


def _fetch_original(database: Database, settings: Settings, lease: Lease, row: Dataset, folder: Path) -> Path:
    """Return the local path of a data set's file.

    Parameters
    ----------
    database, settings
        Of the service.
    lease, row
        The data set and the lease on it.
    folder
        Folder for a copy, if files are stored in a bucket.

    Raises
    ------
    RejectedFile
        If the file does not exist, or differs from the announced one.
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
    try:
        with database.write() as session:
            lease.keep(session, settings)
            stored = session.get_one(Dataset, row.id)
            stored.original, stored.original_bytes = sha256, holder.size_bytes
            session.delete(session.get_one(Upload, holder.id))  # from here on the data set keeps the file
    except LeaseLost:  # the data set may be deleted already
        with database.write() as session:
            session.execute(delete(Upload).where(Upload.id == holder.id))
            release_original(session, originals, sha256)
        raise
    return path


def _reject(database: Database, settings: Settings, lease: Lease, problems: list[dict[str, str]]) -> None:
    with database.write() as session:
        lease.keep(session, settings)
        row = session.get_one(Dataset, lease.row_id)
        row.state, row.problems, row.ended_at = DatasetState.REJECTED, problems, database_now(session)
        row.drop_lease()


def _store(database: Database, arrays: Store, settings: Settings, lease: Lease, parsed: ParsedFile) -> None:
    recording = parsed.recording()
    path = f"datasets/{lease.row_id}/{lease.token}"
    try:
        names = write_dataset(arrays, path, lease.row_id, recording)
        write_object(arrays, f"{path}/preview.json", (parsed.folder / "preview.json").read_bytes())
        array_bytes = objects_size(arrays, path)
        of_trials = trial_bytes(trial["details"] for trial in trial_rows(lease.row_id, recording))
        with database.write() as session:
            lease.keep(session, settings)
            row = session.get_one(Dataset, lease.row_id)
            row.array_bytes, row.trial_bytes = array_bytes, of_trials
            row.trials, row.bins, row.neurons = recording.spikes.shape
            row.bin_width_s = recording.bin_width_s
            row.array_path = path
            row.report = {**parsed.report, "arrays": names}
            row.state, row.ended_at = DatasetState.READY, database_now(session)
            row.drop_lease()
            trials = trial_rows(lease.row_id, recording)
            while rows := list(islice(trials, 5000)):
                session.execute(insert(Trial), rows)
    except LeaseLost:
        delete_objects(arrays, path)
        raise


def trial_rows(dataset_id: str, recording: Recording) -> Iterator[dict[str, Any]]:
    """Yield one row for each trial, in the user's order."""
    groups, split = split_groups(recording), given_split(recording)
    is_shared = np.bincount(groups.group)[groups.group] > 1
    for trial, length in enumerate(recording.trial_length_bins):
        yield {
            "dataset_id": dataset_id,
            "trial": trial,
            "length_bins": int(length),
            "split": split[trial],
            "split_group": int(groups.group[trial]) if is_shared[trial] else None,
            "group_first_bin": float(groups.first_bin[trial]) if is_shared[trial] else None,
            "details": {name: values[trial] for name, values in recording.trial_metadata.items()},
        }
