"""Models as programs: the same latents as inference at the posterior's means, for any number of trials and bins."""

import dataclasses
import io
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from domain.latents import LATENTS
from domain.parameter_shapes import parameter_shapes
from models import Architecture, ConfigurationError, Latents, infer_latents
from models.program import PosteriorMeans, least_bins, onnx_program, torch_program

ARCHITECTURE = Architecture(neurons=4, encoder_units=6, initial_condition_dim=3, generator_units=8, factors=3)
CONTROLLER: dict[str, Any] = {"controller_units": 5, "controller_encoder_units": 4, "inferred_inputs": 2}
PLACES: dict[str, Any] = {"initial_condition_bins": 2, "encoded_bins": 6, "held_out_neurons": (1,)}
BINS, BIN_WIDTH_S = 9, 0.02


def weights(architecture: Architecture) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = parameter_shapes(architecture)
    return {name: 0.3 * torch.randn(shape, generator=random) for name, shape in shapes.items()}


def model(session: int = 0, **changes: Any) -> PosteriorMeans:
    architecture = dataclasses.replace(ARCHITECTURE, **changes)
    return PosteriorMeans(architecture, weights(architecture), BIN_WIDTH_S, session)


def data(model: PosteriorMeans, trials: int, bins: int) -> list[NDArray[np.float32]]:
    """Spikes, and external inputs where the model has them."""
    random = np.random.default_rng(0)
    neurons, external = (
        model.architecture.session_neurons[model.session],
        model.architecture.external_inputs,
    )
    spikes = random.poisson(0.7, (trials, bins, neurons)).astype(np.float32)
    inputs = random.normal(size=(trials, bins, external)).astype(np.float32)
    return [spikes, inputs] if external else [spikes]


def at_the_means(
    monkeypatch: pytest.MonkeyPatch, model: PosteriorMeans, given: list[NDArray[np.float32]]
) -> Latents:
    """What `infer_latents` gives when its one draw is the mean."""
    trials, bins, _ = given[0].shape
    state = {f"best.{name}": values for name, values in weights(model.architecture).items()}
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn", lambda shape, generator: torch.zeros(shape))
        return infer_latents(
            model.architecture,
            state,
            given[0].astype(np.uint8),
            np.full(trials, bins),
            external_inputs=given[1] if len(given) > 1 else None,
            session=model.session,
            posterior_samples=1,
        )


def assert_equal(found: dict[str, Any], expected: Latents) -> None:
    assert set(found) == {name for name in LATENTS if getattr(expected, name) is not None}
    for name, values in found.items():
        wanted = getattr(expected, name) / (BIN_WIDTH_S if name == "rates" else 1)
        assert np.isfinite(wanted).any()
        np.testing.assert_allclose(np.asarray(values), wanted, rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"external_inputs": 2},
        CONTROLLER | {"external_inputs": 2, "observation": "negative_binomial"},
        CONTROLLER | PLACES,
        CONTROLLER | {"neurons": (3, 4), "read_in_dim": 2, "session": 1},
        {"observation": "gaussian"},
    ],
)
def test_latents_are_those_of_inference(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    made = model(**changes)
    given = data(made, 5, BINS)
    with torch.inference_mode():
        found = made(*map(torch.from_numpy, given))
    assert_equal(found, at_the_means(monkeypatch, made, given))


def test_a_program_of_torch_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(**CONTROLLER, **PLACES, external_inputs=2)
    assert least_bins(made.architecture) is None
    program = torch.export.load(io.BytesIO(torch_program(made, BINS))).module()
    for trials in (1, 7):
        given = data(made, trials, BINS)
        assert_equal(program(*map(torch.from_numpy, given)), at_the_means(monkeypatch, made, given))
    with pytest.raises(AssertionError, match="Guard failed"):
        program(*map(torch.from_numpy, data(made, 2, BINS + 1)))


@pytest.mark.slow
def test_a_program_of_onnx_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(**PLACES, external_inputs=2)
    least = least_bins(made.architecture)
    assert least is not None
    running = onnxruntime.InferenceSession(onnx_program(made, BINS))
    names = [output.name for output in running.get_outputs()]
    for trials, bins in ((1, least), (5, 40)):
        named = dict(zip(("spikes", "external_inputs"), given := data(made, trials, bins), strict=True))
        found = dict(zip(names, running.run(None, named), strict=True))
        assert_equal(found, at_the_means(monkeypatch, made, given))


def test_what_does_not_fit_is_refused() -> None:
    given = weights(ARCHITECTURE)
    with pytest.raises(ConfigurationError, match="session must lie in 0 … 0"):
        PosteriorMeans(ARCHITECTURE, given, BIN_WIDTH_S, session=1)
    with pytest.raises(ConfigurationError, match=r"lacks 'factors\.weight'"):
        PosteriorMeans(ARCHITECTURE, {k: v for k, v in given.items() if k != "factors.weight"}, BIN_WIDTH_S)
    with pytest.raises(ConfigurationError, match="has shape"):
        PosteriorMeans(dataclasses.replace(ARCHITECTURE, factors=2), given, BIN_WIDTH_S)
