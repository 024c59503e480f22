"""Events of jobs, as rows that HTTP clients can replay."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from domain.states import JobState
from store import webhooks
from store.database import after_commit
from store.tables import Event, Model

logger = logging.getLogger(__name__)

_MODEL_STATE = "model.state"


def record(session: Session, job_id: str, kind: str, **data: Any) -> None:
    """Record an event of a job, and log it after the commit. When the job ends, also write the messages to webhooks.

    Parameters
    ----------
    kind
        ``job.state``, ``job.extended``, ``job.diagnostics``, ``model.state``, ``model.copied``, ``slice.state`` or ``progress``.
    data
        JSON values.
    """
    session.add(Event(job_id=job_id, kind=kind, data=data))
    if kind != "progress":
        _log_after_commit(session, job_id, kind, data)
    if kind == "job.state" and (state := JobState(data["state"])).is_final:
        webhooks.announce_end(session, job_id, state)


def _log_after_commit(session: Session, job_id: str, kind: str, data: dict[str, Any]) -> None:
    fields = {name.removesuffix("_id"): value for name, value in data.items() if _is_short(value)}
    if error := data.get("error"):
        fields["error"] = f"{error.get('code')}: {error.get('message')}"
    after_commit(session, partial(logger.info, kind, extra={**fields, "job": job_id}))


def _is_short(value: Any) -> bool:
    return isinstance(value, str | int | float)


def record_model_state(session: Session, model: Model, **details: str) -> None:
    """Record the state of a model as an event of its job."""
    record(session, model.job_id, _MODEL_STATE, **_state_of(model), **details)


def record_model_states(session: Session, models: Sequence[Model]) -> None:
    """Record the states of models at once: hundreds of rows as objects would take long, and others wait for the transaction."""
    rows = [{"job_id": model.job_id, "kind": _MODEL_STATE, "data": _state_of(model)} for model in models]
    session.execute(insert(Event), rows)
    for model in models:
        _log_after_commit(session, model.job_id, _MODEL_STATE, _state_of(model))


def _state_of(model: Model) -> dict[str, Any]:
    return {"state": model.state, "model_id": model.id, "number": model.number}
