"""Scores beside those of the Neural Latents Benchmark's reference package, nlb_tools 0.0.4 (MIT licence).

The package pins pandas to 1.3.4 at most, so it is no dependency: the Makefile installs it alone, without what it depends
on, and its module of scores runs beside present numpy, scipy and scikit-learn. These tests are skipped without it::

    python -m pip install --no-deps nlb_tools==0.0.4
"""

import numpy as np
import pytest

from domain.scores import (
    co_smoothing_bits_per_spike,
    forward_prediction_bits_per_spike,
    psth_r2,
)

reference = pytest.importorskip(
    "nlb_tools.evaluation", reason="nlb_tools is not installed; the module's docstring says how"
)


def recording(seed=0, trials=40, T=50, N=12):
    """Rates, inferred rates (counts per bin), spikes, and conditions of a simulated task."""
    random = np.random.default_rng(seed)
    condition = np.arange(trials) % 4
    phase = np.arange(T)[None, :, None] / 8 + condition[:, None, None] + np.arange(N)
    rates = np.exp(0.9 * np.sin(phase) + 0.2 * random.normal(size=(trials, 1, 1)) - 2)
    inferred = rates * np.exp(random.normal(0, 0.2, rates.shape))
    return rates, inferred, random.poisson(rates).astype(float), condition


def test_co_smoothing_is_theirs():
    _, inferred, spikes, _ = recording()
    spikes[..., 9] = 0.0  # a silent neuron, whose null rate is zero
    inferred[0, :3, 8:] = 0.0  # rates of zero, with and without spikes
    theirs = reference.bits_per_spike(inferred[..., 8:].copy(), spikes[..., 8:])
    assert co_smoothing_bits_per_spike(inferred, spikes, range(8, 12)) == pytest.approx(theirs, abs=1e-9)


def test_co_smoothing_of_trials_with_unknown_spikes_is_theirs():
    _, inferred, spikes, _ = recording(1)
    lengths = np.random.default_rng(0).integers(30, 51, len(spikes))
    spikes[np.arange(50) >= lengths[:, None]] = np.nan
    theirs = reference.bits_per_spike(inferred[..., 8:].copy(), spikes[..., 8:])
    assert co_smoothing_bits_per_spike(inferred, spikes, range(8, 12)) == pytest.approx(theirs, abs=1e-9)
    inferred[np.isnan(spikes)] = np.nan  # ours asks for no rates where there is no trial
    assert co_smoothing_bits_per_spike(inferred, spikes, range(8, 12)) == pytest.approx(theirs, abs=1e-9)


def test_forward_prediction_is_theirs():
    _, inferred, spikes, _ = recording(2)
    theirs = reference.bits_per_spike(inferred[:, 40:].copy(), spikes[:, 40:])
    assert forward_prediction_bits_per_spike(inferred, spikes, 40) == pytest.approx(theirs, abs=1e-9)


def test_negative_and_missing_rates_are_refused_as_there():
    _, inferred, spikes, _ = recording()
    for wrong in (np.nan, -0.1):
        inferred[0, 0, 9] = wrong
        with pytest.raises(AssertionError):
            reference.bits_per_spike(inferred[..., 8:].copy(), spikes[..., 8:])
        with pytest.raises(ValueError, match="finite and not negative"):
            co_smoothing_bits_per_spike(inferred, spikes, range(8, 12))


def test_psth_r2_is_theirs():
    """Their PSTHs come from a file of the benchmark; ours are made here from the definition, and given to theirs."""
    _, inferred, spikes, condition = recording(3)
    length = np.where(condition == 3, 35, 50)
    valid = np.arange(50) < length[:, None]
    scored = np.arange(40) >= 28
    sd_bins = 0.05 / 0.02
    psth = np.full((4, 50, 12), np.nan)
    for c in range(4):
        bins = np.arange(35 if c == 3 else 50)
        kernel = np.exp(-0.5 * ((bins[:, None] - bins) / sd_bins) ** 2)
        kernel[np.abs(bins[:, None] - bins) > 3 * sd_bins] = 0.0
        kernel /= kernel.sum(1, keepdims=True)
        psth[c, bins] = np.mean([kernel @ trial[bins] for trial in spikes[condition == c]], axis=0)
    eval_trials = [np.flatnonzero(condition[scored] == c) for c in range(4)]
    theirs = reference.eval_psth(psth, inferred[scored], eval_trials)
    ours = psth_r2(
        inferred,
        spikes,
        condition,
        bin_width_s=0.02,
        smoothing_sd_s=0.05,
        scored_trials=scored,
        mask=valid,
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
