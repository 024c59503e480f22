import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from domain.ranks import spearman
from domain.scores import (
    ModelLosses,
    ReferenceLosses,
    bits_per_spike,
    co_smoothing_bits_per_spike,
    constant_rate_losses,
    forward_prediction_bits_per_spike,
    poisson_nll,
    psth_r2,
    r2_true_rates,
    ridge_decode_r2,
    validation_disagreement,
)
from models import ConfigurationError


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


def gain_in_bits(rates, spikes):
    """Bits per spike of [samples, N], written out."""
    mean = spikes.mean(0)
    gain = (spikes * np.log(rates) - rates) - (spikes * np.log(mean) - mean)
    return gain.sum() / spikes.sum() / math.log(2)


def test_co_smoothing_scores_held_out_neurons_alone():
    rates, spikes, _ = some(shape=(8, 6, 5))
    expected = gain_in_bits(rates[..., [1, 4]].reshape(-1, 2), spikes[..., [1, 4]].reshape(-1, 2))
    rates[..., 0] = np.nan  # a neuron that is not scored
    assert co_smoothing_bits_per_spike(rates, spikes, [1, 4]) == pytest.approx(expected)
    as_mask = np.array([False, True, False, False, True])
    assert co_smoothing_bits_per_spike(rates, spikes, as_mask) == pytest.approx(expected)
    for wrong in ([5], [-1], [1, 1], [], as_mask[:3]):
        with pytest.raises(ConfigurationError, match="held_out_neurons"):
            co_smoothing_bits_per_spike(rates, spikes, wrong)
    with pytest.raises(ConfigurationError, match="finite and not negative"):
        co_smoothing_bits_per_spike(rates, spikes, [0, 1])
    with pytest.raises(ConfigurationError, match="finite and not negative"):
        co_smoothing_bits_per_spike(-rates, spikes, [1])


def test_forward_prediction_scores_bins_after_the_encoded_ones_alone():
    rates, spikes, _ = some()
    expected = gain_in_bits(rates[:, 4:].reshape(-1, 3), spikes[:, 4:].reshape(-1, 3))
    rates[:, :4] = np.nan
    assert forward_prediction_bits_per_spike(rates, spikes, 4) == pytest.approx(expected)
    for bins in (0, 6):
        with pytest.raises(ConfigurationError, match="encoded_bins"):
            forward_prediction_bits_per_spike(rates, spikes, bins)


def test_benchmark_scores_leave_out_masked_samples_and_unknown_spikes():
    rates, spikes, _ = some()
    lengths = np.array([6, 5, 6, 6, 5, 6, 5, 6])
    valid = (np.arange(6) < lengths[:, None])[:, :, None]
    inside = valid[:, 3:, 0]
    expected = gain_in_bits(rates[:, 3:][inside], spikes[:, 3:][inside])
    unknown = np.where(valid, spikes, np.nan)
    rates = np.where(valid, rates, np.nan)
    assert forward_prediction_bits_per_spike(rates, spikes, 3, valid) == pytest.approx(expected)
    assert forward_prediction_bits_per_spike(rates, unknown, 3) == pytest.approx(expected)
    whole = gain_in_bits(rates[valid[..., 0]], spikes[valid[..., 0]])
    assert co_smoothing_bits_per_spike(rates, unknown, [0, 1, 2]) == pytest.approx(whole)
    assert bits_per_spike(rates, unknown, mask=valid) == pytest.approx(whole)


def regression(samples=400, D=5, N=4, seed=0):
    random = np.random.default_rng(seed)
    z = random.normal(size=(samples, D)) * [1, 0.3, 2, 0.1, 1][:D]
    return z, random.poisson(np.exp(z @ random.normal(0, 0.5, (D, N)) - 1.5))


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


def by_condition(seed=0, repeats=12, T=40):
    """Rates and spikes of 3 conditions, whose trials are interleaved; condition 2 is 10 bins shorter."""
    random = np.random.default_rng(seed)
    condition = np.tile([0, 1, 2], repeats)
    phase = np.arange(T)[None, :, None] / 6 + condition[:, None, None] + np.arange(4)
    rates = np.exp(0.8 * np.sin(phase) - 1)
    length = np.where(condition == 2, T - 10, T)
    return rates, random.poisson(rates), condition, np.arange(T) < length[:, None]


def smoothed_by_hand(counts, sd_bins):
    """Of one trial [bins, N]; weights reach 3 sd and are scaled to sum to 1 within the trial."""
    bins = np.arange(len(counts))
    result = np.zeros(counts.shape)
    for t in bins:
        weight = np.exp(-0.5 * ((bins - t) / sd_bins) ** 2) * (np.abs(bins - t) <= 3 * sd_bins)
        result[t] = weight @ counts / weight.sum()
    return result


def psth_by_hand(rates, spikes, condition, valid, sd_bins):
    """PSTH and condition-averaged rates, [bins of all conditions, N]."""
    psth, average = [], []
    for label in np.unique(condition):
        trials = np.flatnonzero(condition == label)
        bins = valid[trials[0]].sum()
        psth.append(np.mean([smoothed_by_hand(spikes[b, :bins], sd_bins) for b in trials], axis=0))
        average.append(np.mean([rates[b, :bins] for b in trials], axis=0))
    return np.concatenate(psth), np.concatenate(average)


def test_psth_r2_by_its_definition():
    rates, spikes, condition, valid = by_condition()
    inferred = rates * np.random.default_rng(1).normal(1, 0.2, rates.shape)
    expected = r2_score(*psth_by_hand(inferred, spikes, condition, valid, 0.05 / 0.02))
    inferred, spikes = inferred.copy(), spikes.astype(float)
    inferred[~valid], spikes[~valid] = np.nan, np.nan
    given_as = {"bin_width_s": 0.02, "smoothing_sd_s": 0.05, "mask": valid}
    assert psth_r2(inferred, spikes, condition, **given_as) == pytest.approx(expected)
    names = np.array(["left", "right", "up"])[condition]
    assert psth_r2(inferred, spikes, names, **given_as) == pytest.approx(expected)


def test_psth_r2_knows_the_truth_from_other_rates():
    rates, spikes, condition, _ = by_condition(repeats=60)
    given_as = {"bin_width_s": 0.01, "smoothing_sd_s": 0.02}
    assert psth_r2(rates, spikes, condition, **given_as) > 0.85
    assert psth_r2(rates * 100, spikes, condition, **given_as) < -100  # Hz beside counts per bin
    assert psth_r2(rates[:, ::-1], spikes, condition, **given_as) < 0
    flat = np.broadcast_to(spikes.mean((0, 1)), rates.shape)
    assert psth_r2(flat, spikes, condition, **given_as) == pytest.approx(0.0, abs=0.02)
    silent = spikes.copy()
    silent[..., 1] = 0  # no R²: left out
    others = [0, 2, 3]
    assert psth_r2(rates, silent, condition, **given_as) == pytest.approx(
        psth_r2(rates[..., others], spikes[..., others], condition, **given_as)
    )


def test_psth_r2_averages_rates_over_the_scored_trials_alone():
    rates, spikes, condition, _ = by_condition()
    scored = np.arange(36) >= 30
    other = np.where(scored[:, None, None], rates, 1e6)
    given_as = {"bin_width_s": 0.01, "scored_trials": scored}
    assert psth_r2(other, spikes, condition, **given_as) == psth_r2(rates, spikes, condition, **given_as)
    # A condition without a scored trial does not count.
    scored &= condition != 1
    has = condition != 1
    assert psth_r2(rates, spikes, condition, bin_width_s=0.01, scored_trials=scored) == pytest.approx(
        psth_r2(rates[has], spikes[has], condition[has], bin_width_s=0.01, scored_trials=scored[has])
    )
    with pytest.raises(ConfigurationError, match="is a trial scored"):
        psth_r2(rates, spikes, condition, bin_width_s=0.01, scored_trials=scored & False)
    with pytest.raises(ConfigurationError, match="condition must be"):
        psth_r2(rates, spikes, condition[:3], bin_width_s=0.01)
    with pytest.raises(ConfigurationError, match="seconds"):
        psth_r2(rates, spikes, condition, bin_width_s=0.0)


def test_psth_r2_leaves_out_bins_that_few_trials_reach():
    rates, spikes, condition, _ = by_condition()
    lengths = np.full(36, 25)
    lengths[:3] = 40  # one trial of each condition goes on
    valid = np.arange(40) < lengths[:, None]
    rates[:3, 25:] = 1e6
    score = psth_r2(rates, spikes, condition, bin_width_s=0.01, mask=valid)
    assert -1 < score <= 1


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


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.floats(-1e6, 1e6)), min_size=3, max_size=30))
def test_spearman_is_that_of_scipy(pairs):
    a, b = map(list, zip(*pairs, strict=True))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)


def test_spearman_of_too_little():
    assert math.isnan(spearman([1.0], [2.0]))
    with pytest.raises(ConfigurationError, match="one length"):
        spearman([1.0], [2.0, 3.0])
    with pytest.raises(ConfigurationError, match="finite"):
        spearman([1.0, math.nan], [2.0, 3.0])


def held_out_some(seed=0, shape=(60, 20, 10)):
    """Rates of a wave, spikes, mask of sample validation, and the last third of trials for validation."""
    random = np.random.default_rng(seed)
    phase = np.arange(shape[1])[None, :, None] / 3 + random.random((shape[0], 1, 1)) * 6 + np.arange(shape[2])
    rates = np.exp(np.sin(phase) - 1.5)
    return rates, random.poisson(rates), random.random(shape) < 0.2, np.arange(shape[0]) >= 40


def of(sv, ordinary, last_sv=None, last_ordinary=None, numbers=None):
    """Models by their losses; the last epoch's are those of the kept weights unless given."""
    last = zip(
        sv if last_sv is None else last_sv, ordinary if last_ordinary is None else last_ordinary, strict=True
    )
    names = range(len(sv)) if numbers is None else numbers
    return [
        ModelLosses(n, *kept, *end)
        for n, kept, end in zip(names, zip(sv, ordinary, strict=True), last, strict=True)
    ]


def losses(rates, spikes, held_out, is_validation):
    x, hidden = spikes[is_validation], held_out[is_validation]
    return poisson_nll(rates[is_validation], x, hidden), poisson_nll(rates[is_validation], x, ~hidden)


def test_constant_rate_losses_by_their_definition():
    _, spikes, held_out, is_validation = held_out_some()
    recorded = (np.arange(20) < np.random.default_rng(1).integers(10, 21, 60)[:, None])[:, :, None]
    reference = constant_rate_losses(spikes, held_out, is_validation, recorded)
    everywhere = np.broadcast_to(recorded, spikes.shape)
    shown = everywhere[:40] & ~held_out[:40]
    entered = [spikes[:40, :, n][shown[..., n]] for n in range(10)]
    mean = np.array(
        [(one.sum() + 0.5) / (len(one) + 1) for one in entered]
    )  # half a spike in one sample more
    nll = mean - spikes * np.log(mean) + np.vectorize(math.lgamma)(spikes + 1.0)
    hidden = everywhere & held_out & is_validation[:, None, None]
    seen = everywhere & ~held_out & is_validation[:, None, None]
    assert reference.sv_loss == pytest.approx(nll[hidden].mean())
    assert reference.validation_loss == pytest.approx(nll[seen].mean())
    assert reference.held_out_samples == hidden.sum()


@pytest.mark.parametrize("seed", range(20))
def test_the_truth_does_not_leak_and_copied_spikes_do(seed):
    rates, spikes, held_out, is_validation = held_out_some(seed)
    reference = constant_rate_losses(spikes, held_out, is_validation)
    copied = np.where(held_out, rates, 0.3 * rates + 0.7 * (spikes + 0.05))
    weak = np.where(rates > 0, 0.9 * spikes.mean() + 0.1 * rates, 0)  # has learned next to nothing
    pairs = [losses(one, spikes, held_out, is_validation) for one in (rates, copied, weak)]
    found = validation_disagreement(of(*zip(*pairs, strict=True)), reference)
    assert found.leaking == (1,)


def test_the_truth_loses_nothing_of_its_gain_on_held_out_samples():
    rates, spikes, held_out, is_validation = held_out_some(shape=(120, 100, 40))
    reference = constant_rate_losses(spikes, held_out, is_validation)
    found = validation_disagreement(
        of(*([loss] for loss in losses(rates, spikes, held_out, is_validation))), reference
    )
    assert found.lost_shares[0] == pytest.approx(0.0, abs=0.05)


# Final losses of eight models trained for 60 epochs on 320 trials of lorenz_lfads_format.h5, with cd_rate 0, 0.05,
# 0.2, 0.5, 0, 0, 0, 0.2 and kl_weight_inputs 1e-8 (four), 1e-5, 1e-4, 1e-3, 1e-5; 4 inferred inputs.
TRAINED_SV = [0.1422, 0.0848, 0.0842, 0.0837, 0.1436, 0.1248, 0.0848, 0.0840]
TRAINED_ORDINARY = [0.0465, 0.0837, 0.0842, 0.0837, 0.0465, 0.0494, 0.0845, 0.0840]
OF_CONSTANT_RATES = ReferenceLosses(sv_loss=0.0943, validation_loss=0.0950, held_out_samples=47963)


def test_disagreement_over_trained_models():
    found = validation_disagreement(of(TRAINED_SV, TRAINED_ORDINARY, numbers=range(1, 9)), OF_CONSTANT_RATES)
    assert (found.leaking, found.leaking_later) == ((1, 5, 6), ())
    assert (found.best_by_sv, found.best_by_validation_loss) == (4, 1)
    assert found.rank_correlation == pytest.approx(spearmanr(TRAINED_SV, TRAINED_ORDINARY).statistic)
    assert found.rank_correlation < -0.3
    assert found.lost_shares[0] == pytest.approx(1 - (0.0943 - 0.1422) / (0.0950 - 0.0465))
    assert found.last_lost_shares == found.lost_shares
    assert max(found.lost_shares[n] for n in (1, 2, 3, 6, 7)) < 0.2


def test_no_leak_among_models_with_coordinated_dropout():
    calm = [1, 2, 3, 6, 7]
    found = validation_disagreement(
        of([TRAINED_SV[n] for n in calm], [TRAINED_ORDINARY[n] for n in calm]), OF_CONSTANT_RATES
    )
    assert (found.leaking, found.leaking_later) == ((), ())


def test_a_model_alone_leaks_as_well():
    found = validation_disagreement(of(TRAINED_SV[:1], TRAINED_ORDINARY[:1]), OF_CONSTANT_RATES)
    assert (found.leaking, found.best_by_sv, found.rank_correlation) == ((0,), 0, None)


def test_the_last_epoch_is_judged_beside_the_kept_weights():
    """The weights of an early epoch are kept, those that copy spikes are not."""
    found = validation_disagreement(
        of([0.0840], [0.0838], TRAINED_SV[:1], TRAINED_ORDINARY[:1]), OF_CONSTANT_RATES
    )
    assert (found.leaking, found.leaking_later) == ((), (0,))
    assert found.lost_shares[0] == pytest.approx(1 - 0.0103 / 0.0112)
    assert found.last_lost_shares[0] == pytest.approx(1 + 0.0479 / 0.0485)
    assert found.best_by_validation_loss == 0


# Losses of the kept weights and of the last of 60 epochs, SV and ordinary, on `lorenz(12, 5, 40, 20, 1.5, seed=1)`: rates vary
# so much that a leak is a small share of the gain over constant rates.
OF_HIGH_RATES = ReferenceLosses(sv_loss=2.0411, validation_loss=2.0677, held_out_samples=1951)
LEAKS_LATER = (1.2574, 1.2865, 1.3395, 1.2857)  # cd_rate 0
CALM_LATER = (1.2539, 1.2940, 1.2666, 1.3038)  # cd_rate 0.5


def test_a_leak_that_is_a_small_share_of_a_large_gain_is_seen_by_losses_that_part():
    leaks, calm = (
        validation_disagreement([ModelLosses(0, *four)], OF_HIGH_RATES) for four in (LEAKS_LATER, CALM_LATER)
    )
    assert leaks.last_lost_shares[0] == pytest.approx(1 - 0.7016 / 0.7820)  # 10 %
    assert (leaks.leaking, leaks.leaking_later) == ((), (0,))
    assert (calm.leaking, calm.leaking_later) == ((), ())


@pytest.mark.parametrize(
    ("last_sv", "last_ordinary", "leaks"),
    [
        (1.31, 1.28, True),
        (1.31, 1.30, False),  # both rise: overfitting that ordinary validation sees
        (1.29, 1.24, False),  # the SV loss has hardly risen: by less than 5 % of 2.0411 - 1.2574
        (1.25, 1.24, False),  # both fall
    ],
)  # fmt: skip
def test_losses_part_by_rule(last_sv, last_ordinary, leaks):
    found = validation_disagreement([ModelLosses(4, 1.2574, 1.2865, last_sv, last_ordinary)], OF_HIGH_RATES)
    assert found.leaking_later == ((4,) if leaks else ())


def test_losses_that_part_by_less_than_five_standard_errors_are_no_leak():
    apart = [ModelLosses(0, 0.4, 0.4, 0.42, 0.39)]  # 5 · √(2 · 0.03 / n) is 0.03 for n = 1667
    few, many = (validation_disagreement(apart, ReferenceLosses(0.5, 0.5, n)) for n in (1600, 1730))
    assert (few.leaking_later, many.leaking_later) == ((), (0,))


def test_a_gain_of_next_to_nothing_is_no_leak_however_much_worse_the_sv_loss_is():
    """Trained on 60 trials of a weakly driven network with cd_rate 0.5: it fits its training trials too closely."""
    reference = ReferenceLosses(0.2040, 0.2001, 3613)
    found = validation_disagreement([ModelLosses(0, 0.2025, 0.1976, 0.2069, 0.1993)], reference)
    assert found.last_lost_shares[0] > 4
    assert (found.leaking, found.leaking_later) == ((), ())


def test_losses_that_are_not_known_are_left_out():
    sv, ordinary = [None, *TRAINED_SV, math.nan], [0.0, *TRAINED_ORDINARY, 0.01]
    found = validation_disagreement(of(sv, ordinary), OF_CONSTANT_RATES)
    assert found.leaking == (1, 5, 6)
    assert (found.best_by_sv, found.best_by_validation_loss) == (4, 1)
    assert found.lost_shares[0] is None
    none = validation_disagreement(of([math.nan], [None]), OF_CONSTANT_RATES)
    assert (none.best_by_sv, none.best_by_validation_loss, none.leaking) == (None, None, ())
    # Of weights whose losses are not known, the last epoch is judged.
    older = validation_disagreement(
        of([None], [None], TRAINED_SV[:1], TRAINED_ORDINARY[:1]), OF_CONSTANT_RATES
    )
    assert (older.leaking, older.leaking_later) == ((0,), ())
    ended = validation_disagreement(of([0.0840], [0.0838], [math.nan], [math.nan]), OF_CONSTANT_RATES)
    assert (ended.leaking, ended.leaking_later, ended.best_by_validation_loss) == ((), (), 0)


def test_models_that_gain_next_to_nothing_do_not_leak():
    sv, ordinary = [0.2, 0.0928, 0.0944], [0.1, 0.0910, 0.0948]  # the second as after two epochs
    alone = validation_disagreement(of(sv[::2], ordinary[::2]), OF_CONSTANT_RATES)
    assert alone.leaking == ()  # less than five standard errors are lost
    assert alone.lost_shares[0] is None
    found = validation_disagreement(of([*sv, *TRAINED_SV], [*ordinary, *TRAINED_ORDINARY]), OF_CONSTANT_RATES)
    assert found.leaking == (3, 7, 8)
    assert found.lost_shares[1] > 0.5


def test_disagreement_is_free_of_an_offset_of_the_losses():
    """Densities of continuous observations may be negative and near zero."""
    shifted = ReferenceLosses(0.0943 - 0.09, 0.0950 - 0.09, 47963)
    plain = validation_disagreement(of(TRAINED_SV, TRAINED_ORDINARY), OF_CONSTANT_RATES)
    moved = validation_disagreement(
        of(np.array(TRAINED_SV) - 0.09, np.array(TRAINED_ORDINARY) - 0.09), shifted
    )
    assert moved.leaking == plain.leaking
    assert moved.lost_shares == pytest.approx(plain.lost_shares)


def test_disagreement_arguments_are_checked():
    with pytest.raises(ConfigurationError, match="different numbers"):
        validation_disagreement(of([1.0, 2.0], [1.0, 2.0], numbers=[1, 1]), OF_CONSTANT_RATES)
    with pytest.raises(ConfigurationError, match="expected held-out samples"):
        validation_disagreement(of([1.0], [1.0]), ReferenceLosses(1.0, 1.0, 0))


@pytest.mark.parametrize(("trials", "folds"), [(6, 6), (5, 5), (3, 3), (4, 2)])
def test_the_penalty_is_chosen_with_few_trials_too(trials, folds):
    """Pure noise: only a strong penalty does no harm, whatever folds there are."""
    random = np.random.default_rng(0)
    features, behaviour = random.normal(size=(trials, 40, 30)), random.normal(size=(trials, 40, 1))
    assert ridge_decode_r2(features, behaviour, folds=folds) > -0.3


def test_decoding_two_trials_is_refused():
    with pytest.raises(ConfigurationError, match="at least 3 trials"):
        ridge_decode_r2(np.ones((2, 5, 2)), np.ones((2, 5, 1)), folds=2)
