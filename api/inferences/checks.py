"""Whether a model can be run on given trials: everything that can be known before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from api.datasets import service as datasets
from api.errors import Invalid, NotFound, WrongState
from api.models.service import find
from api.validation_errors import FieldProblem
from domain.job_specification import JobSpecification
from domain.read_bins import fewest_bins
from domain.sessions import RecordedSession, sessions_of
from domain.states import ModelState
from store.database import LOCK
from store.tables import Dataset, Job, Model


@dataclass(frozen=True)
class TrainedModel:
    """A model that can be run, and what it was trained on.

    Attributes
    ----------
    row, checkpoint_key
        The model and its weights.
    job, dataset, sessions
        Its job, the data set of that, and its sessions.
    """

    row: Model
    checkpoint_key: str
    job: Job
    dataset: Dataset
    sessions: list[RecordedSession]

    @property
    def architecture(self) -> dict[str, Any]:
        """As the row has it: without the numbers of neurons."""
        return self.row.architecture

    @property
    def specification(self) -> JobSpecification:
        """Of its job."""
        return JobSpecification.model_validate(self.job.spec)


def find_trained(session: Session, tenant_id: str, model_id: str, *, lock: bool = False) -> TrainedModel:
    """Return the tenant's model if it can be run.

    Parameters
    ----------
    lock
        Keep its weights from being dropped until the transaction ends: they are dropped under the lock of the job.

    Raises
    ------
    NotFound, WrongState
        If there is no such model, it still trains, or it has no weights.
    """
    row = find(session, tenant_id, model_id)
    job = session.get_one(Job, row.job_id, with_for_update=LOCK if lock else None, populate_existing=lock)
    if lock:
        session.refresh(row)
    if not ModelState(row.state).is_final:
        raise WrongState(
            f"the model {model_id} is {row.state}: expected one whose training has ended",
            hint=f"follow GET /v1/jobs/{job.id}, or end it with what is there: POST /v1/jobs/{job.id}:stop",
        )
    if row.checkpoint_key is None:
        kept = JobSpecification.model_validate(job.spec).budget.top_k
        if not row.epochs_trained:
            raise WrongState(f"the model {model_id} is {row.state} and was never trained")
        raise WrongState(
            f"the model {model_id} is {row.state} and has no weights any more: its job kept those of its {kept} best models",
            hint=f"take one of the best, GET /v1/jobs/{job.id}; a job with a larger budget.top_k keeps more",
        )
    dataset = session.get_one(Dataset, job.dataset_id)
    return TrainedModel(row, row.checkpoint_key, job, dataset, sessions_of(dataset))


def find_target(session: Session, tenant_id: str, model: TrainedModel, dataset_id: str | None) -> Dataset:
    """The data set that a model is to be run on, ready; the model's own unless another one is named."""
    try:
        return datasets.find_ready(session, tenant_id, dataset_id or model.dataset.id)
    except NotFound as error:
        problem = FieldProblem(
            pointer="/dataset_id", code="not_found", message=error.detail, hint="GET /v1/datasets lists yours"
        )
        raise NotFound(error.detail, hint=problem.hint, errors=[problem]) from None


def refuse(problems: Sequence[FieldProblem]) -> None:
    """Raise `Invalid` if there is a problem."""
    if problems:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise Invalid(
            f"{first.pointer or 'the body'}: {first.message}{more}", hint=first.hint, errors=list(problems)
        )


def check_dataset(model: TrainedModel, dataset: Dataset, sessions: Sequence[int]) -> list[FieldProblem]:
    """What does not fit between a model and a data set, whose sessions are those of the model."""
    found = []
    for recorded, number in zip(sessions_of(dataset), sessions, strict=True):
        name = "the data set" if len(sessions) == 1 else f"session {number} of the data set"
        found += check_neurons(model, number, recorded.neurons, "/dataset_id", name)
    theirs, ours = dataset.bin_width_s or 0.0, model.dataset.bin_width_s or 0.0
    if not math.isclose(theirs, ours, rel_tol=1e-6):
        found.append(
            FieldProblem(
                pointer="/dataset_id",
                code="other_bin_width",
                message=f"expected bins of {ours:g} s, as the model was trained in; the data set has bins of {theirs:g} s",
                hint=f"read its file in such bins: POST /v1/datasets/{dataset.id}:derive",
            )
        )
    found += check_bins(model, dataset.bins or 0, "/dataset_id")
    given = int((dataset.report or {}).get("external_inputs", 0))
    read = int(model.architecture.get("external_inputs", 0))
    if read not in (0, given):
        found.append(
            FieldProblem(
                pointer="/dataset_id",
                code="external_inputs",
                message=f"expected {read} external inputs, which the model reads; the data set has {given}",
            )
        )
    return found


def check_neurons(
    model: TrainedModel, number: int, neurons: int, pointer: str, owner: str
) -> list[FieldProblem]:
    """Whether there are as many neurons as the model has in a session."""
    expected = model.sessions[number].neurons
    if neurons == expected:
        return []
    of_model = "the model" if len(model.sessions) == 1 else f"session {number} of the model"
    return [
        FieldProblem(
            pointer=pointer,
            code="other_neurons",
            message=f"expected the {expected} neurons of {of_model}, in the same order; {owner} has {neurons}",
            hint="a model knows the neurons it was trained on, and no others",
        )
    ]


def check_bins(model: TrainedModel, bins: int, pointer: str) -> list[FieldProblem]:
    """Whether there are as many bins as the model reads, and some after them where its generator begins."""
    architecture = model.architecture
    least = fewest_bins(architecture.get("encoded_bins", 0), architecture.get("initial_condition_bins", 0))
    if bins >= least:
        return []
    return [
        FieldProblem(
            pointer=pointer,
            code="too_few_bins",
            message=f"expected at least {least} bins, which the model reads; got {bins}",
        )
    ]


def choose_sessions(model: TrainedModel, dataset: Dataset, given: int | None) -> list[int]:
    """Of each session of a data set, which one of the model's it is.

    Raises
    ------
    Invalid
        If that can't be said.
    """
    theirs, number = sessions_of(dataset), len(model.sessions)
    if len(theirs) > 1:
        if len(theirs) == number and given is None:
            return list(range(number))
        message = (
            f"expected nothing: the data set has {len(theirs)} sessions, in the model's order"
            if given is not None
            else f"expected a data set of one session, or of the model's {number}; this one has {len(theirs)}"
        )
        pointer = "/dataset_id" if given is None else "/session"
        hint = "run the model on its sessions one by one"
        refuse([FieldProblem(pointer=pointer, code="sessions", message=message, hint=hint)])
    if given is None:
        same = [index for index, one in enumerate(model.sessions) if one.dataset_id == dataset.id]
        if len(same) == 1:
            return same
    return [choose_session(model, given)]


def choose_session(model: TrainedModel, given: int | None) -> int:
    """Which session of the model is meant; need not be said where there is one.

    Raises
    ------
    Invalid
        If there is none of that number, or it must be said.
    """
    number = len(model.sessions)
    if given is None and number == 1:
        return 0
    if given is None or given >= number:
        told = ", ".join(f"{index}: {one.neurons} neurons" for index, one in enumerate(model.sessions))
        got = "nothing" if given is None else given
        message = f"expected 0 … {number - 1}, the session of the model whose neurons these are; got {got}"
        refuse([FieldProblem(pointer="/session", code="session", message=message, hint=f"they are {told}")])
    assert given is not None
    return given


def check_arrays(model: TrainedModel, arrays: Sequence[str] | None) -> list[FieldProblem]:
    """Whether the model has the latents that are asked for, each named once."""
    wanted = arrays or []
    found = [
        FieldProblem(
            pointer="/arrays", code="twice", message=f"expected each array once; got {', '.join(wanted)}"
        )
    ] * (len(set(wanted)) < len(wanted))
    if "inputs" in wanted and not model.architecture.get("controller_units"):
        found.append(
            FieldProblem(
                pointer="/arrays",
                code="no_controller",
                message="expected latents that the model has; it has no controller, and so infers no inputs",
            )
        )
    return found
