import numpy as np
import pytest

from models import ConfigurationError, bits_per_spike, lorenz, poisson_nll


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


def test_spikes_are_poisson_about_rates_shared_within_a_condition():
    made = lorenz(conditions=2, trials_per_condition=2000, bins=20, neurons=4, mean_count_per_bin=1.0, seed=3)
    rates = made.true_rates_hz * made.bin_width_s
    for condition in range(2):
        chosen = made.condition == condition
        expected = rates[chosen][0]
        assert (rates[chosen] == expected).all()
        counts = made.spikes[chosen].astype(float)
        assert np.abs((counts.mean(0) - expected) / np.sqrt(expected / 2000)).max() < 5
        assert (counts.var(0) / expected).mean() == pytest.approx(1.0, abs=0.03)


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


def test_it_depends_on_the_seed():
    small = {"conditions": 3, "trials_per_condition": 5}
    first, again, other = lorenz(**small, seed=1), lorenz(**small, seed=1), lorenz(**small, seed=2)
    assert np.array_equal(first.spikes, again.spikes)
    assert not np.array_equal(first.spikes, other.spikes)
    assert first.is_validation.sum() == 3


def test_large_counts_and_bad_arguments():
    assert lorenz(2, 2, 5, 3, mean_count_per_bin=400.0).spikes.dtype == np.int16
    with pytest.raises(ConfigurationError, match="at least 2, got 1"):
        lorenz(trials_per_condition=1)
    with pytest.raises(ConfigurationError, match="must be positive"):
        lorenz(mean_count_per_bin=0.0)
