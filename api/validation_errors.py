"""The errors of single fields of a request: pydantic's errors, rewritten in terms of the client's document."""

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar, get_args, get_type_hints

import pydantic_core
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from domain.field_problem import FieldProblem as FieldProblem

_NO_OBJECT = ("model_attributes_type", "model_type", "dict_type")

_LISTED = "/docs lists the fields with their defaults and bounds"
_PARAMETERS_LISTED = "/docs lists the parameters"

MOST_PROBLEMS = 20
"""Maximum number of problems in a response."""
_MOST_EXAMINED = 200
"""Maximum number of pydantic's errors that are converted. A union of models has several errors for one problem."""
_MOST_SUGGESTIONS = 8
_LONGEST_NAME = 60
"""Longer names get no suggestion: the search for similar names takes quadratic time."""
_LONGEST_TEXT = 600
_LONGEST_PART = 200
"""Maximum number of characters of a message, and of a part of a pointer."""

Kind = TypeVar("Kind", bound=BaseModel)


def field_problems(
    errors: Sequence[Any], body: Any, route: Callable[..., Any] | None = None
) -> tuple[list[FieldProblem], int]:
    """Convert pydantic's errors into at most `MOST_PROBLEMS` problems. The work is bounded, however many errors there are.

    Parameters
    ----------
    errors
        The output of `ValidationError.errors()`. The first part of each location is ``body``, ``query``, …. An error may also
        have `model`, the model that the route validated itself, and `known`, the names of the route's parameters.
    body
        The document that the client sent.
    route
        The function of the route. The annotations of its parameters tell the valid names of fields.

    Returns
    -------
    tuple
        The first problems, and the number of the others.
    """
    suggestions = _Suggestions(route)
    found: dict[tuple[str, str], FieldProblem] = {}
    other_members: dict[str, FieldProblem] = {}
    for error in map(_locate_discriminator, islice(errors, _MOST_EXAMINED)):
        where, *path = error["loc"]
        is_told = len(found) < MOST_PROBLEMS
        if where != "body":
            pointer = _cut(".".join(str(part) for part in path))
            problem = _parameter_problem(pointer, error, suggestions if is_told else None)
        elif error["type"] == "json_invalid":
            message = f"expected JSON; {error['ctx']['error']} at character {path[0]}"
            problem = FieldProblem(pointer="", code="json_invalid", message=message)
        else:
            path, is_member = _path_in_document(path, body, error["type"])
            pointer = "".join(f"/{_cut(str(part)).replace('~', '~0').replace('/', '~1')}" for part in path)
            is_unknown = error["type"] == "extra_forbidden" and is_told
            problem = FieldProblem(
                pointer=pointer,
                code=error["type"],
                message=_message(error, is_member),
                hint=suggestions.hint(path, error.get("model")) if is_unknown else None,
            )
            if is_member and not _is_of_intended_member(error):
                other_members.setdefault(pointer, problem)
                continue
        found.setdefault((problem.pointer, problem.message), problem)
    reported = {pointer for pointer, _ in found}
    # If no member of a union fits the value, only the errors of other members are left.
    found |= {
        (pointer, problem.message): problem
        for pointer, problem in other_members.items()
        if not any(one == pointer or one.startswith(pointer + "/") for one in reported)
    }
    told = list(islice(found.values(), MOST_PROBLEMS))
    return told, len(found) - len(told) + max(0, len(errors) - _MOST_EXAMINED)


MOST_VALUES = 10_000
"""Maximum number of values in a JSON document: members of objects and items of lists, at all levels."""
_MOST_NAMES = 1_000
_MOST_LEVELS = 32
_MOST_CONTAINERS = 200_000  # each takes a hundred bytes and a microsecond, even where a document may have any number of values


def excess_of(document: Any, most_values: int = MOST_VALUES) -> str | None:
    """Return which size of a parsed JSON document is above its maximum, or None."""
    level, depth, values, names = [document], 0, 0, 0
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        values += sum(map(len, level))
        names += sum(len(part) for part in level if isinstance(part, dict))
        if depth > _MOST_LEVELS:
            return f"more than {_MOST_LEVELS} levels of lists and objects"
        if names > _MOST_NAMES:
            return f"more than {_MOST_NAMES} names of fields"
        if values > most_values:
            return f"more than {most_values} values"
        level = [child for part in level for child in (part.values() if isinstance(part, dict) else part)]
    return None


def read_json(
    text: str | bytes, refuse: Callable[[str], Exception], most_values: int | None = MOST_VALUES
) -> Any:
    """Return parsed JSON, or raise the error that `refuse` makes from the reason.

    Parameters
    ----------
    text, refuse
        The document, and the function that makes the error.
    most_values
        Maximum number of values. None for a document of large arrays: then only the names of its fields are counted.
    """
    encoded = text.encode() if isinstance(text, str) else text
    if encoded.count(b"[") + encoded.count(b"{") > _MOST_CONTAINERS:
        raise refuse(f"the document has more than {_MOST_CONTAINERS} lists and objects")
    try:
        document = pydantic_core.from_json(encoded, allow_inf_nan=False)
    except ValueError as error:
        raise refuse(_cut(str(error))) from None
    part = document
    if most_values is None:
        part = dict.fromkeys(document) if isinstance(document, dict) else None
    if (excess := excess_of(part, most_values or MOST_VALUES)) is not None:
        raise refuse(f"the document has {excess}")
    return document


def read_model(kind: type[Kind], part: Any, *, below: str | None = None, body: Any = None) -> Kind:
    """Validate a part of a request. Errors are reported like FastAPI's errors of bodies.

    Parameters
    ----------
    kind, part
        The model, and the value to validate.
    below, body
        The field of the client's document that contains the part, and the whole document; by default the part is the document.
    """
    try:
        return kind.model_validate(part)
    except ValidationError as error:
        above = ("body",) if below is None else ("body", below)
        details = [
            {**item, "loc": (*above, *item["loc"]), "model": kind} for item in error.errors(include_url=False)
        ]
        raise RequestValidationError(details, body=part if body is None else body) from error


class _Suggestions:
    """Hints for unknown names: the most similar name, and where all names are listed.

    Only the first names of a request get a similar name, because the search takes a millisecond for each.
    """

    def __init__(self, route: Callable[..., Any] | None) -> None:
        self._types = [] if route is None else list(get_type_hints(route).values())
        self._left = _MOST_SUGGESTIONS

    def hint(self, path: Sequence[Any], model: Any = None, listed: str = _LISTED) -> str:
        """Return the hint for a field at a path below the types of the route, or below `model`."""
        *parents, name = path
        models = [found for one in ([model] if model else self._types) for found in _models_in(one)]
        for part in parents:
            fields = [model.model_fields[part] for model in models if part in model.model_fields]
            models = (
                [model for field in fields for model in _models_in(field.annotation)] if fields else models
            )
        others = {field.alias or own for model in models for own, field in model.model_fields.items()}
        return self.most_similar(str(name), others - {name}, listed)

    def most_similar(self, name: str, others: Iterable[str], listed: str) -> str:
        """Return the hint that names the most similar of some names."""
        if len(name) > _LONGEST_NAME or not self._left:
            return listed
        self._left -= 1
        similar = difflib.get_close_matches(name, sorted(others), 1)
        return f"did you mean {similar[0]}? {listed}" if similar else listed


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a type: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for member in get_args(annotation):
        yield from _models_in(member)


def _parameter_problem(name: str, error: Any, suggestions: _Suggestions | None) -> FieldProblem:
    if error["type"] != "extra_forbidden":
        return FieldProblem(pointer=name, code=error["type"], message=_message(error))
    hint = None
    if suggestions is not None and "known" in error:
        hint = suggestions.most_similar(name, error["known"], _PARAMETERS_LISTED)
    elif suggestions is not None:
        hint = suggestions.hint([name], error.get("model"), _PARAMETERS_LISTED)
    return FieldProblem(pointer=name, code=error["type"], message="there is no such parameter", hint=hint)


def _locate_discriminator(error: Any) -> Any:
    """Move an error about the discriminator of a union from the object to the field."""
    if error["type"] not in ("union_tag_not_found", "union_tag_invalid"):
        return error
    field = error["ctx"]["discriminator"].strip("'")
    at_field = {**error, "loc": (*error["loc"], field)}
    if error["type"] == "union_tag_not_found":
        return at_field | {"type": "missing"}
    expected = f"should be one of {error['ctx']['expected_tags']}"
    return at_field | {"type": "literal_error", "msg": expected, "input": error["input"][field]}


def _path_in_document(location: Sequence[Any], body: Any, kind: str) -> tuple[list[Any], bool]:
    """Return the path in the client's document, and whether pydantic added the member of a union at the end of the location."""
    path, here, is_member = [], body, False
    for number, part in enumerate(location, 1):
        if (isinstance(here, dict) and part in here) or (
            isinstance(here, list) and isinstance(part, int) and part < len(here)
        ):
            here = here[part]
        elif not (kind == "missing" and number == len(location)):
            is_member = number == len(location)
            continue
        path.append(part)
    return path, is_member


def _is_of_intended_member(error: Any) -> bool:
    """Return whether an error belongs to the member of a union that the client intended: the range for an object, say."""
    unintended = list(_NO_OBJECT)
    unintended += [] if isinstance(error["input"], list) else ["list_type"]
    unintended += ["float_type", "int_type"] if isinstance(error["input"], dict | list) else []
    return error["type"] not in unintended


def _message(error: Any, is_member: bool = False) -> str:
    kind, given = error["type"], error["input"]
    if kind == "missing":
        return "expected a value; got none"
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind in _NO_OBJECT:
        return f"expected an object; got {_shown(given)}"
    if kind == "string_unicode":
        return "expected text in UTF-8; got half of a surrogate pair"
    if kind == "tuple_type":
        return f"expected a list; got {_shown(given)}"
    if kind == "timezone_aware" or kind.startswith("datetime_"):
        return f"expected a time with a time zone, such as 2027-01-31T00:00:00Z; got {_shown(given)}"
    if is_member and kind in ("float_type", "float_parsing"):
        return f"expected a number, a list of numbers, or a range {{low, high, scale}}; got {_shown(given)}"
    if is_member and kind in ("int_type", "int_parsing", "int_from_float"):
        return f"expected a whole number, or a list of whole numbers; got {_shown(given)}"
    if kind == "too_short":
        return f"expected at least {_items(error['ctx']['min_length'])}; got {len(given)}"
    if kind == "too_long":
        return f"expected at most {_items(error['ctx']['max_length'])}; got {len(given)}"
    text = (
        _cut(str(error["msg"]), _LONGEST_TEXT).removeprefix("Value error, ").replace("Input should", "should")
    )
    return text if kind == "value_error" else f"{text}; got {_shown(given)}"


def _items(number: int) -> str:
    return f"{number} item" if number == 1 else f"{number} items"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        value = value[:101]
    shown = json.dumps(value) if value is None or isinstance(value, bool | float) else repr(value)
    return _cut(shown, 100)


def _cut(text: str, length: int = _LONGEST_PART) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
