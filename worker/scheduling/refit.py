"""The refit: train the selected model again on the training and validation trials, without the test trials.

A refit repeats the training that led to the best weights of the selected model, with the hyperparameters of each epoch. (In
population-based training they change with every copy.) It ends at the next change of the hyperparameters, or where the model
ended: later training is not in the best weights.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from domain.architecture import without_architecture
from domain.job_specification import MOST_MODELS
from domain.search_space import Value
from domain.states import ModelState
from store import events
from store.identifiers import new_id
from store.lineage import Segment, lineage
from store.tables import Decision, Job, Model
from worker.scheduling.model_rows import end_model, note_decision


def of(session: Session, models: Sequence[Model], selected: Model) -> Model | None:
    """Return the current refit of a model; None if there is none, or if it repeated another training."""
    decisions = _decisions(session, selected.job_id)
    end, wanted = schedule(decisions, selected)

    def is_of_now(final: Model) -> bool:
        repeated = lineage(decisions, final.number)
        return final.epochs_trained >= end and _changes(repeated) == _changes(wanted)

    found = [
        model
        for model in models
        if model.refit_of == selected.number and (model.state != ModelState.TRAINED or is_of_now(model))
    ]
    return found[-1] if found else None


def begin(session: Session, job: Job, models: Sequence[Model], selected: Model) -> Model:
    """Add the model that repeats the training of another on training and validation trials."""
    end, segments = schedule(_decisions(session, job.id), selected)
    first = segments[0]
    final = Model(
        id=new_id("mod"),
        tenant_id=job.tenant_id,
        job_id=job.id,
        # The search may still get more models, so the number is beyond those of a search.
        number=max(MOST_MODELS, 1 + max(model.number for model in models)),
        pack=1 + max(model.pack for model in models),
        refit_of=selected.number,
        state=ModelState.QUEUED,
        seed=selected.seed,
        architecture=selected.architecture,
        hyperparameters=without_architecture(first.hyperparameters),
        epochs_trained=0,
        target_epochs=first.to_epoch or end,
        scores={},
    )
    session.add(final)
    session.flush()
    reason = f"trains on training and validation trials as model {selected.number} was trained"
    note_decision(session, final, "begin", first.hyperparameters, reason=reason)
    events.record_model_state(session, final, reason=reason)
    return final


def continue_training(session: Session, models: Sequence[Model], busy: set[str]) -> None:
    """Continue refits that have reached the end of a segment with the next segment, or end them."""
    for final in models:
        is_idle = not ModelState(final.state).is_final and final.id not in busy
        if final.refit_of is None or not is_idle or final.epochs_trained < final.target_epochs:
            continue
        (selected,) = (model for model in models if model.number == final.refit_of)
        end, segments = schedule(_decisions(session, selected.job_id), selected)
        if final.epochs_trained >= end:
            reason = f"it has repeated the training that led to the best weights of model {selected.number}"
            end_model(session, final, ModelState.TRAINED, reason)
            continue
        following = next(one for one in segments if (one.to_epoch or end) > final.epochs_trained)
        reason = f"as model {following.model_number} did"
        note_decision(session, final, "continue", following.hyperparameters, reason=reason)
        final.hyperparameters = without_architecture(following.hyperparameters)
        final.target_epochs = following.to_epoch or end


def schedule(decisions: Sequence[Decision], selected: Model) -> tuple[int, list[Segment]]:
    """Return the epoch at which a refit ends, and the segments that it repeats.

    Parameters
    ----------
    decisions
        Of the job, in order.
    selected
        The model whose training is repeated.
    """
    best_epoch = selected.best_epoch or selected.epochs_trained
    segments = [one for one in lineage(decisions, selected.number) if one.from_epoch < best_epoch]
    return segments[-1].to_epoch or selected.epochs_trained, segments


def _changes(segments: Sequence[Segment]) -> list[tuple[int, dict[str, Value]]]:
    """Return each change of the hyperparameters, with its epoch."""
    found: list[tuple[int, dict[str, Value]]] = []
    for one in segments:
        if not found or found[-1][1] != one.hyperparameters:
            found.append((one.from_epoch, one.hyperparameters))
    return found


def _decisions(session: Session, job_id: str) -> Sequence[Decision]:
    of_job = select(Decision).where(Decision.job_id == job_id).order_by(Decision.id)
    return session.execute(of_job).scalars().all()
