"""Carry out the decisions of a strategy in the rows of models, and keep them with their reasons."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from domain.architecture import with_architecture, without_architecture
from domain.job_specification import JobSpecification
from domain.states import ModelState
from store import events
from store.identifiers import new_id
from store.lineage import OWN_LOSS
from store.tables import Dataset, Job, Model
from store.tables import Decision as DecisionRow
from worker.scheduling.model_rows import decision_values, end_model, note_decision
from worker.scheduling.strategies import Begin, Continue, Copy, Decision

_COPIED = (
    "architecture",
    "checkpoint_key",
    "checkpoint_bytes",
    "epochs_trained",
    "best_hyperparameters",
    "trained_by",
    "smoothed_sv_loss",
    "latest_smoothed_sv_loss",
    "scores",
)
"""Columns that a copy takes from its parent. Both read the same checkpoint until the copy has its own."""


def carry_out(
    session: Session,
    job: Job,
    specification: JobSpecification,
    models: Sequence[Model],
    decisions: Sequence[Decision],
) -> list[Model]:
    """Write decisions into the rows of a job's models, and return the models that begin."""
    by_number = {model.number: model for model in models}
    copied = {one.parent for one in decisions if isinstance(one, Copy)}
    # The values before any model copies another.
    parents = {number: {name: getattr(by_number[number], name) for name in _COPIED} for number in copied}
    sizes = list(specification.architecture.searched())
    begun = []
    for one in decisions:
        if isinstance(one, Begin):
            begun.append(one)
        elif isinstance(one, Copy):
            _copy(session, by_number[one.number], one, parents[one.parent])
        elif isinstance(one, Continue):
            model = by_number[one.number]
            values = with_architecture(model.hyperparameters, model.architecture, sizes)
            note_decision(session, model, "continue", values, reason=one.reason)
            model.target_epochs = one.target_epochs
        else:
            model = by_number[one.number]
            values = with_architecture(model.hyperparameters, model.architecture, sizes)
            note_decision(session, model, "end", values, reason=one.reason)
            state = ModelState.STOPPED if one.is_given_up else ModelState.TRAINED
            end_model(session, model, state, one.reason)
    return _begin(session, job, specification, begun, sizes)


def _copy(session: Session, model: Model, decision: Copy, parent: Mapping[str, Any]) -> None:
    note_decision(
        session,
        model,
        "copy",
        decision.hyperparameters,
        reason=decision.reason,
        parent=decision.parent,
    )
    for name, value in parent.items():
        setattr(model, name, value)
    model.scores = model.scores | {OWN_LOSS: None}
    model.hyperparameters = without_architecture(decision.hyperparameters)
    model.target_epochs = decision.target_epochs
    events.record(
        session,
        model.job_id,
        "model.copied",
        model_id=model.id,
        number=model.number,
        parent_number=decision.parent,
        epoch=model.epochs_trained,
        reason=decision.reason,
        hyperparameters=model.hyperparameters,
    )


def _begin(
    session: Session, job: Job, specification: JobSpecification, begun: Sequence[Begin], sizes: Sequence[str]
) -> list[Model]:
    """Add the rows of new models. In a warm start, the first models begin as models of another job ended."""
    if not begun:
        return []
    report, models, notes = session.get_one(Dataset, job.dataset_id).report, [], []
    for decision in begun:
        warm = (job.warm_models or [])[decision.number :][:1]
        values = {**decision.hyperparameters, **(warm[0]["hyperparameters"] if warm else {})}
        architecture = specification.architecture.of_model(values, report)
        values = with_architecture(without_architecture(values), architecture, sizes)
        models.append(
            Model(
                id=new_id("mod"),
                tenant_id=job.tenant_id,
                job_id=job.id,
                number=decision.number,
                pack=0,
                state=ModelState.QUEUED,
                seed=decision.seed,
                architecture=architecture,
                hyperparameters=without_architecture(values),
                epochs_trained=0,
                target_epochs=decision.target_epochs,
                start_key=warm[0].get("start_key") if warm else None,
                scores={},
            )
        )
        reason = f"as model {warm[0]['number']} of {warm[0]['job_id']}" if warm else decision.reason
        notes.append(decision_values(models[-1], "begin", values, reason=reason))
    session.add_all(models)
    session.flush()
    session.execute(insert(DecisionRow), notes)
    events.record_model_states(session, models)
    return models
