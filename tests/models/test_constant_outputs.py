"""What constant outputs score, and SV losses as bits per spike."""

import math

import numpy as np
import pytest

from domain.scores import bits_per_spike, constant_rate_losses, poisson_nll
from models import (
    Architecture,
    Hyperparameters,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    sample_validation_mask,
)
from models.null_model import constant_output_losses, held_out_spikes

LENGTHS = np.random.default_rng(1).integers(6, 13, 200)
SPIKES = np.random.default_rng(0).poisson(0.8, (200, 12, 5))
IS_VALIDATION = np.arange(200) >= 120
HELD_OUT = sample_validation_mask((200, 12, 5), 0.3, 7)
RECORDED = (np.arange(12) < LENGTHS[:, None])[:, :, None]
SIZES = {"encoder_units": 4, "initial_condition_dim": 2, "generator_units": 4, "factors": 2}


def training_data(observation="poisson"):
    session = Session(SPIKES, LENGTHS, IS_VALIDATION)
    return TrainingData(session, sv_rate=0.3, sv_seed=7, observation=observation)


def test_losses_of_constant_rates_are_those_of_their_definition():
    found = constant_output_losses(Architecture(neurons=5, **SIZES), training_data())
    expected = constant_rate_losses(SPIKES, HELD_OUT, IS_VALIDATION, RECORDED)
    assert found.held_out_samples == expected.held_out_samples
    # the read-out starts with half a spike more than was seen
    assert found.sv_loss == pytest.approx(expected.sv_loss, rel=1e-3)
    assert found.validation_loss == pytest.approx(expected.validation_loss, rel=1e-3)


@pytest.mark.parametrize("observation", ["poisson", "negative_binomial"])
def test_a_model_of_no_dynamics_scores_what_constant_outputs_score(observation):
    """On the very samples of the scores of an epoch: held-out neurons, a window and bins to predict included."""
    architecture = Architecture(
        neurons=5, observation=observation, held_out_neurons=(1, 3), initial_condition_bins=3, encoded_bins=8, **SIZES
    )  # fmt: skip
    data = training_data(observation)
    population = Population(
        architecture, [Hyperparameters(learning_rate=1e-12)], [0], data, TrainingOptions(500), order_seed=0
    )
    state = population.state(0)
    state["weights.rates.weight"].zero_()
    population = Population(
        architecture,
        [Hyperparameters(learning_rate=1e-12)],
        [0],
        data,
        TrainingOptions(500),
        order_seed=0,
        states=[state],
    )
    (scores,) = population.train_epoch()
    found = constant_output_losses(architecture, data)
    assert found.sv_loss == pytest.approx(scores.sv_loss, rel=1e-5)
    assert found.validation_loss == pytest.approx(scores.validation_loss, rel=1e-5)


def test_an_sv_loss_in_bits_per_spike_is_that_of_the_rates():
    rates = np.exp(np.random.default_rng(2).normal(size=SPIKES.shape)) * 0.7
    x, chosen = SPIKES[IS_VALIDATION], (HELD_OUT & RECORDED)[IS_VALIDATION]
    sv_loss = poisson_nll(rates[IS_VALIDATION], x, chosen)
    counted = held_out_spikes(Architecture(neurons=5, **SIZES), training_data())
    assert counted is not None
    found = counted.bits_per_spike(sv_loss)
    assert found == pytest.approx(bits_per_spike(rates[IS_VALIDATION], x, mask=chosen), rel=1e-4)
    assert not math.isclose(found, 0, abs_tol=1e-3)
    other = Architecture(neurons=5, observation="negative_binomial", **SIZES)
    assert held_out_spikes(other, training_data("negative_binomial")) is None


def test_without_a_held_out_spike_there_is_no_such_score():
    spikes = np.where(HELD_OUT, 0, SPIKES)
    data = TrainingData(Session(spikes, LENGTHS, IS_VALIDATION), sv_rate=0.3, sv_seed=7)
    assert held_out_spikes(Architecture(neurons=5, **SIZES), data) is None
