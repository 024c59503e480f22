"""The fair queue: whether a training worker does an inference or a slice next.

An inference takes minutes at most and a user waits for it, so it goes before queued slices. But while slices wait, each process
alternates between both: even with many inferences, training gets half of the turns.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.states import InferenceState
from store.database import database_now
from store.settings import Settings
from store.tables import Inference
from worker.scheduling.leases import TURNS_REMEMBERED, Lease, claim_slice, take


def claim_next(session: Session, worker: str, settings: Settings, *, after_inference: bool) -> Lease | None:
    """Claim the inference or the slice whose turn it is; return None when nothing is queued.

    Parameters
    ----------
    after_inference
        Whether this process did an inference last. Then a queued slice goes first.
    """
    if after_inference:
        return claim_slice(session, worker, settings) or claim_inference(session, worker, settings)
    return claim_inference(session, worker, settings) or claim_slice(session, worker, settings)


def claim_inference(session: Session, worker: str, settings: Settings) -> Lease | None:
    """Claim the oldest queued inference of the tenant that has the fewest running, or has waited longest."""
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
