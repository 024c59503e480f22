"""Report a failed attempt at a slice, an inference or an ingest: one rule for all three.

A full disk or a database that does not answer uses up no attempt: the work is put off. A GPU that has stopped working counts as a
loss of the worker. Any other error counts as an attempt.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from store.database import Database
from store.disk_errors import is_disk_error
from store.quotas import use_device_time
from store.settings import Settings
from store.tables import Dataset, Inference, Slice
from worker.scheduling.leases import Lease, LeaseLost, count_attempt, try_again_later, try_again_or_fail

logger = logging.getLogger(__name__)

_LONGEST_OUTAGE_SECONDS = 600.0
"""How long a report waits for a database that does not answer."""


class DeviceFailed(Exception):
    """The GPU has stopped working, e.g. after an illegal memory access. Only a new process may be able to use it."""


def report_failure(
    database: Database, settings: Settings, lease: Lease, error: Exception, problem: dict[str, Any]
) -> bool:
    """Count a failed attempt; put the work off if the disk or the database failed; count a loss if the GPU did.

    Parameters
    ----------
    database, settings
        Of the service.
    lease
        The lease under which the work failed.
    error
        The cause.
    problem
        `code`, `message` and `hint` for the user.

    Returns
    -------
    bool
        False if the lease was lost; then nothing is written.
    """
    environmental = is_environmental(error)
    if environmental:
        logger.warning("the disk or the database failed; %s is put off: %s", lease.row_id, error)
        hint = "free space on the disk, or start the database again; the work is then retried"
        problem = {**problem, "hint": hint}
    elif isinstance(error, DeviceFailed):
        hint = "a new process tries again; if it fails again, look for errors of the GPU in `nvidia-smi -q` and `dmesg`"
        problem = {**problem, "hint": hint}

    def write(session: Session) -> None:
        lease.keep(session, settings)
        row = session.get_one(lease.table, lease.row_id)
        assert isinstance(row, Slice | Inference | Dataset)
        if environmental:
            try_again_later(session, row, problem, settings.full_disk_seconds)
        elif isinstance(error, DeviceFailed):
            row.losses += 1
            try_again_or_fail(session, row, problem, settings)
        else:
            count_attempt(session, row, problem, settings)
            if not isinstance(row, Dataset):
                use_device_time(session, settings, row)

    try:
        write_with_retry(database, write)
    except LeaseLost as lost:
        logger.info("the failure is not reported: %s", lost)
        return False
    return True


def is_environmental(error: BaseException | None) -> bool:
    """Return whether the disk or the database caused the failure, so that it must not use up an attempt."""
    if is_disk_error(error):
        return True
    while error is not None:
        if isinstance(error, OperationalError):
            return True
        error = error.__cause__
    return False


def write_with_retry(database: Database, write: Callable[[Session], None]) -> None:
    """Write in one transaction; wait for a database that does not answer, since the work should not be lost."""
    deadline = time.monotonic() + _LONGEST_OUTAGE_SECONDS
    while True:
        try:
            with database.write() as session:
                write(session)
            return
        except OperationalError as error:
            if time.monotonic() > deadline:
                raise
            logger.warning("the database does not answer; the report waits: %s", error.orig)
            time.sleep(1.0)
