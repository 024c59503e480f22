from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from domain.errors import ConfigurationError
from domain.scores import bits_per_spike, poisson_nll
from domain.synthetic import (
    SyntheticRecording,
    chaotic_rnn,
    driven,
    flip_flop,
    lorenz,
    lorenz_session,
    rossler,
    two_sessions,
)

System = Callable[..., SyntheticRecording]
SYSTEMS = pytest.mark.parametrize("system", [lorenz, rossler, flip_flop, chaotic_rnn, driven, lorenz_session])


def network_states(made: SyntheticRecording, max_rate_hz: float = 30.0) -> np.ndarray:
    """States y of a random network, from its rates."""
    return np.arctanh(2 * made.true_rates_hz.astype(float) / max_rate_hz - 1)


def test_the_standard_set_has_its_published_statistics():
    made = lorenz()
    assert made.spikes.shape == made.true_rates_hz.shape == (1300, 50, 29)
    assert made.spikes.dtype == np.uint8
    assert made.spikes.mean() == pytest.approx(0.2, abs=0.003)
    assert made.is_validation.reshape(65, 20).sum(1).tolist() == [4] * 65
    assert np.array_equal(made.condition, np.repeat(np.arange(65), 20))
    rates = made.true_rates_hz * made.bin_width_s
    assert rates.mean((0, 1)) == pytest.approx(np.full(29, 0.2), rel=1e-4)
    assert poisson_nll(rates, made.spikes) == pytest.approx(0.4417, abs=0.03)
    assert bits_per_spike(rates, made.spikes) == pytest.approx(0.726, abs=0.3)


@SYSTEMS
def test_spikes_are_poisson_about_rates_shared_within_a_condition(system: System):
    sizes = {"conditions": 2, "trials_per_condition": 2000, "bins": 20, "neurons": 4, "seed": 3}
    strong = {"max_rate_hz": 200.0} if system in (chaotic_rnn, driven) else {"mean_count_per_bin": 1.0}
    made = system(**sizes, **strong)
    assert made.spikes.shape == made.true_rates_hz.shape == (4000, 20, 4)
    rates = made.true_rates_hz * made.bin_width_s
    for condition in range(2):
        chosen = made.condition == condition
        if system is not driven:
            assert (rates[chosen] == rates[chosen][0]).all()
        expected = rates[chosen].sum(0, dtype=float)
        difference = made.spikes[chosen].astype(float) - rates[chosen]
        assert np.abs(difference.sum(0) / np.sqrt(expected)).max() < 5
        assert (np.square(difference).sum(0) / expected).mean() == pytest.approx(1.0, abs=0.03)


def test_latents_follow_the_lorenz_equations():
    states = lorenz(conditions=40, trials_per_condition=2, bins=400, seed=1).latents[::2].astype(float)
    assert np.abs(states.mean((0, 1))).max() < 1e-4
    assert states.std((0, 1)) == pytest.approx(np.ones(3), abs=1e-4)
    # On the attractor: x and y are alike, z is uncorrelated with them by symmetry, x changes sign.
    correlation = np.corrcoef(states.reshape(-1, 3).T)
    assert 0.8 < correlation[0, 1] < 0.95
    assert abs(correlation[0, 2]) < 0.15
    assert ((states[:, 1:, 0] * states[:, :-1, 0]) < 0).any(axis=1).mean() > 0.9
    # The equation of z relates the three: ż = x y - β z, linear in (x y, z, 1) whatever the normalisation.
    x, y, z = np.moveaxis(states, 2, 0)
    slope = (z[:, 2:] - z[:, :-2]) / 2
    terms = np.stack([(x * y)[:, 1:-1], x[:, 1:-1], y[:, 1:-1], z[:, 1:-1], np.ones_like(slope)], -1).reshape(
        -1, 5
    )
    fit, *_ = np.linalg.lstsq(terms, slope.ravel(), rcond=None)
    assert 1 - (slope.ravel() - terms @ fit).var() / slope.var() > 0.97


def test_the_chaotic_network_has_the_paper_s_size_and_rates():
    made = chaotic_rnn()
    assert made.spikes.shape == made.true_rates_hz.shape == made.latents.shape == (4000, 100, 50)
    assert made.spikes.dtype == np.uint8
    assert made.bin_width_s == 0.01
    assert made.inputs is None
    assert made.is_validation.reshape(400, 10).sum(1).tolist() == [2] * 400
    assert made.true_rates_hz.min() > 0
    assert made.true_rates_hz.max() < 30
    assert made.spikes.mean() / made.bin_width_s == pytest.approx(15.0, abs=0.1)
    assert np.abs(made.latents.mean((0, 1), dtype=float)).max() < 1e-4
    assert made.latents.std((0, 1), dtype=float) == pytest.approx(np.ones(50), abs=1e-4)
    # Conditions begin apart, and their rates are still moving at the end: the network is neither at rest nor in step.
    rates = made.true_rates_hz[::10]
    assert rates[:, 0].std(0).mean() > 5
    assert rates[:, -1].std(0).mean() > 5
    assert rates[:, -20:].std(1).mean() > 3


@pytest.mark.parametrize("gain", [1.5, 2.5])
def test_the_network_follows_its_equation(gain: float):
    """τ ẏ = -y + γ W tanh(y): fitted to the rates, the terms are all there is and have their sizes."""
    states = network_states(chaotic_rnn(conditions=20, trials_per_condition=2, gain=gain, seed=4))[::2]
    now, later = (states[:, part].reshape(-1, 50) for part in (slice(0, 20), slice(1, 21)))
    step = 0.01 / 0.025
    weights, *_ = np.linalg.lstsq(np.tanh(now), (later - (1 - step) * now) / step, rcond=None)
    expected = (1 - step) * now + step * np.tanh(now) @ weights
    # float32 rates near their bounds tell y to a few percent only, hence tanh y.
    assert np.abs(np.tanh(expected) - np.tanh(later)).max() < 0.01
    assert weights.std() * np.sqrt(50) == pytest.approx(gain, rel=0.05)
    assert abs(weights.mean()) * 50 < 4 * gain


def test_a_weak_network_dies_out():
    rates = chaotic_rnn(conditions=5, trials_per_condition=2, gain=0.5).true_rates_hz
    assert np.abs(rates[:, 0] - 15).max() > 5
    assert np.abs(rates[:, -1] - 15).max() < 0.01


@pytest.mark.parametrize(("system", "compared"), [(chaotic_rnn, 50), (driven, 12)])
def test_wide_bins_are_integrated_in_short_steps(system: System, compared: int):
    """Up to the first pulse, which lasts longer in a wide bin."""
    few = {"conditions": 4, "trials_per_condition": 2, "seed": 2}
    fine = system(**few, bins=100, bin_width_s=0.01).true_rates_hz
    wide = system(**few, bins=50, bin_width_s=0.02).true_rates_hz
    np.testing.assert_allclose(wide[:, :compared], fine[:, 1 : 2 * compared : 2], atol=1e-3)


def test_pulses_come_once_at_random_times_with_random_signs():
    made = driven(conditions=50, inputs=2, seed=1)
    assert made.inputs is not None
    assert made.inputs.shape == (500, 100, 2)
    assert made.inputs.dtype == np.float32
    assert ((made.inputs != 0).sum(1) == 1).all()
    assert set(np.unique(made.inputs)) == {-50, 0, 50}
    when, sign = np.abs(made.inputs).argmax(1), np.sign(made.inputs.sum(1))
    assert (when.min(), when.max()) == (25, 74)
    assert np.abs(np.bincount(when.ravel(), minlength=100)[25:75] - 20).max() < 5 * np.sqrt(20)
    assert abs(sign.mean()) < 0.2
    # Neither the condition nor the other input tells when, or which way.
    assert abs(np.corrcoef(when.T)[0, 1]) < 0.2
    assert abs(np.corrcoef(sign.T)[0, 1]) < 0.2
    assert when.reshape(50, 10, 2).std(1).mean() > 10


def test_inputs_change_the_rates_and_nothing_before_them():
    few = {"conditions": 30, "inputs": 1, "seed": 5}
    made, alone = driven(**few, pulse=5.0), driven(**few, pulse=1e-9)
    assert made.inputs is not None
    when, sign = np.abs(made.inputs[:, :, 0]).argmax(1), np.sign(made.inputs.sum((1, 2)))
    trials, bins = np.arange(300), np.arange(100)
    change = made.true_rates_hz - alone.true_rates_hz
    assert np.abs(change[bins[None] < when[:, None]]).max() < 1e-3
    assert np.abs(change[bins[None] == when[:, None]]).mean() > 1
    assert np.abs(change[trials, when + 10]).mean() > 0.3  # carried on by the dynamics
    # Δy = pulse · Δt / τ along one direction, forth or back by the sign.
    push = (network_states(made) - network_states(alone))[trials, when] * sign[:, None]
    np.testing.assert_allclose(push, np.broadcast_to(push[0], push.shape), atol=0.02)
    assert np.linalg.norm(push[0]) == pytest.approx(5.0 * 0.01 / 0.025, rel=0.01)
    # So trials of a condition, which begin alike, end apart.
    rates = made.true_rates_hz.reshape(30, 10, 100, 50)
    np.testing.assert_allclose(rates[:, :, 24], rates[:, :1, 24].repeat(10, 1), atol=1e-3)
    assert rates[:, :, 80].std(1).mean() > 0.3


def test_two_sessions_share_the_latents_of_conditions_and_nothing_else():
    first, second = two_sessions(10, 5, 40, neurons=(12, 7), seed=6)
    assert first.spikes.shape == (50, 40, 12)
    assert second.spikes.shape == (50, 40, 7)
    assert np.array_equal(first.condition, second.condition)
    assert np.array_equal(first.latents, second.latents)
    for made in (first, second):
        rates = made.true_rates_hz * made.bin_width_s
        assert rates.mean((0, 1)) == pytest.approx(np.full(rates.shape[2], 0.2), rel=1e-4)
        terms = np.concatenate([made.latents, np.ones((50, 40, 1))], 2).reshape(-1, 4)
        log_rates = np.log(rates.reshape(len(terms), -1))
        weights, *_ = np.linalg.lstsq(terms, log_rates, rcond=None)
        np.testing.assert_allclose(terms @ weights, log_rates, atol=1e-3)
    # No neuron of one is a neuron of the other.
    assert not np.isclose(first.true_rates_hz[0, 0][:, None], second.true_rates_hz[0, 0][None]).any()


def test_sessions_are_the_same_made_together_or_alone():
    shared = {"conditions": 4, "trials_per_condition": 3, "bins": 20, "seed": 7}
    together = two_sessions(**shared, neurons=(5, 9))
    for session, made in enumerate(together):
        alone = lorenz_session(session, **shared, neurons=(5, 9)[session])
        assert np.array_equal(made.spikes, alone.spikes)
        assert np.array_equal(made.true_rates_hz, alone.true_rates_hz)
    same_size = two_sessions(**shared, neurons=(5, 5))
    assert not np.array_equal(same_size[0].true_rates_hz, same_size[1].true_rates_hz)
    assert not np.array_equal(same_size[0].spikes, same_size[1].spikes)
    longer = lorenz_session(1, **{**shared, "trials_per_condition": 6}, neurons=9)
    assert np.array_equal(longer.true_rates_hz[::6], together[1].true_rates_hz[::3])


@SYSTEMS
def test_it_depends_on_the_seed(system: System):
    small = {"conditions": 3, "trials_per_condition": 5, "bins": 20, "neurons": 9}
    first, again, other = system(**small, seed=1), system(**small, seed=1), system(**small, seed=2)
    for name in ("spikes", "true_rates_hz", "latents", "inputs"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert name == "inputs" or not np.array_equal(getattr(first, name), getattr(other, name))
    assert first.is_validation.sum() == 3


@SYSTEMS
def test_a_recording_is_the_same_in_blocks(system: System, monkeypatch: pytest.MonkeyPatch):
    small = {"conditions": 5, "trials_per_condition": 3, "bins": 20, "neurons": 9}
    whole = system(**small)
    monkeypatch.setattr("domain.synthetic.recording.SAMPLES_PER_BLOCK", 2 * 3 * 20 * 9)
    assert np.array_equal(system(**small).spikes, whole.spikes)


def test_large_counts():
    assert lorenz(2, 2, 5, 3, mean_count_per_bin=400.0).spikes.dtype == np.int16
    with pytest.raises(ConfigurationError, match="at most 32767 per bin, got"):
        lorenz(2, 2, 5, 3, mean_count_per_bin=1e6)


@SYSTEMS
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trials_per_condition": 1}, "at least 2, got 1"),
        ({"conditions": 0}, "got 0 conditions"),
        ({"neurons": 0}, "0 neurons"),
        ({"bins": 1}, "1 bins"),
        ({"bin_width_s": 0.0}, "bin_width_s must be positive"),
    ],
)
def test_bad_sizes(system: System, wrong: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        system(**wrong)


@pytest.mark.parametrize(
    ("system", "wrong", "message"),
    [
        (lorenz, {"mean_count_per_bin": 0.0}, "mean_count_per_bin must be positive"),
        (two_sessions, {"mean_count_per_bin": -1.0}, "mean_count_per_bin must be positive"),
        (two_sessions, {"neurons": (5, 0)}, "0 neurons"),
        (lorenz_session, {"session": -1}, "session must be 0 or more, got -1"),
        (chaotic_rnn, {"gain": 0.0}, "gain must be positive"),
        (chaotic_rnn, {"max_rate_hz": 0.0}, "max_rate_hz must be positive"),
        (chaotic_rnn, {"bin_width_s": 10.0}, "at most 0.05, twice the network's time constant, got 10.0"),
        (driven, {"inputs": 0}, "inputs must be 1 … 50, the number of neurons, got 0"),
        (driven, {"inputs": 51}, "got 51"),
        (driven, {"pulse": 0.0}, "pulse must be positive"),
    ],
)
def test_bad_parameters(system: Callable[..., Any], wrong: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        system(**wrong)
