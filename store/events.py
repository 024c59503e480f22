"""Events of jobs, as rows that HTTP clients can replay."""

from typing import Any

from sqlalchemy.orm import Session

from domain.states import JobState
from store import webhooks
from store.tables import Event, Model


def record(session: Session, job_id: str, kind: str, **data: Any) -> None:
    """Record an event of a job. When the job ends, also write the messages to webhooks.

    Parameters
    ----------
    kind
        ``job.state``, ``job.extended``, ``job.diagnostics``, ``model.state``, ``model.copied``, ``slice.state`` or ``progress``.
    data
        JSON values.
    """
    session.add(Event(job_id=job_id, kind=kind, data=data))
    if kind == "job.state" and (state := JobState(data["state"])).is_final:
        webhooks.announce_end(session, job_id, state)


def record_model_state(session: Session, model: Model, **details: str) -> None:
    """Record the state of a model as an event of its job."""
    identity = {"model_id": model.id, "number": model.number}
    record(session, model.job_id, "model.state", state=model.state, **identity, **details)
