"""What a training worker does next: an inference that is queued, or a slice.

An inference takes minutes at most, and somebody waits for it: it goes before queued slices. But while slices wait, a process
takes turns, so that however many inferences are asked for, training has half of the workers' turns.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.states import InferenceState
from store.database import database_now
from store.settings import Settings
from store.tables import Inference
from worker.scheduling.leases import TURNS_REMEMBERED, Lease, claim_slice, take


def claim_next(session: Session, worker: str, settings: Settings, *, after_inference: bool) -> Lease | None:
    """Claim the inference or the slice whose turn it is; None when nothing is queued.

    Parameters
    ----------
    after_inference
        Whether what this process did last was an inference: then it is a slice's turn, if there is one.
    """
    if after_inference:
        return claim_slice(session, worker, settings) or claim_inference(session, worker, settings)
    return claim_inference(session, worker, settings) or claim_slice(session, worker, settings)


def claim_inference(session: Session, worker: str, settings: Settings) -> Lease | None:
    """Claim the oldest queued inference of the tenant with the fewest under way, or who waited longest."""
    number = select(Inference.tenant_id, func.count().label("number"))
    under_way = (
        number.where(Inference.state == InferenceState.RUNNING).group_by(Inference.tenant_id).subquery()
    )
    recent = Inference.started_at > database_now(session) - TURNS_REMEMBERED
    latest = select(Inference.tenant_id, func.max(Inference.started_at).label("at")).where(recent)
    served = latest.group_by(Inference.tenant_id).subquery()
    fairest = (
        select(Inference)
        .where(Inference.state == InferenceState.QUEUED)
        .outerjoin(under_way, under_way.c.tenant_id == Inference.tenant_id)
        .outerjoin(served, served.c.tenant_id == Inference.tenant_id)
        .order_by(
            func.coalesce(under_way.c.number, 0),
            served.c.at.asc().nulls_first(),
            Inference.id,
        )
        .limit(1)
        .with_for_update(of=Inference, skip_locked=True)
    )
    row = session.execute(fairest.execution_options(populate_existing=True)).scalar_one_or_none()
    if row is None:
        return None
    lease = take(session, row, worker, settings)
    row.state, row.error, row.trials_done = InferenceState.RUNNING, None, 0
    row.started_at = database_now(session)
    return lease
