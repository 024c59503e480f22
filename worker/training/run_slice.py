"""One turn of a training process: claim a slice or an inference, load, train or infer, report."""

import errno
import logging

from sqlalchemy.exc import OperationalError

from store.tables import Inference, Slice
from worker.inference.batch_inference import apply
from worker.inference.job_results import infer
from worker.scheduling.fair_queue import claim_next
from worker.scheduling.leases import Lease, LeaseLost, count_attempt, try_again_later
from worker.training.context import TrainingProcess
from worker.training.train import train

logger = logging.getLogger("latentry.training")


def run_next(process: TrainingProcess) -> bool:
    """Claim a slice or an inference and run it; return False when none is queued."""
    with process.database.write() as session:
        lease = claim_next(
            session, process.name, process.settings, after_inference=process.last_was_inference
        )
    if lease is None:
        return False
    process.last_was_inference = lease.table is Inference
    try:
        if lease.table is Inference:
            apply(process, lease)
            return True
        work = process.load(lease)
        if work.piece.kind == "train":
            train(process, work)
        else:
            infer(process, work)
    except LeaseLost as lost:
        logger.info("gave %s up: %s", lease.row_id, lost)  # nothing of ours was written
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
            row = session.get_one(lease.table, lease.row_id)
            assert isinstance(row, Slice | Inference)
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
