"""Rows of models as strategies see them, and the decisions about them."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.architecture import with_architecture
from domain.search_space import Value
from domain.states import InferenceState, JobState, ModelState
from store import events
from store.database import database_now
from store.tables import Decision, Inference, Job, Model
from worker.scheduling.strategies import Mark, ModelRecord

UNFINISHED_JOBS = [state for state in JobState if not state.is_final]
UNFINISHED_INFERENCES = [state for state in InferenceState if not state.is_final]


def read_models(session: Session, job_id: str) -> list[Model]:
    """Return the models of a job, by number."""
    return list(session.execute(select(Model).where(Model.job_id == job_id).order_by(Model.number)).scalars())


def read_marks(session: Session, job_id: str) -> dict[int, list[Mark]]:
    """Return the marks of each model in order, by the number of the model."""
    marks: dict[int, list[Mark]] = defaultdict(list)
    # Only the columns that are used: a long search has thousands of decisions, and locks are held meanwhile.
    of_job = (
        select(
            Decision.model_number,
            Decision.epoch,
            Decision.lowest_sv_loss,
            Decision.latest_sv_loss,
            Decision.kind,
        )
        .where(Decision.job_id == job_id)
        .order_by(Decision.id)
    )
    for number, epoch, lowest, latest, kind in session.execute(of_job):
        marks[number].append(Mark(epoch, lowest, latest, kind))
    return marks


def record(model: Model, searched: Sequence[str], marks: Sequence[Mark] = ()) -> ModelRecord:
    """Return a model as strategies see it.

    Parameters
    ----------
    searched
        Names of the searched hyperparameters and sizes. Only these sizes of the network are shown.
    """
    return ModelRecord(
        number=model.number,
        hyperparameters=with_architecture(model.hyperparameters, model.architecture, searched),
        epochs_trained=model.epochs_trained,
        smoothed_sv_loss=model.smoothed_sv_loss,
        is_final=ModelState(model.state).is_final,
        target_epochs=model.target_epochs,
        latest_sv_loss=model.latest_smoothed_sv_loss,
        marks=marks,
    )


def note_decision(
    session: Session,
    model: Model,
    kind: str,
    hyperparameters: Mapping[str, Value],
    *,
    reason: str,
    parent: int | None = None,
) -> None:
    """Record a decision about a model, with the epochs and losses that the model had then."""
    session.add(Decision(**decision_values(model, kind, hyperparameters, reason=reason, parent=parent)))


def decision_values(
    model: Model, kind: str, hyperparameters: Mapping[str, Value], *, reason: str, parent: int | None = None
) -> dict[str, Any]:
    """Return the columns of a decision about a model."""
    return {
        "job_id": model.job_id,
        "model_number": model.number,
        "kind": kind,
        "epoch": model.epochs_trained,
        "lowest_sv_loss": model.smoothed_sv_loss,
        "latest_sv_loss": model.latest_smoothed_sv_loss,
        "parent_number": parent,
        "hyperparameters": dict(hyperparameters),
        "reason": reason,
    }


def note_best_weights(model: Model, best_epoch: int, first_epoch: int) -> None:
    """Record which model trained the best weights, with which hyperparameters, if they are from the slice that ended.

    Parameters
    ----------
    best_epoch
        Epoch of the best weights.
    first_epoch
        Epochs of the model before the slice.
    """
    if best_epoch > first_epoch:
        model.trained_by, model.best_hyperparameters = model.number, dict(model.hyperparameters)


def end_model(session: Session, model: Model, state: ModelState, reason: str) -> None:
    """Record that a model trains no more, and why."""
    model.state, model.end_reason, model.ended_at = state, reason, database_now(session)
    events.record_model_state(session, model, reason=reason)


def checkpoints_in_use(session: Session, keys: Collection[str]) -> set[str]:
    """Return which of these checkpoints are still needed.

    Models continue from them or begin with them (a copy shares its parent's checkpoint until it has its own), or inferences read
    them.
    """
    if not keys:
        return set()
    found: set[str] = set()
    for column in (Model.checkpoint_key, Model.start_key):
        found |= {key for key in session.execute(select(column).where(column.in_(keys))).scalars() if key}
    inferred_with = select(Inference.checkpoint_key).where(Inference.state.in_(UNFINISHED_INFERENCES))
    found |= set(session.execute(inferred_with.where(Inference.checkpoint_key.in_(keys))).scalars())
    unfinished = Job.state.in_(UNFINISHED_JOBS) & Job.warm_models.is_not(None)
    for warm_models in session.execute(select(Job.warm_models).where(unfinished)).scalars():
        found |= {one.get("start_key") for one in warm_models or []} & set(keys)
    return found
