"""One turn of a training process: claim a slice or an inference, load it, train or infer, report."""

import logging
import time
from collections.abc import Sequence

from sqlalchemy import select
from structlog.contextvars import bind_contextvars, clear_contextvars

from store import metrics
from store.array_store import delete_objects
from store.tables import Inference, Model
from store.workers import is_draining
from worker.context.devices import device_failure
from worker.context.process import TrainingProcess
from worker.context.slices import load_work
from worker.inference.batch_inference import apply
from worker.inference.job_results import infer
from worker.scheduling.failures import report_failure
from worker.scheduling.fair_queue import claim_next
from worker.scheduling.leases import Lease, LeaseLost
from worker.training.train import train

logger = logging.getLogger("latentry.training")


def run_next(process: TrainingProcess) -> bool:
    """Claim a slice or an inference and run it; return False when none is queued, or the operator drains this process.

    Raises
    ------
    DeviceFailed
        If the GPU has stopped working. The process must end.
    """
    with process.database.write() as session:
        process.is_draining = is_draining(session, process.name)
        lease = None
        if not process.is_draining:
            lease = claim_next(
                session, process.name, process.settings, after_inference=process.last_was_inference
            )
    clear_contextvars()
    if lease is None:
        process.data.forget_deleted(process.database)
        return False
    bind_contextvars(device=process.device, **lease.log_fields)
    logger.info("the work begins")
    started, kind, outcome = time.monotonic(), "apply", "done"
    process.last_was_inference = lease.table is Inference
    model_ids: Sequence[str] = ()
    try:
        if lease.table is Inference:
            apply(process, lease)
        else:
            work = load_work(process.database, lease)
            model_ids = [model.id for model in work.models]
            kind = work.piece.kind
            run = train if kind == "train" else infer
            run(process, work)
    except LeaseLost as lost:
        outcome = "lost"
        metrics.leases_lost.labels(metrics.KINDS[lease.table.__tablename__]).inc()
        logger.info("gave up %s, of which nothing was written: %s", lease.row_id, lost)
        _discard_if_deleted(process, lease, model_ids)
    except Exception as error:
        outcome = "failed"
        failure = device_failure(process.device, error)
        cause = failure or error
        problem = {
            "code": type(cause).__name__,
            "message": str(cause) or type(cause).__name__,
            "hint": "the worker's log has the whole traceback",
        }
        is_reported = report_failure(process.database, process.settings, lease, cause, problem)
        if failure is not None:
            raise failure from error
        if is_reported:
            raise  # for the log
        _discard_if_deleted(process, lease, model_ids)
    finally:
        metrics.slices.labels(kind, process.device, outcome).inc()
        metrics.slice_seconds.labels(kind, process.device).observe(time.monotonic() - started)
    return True


def _discard_if_deleted(process: TrainingProcess, lease: Lease, model_ids: Sequence[str]) -> None:
    """Delete what was written for a job or an inference that was deleted meanwhile."""
    if lease.table is Inference:
        with process.database.read() as session:
            is_kept = session.get(Inference, lease.row_id) is not None
        gone = [] if is_kept else [f"inferences/{lease.row_id}"]
    else:
        with process.database.read() as session:
            kept = set(session.execute(select(Model.id).where(Model.id.in_(model_ids))).scalars())
        gone = [f"models/{model_id}" for model_id in model_ids if model_id not in kept]
    for path in gone:
        delete_objects(process.arrays, path)
