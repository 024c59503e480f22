"""A model as one zip file: weights, card, loader, and on request the model as a program."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.arrays.formats.streams import zip_pieces
from api.errors import Invalid, NotConfigured, Problem, Unavailable, WrongState
from api.http.http_cache import etag
from api.models.card import ModelCard, make_card
from api.models.export_readme import readme
from api.models.service import TrainedModel, choose_session, find, find_trained
from api.models.weights import StoredWeights, find_weights
from domain.sessions import RecordedSession
from store.rpc import CallFailed, WorkersAway, call_worker

ProgramKind = Literal["torch_export", "onnx"]
PROGRAM_FILES: dict[ProgramKind, str] = {"torch_export": "model.pt2", "onnx": "model.onnx"}

_LOADER = Path(__file__).parent / "exported" / "load.py"
_PROGRAM_SECONDS = 180.0
_MOST_PROGRAM_BYTES = 128 * 2**20
"""Most bytes of weights of a program, which the worker sends in one piece."""


@dataclass(frozen=True)
class Export:
    """The contents of an export, without the program.

    Attributes
    ----------
    model, weights, card
        The model, its weights, its card.
    program, session
        The kind of program, and the session whose neurons it reads.
    """

    model: TrainedModel
    weights: StoredWeights
    card: ModelCard
    program: ProgramKind | None
    session: int

    @property
    def recorded(self) -> RecordedSession:
        """Return the session that the program is for."""
        return self.model.sessions[self.session]

    def etag(self) -> str:
        """Return the entity tag; it is weak with a program, whose bytes differ each time it is written."""
        tag = etag(self.weights.key, self.card.model_dump_json(), str(self.program), str(self.session))
        return tag if self.program is None else f"W/{tag}"

    def pieces(self) -> Iterator[bytes]:
        """Return the zip file; the program is made before the first byte is sent.

        Raises
        ------
        Problem
            If the program cannot be made.
        """
        card = self.card.model_dump_json(indent=2).encode() + b"\n"
        members: list[tuple[str, Iterable[bytes]]] = [
            ("README.md", [readme(self.card, self.program, self.recorded.neurons).encode()]),
            ("card.json", [card]),
            ("load.py", [_LOADER.read_bytes()]),
        ]
        if self.program is not None:
            members.append((PROGRAM_FILES[self.program], [_make_program(self)]))
        members.append(("model.safetensors", self.weights.blocks()))
        return zip_pieces(members)


def find_card(session: Session, arrays: Store, tenant_id: str, model_id: str) -> ModelCard:
    """Return the card of the tenant's model, in any state, or raise `NotFound`."""
    row = find(session, tenant_id, model_id)
    weights = None if row.checkpoint_key is None else find_weights(arrays, row.checkpoint_key, {})
    return make_card(session, row, None if weights is None else weights.epoch)


def find_export(
    session: Session,
    arrays: Store,
    tenant_id: str,
    model_id: str,
    *,
    program: ProgramKind | None,
    session_number: int | None,
) -> Export:
    """Return the contents of an export of the tenant's model.

    Raises
    ------
    NotFound, WrongState, Invalid
        If there is no such model, it has no weights, or no such program of it can be made.
    """
    model = find_trained(session, tenant_id, model_id)
    weights = find_weights(arrays, model.checkpoint_key, {"latentry_model_id": model_id})
    if weights is None:
        raise WrongState(f"the weights of the model {model_id} were dropped this moment", hint="try again")
    number = 0
    if program is not None:
        number = _session(model, session_number)
        _check_size(weights)
    card = make_card(session, model.row, weights.epoch)
    return Export(model, weights, card, program, number)


def _session(model: TrainedModel, given: int | None) -> int:
    """Return the session that a program is for. The request has no body, so the error points to the parameter."""
    try:
        return choose_session(model, given)
    except Invalid as error:
        raise Invalid.of(
            [one.model_copy(update={"pointer": "session"}) for one in error.errors or []]
        ) from None


def _check_size(weights: StoredWeights) -> None:
    if weights.size_bytes > _MOST_PROGRAM_BYTES:
        message = (
            f"expected a model of at most {_MOST_PROGRAM_BYTES >> 20} MiB of weights; this one has "
            f"{weights.size_bytes >> 20} MiB"
        )
        hint = "leave out the program; weights of any size can be exported"
        raise Invalid.field("program", "too_large", message, hint)


def _make_program(wanted: Export) -> bytes:
    """Return the model as a program, which a worker with torch makes."""
    arguments: dict[str, Any] = {
        "checkpoint_key": wanted.weights.key,
        "architecture": wanted.card.architecture,
        "session": wanted.session,
        "bin_width_s": wanted.card.data.bin_width_s,
        "bins": wanted.model.dataset.bins,
        "kind": wanted.program,
    }
    try:
        answer = call_worker("export_program", arguments, timeout_s=_PROGRAM_SECONDS)
    except WorkersAway as error:
        raise Unavailable(
            f"the program could not be made: {error}",
            hint="try again, or leave ?program= out; see that a worker serves the queue `infer`",
            headers={"Retry-After": "30"},
        ) from error
    except CallFailed as error:
        raise _failure(error) from error
    program: bytes = answer["program"]
    return program


def _failure(error: CallFailed) -> Problem:
    if error.code == "not_installed":
        return NotConfigured(
            f"this service makes no ONNX programs: {error.message}",
            hint="on the machine of the queue `infer`, in a clone of Latentry: pip install '.[onnx]'; or ask for "
            "program=torch_export",
        )
    if error.code == "no_weights":
        return WrongState("the weights of the model were dropped this moment", hint="try again")
    return Problem(f"the program could not be made: {error.message}", hint="the worker's log has the details")
