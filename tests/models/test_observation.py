"""One contract for every observation model: a distribution, its mean, and a start that describes the data."""

import numpy as np
import pytest
import torch

from domain.parameter_shapes import OUTPUTS_PER_NEURON, WITH_CONSTANT
from models import Session, TrainingData
from models.observation import OBSERVATIONS, DataStatistics

NAMES = list(OBSERVATIONS)
NEURONS = 3


def statistics(mean=(0.05, 0.4, 2.0)):
    mean = torch.tensor(mean, dtype=torch.float64)
    return DataStatistics(mean, mean * 1.5, torch.tensor([0.1, 0.3, 0.9], dtype=torch.float64))


def outputs_and_constant(observation, moved=0.3):
    """Somewhere near the start, [1, 1, 1, O · N]; a start itself would hide wrong signs."""
    bias, constant = observation.start(statistics())
    random = torch.Generator().manual_seed(0)
    bias = bias + moved * torch.randn(bias.shape, generator=random, dtype=torch.float64)
    return bias[None, None, None], None if constant is None else constant[None, None, None]


def nll(observation, outputs, constant, values):
    """Values [S] for every neuron: [S, N]."""
    x = values[:, None, None].expand(-1, 1, NEURONS)
    given = torch.lgamma(x + 1) if observation.is_counts else None
    return observation.negative_log_likelihood(outputs, constant, x, given)[0, :, 0]


def support(observation):
    """Points and their weights over which a density sums to 1."""
    if observation.is_counts:
        values = torch.arange(400, dtype=torch.float64)
        return values, torch.ones_like(values)
    low = 0.0 if observation is OBSERVATIONS["zero_inflated_gamma"] else -60.0
    edges = torch.linspace(low, 120.0, 400_001, dtype=torch.float64)
    values = (edges[1:] + edges[:-1]) / 2
    return values, torch.full_like(values, float(edges[1] - edges[0]))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_distribution_with_the_mean_it_says(name):
    observation = OBSERVATIONS[name]
    outputs, constant = outputs_and_constant(observation)
    values, weights = support(observation)
    density = (-nll(observation, outputs, constant, values)).exp() * weights[:, None]
    total, mean = density.sum(0), (density * values[:, None]).sum(0)
    if name == "zero_inflated_gamma":
        total = total + (-nll(observation, outputs, constant, torch.zeros(1, dtype=torch.float64))[0]).exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(mean, observation.mean(outputs)[0, 0, 0], rtol=5e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_it_starts_at_the_mean_of_the_data(name):
    observation = OBSERVATIONS[name]
    outputs, constant = outputs_and_constant(observation, moved=0.0)
    assert outputs.shape[-1] == OUTPUTS_PER_NEURON[name] * NEURONS
    assert (constant is not None) == (name in WITH_CONSTANT)
    torch.testing.assert_close(observation.mean(outputs)[0, 0, 0], statistics().mean)


@pytest.mark.parametrize("name", NAMES)
def test_silent_neurons_and_zeros_have_finite_losses_and_gradients(name):
    observation = OBSERVATIONS[name]
    values = np.zeros((6, 5, 2), int if observation.is_counts else float)
    values[:, :, 1] = np.arange(5)
    session = Session(values, np.full(6, 5), np.arange(6) >= 4)
    data = TrainingData(session, sv_rate=0.2, sv_seed=0, observation=name)
    bias, constant = observation.start(data.statistics[0])
    outputs = bias.clone().requires_grad_()
    (part,) = data.batch([torch.arange(4)]).parts
    loss = observation.negative_log_likelihood(
        outputs[None, None, None],
        None if constant is None else constant[None, None, None],
        part.values,
        part.ln_factorials,
    )
    assert torch.isfinite(loss).all()
    (gradient,) = torch.autograd.grad(loss.sum(), outputs)
    assert torch.isfinite(gradient).all()


def test_negative_binomial_tends_to_poisson_and_is_more_variable():
    poisson, binomial = OBSERVATIONS["poisson"], OBSERVATIONS["negative_binomial"]
    outputs, _ = outputs_and_constant(poisson)
    values = torch.arange(6, dtype=torch.float64)
    almost = nll(binomial, outputs, torch.full((1, 1, 1, NEURONS), 12.0, dtype=torch.float64), values)
    torch.testing.assert_close(almost, nll(poisson, outputs, None, values), rtol=1e-3, atol=1e-3)
