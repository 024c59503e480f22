"""One turn of a training process: claim a slice or an inference, load it, train or infer, report."""

import logging

from store.tables import Inference
from worker.context.process import TrainingProcess
from worker.context.slices import load_work
from worker.inference.batch_inference import apply
from worker.inference.job_results import infer
from worker.scheduling.failures import report_failure
from worker.scheduling.fair_queue import claim_next
from worker.scheduling.leases import LeaseLost
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
        problem = {
            "code": type(error).__name__,
            "message": str(error) or type(error).__name__,
            "hint": "the worker's log has the whole traceback",
        }
        if report_failure(process.database, process.settings, lease, error, problem):
            raise  # for the log
    return True
