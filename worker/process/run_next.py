"""One turn of a training process: claim a slice or an inference, load it, train or infer, report."""

import errno
import logging

from sqlalchemy.exc import OperationalError

from store.tables import Inference, Slice
from worker.context.process import TrainingProcess
from worker.context.reports import leased_transaction
from worker.context.slices import load_work
from worker.inference.batch_inference import apply
from worker.inference.job_results import infer
from worker.scheduling.fair_queue import claim_next
from worker.scheduling.leases import Lease, LeaseLost, count_attempt, try_again_later
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
        else:
            work = load_work(process.database, lease)
            run = train if work.piece.kind == "train" else infer
            run(process, work)
    except LeaseLost as lost:
        logger.info("gave up %s, of which nothing was written: %s", lease.row_id, lost)
    except Exception as error:
        _report_failure(process, lease, error)
    return True


def _report_failure(process: TrainingProcess, lease: Lease, error: Exception) -> None:
    """Count the attempt, or put the work off, and raise the error again for the log; after a lost lease, do nothing."""
    problem = {
        "code": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "hint": "the worker's log has the whole traceback",
    }
    try:
        with leased_transaction(process, lease) as session:
            row = session.get_one(lease.table, lease.row_id)
            assert isinstance(row, Slice | Inference)
            if _is_environmental(error):
                problem["hint"] = (
                    "free space on the disk, or start the database again; the work is then retried"
                )
                try_again_later(session, row, problem, process.settings.full_disk_seconds)
            else:
                count_attempt(session, row, problem, process.settings)
    except LeaseLost:
        return
    raise error


def _is_environmental(error: BaseException | None) -> bool:
    """Return whether the disk or the database caused the failure, so that it must not use up an attempt."""
    while error is not None:
        if isinstance(error, OperationalError):
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return True
        error = error.__cause__
    return False
