"""What is wrong with single fields of a request: pydantic's errors, told in terms of the client's own document."""

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from domain.field_problem import FieldProblem as FieldProblem

_NO_OBJECT = ("model_attributes_type", "model_type", "dict_type")

_UNKNOWN = "the fields, with their defaults and bounds, are listed at /docs"


def field_problems(
    errors: Iterable[Any], body: Any, route: Callable[..., Any] | None = None
) -> list[FieldProblem]:
    """Turn pydantic's errors into ours.

    Parameters
    ----------
    errors
        As `ValidationError.errors()` gives them; the first part of each location says where: body, query, …. A `model` in one is
        what the route read by itself, `known` the parameters that it has.
    body
        What the client sent.
    route
        The function that was to take it, whose models name the fields that there are.
    """
    found: dict[tuple[str, str], FieldProblem] = {}
    unmeant: dict[str, FieldProblem] = {}
    for error in map(_of_its_field, errors):
        where, *path = error["loc"]
        readers = [error["model"]] if "model" in error else _types_of(route)
        if where != "body":
            pointer = ".".join(str(part) for part in path)
            problem = _problem_of_parameter(pointer, error, readers)
        elif error["type"] == "json_invalid":
            message = f"expected JSON; {error['ctx']['error']} at character {path[0]}"
            problem = FieldProblem(pointer="", code="json_invalid", message=message)
        else:
            path, is_member = _path_in_document(path, body, error["type"])
            pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
            hint = _meant(path, readers, _UNKNOWN) if error["type"] == "extra_forbidden" else None
            problem = FieldProblem(
                pointer=pointer, code=error["type"], message=_message(error, is_member), hint=hint
            )
            if is_member and not _is_meant(error):
                unmeant.setdefault(pointer, problem)
                continue
        found.setdefault((problem.pointer, problem.message), problem)
    told = [pointer for pointer, _ in found]
    # What no member of a union takes has errors of members that were not meant, and no others.
    return [
        *found.values(),
        *(
            problem
            for pointer, problem in unmeant.items()
            if not any(one == pointer or one.startswith(pointer + "/") for one in told)
        ),
    ]


def _types_of(route: Callable[..., Any] | None) -> list[Any]:
    return [] if route is None else list(get_type_hints(route).values())


def _meant(path: Sequence[Any], readers: Iterable[Any], otherwise: str) -> str:
    """What to do about a field that is not known: name the likeliest, and where all are listed."""
    *parents, name = path
    models = [model for reader in readers for model in _models_in(reader)]
    for part in parents:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for field in fields for model in _models_in(field.annotation)] if fields else models
    others = {field.alias or own for model in models for own, field in model.model_fields.items()} - {name}
    return _likeliest(str(name), others, otherwise)


def _likeliest(name: str, others: Iterable[str], otherwise: str) -> str:
    likely = difflib.get_close_matches(name, sorted(others), 1)
    return f"did you mean {likely[0]}? {otherwise}" if likely else otherwise


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type may be of: it, or members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for member in get_args(annotation):
        yield from _models_in(member)


def _problem_of_parameter(name: str, error: Any, readers: Iterable[Any]) -> FieldProblem:
    if error["type"] != "extra_forbidden":
        return FieldProblem(pointer=name, code=error["type"], message=_message(error))
    listed = "the parameters are listed at /docs"
    return FieldProblem(
        pointer=name,
        code=error["type"],
        message="there is no such parameter",
        hint=_likeliest(name, error["known"], listed)
        if "known" in error
        else _meant([name], readers, listed),
    )


def _of_its_field(error: Any) -> Any:
    """An error of the field that tells members of a union apart, said of that field and not of the object."""
    if error["type"] not in ("union_tag_not_found", "union_tag_invalid"):
        return error
    field = error["ctx"]["discriminator"].strip("'")
    at_field = {**error, "loc": (*error["loc"], field)}
    if error["type"] == "union_tag_not_found":
        return at_field | {"type": "missing"}
    expected = f"should be one of {error['ctx']['expected_tags']}"
    return at_field | {"type": "literal_error", "msg": expected, "input": error["input"][field]}


def _path_in_document(location: Sequence[Any], body: Any, kind: str) -> tuple[list[Any], bool]:
    """The parts of a location that are the client's, and whether the last was not: pydantic adds the union's members."""
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


def _is_meant(error: Any) -> bool:
    """Whether an error is of the member of a union that the client meant: the range with an object, the list with a list."""
    unmeant = list(_NO_OBJECT)
    unmeant += [] if isinstance(error["input"], list) else ["list_type"]
    unmeant += ["float_type", "int_type"] if isinstance(error["input"], dict | list) else []
    return error["type"] not in unmeant


def _message(error: Any, is_member: bool = False) -> str:
    kind, came = error["type"], error["input"]
    if kind == "missing":
        return "expected a value; there is none"
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind in _NO_OBJECT:
        return f"expected an object; got {_shown(came)}"
    if kind == "string_unicode":
        return "expected text in UTF-8; got half of a surrogate pair"
    if kind == "tuple_type":
        return f"expected a list; got {_shown(came)}"
    if kind == "timezone_aware" or kind.startswith("datetime_"):
        return f"expected a time with its zone, such as 2027-01-31T00:00:00Z; got {_shown(came)}"
    if is_member and kind in ("float_type", "float_parsing"):
        return f"expected a number, a list of numbers, or a range {{low, high, scale}}; got {_shown(came)}"
    if is_member and kind in ("int_type", "int_parsing", "int_from_float"):
        return f"expected a whole number, or a list of them; got {_shown(came)}"
    if kind == "too_short":
        return f"expected at least {_items(error['ctx']['min_length'])}; got {len(came)}"
    if kind == "too_long":
        return f"expected at most {_items(error['ctx']['max_length'])}; got {len(came)}"
    text = str(error["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    return text if kind == "value_error" else f"{text}; got {_shown(came)}"


def _items(number: int) -> str:
    return f"{number} item" if number == 1 else f"{number} items"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    shown = json.dumps(value) if value is None or isinstance(value, bool | float) else repr(value)
    return shown if len(shown) <= 100 else shown[:97] + "…"
