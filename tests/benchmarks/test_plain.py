"""The plain implementation that throughput is measured against has the loss, the gradients and the scores of a pack's model."""

import numpy as np
import pytest
import torch

from benchmarks.baseline import PlainLFADS, PlainTraining, checked
from models import Architecture, Hyperparameters, Population, Session, TrainingData, TrainingOptions
from models.network import initial_parameters
from models.objective import PackHyperparameters, coordinated_dropout, draw_noise, training_loss

OFF = Architecture(neurons=6, encoder_units=5, initial_condition_dim=4, generator_units=7, factors=3)
ON = Architecture(**{**vars(OFF), "controller_units": 6, "controller_encoder_units": 5, "inferred_inputs": 2})
HYPER = Hyperparameters(
    dropout=0.25,
    cd_rate=0.5,
    kl_weight_initial_condition=0.1,
    kl_weight_inputs=0.2,
    l2_weight_generator=0.3,
    l2_weight_controller=0.4,
)
SV_RATE = 0.25


def recorded(is_validation: np.ndarray) -> TrainingData:
    spikes = np.random.default_rng(0).poisson(0.6, (len(is_validation), 9, 6))
    lengths = np.full(len(spikes), 9)
    return TrainingData(Session(spikes, lengths, is_validation), sv_rate=SV_RATE, sv_seed=1)


@pytest.mark.parametrize("architecture", [OFF, ON], ids=["off", "on"])
def test_loss_and_gradients_are_those_of_a_pack_of_one(architecture: Architecture) -> None:
    data = recorded(np.arange(8) >= 6)
    batch = data.batch([torch.arange(5)])
    parameters = initial_parameters(architecture, data.statistics, seed=3)
    pack = {name: values[None].clone().requires_grad_() for name, values in parameters.items()}
    noise = draw_noise(architecture, [4], 0, 0, bins=9, trials=[5], device=torch.device("cpu"))
    hyper = PackHyperparameters.of([HYPER], torch.device("cpu"))
    ours = training_loss(architecture, pack, hyper, batch, noise, sv_rate=SV_RATE, ramp=0.5).total[0]
    ours.backward()

    plain = PlainLFADS(checked(architecture), parameters, HYPER)
    kept, target = coordinated_dropout(noise.coordinated[0], hyper.cd_rate, hyper.cd_pass_rate)
    dropout_mask = (noise.dropout[0] >= round(HYPER.dropout * 32768) - 16384) / (1 - HYPER.dropout)
    normal_inputs = None if noise.posterior.inputs is None else noise.posterior.inputs[0]
    part = batch.parts[0]
    theirs = plain.loss(
        part.values,
        part.visible,
        kept[0],
        target[0],
        dropout_mask,
        noise.posterior.initial_condition[0],
        normal_inputs,
        sv_rate=SV_RATE,
        ramp=0.5,
    )
    theirs.backward()
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    expected = {
        "rates.weight": plain.rates.weight.grad.T,
        "factors.weight": plain.factors.grad,
        "generator.recurrent_weight": plain.generator.weight_hh.grad.T,
        "encoder.input_weight": torch.stack([cell.weight_ih.grad.T for cell in plain.encoders]),
        "posterior.weight": plain.posterior.weight.grad.T,
        "prior.log_variance": plain.prior_log_variance.grad,
    }
    if architecture.has_controller:
        expected |= {
            "controller.input_weight": plain.controller.weight_ih.grad.T,
            "controller_encoder.recurrent_weight": torch.stack(
                [cell.weight_hh.grad.T for cell in plain.controller_encoders]
            ),
            "inputs.weight": plain.inputs.weight.grad.T,
            "input_prior.log_time_constant": plain.input_log_time_constant.grad,
        }
    for name, gradient in expected.items():
        torch.testing.assert_close(pack[name].grad[0], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("architecture", [OFF, ON], ids=["off", "on"])
def test_scores_are_those_of_a_pack_of_one(architecture: Architecture) -> None:
    is_validation = np.arange(8) >= 6
    data, options = recorded(is_validation), TrainingOptions(batch_size=3, ramp_epochs=2)
    still = Hyperparameters(learning_rate=1e-12)
    (ours,) = Population(architecture, [still], [3], data, options, order_seed=0).train_epoch()
    plain = PlainLFADS(architecture, initial_parameters(architecture, data.statistics, seed=3), still)
    whole = data.batch([torch.arange(8)]).parts[0]
    training = PlainTraining(
        plain, whole.values, whole.visible, torch.from_numpy(is_validation), options, SV_RATE
    )
    (sv_loss, validation_loss), _ = training.train_epoch()
    assert sv_loss == pytest.approx(ours.sv_loss, rel=1e-5)
    assert validation_loss == pytest.approx(ours.validation_loss, rel=1e-5)


def test_it_refuses_what_it_has_not() -> None:
    with pytest.raises(ValueError, match="no such options"):
        checked(Architecture(neurons=4, held_out_neurons=(1,)))
