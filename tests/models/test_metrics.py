import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from models import ConfigurationError, bits_per_spike, poisson_nll, r2_true_rates, ridge_decode_r2


def some(seed=0, shape=(8, 6, 3)):
    random = np.random.default_rng(seed)
    rates = random.gamma(2.0, 0.3, shape)
    return rates, random.poisson(rates), random.random(shape) < 0.7


def test_poisson_nll_is_that_of_torch():
    rates, spikes, mask = some()
    expected = (
        -torch.distributions.Poisson(torch.from_numpy(rates)).log_prob(torch.from_numpy(spikes)).numpy()
    )
    assert poisson_nll(rates, spikes) == pytest.approx(expected.mean())
    assert poisson_nll(rates, spikes, mask) == pytest.approx(expected[mask].mean())
    without = poisson_nll(rates, spikes, include_ln_factorial=False)
    assert without == pytest.approx((rates - spikes * np.log(rates)).mean())


def test_bits_per_spike_by_its_definition():
    rates, spikes, mask = some()
    mean = np.array([0.4, 0.6, 0.9])
    gain = (spikes * np.log(rates) - rates) - (spikes * np.log(mean) - mean)
    expected = gain[mask].sum() / (spikes[mask].sum() * math.log(2))
    assert bits_per_spike(rates, spikes, mean, mask) == pytest.approx(expected)
    own_mean = np.array([spikes[..., n][mask[..., n]].mean() for n in range(3)])
    constant = np.broadcast_to(own_mean, rates.shape)
    assert bits_per_spike(constant, spikes, mask=mask) == pytest.approx(0.0, abs=1e-12)
    zero = rates.copy()
    zero[0, 0, 0] = 0.0
    assert math.isfinite(bits_per_spike(zero, spikes))
    with pytest.raises(ConfigurationError, match="without a spike"):
        bits_per_spike(rates, spikes * 0)


def test_r2_is_that_of_scikit_learn_and_leaves_constant_neurons_out():
    truth, _, _ = some()
    rates = truth + np.random.default_rng(1).normal(0, 0.2, truth.shape)
    flat = truth.reshape(-1, 3), rates.reshape(-1, 3)
    assert r2_true_rates(rates, truth) == pytest.approx(r2_score(*flat))
    valid = (np.arange(6)[None, :] < np.array([6, 2, 3, 6, 6, 1, 5, 6])[:, None])[:, :, None]
    inside = np.broadcast_to(valid, truth.shape)[..., 0]
    rates[~inside] = np.nan
    assert r2_true_rates(rates, truth, valid) == pytest.approx(r2_score(truth[inside], rates[inside]))
    truth[..., 1] = 0.3
    rates = np.nan_to_num(rates)
    expected = np.mean([r2_score(truth[..., n].ravel(), rates[..., n].ravel()) for n in (0, 2)])
    assert r2_true_rates(rates, truth) == pytest.approx(expected)
    assert math.isnan(r2_true_rates(rates, np.ones_like(rates)))


def test_masks_and_shapes_are_checked():
    rates, spikes, mask = some()
    with pytest.raises(ConfigurationError, match="shape"):
        poisson_nll(rates, spikes[:2])
    with pytest.raises(ConfigurationError, match="no sample counts"):
        poisson_nll(rates, spikes, mask & False)


def decoding(noise=0.5, lag=0):
    random = np.random.default_rng(3)
    features = random.normal(size=(20, 12, 4)) * [1, 10, 0.1, 1]
    behaviour = features @ random.normal(size=(4, 2)) + random.normal(0, noise, (20, 12, 2)) + 5.0
    return features, np.roll(behaviour, lag, axis=1)


def test_ridge_decoding_is_that_of_scikit_learn():
    features, behaviour = decoding()
    fold_of = np.random.default_rng(0).permutation(20) % 5
    truth, predicted = [], []
    for fold in range(5):
        train, test = features[fold_of != fold].reshape(-1, 4), features[fold_of == fold].reshape(-1, 4)
        y, scale = behaviour[fold_of != fold].reshape(-1, 2), train.std(0)
        predicted.append(Ridge(alpha=10.0).fit(train / scale, y).predict(test / scale))
        truth.append(behaviour[fold_of == fold].reshape(-1, 2))
    expected = r2_score(np.concatenate(truth), np.concatenate(predicted))
    assert ridge_decode_r2(features, behaviour, alphas=[10.0]) == pytest.approx(expected, rel=1e-6)


def test_ridge_decoding_finds_lag_and_penalty_and_never_reads_masked_bins():
    features, behaviour = decoding(noise=0.1, lag=2)
    features[:, :, 3] += 1e3  # a large mean is no obstacle
    valid = np.arange(12)[None, :] < np.random.default_rng(4).integers(7, 13, 20)[:, None]
    features[~valid], behaviour[~valid] = np.nan, np.nan
    features, behaviour = features.copy(), behaviour.copy()
    assert ridge_decode_r2(features, behaviour, valid, lag_bins=2) > 0.99
    assert ridge_decode_r2(features, behaviour, valid, lag_bins=[0, 1, 2, 3]) > 0.99
    assert ridge_decode_r2(features, behaviour, valid, lag_bins=0) < 0.5
    with pytest.raises(ConfigurationError, match="every lag"):
        ridge_decode_r2(features, behaviour, valid, lag_bins=12)
    with pytest.raises(ConfigurationError, match="folds"):
        ridge_decode_r2(features, behaviour, valid, folds=21)


def test_unrelated_features_decode_nothing():
    features, behaviour = decoding()
    shuffled = features[np.random.default_rng(0).permutation(20)]
    assert abs(ridge_decode_r2(shuffled, behaviour)) < 0.05


LORENZ_FILE = Path(__file__).resolve().parents[3] / "shared" / "data" / "lorenz_lfads_format.h5"


@pytest.mark.skipif(not LORENZ_FILE.exists(), reason="the shared recordings are not on this machine")
def test_figures_of_the_public_lorenz_file():
    import h5py

    with h5py.File(LORENZ_FILE) as file:
        spikes, rates_hz = (
            np.concatenate((file[f"train_{k}"][:], file[f"valid_{k}"][:])) for k in ("data", "truth")
        )
    rates = rates_hz * 0.01
    # nats a sample, with ln x!
    assert poisson_nll(rates[640:], spikes[640:]) == pytest.approx(0.0775, abs=1e-4)
    assert bits_per_spike(rates[:640], spikes[:640]) == pytest.approx(0.992, abs=5e-4)


def test_a_feature_constant_in_training_trials_gets_no_huge_weight():
    features, behaviour = decoding(noise=0.1)
    features[:, :, 3] = 1e-20 * np.random.default_rng(0).normal(size=(20, 12))
    features[5, :, 3] = 1.0
    assert ridge_decode_r2(features, behaviour) > 0.5
