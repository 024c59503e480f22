"""The time that a job has used of its budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.job_specification import Budget
from domain.states import SliceState
from store.database import database_now
from store.tables import Job, Slice


@dataclass(frozen=True)
class Spent:
    """Time that a job has used.

    Parameters
    ----------
    wall_seconds
        Since its first slice began, without the time in which it was paused, or ended before it was resumed.
    device_seconds
        Of all devices in training: the reported slices, and the running ones so far. Lost slices do not count.
    """

    wall_seconds: float
    device_seconds: float

    def reason_to_end(self, budget: Budget) -> str | None:
        """Return which time of the budget is used up, as the reason to end; None while time is left."""
        if budget.wall_seconds is not None and self.wall_seconds >= budget.wall_seconds:
            return "the job's wall clock is over"
        if budget.device_seconds is not None and self.device_seconds >= budget.device_seconds:
            return "the job's device time is spent"
        return None


def spent(session: Session, job: Job) -> Spent:
    """Return the time that a job has used."""
    return spent_by(session, [job])[job.id]


def spent_by(session: Session, jobs: Sequence[Job]) -> dict[str, Spent]:
    """Return the time that each job has used, by the id of the job."""
    now = database_now(session)
    training = Slice.job_id.in_([job.id for job in jobs]) & (Slice.kind == "train")
    reported = select(Slice.job_id, func.sum(Slice.device_seconds)).where(training).group_by(Slice.job_id)
    device_seconds = {job.id: job.swept_device_seconds or 0.0 for job in jobs}
    for job_id, seconds in session.execute(reported):
        device_seconds[job_id] += float(seconds or 0.0)
    begun = select(Slice.job_id, Slice.started_at).where(training, Slice.state == SliceState.LEASED)
    for job_id, started in session.execute(begun):
        if started is not None:
            device_seconds[job_id] += (now - started).total_seconds()
    return {job.id: Spent(wall_seconds(job, now), device_seconds[job.id]) for job in jobs}


def wall_seconds(job: Job, now: datetime) -> float:
    """Return the seconds since a job's first slice began, without its pauses."""
    if job.started_at is None:
        return 0.0
    end = job.paused_at or job.ended_at or now
    return max(0.0, (end - job.started_at).total_seconds() - job.paused_seconds)


def end_rest(job: Job, now: datetime) -> None:
    """Resume a job. The time since it was paused or ended does not count."""
    since = job.paused_at or job.ended_at
    if since is not None and job.started_at is not None:
        job.paused_seconds += (now - since).total_seconds()
    job.paused_at = job.ended_at = None
