import dataclasses

import numpy as np
import pytest
import torch

from models import (
    Architecture,
    ConfigurationError,
    Hyperparameters,
    Session,
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
        TrainingData(Session(*change(*arrays())), sv_rate=0.2, sv_seed=0)


@pytest.mark.parametrize("rate", [-0.1, 0.95, float("nan")])
def test_sv_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ConfigurationError, match="sv_rate must lie in"):
        TrainingData(Session(*arrays()), sv_rate=rate, sv_seed=0)


def test_a_mask_that_holds_out_nothing_is_refused():
    session = Session(np.ones((2, 1, 1), int), np.ones(2, int), np.array([False, True]))
    with pytest.raises(ConfigurationError, match="holds out no sample"):
        TrainingData(session, sv_rate=1e-6, sv_seed=0)


def test_mask_has_its_rate_and_depends_on_the_seed_alone():
    mask = sample_validation_mask((40, 50, 30), 0.2, 7)
    assert mask.mean() == pytest.approx(0.2, abs=0.01)
    assert np.array_equal(mask, sample_validation_mask((40, 50, 30), 0.2, 7))
    assert not np.array_equal(mask, sample_validation_mask((40, 50, 30), 0.2, 8))
    # the same mask on every platform, for ever: jobs store only its seed
    assert np.flatnonzero(sample_validation_mask((2, 3, 5), 0.2, 1)).tolist() == PINNED_MASK


PINNED_MASK = [4, 5, 18, 19, 28]


def test_every_recorded_sample_is_either_visible_or_held_out():
    spikes, lengths, validation = arrays()
    lengths[1] = 2
    missing = np.zeros(spikes.shape, bool)
    missing[0, 1:3, 0] = True
    missing[5, 4] = True
    data = TrainingData(Session(spikes, lengths, validation, missing), sv_rate=0.3, sv_seed=0)
    batch = data.batch([torch.tensor([1, 0, 5])])
    (part,) = batch.parts
    recorded = torch.from_numpy(((np.arange(5) < lengths[:, None])[:, :, None] & ~missing)[[1, 0, 5]])
    assert torch.equal(part.visible ^ part.held_out, recorded.transpose(0, 1))
    assert not (part.visible & part.held_out).any()
    assert batch.inside[:, :, 0].sum(0).tolist() == [2, 5, 5]
    assert batch.seen[:, :, 0].sum(0).tolist() == [2, 5, 4]  # a bin is passed over where nothing was recorded
    expected = torch.from_numpy(np.where(recorded[1], spikes[0], 0)).float()
    assert torch.equal(part.values[:, 1], expected)
    torch.testing.assert_close(part.ln_factorials, torch.lgamma(part.values + 1))


def test_test_trials_neither_train_nor_validate():
    """What they hold changes nothing for the others, and their mask is that of their place among all trials."""
    spikes, lengths, validation = arrays()
    tested = np.zeros(len(spikes), bool)
    tested[[0, 2]] = True
    validation = validation & ~tested
    data = TrainingData(Session(spikes, lengths, validation, is_test=tested), sv_rate=0.3, sv_seed=0)
    parts = (data.training_trials, data.validation_trials, data.test_trials)
    expected = (~validation & ~tested, validation, tested)
    assert [trials[0].tolist() for trials in parts] == [np.flatnonzero(of).tolist() for of in expected]
    held_out = data.batch([torch.arange(6)]).parts[0].held_out.transpose(0, 1).numpy()
    np.testing.assert_array_equal(held_out, sample_validation_mask(spikes.shape, 0.3, 0))
    other = np.where(tested[:, None, None], spikes + 9, spikes)
    changed = TrainingData(Session(other, lengths, validation, is_test=tested), sv_rate=0.3, sv_seed=0)
    assert torch.equal(changed.statistics[0].mean, data.statistics[0].mean)
    enters = ~sample_validation_mask(spikes.shape, 0.3, 0)[expected[0]]
    mean = ((spikes[expected[0]] * enters).sum((0, 1)) + 0.5) / (enters.sum((0, 1)) + 1)
    np.testing.assert_allclose(data.statistics[0].mean, mean, rtol=1e-6)
    final = TrainingData(
        Session(spikes, lengths, validation, is_test=tested), sv_rate=0.3, sv_seed=0, train_on_validation=True
    )
    assert final.training_trials[0].tolist() == np.flatnonzero(~tested).tolist()
    with pytest.raises(ConfigurationError, match="true at no validation trial"):
        TrainingData(Session(spikes, lengths, ~tested, is_test=~tested), sv_rate=0.3, sv_seed=0)


def test_sessions_of_other_length_are_padded_and_have_masks_of_their_own():
    spikes, lengths, validation = arrays()
    inputs = np.random.default_rng(1).normal(size=(6, 5, 2))
    short = Session(spikes[:, :3, :2], lengths - 2, validation, external_inputs=inputs[:, :3])
    data = TrainingData(
        [Session(spikes, lengths, validation, external_inputs=inputs), short], sv_rate=0.3, sv_seed=0
    )
    assert (data.bins, data.neurons, data.external_inputs) == (5, (3, 2), 2)
    batch = data.batch([torch.tensor([0, 1]), torch.tensor([4])])
    assert batch.trials == [2, 1]
    assert batch.inside[:, :, 0].sum(0).tolist() == [5, 5, 3]
    assert not batch.parts[1].visible[3:].any()
    assert torch.equal(batch.external[:3, 2], torch.from_numpy(inputs[4, :3]).float())
    assert (batch.external[3:, 2] == 0).all()
    masks = [sample_validation_mask((40, 5, 3), 0.3, 0, session) for session in (0, 1)]
    assert not np.array_equal(*masks)
    with pytest.raises(ConfigurationError, match="same external inputs"):
        TrainingData([Session(spikes, lengths, validation), short], sv_rate=0.3, sv_seed=0)


def test_missing_and_external_arrays_that_do_not_fit_are_refused():
    spikes, lengths, validation = arrays()
    for options, message in (
        ({"missing": np.zeros((6, 5), bool)}, r"missing must be bool of the spikes' shape \(6, 5, 3\)"),
        ({"external_inputs": np.zeros((6, 4, 1))}, r"external_inputs must be \[trials, T, X\]"),
        ({"external_inputs": np.full((6, 5, 1), np.nan)}, "external_inputs must be finite"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            TrainingData(Session(spikes, lengths, validation, **options), sv_rate=0.2, sv_seed=0)


def test_continuous_data_are_finite_where_recorded_and_not_negative_for_gamma():
    values = np.random.default_rng(0).normal(size=(6, 5, 3))
    values[0, 3:] = np.nan  # past the end
    lengths = np.array([3, 5, 5, 5, 5, 5])

    def made(values, observation):
        session = Session(values, lengths, np.arange(6) >= 4)
        return TrainingData(session, sv_rate=0.2, sv_seed=0, observation=observation)

    (part,) = made(values, "gaussian").batch([torch.tensor([0])]).parts
    assert part.ln_factorials is None
    assert (part.values[3:] == 0).all()
    with pytest.raises(ConfigurationError, match="not negative"):
        made(values, "zero_inflated_gamma")
    values[1, 0, 0] = np.nan
    with pytest.raises(ConfigurationError, match="finite wherever they were recorded"):
        made(values, "gaussian")


def test_counts_beyond_a_byte_are_kept():
    spikes, lengths, validation = arrays()
    spikes[0, 0, 0] = 300
    data = TrainingData(Session(spikes, lengths, validation), sv_rate=0.0, sv_seed=0)
    assert data.batch([torch.tensor([0])]).parts[0].values[0, 0, 0] == 300


def test_silent_neurons_have_a_positive_mean():
    spikes, lengths, validation = arrays()
    spikes[:, :, 1] = 0
    (statistics,) = TrainingData(Session(spikes, lengths, validation), sv_rate=0.0, sv_seed=0).statistics
    assert 0 < statistics.mean[1] < 0.05
    assert statistics.mean[0] == pytest.approx(spikes[:4, :, 0].mean(), rel=0.1)


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
        (Architecture, "neurons", (3, 4)),  # sessions without a read-in
        (Architecture, "controller_units", 8),  # without inferred inputs
        (Architecture, "held_out_neurons", (0, 1, 2)),
        (Architecture, "held_out_neurons", (3,)),
        (Architecture, "encoded_bins", -1),
        (Hyperparameters, "kl_weight_inputs", -1.0),
        (TrainingOptions, "decay_factor", 1.5),
        (TrainingOptions, "precision", "bf16"),
        (TrainingOptions, "precision", "auto"),
        (TrainingOptions, "decay_patience", 0),
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
    with pytest.raises(ConfigurationError, match=field if value != (3, 4) else "read_in_dim"):
        dataclasses.replace(valid, **{field: value})


@pytest.mark.parametrize("observation", ["poisson", "zero_inflated_gamma"])
def test_what_stands_where_nothing_was_recorded_does_not_matter(observation):
    spikes = np.ones((6, 5, 3), np.int64 if observation == "poisson" else np.float64)
    missing = np.zeros(spikes.shape, bool)
    missing[0, 2, 1] = True
    spikes[0, 2, 1] = -1
    spikes[1, 4:] = -7  # past the trial's end
    session = Session(spikes, np.array([5, 4, 5, 5, 5, 5]), np.arange(6) >= 4, missing)
    held = (
        TrainingData(session, sv_rate=0.0, sv_seed=0, observation=observation)
        .batch([torch.arange(6)])
        .parts[0]
    )
    assert held.values[2, 0, 1] == held.values[4, 1, 0] == 0
