import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch

from domain.architecture import Architecture
from domain.parameter_shapes import parameter_shapes
from models.config import Hyperparameters
from models.data import Session, TrainingData, sample_validation_mask
from models.objective import (
    PackHyperparameters,
    draw_noise,
    training_loss,
)
from tests.models import reference

CPU = torch.device("cpu")
OFF = Architecture(neurons=4, encoder_units=3, initial_condition_dim=2, generator_units=5, factors=3)
CONTROLLER = {"controller_units": 4, "controller_encoder_units": 2, "inferred_inputs": 2}
WEIGHTS = {"kl_weight_initial_condition": 0.3, "kl_weight_inputs": 0.2}
HYPERPARAMETERS = [
    Hyperparameters(dropout=0.25, cd_rate=0.5, l2_weight_generator=0.7, l2_weight_controller=0.4, **WEIGHTS),
    Hyperparameters(dropout=0.0, cd_rate=0.0, l2_weight_generator=0.0, l2_weight_controller=0.9, **WEIGHTS),
    Hyperparameters(dropout=0.5, cd_rate=0.25, cd_pass_rate=0.5, kl_weight_inputs=0.02),
    Hyperparameters(dropout=0.125, cd_rate=0.75, cd_pass_rate=1.0, kl_weight_initial_condition=0.02),
    Hyperparameters(dropout=0.0, cd_rate=0.125, cd_pass_rate=0.25, **WEIGHTS),
]
SV_SEED, T, RAMP = 3, 7, 0.4
CHOSEN = ([2, 0, 3], [1, 0])  # trials in a batch; the last of each session is for validation


class Recording(NamedTuple):
    values: np.ndarray
    lengths: np.ndarray
    missing: np.ndarray
    external: np.ndarray | None


def recording(architecture, session, *, ragged, gaps, seed=5):
    """Four trials of the first session, three (of fewer bins) of the second."""
    random = np.random.default_rng(seed + session)
    trials, bins, neurons = 5 - session, T - session, architecture.session_neurons[session]
    shape = (trials, bins, neurons)
    if architecture.observation == "gaussian":
        values = random.normal(size=shape).astype(np.float32)
    elif architecture.observation == "zero_inflated_gamma":
        values = (random.gamma(2.0, size=shape) * (random.random(shape) < 0.6)).astype(np.float32)
    else:
        values = random.poisson(0.8, shape)
    lengths = np.array([bins, bins - 2, bins, bins - 1, bins][:trials]) if ragged else np.full(trials, bins)
    missing = random.random(shape) < (0.1 if gaps else 0.0)
    if gaps:
        missing[0, 3:5] = True  # in the middle
        missing[2, 0] = True  # the first bin
        missing[1, 1] = missing[3, bins - 2] = True
    X = architecture.external_inputs
    external = random.normal(size=(trials, bins, X)).astype(np.float32) if X else None
    return Recording(values, lengths, missing, external)


def training_data(architecture, recordings, sv_rate):
    sessions = [
        Session(r.values, r.lengths, np.arange(len(r.values)) == len(r.values) - 1, r.missing, r.external)
        for r in recordings
    ]
    return TrainingData(sessions, sv_rate=sv_rate, sv_seed=SV_SEED, observation=architecture.observation)


def double(value):
    """A batch, noise or the like in float64, exactly."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        items = [double(v) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if dataclasses.is_dataclass(value):
        fields = {f.name: double(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if fields.get("ln_factorials") is not None:
            fields["ln_factorials"] = torch.lgamma(fields["values"] + 1)
        return dataclasses.replace(value, **fields)
    return value


def pack_of(hyperparameters):
    names = (f.name for f in dataclasses.fields(PackHyperparameters))
    return PackHyperparameters(
        *(torch.tensor([getattr(h, n) for h in hyperparameters], dtype=torch.float64) for n in names)
    )


def stacked(models):
    return {name: torch.stack([model[name] for model in models]) for name in models[0]}


def losses_and_gradients(architecture, members, weights, batch, sv_rate):
    """Of a pack of some of the five models: every part [M] and every gradient [M, …]."""
    parameters = {name: v.requires_grad_() for name, v in stacked([weights[m] for m in members]).items()}
    hyper = pack_of([HYPERPARAMETERS[m] for m in members])
    noise = double(
        draw_noise(architecture, [10 + m for m in members], 4, 2, bins=T, trials=batch.trials, device=CPU)
    )
    loss = training_loss(architecture, parameters, hyper, batch, noise, sv_rate=sv_rate, ramp=RAMP)
    gradients = torch.autograd.grad(
        loss.total.sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return loss, dict(zip(parameters, gradients, strict=True)), noise


def expected_of(architecture, member, weights, recordings, chosen, noise, sv_rate):
    """The same for one model by the plain implementation; `noise` is that of the model alone."""
    sessions = []
    for number, (r, trials) in enumerate(zip(recordings, chosen, strict=True)):
        held_out = sample_validation_mask(r.values.shape, sv_rate, SV_SEED, number)
        sessions.append(
            reference.Trials(
                counts=torch.from_numpy(r.values[trials]).double(),
                lengths=r.lengths[trials].tolist(),
                missing=torch.from_numpy(r.missing[trials]),
                external=None if r.external is None else torch.from_numpy(r.external[trials]).double(),
                held_out=torch.from_numpy(held_out[trials]),
                uniform=((noise.coordinated[number][0].double() + 16384) / 32768).transpose(0, 1),
            )
        )
    normal_inputs = (
        torch.zeros(1, T, sum(map(len, chosen)), 0)
        if noise.posterior.inputs is None
        else noise.posterior.inputs
    )
    draws = reference.Draws(
        noise.posterior.initial_condition[0],
        normal_inputs[0].transpose(0, 1),
        ((noise.dropout[0].double() + 16384) / 32768).transpose(0, 1),
    )
    parameters = {name: v.clone().requires_grad_() for name, v in weights.items()}
    hyper = HYPERPARAMETERS[member]
    loss = reference.training_loss(architecture, parameters, hyper, sessions, draws, sv_rate, RAMP)
    gradients = torch.autograd.grad(
        loss.total, list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return loss, dict(zip(parameters, gradients, strict=True))


def without_gradient(architecture, chosen):
    """What no model of a pack can learn from; one model alone may also have drawn a mask that lets nothing in."""
    fixed = set() if architecture.learn_prior_variance else {"prior.log_variance"}
    if architecture.initial_condition_bins == 1:  # from a state of 0, over a single bin
        fixed.add("encoder.recurrent_weight")
    if not architecture.learn_input_prior:
        fixed |= {"input_prior.log_variance", "input_prior.log_time_constant"}
    if architecture.controller_lag_bins >= T:
        fixed |= {n for n in parameter_shapes(architecture) if n.startswith("controller_encoder.")}
    for session, trials in enumerate(chosen):
        if not trials:
            fixed |= {n for n in parameter_shapes(architecture) if n.startswith(f"session{session}.")}
    return fixed


def assert_same_everywhere(
    architecture, *, ragged, gaps, sv_rate=0.25, chosen=None, adjust=None, lengths=None
):
    chosen = [list(c) for c in chosen or CHOSEN[: len(architecture.session_neurons)]]
    recordings = [
        recording(architecture, s, ragged=ragged, gaps=gaps) for s in range(len(architecture.session_neurons))
    ]
    if lengths is not None:
        recordings[0] = recordings[0]._replace(lengths=np.array(lengths))
    weights = [reference.random_weights(architecture, 100 + m) for m in range(len(HYPERPARAMETERS))]
    for model in weights if adjust else ():
        adjust(model)
    assert parameter_shapes(architecture) == {name: tuple(v.shape) for name, v in weights[0].items()}
    data = training_data(architecture, recordings, sv_rate)
    batch = double(data.batch([torch.tensor(c, dtype=torch.int64) for c in chosen]))
    everyone, moved = range(len(HYPERPARAMETERS)), set()
    pack, pack_gradients, _ = losses_and_gradients(architecture, everyone, weights, batch, sv_rate)
    for m in everyone:
        single, single_gradients, noise = losses_and_gradients(architecture, [m], weights, batch, sv_rate)
        loss, gradients = expected_of(architecture, m, weights[m], recordings, chosen, noise, sv_rate)
        for ours, ours_gradients, place in ((single, single_gradients, 0), (pack, pack_gradients, m)):
            of = f"model {m} {'alone' if ours is single else 'of the pack'}: "
            for name in reference.Losses._fields:
                close(getattr(ours, name)[place], getattr(loss, name), of + name)
            for name, gradient in gradients.items():
                close(ours_gradients[name][place], gradient, of + name)
        moved |= {name for name, gradient in gradients.items() if gradient.any()}
    assert set(weights[0]) - moved == without_gradient(architecture, chosen) & set(weights[0])


def close(ours, theirs, name):
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11, msg=lambda text: f"{name}: {text}")


def on(**options):
    return OFF, CONTROLLER | options


def off(**options):
    return OFF, options


PLACES = {"controller_lag_bins": 2, "initial_condition_bins": 2, "encoded_bins": 5}
OPTIONS = {
    "off": off(),
    "off, external inputs": off(external_inputs=2),
    "off, prior's variance fixed": off(learn_prior_variance=False),
    "off, negative binomial": off(observation="negative_binomial"),
    "off, zero-inflated gamma": off(observation="zero_inflated_gamma"),
    "off, gaussian": off(observation="gaussian"),
    "off, read-in": off(read_in_dim=3),
    "off, two sessions": off(neurons=(4, 3), read_in_dim=2),
    "off, window": off(initial_condition_bins=2),
    "off, encoded bins": off(encoded_bins=5),
    "off, held-out neurons": off(held_out_neurons=(0, 2)),
    "off, places": off(initial_condition_bins=2, encoded_bins=5, held_out_neurons=(3,), external_inputs=1),
    "on, lag 0": on(controller_lag_bins=0),
    "on, lag 1": on(controller_lag_bins=1),
    "on, lag 2": on(controller_lag_bins=2),
    "on, lag beyond the trial": on(controller_lag_bins=9),
    "on, gaussian prior": on(input_prior="gaussian"),
    "on, gaussian prior fixed": on(input_prior="gaussian", learn_input_prior=False),
    "on, autoregressive prior fixed": on(learn_input_prior=False),
    "on, prior's variance fixed": on(learn_prior_variance=False),
    "on, external inputs": on(external_inputs=3),
    "on, one input": on(inferred_inputs=1, external_inputs=1),
    "on, negative binomial": on(observation="negative_binomial"),
    "on, zero-inflated gamma": on(observation="zero_inflated_gamma"),
    "on, gaussian": on(observation="gaussian"),
    "on, read-in": on(read_in_dim=3),
    "on, two sessions": on(neurons=(4, 3), read_in_dim=2, external_inputs=2),
    "on, window": on(initial_condition_bins=2),
    "on, encoded bins": on(encoded_bins=5),
    "on, held-out neurons": on(held_out_neurons=(0, 2)),
    "on, places": on(**PLACES, held_out_neurons=(3,), external_inputs=1),
    "on, places of two sessions": on(**PLACES, neurons=(4, 3), read_in_dim=2),
}


@pytest.mark.parametrize(
    "ragged_with_gaps",
    [pytest.param(False, id="even", marks=pytest.mark.slow), pytest.param(True, id="ragged with gaps")],
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_loss_and_gradients_are_those_of_the_plain_implementation(options, ragged_with_gaps):
    base, changes = options
    assert_same_everywhere(
        dataclasses.replace(base, **changes), ragged=ragged_with_gaps, gaps=ragged_with_gaps
    )


@pytest.mark.parametrize("options", [off(), on()], ids=["off", "on"])
@pytest.mark.parametrize(("ragged", "gaps"), [(True, False), (False, True)], ids=["ragged", "gaps"])
def test_ends_and_gaps_by_themselves(options, ragged, gaps):
    base, changes = options
    assert_same_everywhere(dataclasses.replace(base, **changes), ragged=ragged, gaps=gaps)


@pytest.mark.parametrize(
    "seed", [0, 1, 2, *(pytest.param(one, marks=pytest.mark.slow) for one in range(3, 10))]
)
def test_random_combinations_are_those_of_the_plain_implementation(seed):
    random = np.random.default_rng(seed)

    def one_of(*values):
        return values[random.integers(len(values))]

    changes = dict(CONTROLLER) if one_of(True, True, False) else {}
    changes |= {
        "neurons": one_of(4, (4, 3), (4,)),
        "controller_lag_bins": one_of(0, 1, 2, 3),
        "external_inputs": one_of(0, 1, 2),
        "input_prior": one_of("autoregressive", "gaussian"),
        "learn_input_prior": one_of(True, False),
        "learn_prior_variance": one_of(True, False),
        "observation": one_of("poisson", "negative_binomial", "zero_inflated_gamma", "gaussian"),
        "initial_condition_bins": one_of(0, 1, 3),
        "encoded_bins": one_of(0, 5, 6),
    }
    two = changes["neurons"] == (4, 3)
    changes["read_in_dim"] = one_of(2, 5) if two else one_of(0, 3)
    changes["held_out_neurons"] = () if two else one_of((), (1,), (3, 0))
    architecture = dataclasses.replace(OFF, **changes)
    assert_same_everywhere(
        architecture, ragged=one_of(True, False), gaps=one_of(True, False), sv_rate=one_of(0.0, 0.25, 0.5)
    )


def test_states_clipped_at_the_start_are_those_of_the_plain_implementation():
    def adjust(weights):
        weights["generator.initial_weight"] *= 20
        weights["controller.initial_state"] *= 20

    architecture = dataclasses.replace(OFF, **CONTROLLER)
    assert_same_everywhere(architecture, ragged=False, gaps=False, adjust=adjust)


@pytest.mark.parametrize("chosen", [([], [1, 0]), ([2], [])], ids=str)
def test_a_batch_may_have_no_trial_of_a_session(chosen):
    architecture = dataclasses.replace(OFF, neurons=(4, 3), read_in_dim=2, **CONTROLLER)
    assert_same_everywhere(architecture, ragged=True, gaps=False, chosen=chosen)


@pytest.mark.parametrize("options", [off(), on(), on(input_prior="gaussian")], ids=["off", "AR", "gaussian"])
def test_trials_may_end_within_the_window_or_the_encoded_bins(options):
    base, changes = options
    architecture = dataclasses.replace(base, initial_condition_bins=3, encoded_bins=5, **changes)
    for lengths in ([4, 7, 7, 2, 7], [7, 7, 3, 4, 7]):
        assert_same_everywhere(architecture, ragged=True, gaps=False, lengths=lengths)
