"""The plain implementation is what the others are held to: here it is held to what must be true of any."""

import dataclasses
import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from domain.architecture import Architecture
from models.config import Hyperparameters
from tests.models import reference
from tests.models.reference import DOUBLE, Draws, Trials

OFF = Architecture(neurons=4, encoder_units=3, initial_condition_dim=2, generator_units=5, factors=3)
ON = dataclasses.replace(
    OFF,
    controller_units=4,
    controller_encoder_units=3,
    inferred_inputs=2,
    controller_lag_bins=1,
    external_inputs=2,
)
T = 8


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def counts(trials=1, neurons=4, seed=0):
    return torch.poisson(torch.full((trials, T, neurons), 0.9), torch.Generator().manual_seed(seed)).double()


def inferred(architecture, x, missing=None, lengths=None, external=None, session=0):
    B, bins = len(x), x.shape[1] - architecture.initial_condition_bins
    if architecture.external_inputs and external is None:
        external = normal(B, x.shape[1], architecture.external_inputs, seed=1)
    return reference.infer(
        architecture,
        reference.random_weights(architecture, 2),
        session,
        x,
        lengths or [x.shape[1]] * B,
        torch.zeros(x.shape, dtype=torch.bool) if missing is None else missing,
        external,
        normal(B, architecture.initial_condition_dim, seed=3),
        normal(B, bins, architecture.inferred_inputs, seed=4),
    )


def loss(architecture, hyper, x, missing=None, held_out=None, uniform=None, sv_rate=0.25, seed=2):
    B, bins = len(x), x.shape[1] - architecture.initial_condition_bins
    nothing = torch.zeros(x.shape, dtype=torch.bool)
    random = torch.Generator().manual_seed(9)
    trials = Trials(
        x,
        [x.shape[1]] * B,
        nothing if missing is None else missing,
        normal(B, x.shape[1], architecture.external_inputs) if architecture.external_inputs else None,
        nothing if held_out is None else held_out,
        torch.rand(x.shape, generator=random) if uniform is None else uniform,
    )
    draws = Draws(
        normal(B, architecture.initial_condition_dim, seed=3),
        normal(B, bins, architecture.inferred_inputs, seed=4),
        torch.rand(B, bins, architecture.generator_units, generator=random),
    )
    weights = reference.random_weights(architecture, seed)
    return reference.training_loss(architecture, weights, hyper, [trials], draws, sv_rate, 0.5)


def same(first, second):
    return all(
        (a is None and b is None) or torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(first, second, strict=True)
    )


def test_gates_are_written_as_in_the_equations():
    weights = {
        "g.input_weight": normal(3, 6),
        "g.input_bias": normal(6, seed=1),
        "g.recurrent_weight": normal(2, 6, seed=2),
        "g.candidate_bias": normal(2, seed=3),
    }
    x, h = normal(3, seed=4), normal(2, seed=5)
    step, _ = reference.gru_cell(weights, "g")
    read = x @ weights["g.input_weight"] + weights["g.input_bias"]
    recurrent = h @ weights["g.recurrent_weight"]
    r, z = (read[:4] + recurrent[:4]).sigmoid().chunk(2)
    n = (read[4:] + r * (recurrent[4:] + weights["g.candidate_bias"])).tanh()
    torch.testing.assert_close(step(x, h), (1 - z) * n + z * h)


def test_autoregressive_prior_is_stationary_and_the_product_of_its_steps():
    tau, variance = torch.tensor([10.0, 0.7], dtype=DOUBLE), torch.tensor([0.1, 2.0], dtype=DOUBLE)
    a = torch.exp(-1 / tau)
    covariance = reference.autoregressive_covariance(tau, variance, T)
    stationary = variance / (1 - a**2)
    torch.testing.assert_close(covariance.diagonal(dim1=1, dim2=2), stationary[:, None].expand(2, T))
    torch.testing.assert_close(covariance[:, 1:, 1:], covariance[:, :-1, :-1])
    torch.testing.assert_close(covariance[:, 3, 4], a * stationary)
    u = normal(T, 2)
    steps = Normal(a * u[:-1], variance.sqrt()).log_prob(u[1:]).sum(0)
    product = Normal(torch.zeros(2, dtype=DOUBLE), stationary.sqrt()).log_prob(u[0]) + steps
    torch.testing.assert_close(MultivariateNormal(u.new_zeros(T), covariance).log_prob(u.T), product)


def test_sampled_divergence_of_the_inputs_is_the_closed_form_on_average():
    weights = reference.random_weights(ON, 0)
    mean, deviation = 0.3 * normal(T, 2), 0.2 + 0.2 * torch.rand(T, 2, dtype=DOUBLE)
    q = Normal(mean, deviation)
    draws = mean + deviation * normal(2000, T, 2, seed=5)
    values = torch.stack([reference.kl_inputs(ON, weights, q, u) for u in draws])
    variance = weights["input_prior.log_variance"].exp() + 1e-4
    covariance = reference.autoregressive_covariance(
        weights["input_prior.log_time_constant"].exp(), variance, T
    )
    p = MultivariateNormal(torch.zeros(2, T, dtype=DOUBLE), covariance)
    whole_q = MultivariateNormal(mean.T, torch.diag_embed(deviation.T.square()))
    expected = torch.distributions.kl_divergence(whole_q, p).sum()
    assert abs(values.mean() - expected) < 5 * values.std() / len(values) ** 0.5


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_lag_moves_the_codes(lag):
    architecture = dataclasses.replace(ON, initial_condition_bins=1, encoded_bins=7)
    seen = torch.ones(T, dtype=torch.bool)

    def codes(lag):
        lagged = dataclasses.replace(architecture, controller_lag_bins=lag)
        weights = reference.random_weights(lagged, 2)
        return torch.stack(reference.encode(lagged, weights, 0, counts()[0], seen)[1])

    still, moved, K = codes(0), codes(lag), ON.controller_encoder_units
    bins = T - 1
    assert still.shape == (bins, 2 * K)
    assert (still[:6] != 0).all()
    assert (still[6] == 0).all()  # beyond the encoded bins
    assert torch.equal(moved[lag:, :K], still[: bins - lag, :K])
    assert (moved[:lag, :K] == 0).all()
    assert torch.equal(moved[: bins - lag, K:], still[lag:, K:])
    assert (moved[bins - lag :, K:] == 0).all()


@pytest.mark.parametrize("architecture", [OFF, ON], ids=["off", "on"])
def test_held_out_neurons_and_bins_to_predict_are_never_read(architecture):
    whole = dataclasses.replace(architecture, controller_lag_bins=0)
    blind = dataclasses.replace(whole, held_out_neurons=(1, 3), encoded_bins=6)
    x = counts()
    changed = x.clone()
    changed[:, :, [1, 3]] += 1
    changed[:, 6:] += 2
    assert same(inferred(blind, x), inferred(blind, changed))
    for bins, neurons in ((slice(6, T), [0]), (slice(0, T), [1]), (slice(0, 6), [3])):
        changed = x.clone()
        changed[:, bins, neurons] += 1
        assert same(inferred(blind, x), inferred(blind, changed))
        assert not same(inferred(whole, x), inferred(whole, changed))
    hyper = Hyperparameters(cd_rate=0.5)
    first, second = loss(blind, hyper, x), loss(blind, hyper, changed)
    assert torch.equal(first.kl_initial_condition, second.kl_initial_condition)
    assert first.reconstruction != second.reconstruction  # they are targets


@pytest.mark.parametrize("architecture", [OFF, ON], ids=["off", "on"])
def test_missing_bins_may_hold_anything(architecture):
    x = counts()
    missing = torch.zeros(x.shape, dtype=torch.bool)
    missing[:, 3] = True
    missing[:, 5, 2] = True
    changed = torch.where(missing, 77.0, x)
    assert same(inferred(architecture, x, missing), inferred(architecture, changed, missing))
    assert not same(inferred(architecture, x), inferred(architecture, changed))
    hyper = Hyperparameters(cd_rate=0.5)
    assert loss(architecture, hyper, x, missing) == loss(architecture, hyper, changed, missing)


def test_encoders_skip_missing_bins():
    x = counts()[0]
    weights = reference.random_weights(OFF, 0)
    seen = torch.ones(T, dtype=torch.bool)
    seen[3] = False
    skipped, _ = reference.encode(OFF, weights, 0, x, seen)
    cut, _ = reference.encode(OFF, weights, 0, x[seen], seen[seen])
    torch.testing.assert_close(skipped.mean, cut.mean)
    torch.testing.assert_close(skipped.stddev, cut.stddev)


@pytest.mark.parametrize("architecture", [OFF, ON], ids=["off", "on"])
def test_initial_condition_reads_its_window_alone(architecture):
    windowed = dataclasses.replace(architecture, initial_condition_bins=3, controller_lag_bins=0)
    weights = reference.random_weights(windowed, 0)
    x, seen = counts()[0], torch.ones(T, dtype=torch.bool)
    later, earlier = x.clone(), x.clone()
    later[3:] += 1
    earlier[:3] += 1
    q, codes = reference.encode(windowed, weights, 0, x, seen)
    q_later, codes_later = reference.encode(windowed, weights, 0, later, seen)
    q_earlier, codes_earlier = reference.encode(windowed, weights, 0, earlier, seen)
    assert torch.equal(q.mean, q_later.mean)
    assert not torch.equal(q.mean, q_earlier.mean)
    assert len(codes) == (T - 3 if architecture.controller_units else 0)
    for code, code_later, code_earlier in zip(codes, codes_later, codes_earlier, strict=True):
        assert torch.equal(code, code_earlier)
        assert not torch.equal(code, code_later)


@pytest.mark.parametrize("window", [0, 3])
def test_latents_end_with_the_trial_and_begin_after_the_window(window):
    architecture = dataclasses.replace(ON, initial_condition_bins=window)
    latents = inferred(architecture, counts(3), lengths=[T, 5, 2])
    widths = 4, 3, 5, 2
    for values, width in zip(latents, widths, strict=True):
        assert values.shape == (3, T, width)
        for b, length in enumerate((T, 5, 2)):
            known = torch.zeros(T, dtype=torch.bool)
            known[window:length] = True
            assert torch.equal(values[b].isfinite().all(1), known)
            assert torch.equal(values[b].isnan().all(1), ~known)
    assert inferred(OFF, counts()).inputs is None


def test_each_bin_is_moved_by_its_own_known_input():
    x, external = counts(), normal(1, T, 2)
    changed = external.clone()
    changed[0, 4] += 1
    first, second = (inferred(ON, x, external=e) for e in (external, changed))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a[0, :4], b[0, :4])
        assert (a[0, 4] != b[0, 4]).any()
    only_known = dataclasses.replace(OFF, external_inputs=2)
    first, second = (inferred(only_known, x, external=e) for e in (external, changed))
    assert torch.equal(first.states[0, :4], second.states[0, :4])
    assert (first.states[0, 4] != second.states[0, 4]).any()


@pytest.mark.parametrize("observation", ["poisson", "negative_binomial"])
def test_probabilities_of_counts_sum_to_one(observation):
    architecture = dataclasses.replace(OFF, observation=observation)
    weights = reference.random_weights(architecture, 0)
    log_prob, mean = reference.observed(architecture, weights, 0, normal(1, 4).clamp(-1, 1))
    x = torch.arange(400, dtype=DOUBLE)[:, None].expand(400, 4)
    p = log_prob(x).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(4, dtype=DOUBLE))
    torch.testing.assert_close((p * x).sum(0), mean[0])
    if observation == "negative_binomial":  # variance = mean + mean² / r
        spread = (p * (x - mean) ** 2).sum(0)
        torch.testing.assert_close(spread, (mean + mean**2 / weights["rates.constant"].exp())[0])


def test_gaussian_density_integrates_to_one():
    architecture = dataclasses.replace(OFF, observation="gaussian")
    weights = reference.random_weights(architecture, 0)
    outputs = normal(1, 4)
    log_prob, mean = reference.observed(architecture, weights, 0, outputs)
    assert torch.equal(mean, outputs)
    x = torch.linspace(-15, 15, 6001, dtype=DOUBLE)[:, None]
    p = log_prob(x).exp()
    torch.testing.assert_close(torch.trapezoid(p, x, dim=0), torch.ones(4, dtype=DOUBLE))
    spread = torch.trapezoid(p * (x - mean) ** 2, x, dim=0)
    torch.testing.assert_close(spread, weights["rates.constant"].exp() + 1e-4)


def test_zero_inflated_density_integrates_to_the_probability_of_an_event():
    architecture = dataclasses.replace(OFF, observation="zero_inflated_gamma")
    outputs = normal(1, 12).clamp(-1, 1)
    outputs[:, 4:8] += 1.5  # shapes above 1: the density is finite at 0
    log_prob, mean = reference.observed(architecture, {}, 0, outputs)
    x = torch.linspace(1e-6, 300, 600001, dtype=DOUBLE)[:, None]
    p = log_prob(x).exp()
    event = torch.trapezoid(p, x, dim=0)
    torch.testing.assert_close(event, outputs[0, :4].sigmoid(), rtol=1e-5, atol=1e-6)
    nothing = log_prob(torch.zeros(1, 4, dtype=DOUBLE)).exp()[0]
    torch.testing.assert_close(nothing + event, torch.ones(4, dtype=DOUBLE), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.trapezoid(p * x, x, dim=0), mean[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pass_rate", [0.0, 0.5, 1.0])
def test_coordinated_dropout_divides_samples_into_read_and_used(pass_rate):
    architecture = dataclasses.replace(OFF, held_out_neurons=(2,), encoded_bins=6, initial_condition_bins=2)
    random = torch.Generator().manual_seed(1)
    x = counts()
    missing, held_out = (torch.rand(x.shape, generator=random) < 0.2 for _ in range(2))
    trials = Trials(x, [T], missing, None, held_out, torch.rand(x.shape, generator=random))
    hyper = Hyperparameters(cd_rate=0.5, cd_pass_rate=pass_rate)
    read, used = reference.read_and_used(architecture, hyper, trials, 0)
    assert not ((read | used) & (missing | held_out)[0]).any()
    assert not read[:, 2].any()
    assert not read[6:].any()
    assert not used[:2].any()
    visible = ~(missing | held_out)[0]
    assert torch.equal(used[2:, 2], visible[2:, 2])
    assert torch.equal(used[6:], visible[6:])
    both = (read & used).sum()
    assert {0.0: both == 0, 0.5: 0 < both < read[2:].sum(), 1.0: both == read[2:].sum()}[pass_rate]
    assert torch.equal((read | used)[2:], visible[2:])
    read, used = reference.read_and_used(architecture, Hyperparameters(cd_rate=0.0), trials, 0)
    assert torch.equal(used[2:], visible[2:])


def test_reconstruction_of_two_sessions_is_the_mean_over_their_samples():
    architecture = dataclasses.replace(OFF, neurons=(4, 3), read_in_dim=2)
    weights = reference.random_weights(architecture, 0)
    hyper = Hyperparameters(cd_rate=0.0, dropout=0.0)

    def trials(x):
        nothing = torch.zeros(x.shape, dtype=torch.bool)
        return Trials(x, [T] * len(x), nothing, None, nothing, torch.rand(x.shape))

    def losses(*sessions, rows):
        noise = Draws(normal(3, 2)[rows], torch.zeros(3, T, 0), torch.rand(3, T, 5))
        return reference.training_loss(architecture, weights, hyper, sessions, noise, 0.0, 0.0)

    first, second = trials(counts(2)), trials(counts(1, 3, seed=1))
    none = [trials(torch.zeros(0, T, n, dtype=DOUBLE)) for n in (4, 3)]
    both = losses(first, second, rows=[0, 1, 2])
    alone = losses(first, none[1], rows=[0, 1]), losses(none[0], second, rows=[2])
    weighted = [value * share for value, share in zip((a.reconstruction for a in alone), (8, 3), strict=True)]
    torch.testing.assert_close(both.reconstruction, sum(weighted) / 11)
    torch.testing.assert_close(
        both.kl_initial_condition, (2 * alone[0].kl_initial_condition + alone[1].kl_initial_condition) / 3
    )


@pytest.mark.parametrize("prior", ["gaussian", "autoregressive"])
def test_priors_that_are_not_learned_have_no_gradient(prior):
    architecture = dataclasses.replace(
        ON, input_prior=prior, learn_input_prior=False, learn_prior_variance=False, external_inputs=0
    )
    weights = {n: w.requires_grad_() for n, w in reference.random_weights(architecture, 0).items()}
    x = counts()
    nothing = torch.zeros(x.shape, dtype=torch.bool)
    draws = Draws(normal(1, 2), normal(1, T, 2), torch.rand(1, T, 5))
    sessions = [Trials(x, [T], nothing, None, nothing, torch.rand(x.shape))]
    total = reference.training_loss(architecture, weights, Hyperparameters(), sessions, draws, 0.0, 1.0).total
    gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    without = {name for name, g in zip(weights, gradients, strict=True) if g is None or not g.any()}
    expected = {"prior.log_variance", "input_prior.log_variance", "input_prior.log_time_constant"}
    assert without == expected & set(weights)


def test_states_start_within_their_limit():
    weights = reference.random_weights(ON, 0, scale=100.0)
    seen, mask = torch.ones(1, dtype=torch.bool), torch.ones(1, 1)
    path = reference.run_trial(
        ON, weights, 0, counts()[0, :1], seen, normal(1, 2), normal(2), normal(1, 2), mask
    )
    assert 1 < path.states.abs().max() <= 5


def test_loss_is_its_parts_weighted():
    weights = reference.random_weights(ON, 2)
    hyper = Hyperparameters(
        kl_weight_initial_condition=0.3,
        kl_weight_inputs=0.2,
        l2_weight_generator=0.7,
        l2_weight_controller=0.4,
    )
    parts = loss(ON, hyper, counts())
    penalties = 0.3 * parts.kl_initial_condition + 0.2 * parts.kl_inputs
    penalties += 0.7 * (weights["generator.recurrent_weight"] ** 2).mean()
    penalties += 0.4 * (weights["controller.recurrent_weight"] ** 2).mean()
    assert parts.total == pytest.approx(float(parts.reconstruction + 0.5 * penalties))
    assert math.isfinite(parts.kl_inputs)
