"""Check that a model can run on given trials, before any work is queued."""

import math
from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.datasets import service as datasets
from api.errors import Invalid, NotFound
from api.models.service import TrainedModel, choose_session
from api.validation_errors import FieldProblem
from domain.architecture import Architecture
from domain.sessions import sessions_of
from store.tables import Dataset


def find_target(
    session: Session, tenant_id: str, model: TrainedModel, dataset_id: str | None, *, to_refer: bool = False
) -> Dataset:
    """Return the data set to run a model on, which must be ready. By default it is the model's own.

    If the transaction writes a row that refers to the data set (`to_refer`), the data set is not deleted before its end.
    """
    try:
        return datasets.find_ready(session, tenant_id, dataset_id or model.dataset.id, to_refer=to_refer)
    except NotFound as error:
        problem = FieldProblem(
            pointer="/dataset_id", code="not_found", message=error.detail, hint="GET /v1/datasets lists yours"
        )
        raise NotFound(error.detail, hint=problem.hint, errors=[problem]) from None


def check_dataset(model: TrainedModel, dataset: Dataset, sessions: Sequence[int]) -> list[FieldProblem]:
    """Return the mismatches between a model and a data set. `sessions` maps the data set's sessions to the model's."""
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
                message=f"expected bins of {ours:g} s, like the model's training data; the data set has bins of {theirs:g} s",
                hint=f"make a data set with this bin width from the same file: POST /v1/datasets/{dataset.id}:derive",
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
                message=f"expected {read} external inputs, like the training data of the model; the data set has {given}",
            )
        )
    return found


def check_neurons(
    model: TrainedModel, number: int, neurons: int, pointer: str, owner: str
) -> list[FieldProblem]:
    """Return a problem if the number of neurons differs from that of the model's session."""
    expected = model.sessions[number].neurons
    if neurons == expected:
        return []
    of_model = "the model" if len(model.sessions) == 1 else f"session {number} of the model"
    return [
        FieldProblem(
            pointer=pointer,
            code="other_neurons",
            message=f"expected the {expected} neurons of {of_model}, in the same order; {owner} has {neurons}",
            hint="a model only works for the neurons that it was trained on",
        )
    ]


def check_bins(model: TrainedModel, bins: int, pointer: str) -> list[FieldProblem]:
    """Return a problem if there are fewer bins than the encoders read, or none for the generator."""
    neurons = [session.neurons for session in model.sessions]
    least = Architecture.of_model(model.architecture, neurons).fewest_bins
    if bins >= least:
        return []
    return [
        FieldProblem(
            pointer=pointer,
            code="too_few_bins",
            message=f"expected at least {least} bins, which the model needs; got {bins}",
        )
    ]


def choose_sessions(model: TrainedModel, dataset: Dataset, given: int | None) -> list[int]:
    """Return the number of the model's session for each session of a data set.

    Raises
    ------
    Invalid
        If it is not clear.
    """
    theirs, number = sessions_of(dataset), len(model.sessions)
    if len(theirs) > 1:
        if len(theirs) == number and given is None:
            return list(range(number))
        message = (
            f"expected no session number: the data set has {len(theirs)} sessions, in the model's order"
            if given is not None
            else f"expected a data set of one session, or of {number} like the model; this one has {len(theirs)}"
        )
        pointer = "/dataset_id" if given is None else "/session"
        raise Invalid.field(pointer, "sessions", message, "run the model on each session separately")
    if given is None:
        same = [index for index, one in enumerate(model.sessions) if one.dataset_id == dataset.id]
        if len(same) == 1:
            return same
    return [choose_session(model, given)]


def check_arrays(model: TrainedModel, arrays: Sequence[str] | None) -> list[FieldProblem]:
    """Return the problems of the requested latents: repeated names, and arrays that the model does not have."""
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
                message="expected latents of this model; it has no controller, so it infers no inputs",
            )
        )
    return found
