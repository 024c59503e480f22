"""One slice: claim, load, train a pack or infer latents, report."""

from store.tables import Slice
from worker.infer import infer
from worker.leases import Lease, LeaseLost, claim_slice, retry_or_fail
from worker.slice_work import TrainingProcess
from worker.train import train


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
    except LeaseLost:
        pass  # cancelled, or another's by now: nothing of ours was written
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
            retry_or_fail(session, session.get_one(Slice, lease.row_id), problem, process.settings)
    except LeaseLost:
        return
    raise error  # for the log; the process stays
