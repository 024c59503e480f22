"""Online inference: read spikes from the body, check them, call the worker, and format the latents."""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from api.dependencies import Context
from api.errors import Invalid, Unavailable, UnsupportedMediaType, WrongState
from api.inferences.checks import check_arrays, check_bins, check_neurons
from api.inferences.schemas import OnlineOptions, OnlineRequest
from api.models.service import TrainedModel, choose_session, find_trained
from api.validation_errors import FieldProblem, read_json, read_model
from domain.latents import LATENTS
from store.rpc import CallFailed, WorkersAway, call_worker, pack_array, unpack_array
from store.settings import Settings

_MESSAGE_LENGTH = 300
_MOST_SPIKES = int(np.iinfo(np.int16).max)
"""Maximum number of spikes in a bin."""


class Body:
    """The validated body of a request.

    Attributes
    ----------
    options
        The options of the inference.
    spikes
        uint8 or int16, [trials, bins, neurons].
    external_inputs
        float32, [trials, bins, inputs], or None.
    trial_length_bins
        Length of each trial.
    is_one_trial
        Whether the client sent a single trial, without the axis of trials.
    """

    def __init__(
        self, options: OnlineOptions, spikes: NDArray[Any], lengths: list[int] | None, external_inputs: Any
    ) -> None:
        self.options = options
        self.is_one_trial = spikes.ndim == 2
        self.spikes = _checked_counts(_three_axes(spikes, "/spikes", "neurons"))
        trials, bins, _ = self.spikes.shape
        self.trial_length_bins = [bins] * trials if lengths is None else lengths
        if len(self.trial_length_bins) != trials or max(self.trial_length_bins) > bins:
            message = (
                f"expected one number in 1 … {bins} for each of {trials} trials; got {str(lengths)[:100]}"
            )
            raise Invalid.field("/trial_length_bins", "trial_length_bins", message)
        self.external_inputs: NDArray[np.float32] | None = None
        if external_inputs is not None:
            given = _three_axes(_as_array(external_inputs, "/external_inputs"), "/external_inputs", "inputs")
            if given.shape[:2] != (trials, bins) or not bool(np.isfinite(given).all()):
                message = (
                    f"expected finite numbers for {trials} trials × {bins} bins; got {_shape_text(given)}"
                )
                raise Invalid.field("/external_inputs", "external_inputs", message)
            self.external_inputs = given.astype(np.float32)


def read_body(content_type: str, body: bytes, query: dict[str, Any]) -> Body:
    """Return the validated body of a request.

    Parameters
    ----------
    content_type, body
        The media type and the bytes.
    query
        The options in the query, which override those in a JSON document.

    Raises
    ------
    Invalid, UnsupportedMediaType, RequestValidationError
        If the body is invalid.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        given = read_json(
            body,
            lambda reason: Invalid.field("", "json_invalid", f"expected JSON; {reason}"),
            most_values=None,
        )
        merged = {**given, **query} if isinstance(given, dict) else given
        wanted = read_model(OnlineRequest, merged, body=given)
        return Body(
            wanted, _as_array(wanted.spikes, "/spikes"), wanted.trial_length_bins, wanted.external_inputs
        )
    if kind in ("application/x-npy", "application/octet-stream"):
        return Body(read_model(OnlineOptions, query), _read_npy(body), None, None)
    raise UnsupportedMediaType(
        f"expected the Content-Type application/json or application/x-npy; got {kind or 'none'}",
        hint="add the header Content-Type",
    )


def _read_npy(body: bytes) -> NDArray[Any]:
    """Return the array in an npy body. It never unpickles objects, and shares the memory of the body."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = read[version](file)
        size = math.prod(shape)
        if dtype.kind not in "uif" or size * dtype.itemsize != len(body) - file.tell():
            raise ValueError(f"{size} numbers of {dtype} in {len(body) - file.tell()} bytes")
        if any(isinstance(length, bool) or length < 0 for length in shape):
            raise ValueError(f"the shape {shape}")
        values = np.frombuffer(body, dtype, size, file.tell())
        return values.reshape(shape[::-1]).T if is_fortran else values.reshape(shape)
    except Exception as error:  # NumPy parses the header as Python, which fails in many ways
        message = f"expected an array of numbers written by numpy.save; got {error or type(error).__name__}"
        raise Invalid.field("", "npy", message[:_MESSAGE_LENGTH]) from None


def _as_array(values: list[Any], pointer: str) -> NDArray[Any]:
    try:
        if not all(isinstance(item, list) for item in values):
            raise ValueError("numbers beside or in place of lists")
        # One array for each trial: a single conversion of the whole list would stop all other threads for its whole duration.
        found = np.stack([np.asarray(item) for item in values]) if values else np.asarray(values)
    except (ValueError, OverflowError):
        found = np.empty(0, object)
    if found.dtype.kind not in "uif":
        message = "expected nested lists of numbers with rows of equal length; got something else"
        raise Invalid.field(pointer, "numbers", message, "pad short trials")
    return found


def _three_axes(values: NDArray[Any], pointer: str, last: str) -> NDArray[Any]:
    whole = values[None] if values.ndim == 2 else values
    if whole.ndim != 3 or whole.size == 0:
        message = f"expected trials × bins × {last}, or bins × {last} of one trial; got {_shape_text(values)}"
        raise Invalid.field(pointer, "shape", message)
    return whole


def _checked_counts(spikes: NDArray[Any]) -> NDArray[Any]:
    is_whole = spikes.dtype.kind != "f" or bool((spikes == np.rint(spikes)).all())
    least, most = spikes.min(), spikes.max()
    if not is_whole or least < 0 or most > _MOST_SPIKES:
        got = f"{least} … {most}" if is_whole else "numbers that are not whole"
        raise Invalid.field(
            "/spikes",
            "counts",
            f"expected whole numbers in 0 … {_MOST_SPIKES}; got {got}",
            "send raw spike counts in bins of the model's width: not smoothed, and not in spikes/s",
        )
    return spikes.astype(np.uint8 if most <= np.iinfo(np.uint8).max else np.int16)


def _shape_text(values: NDArray[Any]) -> str:
    return "an array of " + (" × ".join(str(size) for size in values.shape) or "no axis")


@dataclass(frozen=True)
class Latents:
    """Latents by name, float32, and the parameters of the inference."""

    arrays: dict[str, NDArray[np.float32]]
    about: dict[str, Any]
    is_one_trial: bool

    def json(self, most_elements: int) -> bytes:
        """Return the JSON of an `OnlineLatents` document.

        Raises
        ------
        Invalid
            If it would have more than `most_elements` numbers.
        """
        elements = sum(values.size for values in self.arrays.values())
        if elements > most_elements:
            raise Invalid(
                f"the response would have {elements} numbers; JSON allows at most {most_elements}",
                hint="use format=npz, request fewer arrays, or send fewer trials",
            )
        arrays = {
            name: {
                "dims": LATENTS[name].dims()[1:] if self.is_one_trial else LATENTS[name].dims(),
                "units": LATENTS[name].units,
                "shape": values.shape,
                "values": values,
            }
            for name, values in self.arrays.items()
        }
        return orjson.dumps({**self.about, "arrays": arrays}, option=orjson.OPT_SERIALIZE_NUMPY)

    def npz(self) -> bytes:
        """Return an npz archive with the latents and the parameters of the inference."""
        file = io.BytesIO()
        members: dict[str, Any] = {**self.arrays, **self.about}
        np.savez(file, **members)
        return file.getvalue()


def infer(context: Context, model_id: str, body: Body) -> Latents:
    """Call the worker, and wait for the latents.

    Raises
    ------
    NotFound, WrongState, Invalid, Unavailable
        If the request is impossible, or no worker responds.
    """
    settings = context.settings
    with context.database.read() as session:
        model = find_trained(session, context.tenant_id, model_id)
    number = choose_session(model, body.options.session)
    Invalid.check(_problems(model, number, body, settings))
    options, row = body.options, model.row
    samples = options.posterior_samples or model.specification.inference.posterior_samples
    seed = row.seed + number if options.seed is None else options.seed
    found = _call(
        {
            "checkpoint_key": model.checkpoint_key,
            "architecture": model.architecture,
            "neurons": [one.neurons for one in model.sessions],
            "session": number,
            "spikes": pack_array(body.spikes),
            "trial_length_bins": body.trial_length_bins,
            "external_inputs": None if body.external_inputs is None else pack_array(body.external_inputs),
            "posterior_samples": samples,
            "seed": seed,
            "first_trial": options.first_trial,
            "arrays": options.arrays,
            "seconds": settings.infer_seconds,
        },
        settings,
        model_id,
    )
    bin_width_s = float(model.dataset.bin_width_s or 0)
    arrays = {name: unpack_array(packed) for name, packed in found.items()}
    if "rates" in arrays:
        arrays["rates"] = arrays["rates"] / np.float32(bin_width_s)
    if body.is_one_trial:
        arrays = {name: values[0] for name, values in arrays.items()}
    about = {
        "model_id": model_id,
        "bin_width_s": bin_width_s,
        "posterior_samples": samples,
        "seed": seed,
        "first_trial": options.first_trial,
    }
    return Latents(arrays, about, body.is_one_trial)


def _problems(model: TrainedModel, number: int, body: Body, settings: Settings) -> list[FieldProblem]:
    trials, bins, neurons = body.spikes.shape
    found = check_neurons(model, number, neurons, "/spikes", "the last axis")
    found += check_bins(model, bins, "/spikes")
    found += check_arrays(model, body.options.arrays)
    if trials > settings.infer_max_trials:
        found.append(
            FieldProblem(
                pointer="/spikes",
                code="too_many_trials",
                message=f"expected at most {settings.infer_max_trials} trials; got {trials}",
                hint="send several requests, or make a data set and POST …:apply; the operator of this service can raise "
                "LATENTRY_INFER_MAX_TRIALS",
            )
        )
    read = int(model.architecture.get("external_inputs", 0))
    given = 0 if body.external_inputs is None else body.external_inputs.shape[2]
    if read != given:
        found.append(
            FieldProblem(
                pointer="/external_inputs",
                code="external_inputs",
                message=f"expected {read} external inputs, like the training data of the model; got {given}",
                hint="use a JSON body: it has a field for external inputs" if not given else None,
            )
        )
    return found


def _call(arguments: dict[str, Any], settings: Settings, model_id: str) -> dict[str, Any]:
    try:
        return call_worker("infer_now", arguments, timeout_s=settings.infer_seconds)
    except WorkersAway as error:
        raise Unavailable(
            str(error),
            hint="online inference needs the broker and a worker of the queue `infer`: `latentry up` starts one; in a deployment "
            "it is the service `infer`. POST …:apply works without it",
            headers={"Retry-After": "5"},
        ) from error
    except CallFailed as error:
        if error.code == "no_weights":
            raise WrongState(
                f"the model {model_id} has no weights any more: the service has just deleted them"
            ) from error
        if error.code == "refused":
            raise Invalid(error.message) from error
        if error.code == "too_slow":
            raise Unavailable(
                f"the inference took longer than {settings.infer_seconds:g} s",
                hint="send fewer trials, or set fewer posterior_samples; POST …:apply has no time limit",
                headers={"Retry-After": "5"},
            ) from error
        raise
