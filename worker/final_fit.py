"""The last fit: what was selected, trained again on all trials, validation trials too.

It repeats the training that led to the selected model: as many epochs, with the hyperparameters that held in each of them, which
in population-based training changed with every copy.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from store import events
from store.identifiers import new_id
from store.lineage import Segment, lineage
from store.specification import MOST_MODELS, without_sizes
from store.states import ModelState
from store.tables import Decision, Job, Model
from worker.model_rows import end_model, note_decision


def of(models: Sequence[Model], selected: Model) -> Model | None:
    """The final fit of a model as it is now; None if there is none."""
    found = [
        model
        for model in models
        if model.final_fit_of == selected.number
        and (model.state != ModelState.TRAINED or model.epochs_trained >= selected.epochs_trained)
    ]
    return found[-1] if found else None


def begin(session: Session, job: Job, models: Sequence[Model], selected: Model) -> Model:
    """Add the model that repeats the training of another on all trials."""
    first = _schedule(session, selected)[0]
    final = Model(
        id=new_id("mod"),
        tenant_id=job.tenant_id,
        job_id=job.id,
        number=max(
            MOST_MODELS, 1 + max(model.number for model in models)
        ),  # more models may be added to the search
        pack=1 + max(model.pack for model in models),
        final_fit_of=selected.number,
        state=ModelState.QUEUED,
        seed=selected.seed,
        architecture=selected.architecture,
        hyperparameters=without_sizes(first.hyperparameters),
        epochs_trained=0,
        target_epochs=min(first.to_epoch or selected.epochs_trained, selected.epochs_trained),
        scores={},
    )
    session.add(final)
    session.flush()
    reason = f"trains on all trials as model {selected.number} was trained"
    note_decision(session, final, "begin", first.hyperparameters, reason)
    events.record(
        session,
        job.id,
        "model.state",
        model_id=final.id,
        state=final.state,
        number=final.number,
        reason=reason,
    )
    return final


def go_on(session: Session, models: Sequence[Model], busy: set[str]) -> None:
    """Send final fits that have come to an end of a segment into the next one, or end them."""
    for final in models:
        is_idle = not ModelState(final.state).is_final and final.id not in busy
        if final.final_fit_of is None or not is_idle or final.epochs_trained < final.target_epochs:
            continue
        (selected,) = (model for model in models if model.number == final.final_fit_of)
        if final.epochs_trained >= selected.epochs_trained:
            end_model(
                session, final, ModelState.TRAINED, f"it has trained as long as model {selected.number}"
            )
            continue
        following = next(
            one
            for one in _schedule(session, selected)
            if one.to_epoch is None or one.to_epoch > final.epochs_trained
        )
        note_decision(
            session, final, "go_on", following.hyperparameters, f"as model {following.model_number} did"
        )
        final.hyperparameters = without_sizes(following.hyperparameters)
        final.target_epochs = following.to_epoch or selected.epochs_trained


def _schedule(session: Session, selected: Model) -> list[Segment]:
    of_job = select(Decision).where(Decision.job_id == selected.job_id).order_by(Decision.id)
    return lineage(session.execute(of_job).scalars().all(), selected.number)
