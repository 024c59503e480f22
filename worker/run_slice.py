"""One slice: claim, load, train a pack or infer latents, report."""

import errno
import logging

from sqlalchemy.exc import OperationalError

from store.tables import Slice
from worker.infer import infer
from worker.leases import Lease, LeaseLost, claim_slice, count_attempt, try_again_later
from worker.slice_work import TrainingProcess
from worker.train import train

logger = logging.getLogger("latentry.training")


def run_next(process: TrainingProcess) -> bool:
    """Claim a slice and run it; return False when none is queued."""
    with process.database.write() as session:
        lease = claim_slice(session, process.name, process.settings)
    if lease is None:
        return False
    try:
        work = process.load(lease)
        if work.piece.kind == "train":
            train(process, work)
        else:
            infer(process, work)
    except LeaseLost as lost:
        logger.info("gave a slice up: %s", lost)  # nothing of ours was written
    except Exception as error:
        _report_failure(process, lease, error)
    return True


def _report_failure(process: TrainingProcess, lease: Lease, error: Exception) -> None:
    problem = {
        "code": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "hint": "the worker's log has the whole traceback",
    }
    try:
        with process.report(lease) as session:
            row = session.get_one(Slice, lease.row_id)
            if _is_of_the_place(error):
                problem["hint"] = (
                    "it is tried again by itself: free space on the disk, or bring the database back"
                )
                try_again_later(session, row, problem, process.settings.full_disk_seconds)
            else:
                count_attempt(session, row, problem, process.settings)
    except LeaseLost:
        return
    raise error  # for the log; the process stays


def _is_of_the_place(error: BaseException | None) -> bool:
    """Whether an error is of the disk or the database, and no fault of the work."""
    while error is not None:
        if isinstance(error, OperationalError):
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        error = error.__cause__
    return False
