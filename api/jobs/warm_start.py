"""Begin the first models of a job from the best models of another job."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.errors import Invalid, NotFound
from domain.architecture import SEARCHABLE, with_architecture
from domain.field_problem import FieldProblem
from domain.job_specification import JobSpecification, held_out_settings
from domain.sessions import sessions_of
from domain.states import JobState
from store.datasets import recordings_of
from store.deletion import SHARED
from store.identifiers import PATTERN
from store.lineage import selection_order, without_copies
from store.retention import is_swept, why_gone
from store.tables import Dataset, Job, Model


def find_models(
    session: Session,
    tenant_id: str,
    specification: JobSpecification,
    dataset: Dataset,
    *,
    to_refer: bool = False,
) -> list[dict[str, Any]]:
    """Return what the first models begin with: hyperparameters, and where their weights are stored; empty without a warm start.

    Raises
    ------
    NotFound
        If there is no such job.
    Invalid
        If the other job has no trained models, or their weights do not fit.
    """
    wanted = specification.warm_start
    if wanted is None:
        return []
    lock = SHARED if to_refer else None
    other = (
        session.get(Job, wanted.job_id, with_for_update=lock) if PATTERN.fullmatch(wanted.job_id) else None
    )
    if other is None or other.tenant_id != tenant_id or other.state == JobState.DELETING:
        raise NotFound(
            f"/warm_start/job_id: there is no job {wanted.job_id}", hint="GET /v1/jobs lists yours"
        )
    # A refit was trained on the validation trials.
    of_search = (Model.job_id == other.id) & Model.refit_of.is_(None)
    of_job = select(Model).where(of_search, Model.smoothed_sv_loss.is_not(None))
    if wanted.weights:
        of_job = of_job.where(Model.checkpoint_key.is_not(None))
    ranked = without_copies(sorted(session.execute(of_job).scalars(), key=selection_order))
    models = ranked[: min(wanted.models, specification.budget.models)]
    if not models:
        kept = " with weights that are kept" if wanted.weights else ""
        if wanted.weights and is_swept(session, other, "checkpoints"):
            kept += f": {why_gone('checkpoints')}"
        raise _invalid(
            "job_id", "no_models", f"expected a job that has trained models; {other.id} has none{kept}"
        )
    if wanted.weights:
        _check_weights(session, specification, dataset, other, models[0])
    searched = specification.searched_space()
    found = []
    for model in models:
        values = with_architecture(model.shown_hyperparameters, model.architecture, searched)
        values = {name: value for name, value in values.items() if name in searched}
        start = {"start_key": model.checkpoint_key} if wanted.weights else {}
        found.append({"job_id": other.id, "number": model.number, "hyperparameters": values, **start})
    return found


def warnings(session: Session, specification: JobSpecification, dataset: Dataset) -> list[str]:
    """Warn of weights that were trained on samples which this job holds out: its SV losses are then too low.

    If the other job itself began with weights of a third one, those count too.
    """
    if specification.warm_start is None or not specification.warm_start.weights:
        return []
    ours = held_out_settings(specification.training, dataset)
    recordings = recordings_of(session, dataset)
    for other in _trained_in(session, specification.warm_start.job_id):
        other_dataset = session.get_one(Dataset, other.dataset_id)
        theirs = held_out_settings(JobSpecification.model_validate(other.spec).training, other_dataset)
        if theirs["dataset_id"] == ours["dataset_id"] and theirs["test_fraction"] is not None:
            # The other job was not trained on its test trials.
            theirs["test_fraction"] = min(theirs["test_fraction"], ours["test_fraction"] or 0.0)
        if theirs == ours or not recordings & recordings_of(session, other_dataset):
            continue
        if theirs["dataset_id"] != ours["dataset_id"]:
            difference = f"on {other_dataset.id}, which has the same recording as {dataset.id}"
            hint = "Give warm_start.weights: false, which takes hyperparameters alone"
        else:
            differing = [name for name in ours if ours[name] != theirs[name]]
            difference = "with " + ", ".join(
                f"training.{name} {theirs[name]} (here {ours[name]})" for name in differing
            )
            wanted = ", ".join(f"training.{name}: {theirs[name]}" for name in differing)
            hint = f"Give {wanted} here too, or warm_start.weights: false"
        return [
            f"warm_start: its weights were trained in {other.id} {difference}, so they have seen samples that this job holds "
            f"out, and SV losses of this job will be too low. {hint}"
        ]
    return []


def _trained_in(session: Session, job_id: str) -> Iterator[Job]:
    """Yield a job, the job whose weights it began with, and so on."""
    job = session.get(Job, job_id)
    while job is not None:
        yield job
        before = JobSpecification.model_validate(job.spec).warm_start
        job = session.get(Job, before.job_id) if before is not None and before.weights else None


def _check_weights(
    session: Session, specification: JobSpecification, dataset: Dataset, other: Job, model: Model
) -> None:
    """Raise `Invalid` if the weights of a model of the other job do not fit the data set or the architecture."""
    theirs, neurons = (
        [one.neurons for one in sessions_of(of)]
        for of in (session.get_one(Dataset, other.dataset_id), dataset)
    )
    if theirs != neurons:
        raise _invalid(
            "weights",
            "other_neurons",
            f"the models of {other.id} read {_listed(theirs)} neurons and this data set has {_listed(neurons)}: their "
            "weights do not fit",
            "give weights: false, which takes their hyperparameters alone",
        )
    ours = specification.architecture.of_model(
        with_architecture({}, model.architecture, SEARCHABLE), dataset.report
    )
    there = model.architecture
    differing = sorted(name for name in ours.keys() | there if ours.get(name) != there.get(name))
    if differing:
        names = ", ".join(f"{name} ({there.get(name)} there, {ours.get(name)} here)" for name in differing)
        raise _invalid(
            "weights",
            "other_architecture",
            f"the weights of {other.id}'s models do not fit this architecture: {names}",
            "give the same architecture, or weights: false",
        )


def _listed(neurons: Sequence[int]) -> str:
    """Return the neurons of each session as text."""
    return " + ".join(map(str, neurons))


def _invalid(field: str, code: str, message: str, hint: str | None = None) -> Invalid:
    return Invalid.of([FieldProblem(pointer=f"/warm_start/{field}", code=code, message=message, hint=hint)])
