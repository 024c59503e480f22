"""The slice grammar of array queries: ``?slice=0:5,::2,3``, one part for each axis from the first."""

import re

from api.errors import Invalid
from api.validation_errors import FieldProblem

Part = int | slice

_NUMBER = r"-?[0-9]{1,15}"
_PART = re.compile(
    rf"\s*(?:(?P<index>{_NUMBER})"
    rf"|(?P<start>{_NUMBER})?:(?P<stop>{_NUMBER})?(?::(?P<step>[0-9]{{1,15}})?)?)\s*"
)


def parse_slice(text: str | None, shape: tuple[int, ...]) -> tuple[Part, ...]:
    """Parse a slice and bring it into the bounds of an array.

    Parameters
    ----------
    text
        E.g. ``0:5,::2,3``: an integer takes one entry and drops its axis, ``start:stop:step`` keeps it. Negative
        numbers count from the end. Axes left out are whole.
    shape
        Of the array.

    Returns
    -------
    tuple
        One integer or slice with non-negative start, stop and positive step for each axis.

    Raises
    ------
    Invalid
        If it can't be read, names more axes than there are, or an index lies outside.
    """
    parts = text.split(",") if text else []
    if len(parts) > len(shape):
        raise _invalid(
            f"{len(parts)} parts were given for an array of {len(shape)} axes of sizes {list(shape)}"
        )
    parsed: list[Part] = [_parse_part(part, axis, shape[axis]) for axis, part in enumerate(parts)]
    return (*parsed, *(slice(0, size, 1) for size in shape[len(parts) :]))


def _parse_part(text: str, axis: int, size: int) -> Part:
    match = _PART.fullmatch(text)
    if match is None:
        raise _invalid(f"expected an integer or start:stop:step for axis {axis}; got {text!r}")
    if match["index"] is not None:
        index = int(match["index"])
        if not -size <= index < size:
            raise _invalid(f"index {index} is outside axis {axis} of size {size}")
        return index % size
    start, stop, step = (int(match[name]) if match[name] else None for name in ("start", "stop", "step"))
    if step == 0:
        raise _invalid(f"the step of axis {axis} is 0; expected 1 or more")
    first, last, stride = slice(start, stop, step).indices(size)
    return slice(first, max(first, last), stride)


def _invalid(message: str) -> Invalid:
    return Invalid(
        f"slice: {message}",
        hint="the grammar is ?slice=0:5,::2,3 with one part for each axis",
        errors=[FieldProblem(pointer="slice", code="slice", message=message)],
    )
