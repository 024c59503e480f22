import dataclasses

import numpy as np
import pytest
import torch

from models import (
    Architecture,
    ConfigurationError,
    Hyperparameters,
    TrainingData,
    TrainingOptions,
    sample_validation_mask,
)


def arrays():
    spikes = np.random.default_rng(0).poisson(0.5, (6, 5, 3))
    return spikes, np.full(6, 5), np.arange(6) >= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, n, v: (s - 1, n, v), "must not be negative, got -1"),
        (lambda s, n, v: (s.astype(float), n, v), "whole counts, got dtype float64"),
        (lambda s, n, v: (s[0], n, v), r"trials × bins × neurons.*\(5, 3\)"),
        (lambda s, n, v: (s[:0], n[:0], v[:0]), "no empty dimension"),
        (lambda s, n, v: (s * 40000, n, v), "too large"),
        (lambda s, n, v: (s, n[:3], v), r"shape \(6,\), got int64 \(3,\)"),
        (lambda s, n, v: (s, n * 0, v), r"1 … 5, got 0 … 0"),
        (lambda s, n, v: (s, n + 1, v), r"1 … 5, got 6 … 6"),
        (lambda s, n, v: (s, n, v.astype(int)), "is_validation must be bool"),
        (lambda s, n, v: (s, n, v | True), "no training trials"),
        (lambda s, n, v: (s, n, v & False), "no validation trials"),
    ],
)
def test_bad_arrays_are_refused_with_reasons(change, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainingData(*change(*arrays()), sv_rate=0.2, sv_seed=0)


@pytest.mark.parametrize("rate", [-0.1, 0.95, float("nan")])
def test_sv_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ConfigurationError, match="sv_rate must lie in"):
        TrainingData(*arrays(), sv_rate=rate, sv_seed=0)


def test_a_mask_that_holds_out_nothing_is_refused():
    with pytest.raises(ConfigurationError, match="holds out no sample"):
        TrainingData(
            np.ones((2, 1, 1), int), np.ones(2, int), np.array([False, True]), sv_rate=1e-6, sv_seed=0
        )


def test_mask_has_its_rate_and_depends_on_the_seed_alone():
    mask = sample_validation_mask((40, 50, 30), 0.2, 7)
    assert mask.mean() == pytest.approx(0.2, abs=0.01)
    assert np.array_equal(mask, sample_validation_mask((40, 50, 30), 0.2, 7))
    assert not np.array_equal(mask, sample_validation_mask((40, 50, 30), 0.2, 8))
    # the same mask on every platform, for ever: jobs store only its seed
    assert np.flatnonzero(sample_validation_mask((2, 3, 5), 0.2, 1)).tolist() == PINNED_MASK


PINNED_MASK = [4, 5, 18, 19, 28]


def test_every_valid_sample_is_either_visible_or_held_out():
    spikes, lengths, validation = arrays()
    lengths[1] = 2
    batch = TrainingData(spikes, lengths, validation, sv_rate=0.3, sv_seed=0).batch(torch.tensor([1, 0, 5]))
    assert torch.equal(batch.visible ^ batch.held_out, batch.valid.expand_as(batch.visible))
    assert not (batch.visible & batch.held_out).any()
    assert batch.valid[:, :, 0].sum(0).tolist() == [2, 5, 5]
    assert torch.equal(batch.counts[:, 1], torch.from_numpy(spikes[0]).float())
    torch.testing.assert_close(batch.ln_factorials, torch.lgamma(batch.counts + 1))


def test_counts_beyond_a_byte_are_kept():
    spikes, lengths, validation = arrays()
    spikes[0, 0, 0] = 300
    data = TrainingData(spikes, lengths, validation, sv_rate=0.0, sv_seed=0)
    assert data.batch(torch.tensor([0])).counts[0, 0, 0] == 300


def test_silent_neurons_have_a_positive_mean():
    spikes, lengths, validation = arrays()
    spikes[:, :, 1] = 0
    data = TrainingData(spikes, lengths, validation, sv_rate=0.0, sv_seed=0)
    assert 0 < data.mean_counts[1] < 0.05
    assert data.mean_counts[0] == pytest.approx(spikes[:4, :, 0].mean(), rel=0.1)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (Hyperparameters, "learning_rate", 0.0),
        (Hyperparameters, "learning_rate", float("inf")),
        (Hyperparameters, "dropout", 1.0),
        (Hyperparameters, "dropout", -0.1),
        (Hyperparameters, "cd_rate", 1.0),
        (Hyperparameters, "cd_pass_rate", 1.1),
        (Hyperparameters, "kl_weight_initial_condition", -1e-9),
        (Hyperparameters, "l2_weight_generator", float("nan")),
        (Architecture, "neurons", 0),
        (Architecture, "generator_units", 2.5),
        (TrainingOptions, "batch_size", 0),
        (TrainingOptions, "ramp_epochs", -1),
        (TrainingOptions, "gradient_clip", 0.0),
        (TrainingOptions, "score_smoothing", 1.0),
    ],
)
def test_configurations_outside_the_method_are_refused(kind, field, value):
    valid = {
        Hyperparameters: Hyperparameters(),
        Architecture: Architecture(3),
        TrainingOptions: TrainingOptions(8),
    }[kind]
    with pytest.raises(ConfigurationError, match=field):
        dataclasses.replace(valid, **{field: value})
