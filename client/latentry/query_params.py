"""The parameters of a question to an array, as the service reads them."""

from __future__ import annotations

import difflib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from latentry.documents import Document

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Where = str | Sequence[str] | Mapping[str, Any] | None
"""Conditions on the metadata of trials, all to hold: ``"condition:in:3,4"``, several of those, or ``{"condition": [3, 4]}``."""

Label = Any
"""What to take along a dim: a number or text, a list of them, or a ``slice`` of labels (``slice(0.1, 0.4)``)."""


def parameters_of(where: Where = None, **asked: Any) -> Document:
    """Say a whole question: conditions as `where`, all else as labels; None is left out.

    Parameters
    ----------
    where
        Conditions on trials.
    asked
        E.g. ``split=["train", "valid"]``, ``window_s=(-0.1, 0.4)``, ``time_s=slice(0.1, 0.4)``, ``smooth_s=0.05``.

    Raises
    ------
    ValueError
        If a window is no pair, or a range of labels has a step.
    """
    if (window := asked.get("window_s")) is not None and not isinstance(window, str):
        asked["window_s"] = _window(window)
    said = {name: label_text(value) for name, value in asked.items() if value is not None}
    return {**said, **({"where": where_texts(where)} if where else {})}


def check_spelling(labels: Iterable[str], parameters: Iterable[str]) -> None:
    """Refuse labels that are probably parameters.

    Raises
    ------
    TypeError
        If one is spelt nearly as a parameter.
    """
    for label in labels:
        if likely := difflib.get_close_matches(label, parameters, 1, 0.8):
            raise TypeError(
                f"{label!r} is no parameter: did you mean {likely[0]}? Metadata of that name: where={{{label!r}: …}}"
            )


def _window(window: Any) -> slice:
    if isinstance(window, slice):
        return window
    try:
        first, last = window
    except (TypeError, ValueError):
        raise ValueError(
            f"window_s: expected from when to when, such as (-0.1, 0.4); got {window!r}"
        ) from None
    return slice(first, last)


def label_text(label: Label) -> str:
    """Say a label, a list of labels, or a range of them: ``3``, ``3,5``, ``0.1:0.4``.

    Raises
    ------
    ValueError
        If it is a range with a step.
    """
    if isinstance(label, slice):
        if label.step is not None:
            raise ValueError(f"a range of labels has no step; got {label.step!r}")
        return f"{_one(label.start)}:{_one(label.stop)}"
    if isinstance(label, str | Mapping) or not hasattr(label, "__iter__"):
        return _one(label)
    return ",".join(_one(item) for item in label)


def where_texts(where: Where) -> list[str]:
    """Say conditions in the service's grammar: ``name:operator:values``."""
    if where is None:
        return []
    if isinstance(where, str):
        return [where]
    if isinstance(where, Mapping):
        return [_condition(name, wanted) for name, wanted in where.items()]
    return list(where)


def infer_request(spikes: ArrayLike, asked: Document, further: Mapping[str, ArrayLike]) -> Document:
    """Arguments of a request that sends spikes: as npy, or as JSON where more arrays go with them."""
    import numpy as np

    given = {name: value for name, value in asked.items() if value is not None}
    if further:
        lists = {name: np.asarray(values).tolist() for name, values in further.items()}
        body = {**given, "spikes": np.asarray(spikes).tolist(), **lists}
        return {"json": body, "params": {"format": "npz"}}
    counts = np.asarray(spikes)
    if counts.dtype.kind == "f" and bool((counts == np.round(counts)).all()):
        counts = counts.astype(np.int64)  # whole numbers that come as floats, as they often do
    file = io.BytesIO()
    np.save(file, counts, allow_pickle=False)
    headers = {"Content-Type": "application/x-npy"}
    return {"content": file.getvalue(), "params": {**given, "format": "npz"}, "headers": headers}


def _condition(name: str, wanted: Any) -> str:
    said = name if re.fullmatch(r"\w[\w.-]*", name) else json.dumps(name, ensure_ascii=False)
    if isinstance(wanted, slice):
        ends = [("ge", wanted.start), ("le", wanted.stop)]
        known = [(operator, _value(end)) for operator, end in ends if end is not None]
        if len(known) == 2:
            return f"{said}:between:{known[0][1]},{known[1][1]}"
        return f"{said}:{known[0][0]}:{known[0][1]}" if known else f"{said}:exists"
    if isinstance(wanted, str) or not hasattr(wanted, "__iter__"):
        return f"{said}:eq:{_value(wanted)}"
    return f"{said}:in:{','.join(_value(one) for one in wanted)}"


def _value(value: Any) -> str:
    """A value of a condition: text in quotes, so that it is taken for nothing else."""
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
