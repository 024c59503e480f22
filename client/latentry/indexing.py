"""NumPy's basic indexing, said in the slice grammar of the service (``0:5,::2,3``)."""

from __future__ import annotations

import operator
from typing import Any


def slice_of(index: Any, shape: tuple[int, ...]) -> tuple[str, tuple[slice, ...]]:
    """Say an index in the service's grammar.

    Parameters
    ----------
    index
        What stood in the brackets: integers, slices and one ``...``, for each axis from the first.
    shape
        Of the array.

    Returns
    -------
    str
        What to ask for: steps are positive.
    tuple of slice
        What to do to the answer, for each axis that it has: the axes of negative steps are turned round.

    Raises
    ------
    IndexError
        If there is no such entry, or the index is of another kind.
    """
    asked, turns = [], []
    for part, size, axis in zip(_for_each_axis(index, shape), shape, range(len(shape)), strict=True):
        if isinstance(part, slice):
            entries = range(*part.indices(size))
            asked.append(_text(entries))
            turns.append(slice(None, None, -1) if entries.step < 0 else slice(None))
            continue
        position = operator.index(part)
        if not -size <= position < size:
            raise IndexError(f"index {position} is outside axis {axis} of size {size}")
        asked.append(str(position % size))
    return ",".join(asked), tuple(turns)


def _for_each_axis(index: Any, shape: tuple[int, ...]) -> list[Any]:
    parts = list(index) if isinstance(index, tuple) else [index]
    for part in parts:
        is_number = (
            hasattr(part, "__index__") and not isinstance(part, bool) and not getattr(part, "shape", ())
        )
        if not (isinstance(part, slice) or part is Ellipsis or is_number):
            raise IndexError(
                f"an array of the service is indexed by integers, slices and '...'; got {part!r}. Read what you need "
                "and index the result, or choose by label: array.sel(trial=[3, 5])"
            )
    whole_axes = len(shape) - sum(part is not Ellipsis for part in parts)
    if whole_axes < 0:
        raise IndexError(f"{len(parts)} indices were given for an array of {len(shape)} axes, {list(shape)}")
    ellipses = [place for place, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index has at most one '...'")
    place = ellipses[0] if ellipses else len(parts)
    return [*parts[:place], *[slice(None)] * whole_axes, *parts[place + 1 :]]


def _text(entries: range) -> str:
    if not entries:
        return "0:0"
    lowest, highest = min(entries[0], entries[-1]), max(entries[0], entries[-1])
    step = abs(entries.step)
    return f"{lowest}:{highest + 1}" + (f":{step}" if step != 1 else "")
