"""Documents of the service as read-only mappings, and the types of their fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Generic, Literal, NoReturn, Self, TypedDict, TypeVar, overload

Document = dict[str, Any]
"""A JSON object."""

DatasetState = Literal["ingesting", "ready", "rejected", "failed", "deleting"]
JobState = Literal[
    "queued", "running", "paused", "stopping", "inferring", "done", "failed", "cancelled", "deleting"
]
ModelState = Literal["queued", "training", "trained", "stopped", "diverged", "failed", "cancelled"]
InferenceState = Literal["queued", "running", "done", "failed", "cancelled", "deleting"]

Value = TypeVar("Value")


class JobProgress(TypedDict):
    """The progress of a job. Losses are in nats per sample."""

    fraction: float
    models: int
    models_ended: int
    epochs_trained: int
    epochs_budget: int
    best_smoothed_sv_loss: float | None
    best_sv_bits_per_spike_valid: float | None
    best_model_id: str | None
    seconds_elapsed: float | None
    device_seconds: float
    seconds_left: float | None
    waits_for: str | None


class CurvePoint(TypedDict):
    """One epoch of a learning curve. Losses are in nats per sample."""

    epoch: int
    train_loss: float | None
    sv_loss: float | None
    smoothed_sv_loss: float | None
    sv_bits_per_spike_valid: float | None
    sv_loss_train: float | None
    validation_loss: float | None
    kl_initial_condition: float | None
    kl_inputs: float | None
    gradient_norm: float | None
    learning_rate: float | None


class ArrayDocument(TypedDict):
    """The description of an array."""

    name: str
    dims: list[str]
    shape: list[int]
    dtype: str
    units: str
    description: str
    attributes: Document
    coordinates: list[str]
    href: str


class Field(Generic[Value]):
    """A field of a document as a read-only attribute; None if the document does not have it.

    Parameters
    ----------
    description
        Docstring of the attribute.
    """

    def __init__(self, description: str) -> None:
        self.__doc__ = description

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, document: None, owner: type) -> Self: ...

    @overload
    def __get__(self, document: Document, owner: type) -> Value: ...

    def __get__(self, document: Document | None, owner: type) -> Any:
        return self if document is None else self._read(document.get(self._name))

    def __set__(self, document: Document, value: object) -> NoReturn:
        raise AttributeError(f"{self._name} comes from the service and cannot be changed here")

    def _read(self, value: Any) -> Any:
        return value


class TimeField(Field["datetime | None"]):
    """A field that is a time in UTC."""

    def _read(self, value: Any) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class Answered(Document):
    """A document of the service: a dict that cannot be changed."""

    def __reduce__(self) -> tuple[type, tuple[Document]]:
        return dict, (dict(self),)  # a copy or an unpickled one is a plain dict

    def _renew(self, document: Document) -> None:
        super().clear()
        super().update(document)

    def _refuse(self, *_arguments: Any, **_fields: Any) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} comes from the service and cannot be changed here")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


def settled(found: Any, otherwise: Callable[[], Value]) -> Value:
    """Return the result of a method; if it is a coroutine, which cannot be awaited here, return `otherwise()`.

    Both clients share the code that calls this in methods that Python itself calls, such as ``__array__`` and
    ``_repr_html_``.
    """
    if inspect.iscoroutine(found):
        found.close()
        return otherwise()
    value: Value = found
    return value


def smoothed_loss(model: Mapping[str, Any]) -> float | None:
    """Return the lowest smoothed SV loss of a model, in nats per sample."""
    loss: float | None = model["scores"].get("smoothed_sv_loss", model["scores"].get("sv_loss"))
    return loss


def is_inherited(model: Mapping[str, Any]) -> bool:
    """Return whether another model trained its best weights; for a model, or for a model in an event of progress."""
    return model.get("trained_by") not in (None, model["number"])


def selection_order(model: Mapping[str, Any]) -> tuple[float, bool, int]:
    """Return the key that orders models as the service selects: by loss; the model that trained shared weights goes first."""
    loss = smoothed_loss(model)
    return (float("inf") if loss is None else loss, is_inherited(model), model["number"])
