import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import Architecture, Hyperparameters
from models.data import TrainingData
from models.network import Gaussian, generate, gru, initial_parameters, read_out
from models.objective import (
    Noise,
    PackHyperparameters,
    coordinated_dropout,
    draw_noise,
    kl_divergence,
    masked_mean,
    poisson_nll,
    training_loss,
)
from tests.models import reference

CPU = torch.device("cpu")
ARCHITECTURE = Architecture(neurons=4, encoder_units=3, initial_condition_dim=2, generator_units=5, factors=3)
HYPERPARAMETERS = [
    Hyperparameters(dropout=0.25, cd_rate=0.5, kl_weight_initial_condition=0.3, l2_weight_generator=0.7),
    Hyperparameters(dropout=0.0, cd_rate=0.0, kl_weight_initial_condition=0.1, l2_weight_generator=0.0),
    Hyperparameters(dropout=0.5, cd_rate=0.25, cd_pass_rate=0.5, kl_weight_initial_condition=0.02),
]
SV_RATE = 0.25


def recording(lengths=(6, 4, 1, 6)):
    random = np.random.default_rng(5)
    spikes = random.poisson(0.8, (len(lengths), 6, 4))
    validation = np.arange(len(lengths)) == len(lengths) - 1
    return spikes, np.array(lengths), validation


def training_data(spikes, lengths, validation, sv_rate=SV_RATE):
    return TrainingData(spikes, lengths, validation, sv_rate=sv_rate, sv_seed=3)


def pack(models, dtype=torch.float64):
    """Parameters of a pack with every bias moved off its start, so that each one matters."""
    single = []
    for seed in range(models):
        parameters = initial_parameters(ARCHITECTURE, torch.full((4,), 0.8), seed)
        random = torch.Generator().manual_seed(100 + seed)
        single.append(
            {
                name: (v + 0.3 * torch.randn(v.shape, generator=random)).to(dtype)
                for name, v in parameters.items()
            }
        )
    return {name: torch.stack([model[name] for model in single]) for name in single[0]}


def double(batch):
    return dataclasses.replace(
        batch, counts=batch.counts.double(), ln_factorials=batch.ln_factorials.double()
    )


@pytest.mark.parametrize("lengths", [(6, 6, 6, 6), (6, 4, 1, 6)], ids=["even", "ragged"])
@pytest.mark.parametrize("chosen", [[0], [1], [2], [0, 1, 2]], ids=str)
def test_loss_and_gradients_are_those_of_the_plain_implementation(chosen, lengths):
    spikes, lengths, validation = recording(lengths)
    data = training_data(spikes, lengths, validation)
    trials = torch.tensor([2, 0, 1])
    batch = double(data.batch(trials))
    noise = draw_noise(ARCHITECTURE, [10 + m for m in chosen], 4, 2, 6, 3, CPU)
    noise = Noise(noise.coordinated, noise.dropout, noise.initial_condition.double())
    hyper = PackHyperparameters.of([HYPERPARAMETERS[m] for m in chosen], CPU)
    hyper = PackHyperparameters(*(getattr(hyper, f.name).double() for f in dataclasses.fields(hyper)))
    full = pack(3)
    parameters = {name: values[chosen].requires_grad_() for name, values in full.items()}
    loss = training_loss(parameters, hyper, batch, noise, sv_rate=SV_RATE, ramp=0.4)
    gradients = torch.autograd.grad(loss.total.sum(), list(parameters.values()))

    for place, m in enumerate(chosen):
        weights = {name: values[m].clone().requires_grad_() for name, values in full.items()}
        expected = reference.training_loss(
            weights,
            HYPERPARAMETERS[m],
            batch.counts.transpose(0, 1),
            [int(lengths[trial]) for trial in trials],
            batch.held_out.transpose(0, 1),
            (noise.coordinated[place].transpose(0, 1) + 16384) / 32768,
            (noise.dropout[place].transpose(0, 1) + 16384) / 32768,
            noise.initial_condition[place],
            SV_RATE,
            0.4,
        )
        for ours, theirs in zip(loss, expected, strict=True):
            # PackHyperparameters are float32: weights such as 0.3 agree to 1e-8
            torch.testing.assert_close(ours[place], theirs, rtol=1e-6, atol=1e-7)
        theirs = torch.autograd.grad(expected[0], list(weights.values()))
        for name, ours, gradient in zip(weights, gradients, theirs, strict=True):
            assert gradient.abs().max() > 0, name
            torch.testing.assert_close(ours[place], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_written_out_gradient_of_the_scan_is_the_numerical_one():
    random = torch.Generator().manual_seed(0)

    def tensor(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()

    weights = {
        "input_weight": tensor(2, 3, 6),
        "input_bias": tensor(2, 6),
        "recurrent_weight": tensor(2, 2, 6),
        "candidate_bias": tensor(2, 2),
    }
    inputs, start = tensor(2, 4, 3, 3), tensor(2, 3, 2)
    frozen = torch.rand(2, 4, 3, 1, generator=random) < 0.4

    def scan(x, h, *values):
        return gru(dict(zip(weights, values, strict=True)), x, h, 4, frozen)

    assert torch.autograd.gradcheck(scan, (inputs, start, *weights.values()))


def test_scan_without_gradient_gives_the_same_states():
    weights = {
        name.removeprefix("generator."): v for name, v in pack(2).items() if name.startswith("generator.")
    }
    start = torch.randn(2, 3, 5, dtype=torch.float64)
    kept, _ = gru({k: v.clone().requires_grad_() for k, v in weights.items()}, None, start, 7, None)
    light, _ = gru(weights, None, start, 7, None)
    assert torch.equal(kept, light)


def test_generator_state_stays_within_its_limit_and_factor_rows_have_unit_length():
    parameters = pack(1)
    states = generate(parameters, torch.full((1, 1, 2), 1e4, dtype=torch.float64), 20)
    assert states.abs().max() <= 5
    assert states[0, 0].abs().max() > 1  # the limit was at work
    basis = torch.eye(5, dtype=torch.float64).view(1, 5, 1, 5)
    factors, _ = read_out(parameters, basis)  # each unit's share in each factor: [1, 5, 1, 3]
    torch.testing.assert_close(factors.square().sum((0, 1, 2)), torch.ones(3, dtype=torch.float64))


@settings(deadline=None, max_examples=60)
@given(
    cd_rate=st.one_of(st.just(0.0), st.floats(0.01, 0.9)),
    pass_rate=st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1)),
    seed=st.integers(0, 2**32),
)
def test_no_sample_is_input_and_target_unless_let_pass(cd_rate, pass_rate, seed):
    architecture = Architecture(neurons=20, generator_units=1)
    uniform = draw_noise(architecture, [seed], 0, 0, 30, 40, CPU).coordinated
    kept, target = coordinated_dropout(uniform, torch.tensor([cd_rate]), torch.tensor([pass_rate]))
    if cd_rate == 0:
        assert kept.all()
        assert target.all()
        return
    assert (kept | target).all()  # nothing is dropped in vain
    assert kept.float().mean() == pytest.approx(1 - cd_rate, abs=0.02)
    both = (kept & target).float().mean() / kept.float().mean()
    if pass_rate == 0:
        assert not (kept & target).any()
    elif pass_rate == 1:
        assert target.all()
    else:
        assert both == pytest.approx(pass_rate, abs=0.08)


def test_noise_levels_are_uniform_and_differ_between_seeds_epochs_and_steps():
    architecture = Architecture(neurons=50, generator_units=1)
    uniform = draw_noise(architecture, [1, 2], 0, 0, 40, 50, CPU).coordinated
    histogram = torch.histc(uniform.float(), bins=64, min=-16384, max=16384)
    expected = uniform.numel() / 64
    assert ((histogram - expected).abs() < 6 * expected**0.5).all()
    others = [draw_noise(architecture, [1], *at, 40, 50, CPU).coordinated[0] for at in ((0, 1), (1, 0))]
    for other in (uniform[1], *others):
        assert (uniform[0] == other).float().mean() < 0.01


@pytest.mark.parametrize("member", [0, 1, 2])
def test_held_out_samples_and_bins_past_the_end_reach_nothing(member):
    spikes, lengths, validation = recording()
    data = training_data(spikes, lengths, validation)
    batch = data.batch(torch.tensor([0, 1, 2]))
    noise = draw_noise(ARCHITECTURE, [7], 0, 0, 6, 3, CPU)
    hyper = PackHyperparameters.of([HYPERPARAMETERS[member]], CPU)
    parameters = {name: v[member : member + 1] for name, v in pack(3, torch.float32).items()}
    counts = batch.counts.clone().requires_grad_()
    loss = training_loss(
        parameters, hyper, dataclasses.replace(batch, counts=counts), noise, sv_rate=SV_RATE, ramp=1.0
    )
    (gradient,) = torch.autograd.grad(loss.total.sum(), counts)
    assert (gradient[~batch.visible] == 0).all()
    assert (gradient[batch.visible] != 0).float().mean() > 0.5


def test_data_past_the_end_are_ignored():
    spikes, lengths, validation = recording()
    changed = spikes.copy()
    changed[np.arange(6)[None, :] >= lengths[:, None]] = 200
    first, second = (training_data(s, lengths, validation) for s in (spikes, changed))
    trials = torch.arange(4)
    for field in dataclasses.fields(first.batch(trials)):
        a, b = (getattr(data.batch(trials), field.name) for data in (first, second))
        assert torch.equal(a, b), field.name
    assert torch.equal(first.mean_counts, second.mean_counts)


def test_likelihood_and_kl_are_the_closed_forms():
    log_rates, counts = torch.randn(3, 5), torch.randint(0, 9, (3, 5)).float()
    expected = -torch.distributions.Poisson(log_rates.exp()).log_prob(counts)
    torch.testing.assert_close(poisson_nll(log_rates, counts, torch.lgamma(counts + 1)), expected)
    q = Gaussian(torch.randn(1, 4, 3), torch.rand(1, 4, 3) + 0.1)
    p = Gaussian(torch.randn(1, 1, 3), torch.rand(1, 1, 3) + 0.1)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(q.mean, q.variance.sqrt()), normal(p.mean, p.variance.sqrt())
    )
    torch.testing.assert_close(kl_divergence(q, p), expected.sum(-1))
    assert masked_mean(torch.ones(2, 3), torch.tensor([[True, True, False], [False] * 3])).tolist() == [
        1.0,
        0.0,
    ]
