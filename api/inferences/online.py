"""Latents of a few trials at once: what is checked, asked of the worker, and answered."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from api.errors import Invalid, Unavailable, WrongState
from api.inferences.checks import (
    TrainedModel,
    check_arrays,
    check_bins,
    check_neurons,
    choose_session,
    find_trained,
    refuse,
)
from api.inferences.online_body import Body
from api.validation_errors import FieldProblem
from domain.latents import LATENTS
from store.database import Database
from store.rpc import CallFailed, WorkersAway, call_worker, pack_array, unpack_array
from store.settings import Settings


@dataclass(frozen=True)
class Found:
    """Latents by name, float32, and how they were inferred."""

    arrays: dict[str, NDArray[np.float32]]
    about: dict[str, Any]
    is_one_trial: bool

    def json(self, most_elements: int) -> bytes:
        """As a `NowAnswer`.

        Raises
        ------
        Invalid
            If there are more numbers than that.
        """
        elements = sum(values.size for values in self.arrays.values())
        if elements > most_elements:
            raise Invalid(
                f"the answer has {elements} numbers; JSON answers at most {most_elements}",
                hint="ask for format=npz, for fewer arrays, or send fewer trials",
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
        """As NumPy's archive: latents, and how they were inferred, each under its name."""
        file = io.BytesIO()
        members: dict[str, Any] = {**self.arrays, **self.about}
        np.savez(file, **members)
        return file.getvalue()


def infer(database: Database, settings: Settings, tenant_id: str, model_id: str, body: Body) -> Found:
    """Have a worker infer latents now.

    Raises
    ------
    NotFound, WrongState, Invalid, Unavailable
        If it can't be done, or no worker answers.
    """
    with database.read() as session:
        model = find_trained(session, tenant_id, model_id)
    number = choose_session(model, body.options.session)
    refuse(_problems(model, number, body, settings))
    options, row = body.options, model.row
    samples = options.posterior_samples or model.specification.inference.posterior_samples
    seed = row.seed + number if options.seed is None else options.seed
    answer = _ask(
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
    arrays = {name: unpack_array(packed) for name, packed in answer.items()}
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
    return Found(arrays, about, body.is_one_trial)


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
                hint="send them in parts, or make a data set of them and POST …:apply; whoever runs this service may raise "
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
                message=f"expected {read} external inputs, which the model reads; got {given}",
                hint="send JSON: it has a field for them" if not given else None,
            )
        )
    return found


def _ask(arguments: dict[str, Any], settings: Settings, model_id: str) -> dict[str, Any]:
    try:
        return call_worker("infer_now", arguments, timeout_s=settings.infer_seconds)
    except WorkersAway as error:
        raise Unavailable(
            str(error),
            hint="the service needs its broker, and a process that answers at once: `latentry up` starts one, in a deployment it "
            "is the service `infer`; POST …:apply needs neither at once",
            headers={"Retry-After": "5"},
        ) from error
    except CallFailed as error:
        if error.code == "no_weights":
            raise WrongState(
                f"the model {model_id} has no weights any more: they were dropped this moment"
            ) from error
        if error.code == "refused":
            raise Invalid(error.message) from error
        if error.code == "too_slow":
            raise Unavailable(
                f"this took longer than {settings.infer_seconds:g} s",
                hint="send fewer trials, or ask for fewer posterior_samples; POST …:apply takes its time",
                headers={"Retry-After": "5"},
            ) from error
        raise
