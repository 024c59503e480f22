"""Spikes in the body of a request: JSON, or an array as NumPy writes it."""

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.datasets.options import read_json, read_model
from api.errors import Invalid, UnsupportedMediaType
from api.inferences.online_schemas import NowOptions, NowRequest
from api.validation_errors import FieldProblem

_MOST_SPIKES = int(np.iinfo(np.int16).max)
"""In one bin."""


class Body:
    """What was asked for.

    Attributes
    ----------
    options
        How latents are inferred.
    spikes
        uint8 or int16, [trials, bins, neurons].
    external_inputs
        float32, [trials, bins, inputs]; None where none came.
    trial_length_bins
        Of each trial.
    is_one_trial
        Whether it came without the axis of trials.
    """

    def __init__(
        self, options: NowOptions, spikes: NDArray[Any], lengths: list[int] | None, external_inputs: Any
    ) -> None:
        self.options = options
        self.is_one_trial = spikes.ndim == 2
        self.spikes = _checked_counts(_three_axes(spikes, "/spikes", "neurons"))
        trials, bins, _ = self.spikes.shape
        self.trial_length_bins = [bins] * trials if lengths is None else lengths
        if len(self.trial_length_bins) != trials or max(self.trial_length_bins) > bins:
            raise _invalid(
                "/trial_length_bins",
                "trial_length_bins",
                f"expected {trials} numbers in 1 … {bins}, as many as trials; got {str(lengths)[:100]}",
            )
        self.external_inputs: NDArray[np.float32] | None = None
        if external_inputs is not None:
            given = _three_axes(_as_array(external_inputs, "/external_inputs"), "/external_inputs", "inputs")
            if given.shape[:2] != (trials, bins) or not bool(np.isfinite(given).all()):
                raise _invalid(
                    "/external_inputs",
                    "external_inputs",
                    f"expected finite numbers of {trials} trials × {bins} bins; got {_told(given)}",
                )
            self.external_inputs = given.astype(np.float32)


def read_body(content_type: str, body: bytes, query: dict[str, Any]) -> Body:
    """Read the body of a request.

    Parameters
    ----------
    query
        What the query says of the options; it goes before the document.

    Raises
    ------
    Invalid, UnsupportedMediaType, RequestValidationError
        If it is none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":

        def refuse(reason: str) -> Invalid:
            return _invalid("", "json_invalid", f"expected JSON; {reason}")

        came = read_json(body, refuse)
        wanted = read_model(NowRequest, {**came, **query} if isinstance(came, dict) else came, whole=came)
        return Body(
            wanted, _as_array(wanted.spikes, "/spikes"), wanted.trial_length_bins, wanted.external_inputs
        )
    if kind in ("application/x-npy", "application/octet-stream"):
        return Body(read_model(NowOptions, query), _read_npy(body), None, None)
    raise UnsupportedMediaType(
        f"expected application/json or application/x-npy; it came as {kind or 'no type'}",
        hint="add the header Content-Type",
    )


def _read_npy(body: bytes) -> NDArray[Any]:
    """An array of numbers: nothing is unpickled, and no more memory is taken than the body has."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = read[version](file)
        size = math.prod(shape)
        if dtype.kind not in "uif" or size * dtype.itemsize != len(body) - file.tell():
            raise ValueError(f"{size} numbers of {dtype} in {len(body) - file.tell()} bytes")
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise _invalid(
            "", "npy", f"expected an array of numbers as numpy.save writes it; got {error}"
        ) from None
    values = np.frombuffer(body, dtype, size, file.tell())
    return values.reshape(shape[::-1]).T if is_fortran else values.reshape(shape)


def _as_array(values: list[Any], pointer: str) -> NDArray[Any]:
    try:
        found = np.asarray(values)
    except (ValueError, OverflowError):
        found = np.empty(0, object)
    if found.dtype.kind not in "uif":
        raise _invalid(
            pointer,
            "numbers",
            "expected nested lists of numbers, all rows equally long; got others",
            "pad short trials",
        )
    return found


def _three_axes(values: NDArray[Any], pointer: str, last: str) -> NDArray[Any]:
    whole = values[None] if values.ndim == 2 else values
    if whole.ndim != 3 or whole.size == 0:
        raise _invalid(
            pointer,
            "shape",
            f"expected trials × bins × {last}, or bins × {last} of one trial; got {_told(values)}",
        )
    return whole


def _checked_counts(spikes: NDArray[Any]) -> NDArray[Any]:
    is_whole = spikes.dtype.kind != "f" or bool((spikes == np.rint(spikes)).all())
    least, most = spikes.min(), spikes.max()
    if not is_whole or least < 0 or most > _MOST_SPIKES:
        got = f"{least} … {most}" if is_whole else "some that are not whole"
        raise _invalid(
            "/spikes",
            "counts",
            f"expected whole numbers in 0 … {_MOST_SPIKES}; got {got}",
            "spikes are counted in bins as wide as the model's, neither smoothed nor in spikes/s",
        )
    return spikes.astype(np.uint8 if most <= np.iinfo(np.uint8).max else np.int16)


def _told(values: NDArray[Any]) -> str:
    return "an array of " + (" × ".join(str(size) for size in values.shape) or "no axis")


def _invalid(pointer: str, code: str, message: str, hint: str | None = None) -> Invalid:
    problem = FieldProblem(pointer=pointer, code=code, message=message, hint=hint)
    return Invalid(f"{pointer or 'the body'}: {message}", hint=hint, errors=[problem])
