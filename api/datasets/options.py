"""What a request says about a file, wherever it says it: query, form or JSON."""

from collections.abc import Callable
from typing import Any, TypeVar

import pydantic_core
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from api.datasets.schemas import UploadFields
from api.errors import Invalid
from api.validation_errors import FieldProblem
from domain.dataset_options import DatasetOptions

Kind = TypeVar("Kind", bound=BaseModel)


def read_model(kind: type[Kind], body: Any, *, below: str | None = None, whole: Any = None) -> Kind:
    """Read a part of a request as the framework reads bodies, with its errors told as those of bodies.

    Parameters
    ----------
    kind
        What it is.
    body
        What came.
    below, whole
        The field of the client's document `whole` that it came in, if in one.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        above = ("body",) if below is None else ("body", below)
        details = [{**item, "loc": (*above, *item["loc"]), "model": kind} for item in error.errors()]
        raise RequestValidationError(details, body=body if whole is None else whole) from error


def read_json(text: str | bytes, refuse: Callable[[str], Exception]) -> Any:
    """Read JSON, or raise what `refuse` makes of the reason."""
    try:
        return pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise refuse(str(error)) from None


def merged_options(fields: UploadFields) -> DatasetOptions:
    """Return the options of a query or form: its JSON, filled in by the fields beside it.

    Raises
    ------
    Invalid, RequestValidationError
        If they are wrong, or contradict each other.
    """
    options = DatasetOptions()
    if fields.options is not None:

        def refuse(reason: str) -> Invalid:
            message = f"expected a JSON object; {reason}"
            problem = FieldProblem(pointer="/options", code="json_invalid", message=message)
            return Invalid(f"/options: {message}", errors=[problem])

        came = read_json(fields.options, refuse)
        options = read_model(DatasetOptions, came, below="options", whole={"options": came})
    beside = {name: getattr(fields, name) for name in ("format", "bin_width_s")}
    for name, value in beside.items():
        given = getattr(options, name)
        if value is not None and given not in (None, value):
            message = f"{name} is {value!r} here and {given!r} in options; expected it once, or the same"
            problem = FieldProblem(pointer=f"/options/{name}", code="contradiction", message=message)
            raise Invalid(message, errors=[problem])
    known = {name: value for name, value in beside.items() if value is not None}
    return options.model_copy(update=known)
