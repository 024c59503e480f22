import numpy as np
import pytest
import torch

from models import (
    Architecture,
    ConfigurationError,
    Hyperparameters,
    Population,
    TrainingData,
    TrainingOptions,
    infer_latents,
    iterate_latents,
)
from models.objective import noise_generator
from tests.models import reference

ARCHITECTURE = Architecture(neurons=4, encoder_units=6, initial_condition_dim=3, generator_units=8, factors=3)
LENGTHS = np.array([7, 3, 7, 5, 1, 7, 6])


@pytest.fixture(scope="module")
def spikes():
    return np.random.default_rng(0).poisson(0.7, (7, 7, 4))


@pytest.fixture(scope="module")
def state(spikes):
    data = TrainingData(spikes, LENGTHS, np.arange(7) > 4, sv_rate=0.2, sv_seed=0)
    trained = Population(
        ARCHITECTURE, [Hyperparameters(learning_rate=0.03)], [0], data, TrainingOptions(4), order_seed=0
    )
    for _ in range(3):
        trained.train_epoch()
    state = trained.state(0)
    state["weights.rates.bias"] += 1.0  # "last" and "best" differ
    return state


def test_latents_are_the_mean_over_draws_of_the_plain_implementation(spikes, state):
    latents = infer_latents(ARCHITECTURE, state, spikes, LENGTHS, posterior_samples=6, seed=5)
    weights = {name.removeprefix("best."): v for name, v in state.items() if name.startswith("best.")}
    for trial, length in enumerate(LENGTHS):
        mean, variance = reference.posterior(weights, torch.from_numpy(spikes[trial, :length]).float())
        noise = torch.randn(6, 3, generator=noise_generator(torch.device("cpu"), 5, trial))
        draws = [
            reference.log_rates(weights, mean + variance.sqrt() * e, length, torch.ones(7, 8)) for e in noise
        ]
        for name, expected in (
            ("rates", torch.stack([logs.exp() for _, logs, _ in draws]).mean(0)),
            ("factors", torch.stack([factors for factors, _, _ in draws]).mean(0)),
            ("generator_states", torch.stack([states for _, _, states in draws]).mean(0)),
        ):
            ours = getattr(latents, name)[trial]
            np.testing.assert_allclose(ours[:length], expected.numpy(), rtol=2e-4, atol=1e-5)
            assert np.isnan(ours[length:]).all()
        np.testing.assert_allclose(latents.initial_conditions[trial], mean.numpy(), rtol=1e-4, atol=1e-5)


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
        infer_latents(Architecture(4, 6, 3, 8, 2), state, spikes, LENGTHS)
    with pytest.raises(ConfigurationError, match=r"lacks 'best\."):
        infer_latents(ARCHITECTURE, {}, spikes, LENGTHS)
