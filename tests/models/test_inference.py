import dataclasses

import numpy as np
import pytest
import torch

from models import (
    Architecture,
    ConfigurationError,
    Hyperparameters,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    infer_latents,
    iterate_latents,
)
from models.objective import noise_generator
from tests.models import reference

ARCHITECTURE = Architecture(neurons=4, encoder_units=6, initial_condition_dim=3, generator_units=8, factors=3)
CONTROLLER = {"controller_units": 5, "controller_encoder_units": 4, "inferred_inputs": 2}
LENGTHS = np.array([7, 3, 7, 5, 1, 7, 6])


@pytest.fixture(scope="module")
def spikes():
    return np.random.default_rng(0).poisson(0.7, (7, 7, 4))


def trained_state(architecture, sessions):
    data = TrainingData(sessions, sv_rate=0.2, sv_seed=0, observation=architecture.observation)
    trained = Population(
        architecture, [Hyperparameters(learning_rate=0.03)], [0], data, TrainingOptions(4), order_seed=0
    )
    for _ in range(3):
        trained.train_epoch()
    return trained.state(0)


@pytest.fixture(scope="module")
def state(spikes):
    state = trained_state(ARCHITECTURE, Session(spikes, LENGTHS, np.arange(7) > 4))
    state["weights.rates.bias"] += 1.0  # "last" and "best" differ
    return state


@pytest.mark.parametrize(
    "changes",
    [
        {},
        CONTROLLER,
        CONTROLLER | {"external_inputs": 2, "observation": "negative_binomial"},
        CONTROLLER | {"initial_condition_bins": 2, "encoded_bins": 5, "held_out_neurons": (1,)},
        CONTROLLER | {"neurons": (3, 4), "read_in_dim": 2},
    ],
    ids=["off", "on", "external inputs", "places", "sessions"],
)
def test_latents_are_the_mean_over_draws_of_the_plain_implementation(spikes, changes):
    architecture = dataclasses.replace(ARCHITECTURE, **changes)
    W, session = architecture.initial_condition_bins, len(architecture.session_neurons) - 1
    missing = np.zeros(spikes.shape, bool)
    missing[0, 2:4] = missing[5, 6, 1] = True
    external = np.random.default_rng(1).normal(size=(7, 7, 2)) if architecture.external_inputs else None
    lengths = np.maximum(LENGTHS, W + 1)
    recorded = Session(spikes, lengths, np.arange(7) > 4, missing, external)
    other = [Session(spikes[:, :, :3], lengths, np.arange(7) > 4)][:session]
    state = trained_state(architecture, [*other, recorded])
    latents = infer_latents(
        architecture,
        state,
        spikes,
        lengths,
        missing=missing,
        external_inputs=external,
        session=session,
        posterior_samples=6,
        seed=5,
        batch_size=3,
    )
    weights = {
        name.removeprefix("best."): v.double() for name, v in state.items() if name.startswith("best.")
    }
    ic_draws, input_draws = [], []
    for trial in range(7):  # each trial has its own stream of noise
        random = noise_generator(torch.device("cpu"), 5, trial)
        ic_draws.append(torch.randn(6, 3, generator=random))
        if architecture.has_controller:
            input_draws.append(torch.randn(7 - W, 6, 2, generator=random))
    ic_draws = torch.stack(ic_draws).double()
    input_draws = torch.stack(input_draws).double() if input_draws else torch.zeros(7, 7 - W, 6, 0)
    draws = [
        reference.infer(
            architecture,
            weights,
            session,
            torch.from_numpy(spikes).double(),
            lengths.tolist(),
            torch.from_numpy(missing),
            None if external is None else torch.from_numpy(external.astype(np.float32)).double(),
            ic_draws[:, draw],
            input_draws[:, :, draw],
        )
        for draw in range(6)
    ]
    for ours, theirs in (
        ("rates", "rates"),
        ("factors", "factors"),
        ("generator_states", "states"),
        *([("inputs", "inputs")] if architecture.has_controller else []),
    ):
        expected = torch.stack([getattr(draw, theirs) for draw in draws]).mean(0).numpy()
        assert np.isnan(expected[:, :W]).all()
        np.testing.assert_allclose(getattr(latents, ours), expected, rtol=3e-4, atol=2e-5, err_msg=ours)
    assert (latents.inputs is None) == (not architecture.has_controller)


def test_batches_and_what_stands_past_the_end_do_not_matter(spikes, state):
    whole = infer_latents(ARCHITECTURE, state, spikes, LENGTHS, posterior_samples=4)
    changed = spikes.copy()
    changed[np.arange(7)[None] >= LENGTHS[:, None]] = 99
    steps = []
    other = infer_latents(
        ARCHITECTURE,
        state,
        changed,
        LENGTHS,
        posterior_samples=4,
        batch_size=2,
        on_step=lambda: steps.append(1),
    )
    assert len(steps) == 4
    for name in ("rates", "factors", "initial_conditions", "generator_states"):
        np.testing.assert_allclose(getattr(other, name), getattr(whole, name), rtol=1e-4, atol=1e-6)
    parts = list(iterate_latents(ARCHITECTURE, state, spikes, LENGTHS, posterior_samples=4, batch_size=3))
    assert [(w.start, w.stop) for w, _ in parts] == [(0, 3), (3, 6), (6, 7)]
    np.testing.assert_allclose(np.concatenate([p.rates for _, p in parts]), whole.rates, rtol=1e-4, atol=1e-6)


def test_seed_draws_and_weights_are_as_asked(spikes, state):
    def rates(**options):
        return infer_latents(
            ARCHITECTURE, state, spikes, LENGTHS, **({"posterior_samples": 3} | options)
        ).rates[0]

    assert np.array_equal(rates(), rates())
    assert not np.allclose(rates(), rates(seed=1))
    assert not np.allclose(rates(), rates(posterior_samples=4))
    np.testing.assert_allclose(rates(weights="last") / np.e, rates_of_last(spikes, state), rtol=1e-4)


def rates_of_last(spikes, state):
    moved = {name: v - 1.0 if name == "weights.rates.bias" else v for name, v in state.items()}
    return infer_latents(ARCHITECTURE, moved, spikes, LENGTHS, posterior_samples=3, weights="last").rates[0]


def test_what_does_not_fit_is_refused(spikes, state):
    with pytest.raises(ConfigurationError, match="4 neurons, the spikes have 3"):
        infer_latents(ARCHITECTURE, state, spikes[:, :, :3], LENGTHS)
    with pytest.raises(ConfigurationError, match="posterior_samples must be at least 1"):
        infer_latents(ARCHITECTURE, state, spikes, LENGTHS, posterior_samples=0)
    with pytest.raises(ConfigurationError, match="the architecture needs"):
        infer_latents(dataclasses.replace(ARCHITECTURE, factors=2), state, spikes, LENGTHS)
    with pytest.raises(ConfigurationError, match="for 0 external inputs, got 2"):
        infer_latents(ARCHITECTURE, state, spikes, LENGTHS, external_inputs=np.zeros((7, 7, 2)))
    with pytest.raises(ConfigurationError, match=r"session must lie in 0 … 0, got 1"):
        infer_latents(ARCHITECTURE, state, spikes, LENGTHS, session=1)
    with pytest.raises(ConfigurationError, match=r"lacks 'best\."):
        infer_latents(ARCHITECTURE, {}, spikes, LENGTHS)


def test_a_trial_alone_has_the_draws_of_its_number(spikes, state):
    whole = infer_latents(ARCHITECTURE, state, spikes, LENGTHS, posterior_samples=3, batch_size=2)
    for first in (0, 3):
        part = slice(first, first + 2)
        alone = infer_latents(
            ARCHITECTURE, state, spikes[part], LENGTHS[part], posterior_samples=3, first_trial=first
        )
        np.testing.assert_allclose(alone.factors, whole.factors[part], rtol=1e-5, atol=1e-6)


BINS, END = np.full(7, 10), 9


def first_bin_that_changes(architecture, at, lengths=BINS):
    """First bin of trial 0 whose rates change when its spikes in bin `at` do; None if none does."""
    counts = np.random.default_rng(0).poisson(0.7, (7, 10, 4))
    state = trained_state(architecture, Session(counts, BINS, np.arange(7) > 4))
    changed = counts.copy()
    changed[0, at] += 3
    rates, others = (
        infer_latents(architecture, state, spikes, lengths, posterior_samples=3, seed=1).rates
        for spikes in (counts, changed)
    )
    np.testing.assert_array_equal(others[1:], rates[1:])  # no other trial changes
    differ = np.flatnonzero((others[0] != rates[0]).any(1) & ~np.isnan(rates[0, :, 0]))
    return int(differ[0]) if len(differ) else None


@pytest.mark.parametrize(
    ("changes", "at", "first"),
    [
        # The encoders read the whole trial in both directions: a spike in the last bin changes the first rates.
        ({}, END, 0),
        (CONTROLLER, END, 0),
        # Bins after `encoded_bins` are read by nothing; those before still depend on each other both ways.
        ({"encoded_bins": 6}, 6, None),
        ({"encoded_bins": 6}, END, None),
        ({"encoded_bins": 6}, 5, 0),
        (CONTROLLER | {"encoded_bins": 6}, 6, None),
        (CONTROLLER | {"encoded_bins": 6}, 5, 0),
        # Without a controller only the bins of `initial_condition_bins` are read, and rates begin after them.
        ({"initial_condition_bins": 3}, 3, None),
        ({"initial_condition_bins": 3}, END, None),
        ({"initial_condition_bins": 3}, 2, 3),
        # A controller's encoders read the later bins, also backward in time.
        (CONTROLLER | {"initial_condition_bins": 3}, END, 3),
        (CONTROLLER | {"initial_condition_bins": 3, "encoded_bins": 6}, 6, None),
        (CONTROLLER | {"initial_condition_bins": 3, "encoded_bins": 6}, 5, 3),
        # With a lag, the controller reads a spike only in bins at least as far from it: bin 3 in bins 7 and later.
        (CONTROLLER | {"initial_condition_bins": 3, "controller_lag_bins": 4}, 3, 7),
        (CONTROLLER | {"initial_condition_bins": 3, "controller_lag_bins": 4}, END, 3),
    ],
)  # fmt: skip
def test_from_which_bins_rates_are_inferred(changes, at, first):
    assert first_bin_that_changes(dataclasses.replace(ARCHITECTURE, **changes), at) == first


@pytest.mark.parametrize("changes", [{}, CONTROLLER], ids=["off", "on"])
def test_rates_of_a_trial_that_is_cut_off_do_not_depend_on_what_came_after(changes):
    architecture, cut = dataclasses.replace(ARCHITECTURE, **changes), np.where(np.arange(7) == 0, 5, 10)
    assert first_bin_that_changes(architecture, 5, cut) is None
    assert first_bin_that_changes(architecture, 4, cut) == 0
