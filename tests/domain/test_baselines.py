"""Simple predictors of spikes: against loops over samples, scipy, and rates that are known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from domain.scores import baselines as module
from domain.scores import bits_per_spike, compare_predictions
from domain.scores.baselines import (
    NO_CONDITION,
    PRIOR_SPIKES,
    Recording,
    Smoothing,
    fit_baselines,
    mean_counts,
)
from models import ConfigurationError

TRIALS, BINS, NEURONS = 14, 9, 3
CONDITION = np.array([0, 1, NO_CONDITION, 2, 0, 1, 0] * 2)


def recording(seed: int = 0, trials: int = TRIALS) -> Recording:
    """Trials of different lengths with missing samples, rates that differ between conditions and within trials."""
    random = np.random.default_rng(seed)
    condition = np.resize(CONDITION, trials)
    course = np.sin(np.arange(BINS)[None] / 3 + 2 * condition[:, None])
    rates = 0.8 * np.exp(course[:, :, None] * np.array([1.0, 0.5, -0.7]))
    lengths = random.integers(5, BINS + 1, trials)
    enters = (np.arange(BINS) < lengths[:, None])[:, :, None] & (random.random(rates.shape) < 0.8)
    return Recording(random.poisson(rates), enters, condition)


def shrunk(mean: float, counts: float, weight: float, alpha: float) -> float:
    return mean * (counts + alpha) / (mean * weight + alpha)


def kernel(distance: int, sd: float) -> float:
    return float(np.exp(-0.5 * (distance / sd) ** 2))


def own_sums(data: Recording, trial: int, bin_: int, neuron: int, sd: float) -> tuple[float, float]:
    """Weighted counts and weights of a trial's samples that enter, around a bin."""
    counts = weight = 0.0
    for other in range(BINS):
        if data.enters[trial, other, neuron]:
            counts += kernel(bin_ - other, sd) * data.spikes[trial, other, neuron]
            weight += kernel(bin_ - other, sd)
    return counts, weight


def others(data: Recording, trial: int | None, condition: int, by_condition: bool) -> list[int]:
    """Trials that the mean by bin of a trial is made of."""
    known = by_condition and condition != NO_CONDITION
    return [
        other
        for other in range(len(data.spikes))
        if other != trial and (not known or data.condition[other] == condition)
    ]


def cross_validated(data: Recording, sd: float, alpha: float, kind: str) -> float:
    """Log-likelihood of every training sample, predicted without itself or without its trial."""
    means = mean_counts(data.spikes, data.enters)
    total = 0.0
    for trial, bin_, neuron in zip(*np.nonzero(data.enters), strict=True):
        if kind == "smoothed":
            counts, weight = own_sums(data, trial, bin_, neuron, sd)
            counts, weight = counts - data.spikes[trial, bin_, neuron], weight - 1
        else:
            of = others(data, trial, data.condition[trial], kind == "by_condition")
            sums = [own_sums(data, other, bin_, neuron, sd) for other in of]
            counts, weight = sum(one for one, _ in sums), sum(one for _, one in sums)
        rate = shrunk(float(means[neuron]), counts, weight, alpha)
        total += float(stats.poisson.logpmf(data.spikes[trial, bin_, neuron], rate))
    return total


def test_constant_rates_are_means_of_what_enters_with_half_a_spike() -> None:
    spikes = np.array([[[3, 0], [1, 0]], [[9, 0], [2, 0]]])
    enters = np.array([[[True, True], [True, True]], [[False, True], [True, True]]])
    found = mean_counts(spikes, enters)
    np.testing.assert_allclose(found, [(3 + 1 + 2 + 0.5) / (3 + 1), 0.5 / (4 + 1)], rtol=1e-6)


def test_what_is_chosen_is_the_likeliest_of_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """By loops over samples and scipy's Poisson distribution."""
    monkeypatch.setattr(module, "PRIOR_SPIKES", np.float32([0.5, 2, 8]))
    data = recording()
    widths = module._widths(BINS)
    assert widths[0] == 0.5
    assert widths[-1] <= BINS < widths[-1] * np.sqrt(2)
    found = fit_baselines([data])
    best = {}
    for kind in ("smoothed", "all", "by_condition"):
        scores = {
            (sd, alpha): cross_validated(data, sd, alpha, kind)
            for sd in widths[::1]
            for alpha in (0.5, 2.0, 8.0)
        }
        best[kind] = max(scores.items(), key=lambda one: one[1])
    assert found.smoothed_spikes == Smoothing(*map(float, best["smoothed"][0]))
    kind = max(("all", "by_condition"), key=lambda one: best[one][1])
    assert found.by_condition == (kind == "by_condition")
    assert found.psth == Smoothing(*map(float, best[kind][0]))


@pytest.mark.parametrize("by_condition", [True, False])
def test_predictions_are_those_of_their_formulas(by_condition: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data, other = recording(), recording(1)
    likelihoods = np.zeros((3, len(module._widths(BINS)), len(PRIOR_SPIKES)))
    likelihoods[0, 3, 2] = likelihoods[1 + by_condition, 4, 1] = 1.0
    monkeypatch.setattr(module, "_log_likelihoods", lambda *_: tuple(likelihoods))
    found = fit_baselines([data])
    sd, alpha = module._widths(BINS)[3], float(PRIOR_SPIKES[2])
    assert (found.smoothed_spikes, found.by_condition) == (Smoothing(sd, alpha), by_condition)
    means = mean_counts(data.spikes, data.enters)
    smoothed = found.predict_smoothed(0, other.spikes, other.enters)
    psth = found.predict_psth(0, np.array([1, NO_CONDITION, 7]))
    sd_psth, alpha_psth = module._widths(BINS)[4], float(PRIOR_SPIKES[1])
    for bin_ in range(BINS):
        for neuron in range(NEURONS):
            for trial in (0, 5, 13):
                expected = shrunk(float(means[neuron]), *own_sums(other, trial, bin_, neuron, sd), alpha)
                assert smoothed[trial, bin_, neuron] == pytest.approx(expected, rel=1e-5)
            # a condition that no training trial has is predicted by all of them
            for row, condition in enumerate((1, NO_CONDITION, NO_CONDITION)):
                sums = [
                    own_sums(data, trial, bin_, neuron, sd_psth)
                    for trial in others(data, None, condition, by_condition)
                ]
                expected = shrunk(float(means[neuron]), *np.sum(sums, axis=0), alpha_psth)
                assert psth[row, bin_, neuron] == pytest.approx(expected, rel=1e-5)


def test_what_does_not_enter_changes_nothing() -> None:
    data = recording()
    changed = replace(data, spikes=np.where(data.enters, data.spikes, 200))
    first, second = fit_baselines([data]), fit_baselines([changed])
    np.testing.assert_array_equal(first.means[0], second.means[0])
    np.testing.assert_array_equal(first.psths[0], second.psths[0])
    assert (first.psth, first.smoothed_spikes) == (second.psth, second.smoothed_spikes)
    np.testing.assert_array_equal(
        first.predict_smoothed(0, data.spikes, data.enters),
        first.predict_smoothed(0, changed.spikes, changed.enters),
    )


def test_few_trials_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = recording(trials=40)
    whole = fit_baselines([data])
    monkeypatch.setattr(module, "SAMPLES_AT_ONCE", 3 * BINS * NEURONS)
    parts = fit_baselines([data])
    np.testing.assert_allclose(whole.means[0], parts.means[0])
    np.testing.assert_allclose(
        whole.predict_smoothed(0, data.spikes, data.enters),
        parts.predict_smoothed(0, data.spikes, data.enters),
        rtol=1e-5,
    )


def test_sessions_share_the_smoothing_and_nothing_else() -> None:
    one, two = recording(0, 40), recording(1, 30)
    wide = replace(two, spikes=two.spikes[:, :, :2], enters=two.enters[:, :, :2])
    both = fit_baselines([one, wide])
    assert [mean.shape for mean in both.means] == [(3,), (2,)]
    np.testing.assert_array_equal(both.means[1], mean_counts(wide.spikes, wide.enters))
    assert both.predict_psth(1, np.array([0])).shape == (1, BINS, 2)


def test_on_rates_that_are_smooth_and_differ_between_trials_baselines_rank_as_expected() -> None:
    """And none of them beats the truth on held-out samples."""
    random = np.random.default_rng(3)
    condition = np.arange(200) % 4
    course = np.cumsum(random.normal(size=(4, 60, 20)), axis=1)[condition] * 0.15
    single = np.cumsum(random.normal(size=(200, 60, 20)), axis=1) * 0.12
    truth = np.minimum(0.15 * np.exp(course + single), 3)
    spikes, enters = random.poisson(truth), random.random(truth.shape) < 0.8
    training = np.arange(200) < 150
    found = fit_baselines([Recording(spikes[training], enters[training], condition[training])])
    assert found.by_condition
    x, seen, held_out = spikes[~training], enters[~training], ~enters[~training]
    predictions = (
        np.broadcast_to(found.means[0], x.shape),
        found.predict_psth(0, condition[~training]),
        found.predict_smoothed(0, x, seen),
        truth[~training],
    )
    mean, psth, smoothed, true = (bits_per_spike(rates, x, mask=held_out) for rates in predictions)
    assert -0.05 < mean < 0.005
    assert mean + 0.1 < psth < smoothed < true


def test_on_a_flat_recording_nothing_falls_below_the_mean() -> None:
    """Where there is nothing to find, the prior keeps smoothed spikes and averages near the mean."""
    random = np.random.default_rng(4)
    spikes, enters = random.poisson(0.1, (60, 40, 10)), random.random((60, 40, 10)) < 0.8
    found = fit_baselines([Recording(spikes, enters, np.arange(60) % 3)])
    mean = bits_per_spike(np.broadcast_to(found.means[0], spikes.shape), spikes, mask=~enters)
    psth = bits_per_spike(found.predict_psth(0, np.arange(60) % 3), spikes, mask=~enters)
    smoothed = bits_per_spike(found.predict_smoothed(0, spikes, enters), spikes, mask=~enters)
    assert psth == pytest.approx(mean, abs=0.01)
    assert smoothed == pytest.approx(mean, abs=0.01)


def test_a_comparison_is_a_paired_t_statistic() -> None:
    random = np.random.default_rng(5)
    model, baseline = random.normal(size=(2, 30))
    found = compare_predictions(model, baseline, spikes=250.0)
    assert found.difference == pytest.approx((model - baseline).sum() / (250 * np.log(2)))
    assert found.standard_error is not None
    expected = stats.ttest_rel(model, baseline).statistic
    assert found.difference / found.standard_error == pytest.approx(expected)
    assert found.verdict == "about_as_good"
    assert compare_predictions(model + 1, baseline, 250.0).verdict == "above"
    assert compare_predictions(model - 1, baseline, 250.0).verdict == "below"
    one = compare_predictions(model[:1], baseline[:1], 250.0)
    assert (one.standard_error, one.verdict) == (None, "about_as_good")
    with pytest.raises(ConfigurationError, match="without a spike"):
        compare_predictions(model, baseline, 0.0)


def test_the_truth_of_flat_recordings_is_hardly_ever_called_worse_than_the_mean() -> None:
    """In about one of forty draws, as two standard errors have it; a fixed limit said it in a quarter of them."""
    random = np.random.default_rng(6)
    verdicts = []
    for _ in range(200):
        training, scored = random.poisson(0.1, (2, 30, 400))
        mean = (training.sum() + 0.5) / (training.size + 1)
        truth, guess = ((scored * np.log(rate) - rate).sum(1) for rate in (0.1, float(mean)))
        verdicts.append(compare_predictions(truth, guess, float(scored.sum())).verdict)
    assert verdicts.count("below") <= 14
    assert verdicts.count("about_as_good") >= 160
