"""Write the parameters of a request for an array as the service reads them: slices, labels, conditions, formats."""

from __future__ import annotations

import difflib
import io
import json
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentry.documents import Document

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

BY_ENDING = {
    ".npy": "npy", ".npz": "npz", ".json": "json", ".csv": "csv", ".arrow": "arrow", ".arrows": "arrow",
    ".parquet": "parquet", ".h5": "hdf5", ".hdf5": "hdf5", ".mat": "mat", ".nwb": "nwb", ".zip": "zarr",
}  # fmt: skip
"""Formats of downloaded files, by the ending of their names."""

Where = str | Sequence[str] | Mapping[str, Any] | None
"""Conditions on the metadata of trials, all of which must hold: ``"condition:in:3,4"``, a list of such texts, or
``{"condition": [3, 4]}``."""

Label = Any
"""Labels to take along a dim: a number or a text, a list of them, or a ``slice`` of labels (``slice(0.1, 0.4)``)."""


def parameters_of(where: Where = None, **asked: Any) -> Document:
    """Return the parameters of a request; those that are None are left out.

    Parameters
    ----------
    where
        Conditions on trials.
    asked
        All other parameters:
        ``split=["train", "valid"]``, ``window_s=(-0.1, 0.4)``, ``time_s=slice(0.1, 0.4)``, ``smooth_s=0.05``.

    Raises
    ------
    ValueError
        If a window is not a pair, or a range of labels has a step.
    """
    if (window := asked.get("window_s")) is not None and not isinstance(window, str):
        asked["window_s"] = _window(window)
    texts = {name: label_text(value) for name, value in asked.items() if value is not None}
    return {**texts, **({"where": where_texts(where)} if where else {})}


def check_spelling(labels: Iterable[str], parameters: Iterable[str]) -> None:
    """Raise `TypeError` if a label is spelt nearly as a parameter."""
    for label in labels:
        if likely := difflib.get_close_matches(label, parameters, 1, 0.8):
            raise TypeError(
                f"{label!r} is not a parameter: did you mean {likely[0]}? Metadata of that name: where={{{label!r}: …}}"
            )


def _window(window: Any) -> slice:
    if isinstance(window, slice):
        return window
    try:
        first, last = window
    except (TypeError, ValueError):
        raise ValueError(
            f"window_s: expected the first and the last time, such as (-0.1, 0.4); got {window!r}"
        ) from None
    return slice(first, last)


def label_text(label: Label) -> str:
    """Return a label, a list of labels or a range of labels as text: ``3``, ``3,5``, ``0.1:0.4``.

    Raises
    ------
    ValueError
        If a range has a step.
    """
    if isinstance(label, slice):
        if label.step is not None:
            raise ValueError(f"expected a range of labels without a step; got the step {label.step!r}")
        return f"{_one(label.start)}:{_one(label.stop)}"
    if isinstance(label, str | Mapping) or not hasattr(label, "__iter__"):
        return _one(label)
    return ",".join(_one(item) for item in label)


def where_texts(where: Where) -> list[str]:
    """Return conditions in the service's grammar: ``name:operator:values``."""
    if where is None:
        return []
    if isinstance(where, str):
        return [where]
    if isinstance(where, Mapping):
        return [_condition(name, wanted) for name, wanted in where.items()]
    return list(where)


def infer_request(spikes: ArrayLike, asked: Document, further: Mapping[str, ArrayLike]) -> Document:
    """Return the arguments of a request that sends spikes: as npy, or as JSON if further arrays are sent."""
    import numpy as np

    given = {name: value for name, value in asked.items() if value is not None}
    if further:
        lists = {name: np.asarray(values).tolist() for name, values in further.items()}
        body = {**given, "spikes": np.asarray(spikes).tolist(), **lists}
        return {"json": body, "params": {"format": "npz"}}
    counts = np.asarray(spikes)
    if counts.dtype.kind == "f" and bool((counts == np.round(counts)).all()):
        counts = counts.astype(np.int64)  # whole numbers are often stored as floats
    file = io.BytesIO()
    np.save(file, counts, allow_pickle=False)
    headers = {"Content-Type": "application/x-npy"}
    return {"content": file.getvalue(), "params": {**given, "format": "npz"}, "headers": headers}


def _condition(name: str, wanted: Any) -> str:
    quoted = name if re.fullmatch(r"\w[\w.-]*", name) else json.dumps(name, ensure_ascii=False)
    if isinstance(wanted, slice):
        ends = [("ge", wanted.start), ("le", wanted.stop)]
        known = [(operator, _value(end)) for operator, end in ends if end is not None]
        if len(known) == 2:
            return f"{quoted}:between:{known[0][1]},{known[1][1]}"
        return f"{quoted}:{known[0][0]}:{known[0][1]}" if known else f"{quoted}:exists"
    if isinstance(wanted, str) or not hasattr(wanted, "__iter__"):
        return f"{quoted}:eq:{_value(wanted)}"
    return f"{quoted}:in:{','.join(_value(one) for one in wanted)}"


def _value(value: Any) -> str:
    """Return a value of a condition; text is quoted, so that the service does not read it as something else."""
    plain = value.item() if hasattr(value, "item") else value
    if plain is None:
        return "null"
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, str) else _one(plain)


def _one(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping) and "id" in value:
        return str(value["id"])  # a model, as of rotate_to
    plain = value.item() if hasattr(value, "item") else value
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def slice_of(index: Any, shape: tuple[int, ...]) -> tuple[str, tuple[slice, ...]]:
    """Return a basic index of NumPy in the slice grammar of the service (``0:5,::2,3``).

    Parameters
    ----------
    index
        The index: integers, slices and one ``...``, for each axis from the first.
    shape
        Shape of the array.

    Returns
    -------
    str
        The slice to request, in which all steps are positive.
    tuple of slice
        The index to apply to the answer: it reverses the axes of negative steps.

    Raises
    ------
    IndexError
        If an entry does not exist, or the index is of another kind.
    """
    asked, turns = [], []
    for part, size, axis in zip(_for_each_axis(index, shape), shape, range(len(shape)), strict=True):
        if isinstance(part, slice):
            entries = range(*part.indices(size))
            asked.append(_slice_text(entries))
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
                "and index the result, or select by label: array.sel(trial=[3, 5])"
            )
    whole_axes = len(shape) - sum(part is not Ellipsis for part in parts)
    if whole_axes < 0:
        raise IndexError(f"{len(parts)} indices were given for an array of {len(shape)} axes, {list(shape)}")
    ellipses = [place for place, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index has at most one '...'")
    place = ellipses[0] if ellipses else len(parts)
    return [*parts[:place], *[slice(None)] * whole_axes, *parts[place + 1 :]]


def _slice_text(entries: range) -> str:
    if not entries:
        return "0:0"
    lowest, highest = min(entries[0], entries[-1]), max(entries[0], entries[-1])
    step = abs(entries.step)
    return f"{lowest}:{highest + 1}" + (f":{step}" if step != 1 else "")


def format_of(path: str | Path, otherwise: str) -> str:
    """Return the format for the ending of a file's name; `otherwise` for folders and other names."""
    path = Path(path)
    return otherwise if path.is_dir() else BY_ENDING.get(path.suffix, otherwise)
