"""Smoothing against SciPy's, and against sums written out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from api.errors import Invalid
from domain.smoothing import smoothed
from tests.api.transformations.laboratory import (
    BINS,
    WIDTH_S,
    Laboratory,
    all_recorded,
    in_blocks,
    past_the_end,
    spikes,
    with_values,
)


def written_out(values: NDArray[Any], deviation: float) -> NDArray[Any]:
    """Along axis 1: weighted means over what is there."""
    distance = np.arange(values.shape[1])[:, None] - np.arange(values.shape[1])
    weight = np.exp(-0.5 * (distance / deviation) ** 2) * (np.abs(distance) <= int(4 * deviation + 0.5))
    there = ~np.isnan(values)
    total = np.einsum("ts,bsk->btk", weight, np.where(there, values, 0))
    return np.where(there, total / np.maximum(np.einsum("ts,bsk->btk", weight, there), 1e-300), np.nan)


@given(st.floats(0.05, 30), st.integers(0, 2**32 - 1), st.floats(0, 0.9))
@settings(deadline=None, max_examples=40)
def test_nan_and_edges_do_not_pull(deviation: float, seed: int, absent: float) -> None:
    random = np.random.default_rng(seed)
    values = 5 + random.normal(size=(3, 30, 2))
    values[random.random(values.shape) < absent] = np.nan
    np.testing.assert_allclose(smoothed(values, deviation, 1), written_out(values, deviation), rtol=1e-9)
    constant = np.where(np.isnan(values), np.nan, 2.5)
    np.testing.assert_allclose(smoothed(constant, deviation, 1), constant, rtol=1e-12)


@pytest.mark.parametrize("deviation", [1e-300, 1e-160, 0.1])
def test_less_than_a_bin_changes_nothing(deviation: float) -> None:
    values = np.array([[1.0, np.nan, 3.0]])
    np.testing.assert_array_equal(smoothed(values, deviation, 1), values)


def test_within_the_edges_it_is_scipy_s(lab: Laboratory) -> None:
    values = np.random.default_rng(0).normal(size=(24, BINS, 5)).astype(np.float32)
    rates = lab.array(lab.model_id, "rates")
    found = lab.one(lab.model_id, with_values(rates, values, coordinates=all_recorded(rates)), smooth_s=0.03)
    expected = gaussian_filter1d(values.astype(np.float64), 1.5, axis=1)
    np.testing.assert_allclose(found.values()[:, 6:-6], expected[:, 6:-6], rtol=1e-4, atol=1e-6)
    assert (found.dtype, found.units) == (np.float32, "spikes/s")
    assert found.attributes["smoothed_s"] == 0.03


def test_counts_become_floating_and_end_with_their_trial(lab: Laboratory) -> None:
    found = lab.one(lab.dataset_id, "spikes", smooth_s=0.05)
    counts = np.where(past_the_end()[..., None], np.nan, spikes())
    np.testing.assert_allclose(found.values(), written_out(counts, 2.5), rtol=1e-5)
    assert np.isnan(found.values()).any()
    assert (found.dtype, found.units) == (np.float32, "spikes")


@given(st.integers(1, 100), st.floats(0.2, 20))
@settings(deadline=None, max_examples=20)
def test_continuous_series_are_smoothed_piece_by_piece(lab: Laboratory, rows: int, deviation: float) -> None:
    series = lab.array(lab.model_id, "continuous_factors")
    found = lab.one(lab.model_id, in_blocks(series, rows), smooth_s=deviation * WIDTH_S)
    expected = written_out(series.values()[None], deviation)[0]
    np.testing.assert_allclose(found.values(), expected, rtol=1e-3, atol=1e-4)


def test_one_trial_is_smoothed_along_its_time(lab: Laboratory) -> None:
    whole = lab.array(lab.model_id, "rates")
    others = tuple(one for one in whole.coordinates if one.dim != "trial")
    values = whole.values()[3]
    one = with_values(whole, values, dims=whole.dims[1:], coordinates=others)
    found = lab.one(lab.model_id, one, smooth_s=0.04).values()
    np.testing.assert_allclose(found, written_out(values[None], 2.0)[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "smooth_s", "says"),
    [
        ("rates", 20, "expected at most 0.6 s, 30 bins; got 20 s"),
        ("initial_conditions", 0.1, "expected an array with a time axis"),
        ("continuous_factors", 1e9, "expected at most 8 s, 400 bins"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(lab: Laboratory, name: str, smooth_s: float, says: str) -> None:
    with pytest.raises(Invalid) as caught:
        lab.one(lab.model_id, name, smooth_s=smooth_s)
    assert says in caught.value.detail
    if smooth_s == 20:
        assert caught.value.hint == "it is in seconds: did you mean 0.02?"


def test_bins_that_do_not_follow_each_other_are_refused(lab: Laboratory) -> None:
    whole = lab.array(lab.model_id, "rates")
    times = tuple(
        one.taken(slice(None, None, 2)) if one.dim == "time_s" else one for one in whole.coordinates
    )
    part = with_values(whole, whole.values()[:, ::2], coordinates=times)
    with pytest.raises(Invalid, match="between those selected others are left out"):
        lab.one(lab.model_id, part, smooth_s=0.04)
