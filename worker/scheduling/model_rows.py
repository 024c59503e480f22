"""Rows of models as strategies see them, and the decisions about them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.architecture import with_architecture
from domain.search_space import Value
from domain.states import ModelState
from store import events
from store.database import database_now
from store.tables import Decision, Model
from worker.scheduling.strategies import Mark, ModelRecord


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
    session.add(
        Decision(
            job_id=model.job_id,
            model_number=model.number,
            kind=kind,
            epoch=model.epochs_trained,
            lowest_sv_loss=model.smoothed_sv_loss,
            latest_sv_loss=model.latest_smoothed_sv_loss,
            parent_number=parent,
            hyperparameters=dict(hyperparameters),
            reason=reason,
        )
    )


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
