"""Wider bins against NumPy's sums and means, and against xarray."""

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from api.errors import Invalid
from tests.api.transformations.laboratory import (
    BINS,
    START_S,
    TRIALS,
    WIDTH_S,
    Laboratory,
    all_recorded,
    in_blocks,
    past_the_end,
    spikes,
    trial_lengths,
    with_values,
)


@pytest.mark.parametrize("factor", [1, 2, 4, 7, 30])
def test_counts_are_summed_and_stay_integers(lab: Laboratory, factor: int) -> None:
    found = lab.one(lab.dataset_id, "spikes", rebin_s=factor * WIDTH_S)
    bins = BINS // factor
    expected = spikes()[:, : bins * factor].reshape(TRIALS, bins, factor, 5).sum(axis=2, dtype=np.int64)
    lengths = trial_lengths() // factor
    expected[np.arange(bins) >= lengths[:, None]] = 0
    np.testing.assert_array_equal(found.values(), expected)
    assert found.dtype == {1: np.uint8}.get(factor, np.uint16)
    [recorded] = [one.values for one in found.coordinates if one.name == "trial_length_bins"]
    np.testing.assert_array_equal(recorded, lengths)
    np.testing.assert_allclose(
        found.index("time_s").values,
        START_S + np.arange(bins) * factor * WIDTH_S,
    )
    assert found.attributes["bin_width_s"] == pytest.approx(factor * WIDTH_S)
    assert (found.attributes["rebinned"], found.attributes["bins_dropped"]) == ("sum", BINS % factor)


def test_sums_do_not_overflow(lab: Laboratory) -> None:
    for dtype, wide in ((np.uint8, np.uint16), (np.uint16, np.uint32), (np.int16, np.int64)):
        most = np.full((TRIALS, BINS, 5), np.iinfo(dtype).max, dtype)
        whole = lab.array(lab.dataset_id, "spikes")
        counts = with_values(whole, most, coordinates=all_recorded(whole))
        found = lab.one(lab.dataset_id, counts, rebin_s=0.2)
        assert (found.dtype, int(found.values().min())) == (wide, 10 * np.iinfo(dtype).max)


@given(st.integers(1, BINS), st.integers(0, 2**32 - 1), st.floats(0, 0.9))
@settings(deadline=None, max_examples=25)
def test_everything_else_is_averaged_over_what_is_there(
    lab: Laboratory, factor: int, seed: int, absent: float
) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(TRIALS, BINS, 5)).astype(np.float32)
    values[past_the_end() | (random.random((TRIALS, BINS)) < absent)] = np.nan
    whole = with_values(lab.array(lab.model_id, "rates"), values)
    found = lab.one(lab.model_id, whole, rebin_s=factor * WIDTH_S)
    named = xarray.DataArray(values.astype(np.float64), dims=whole.dims)
    expected = named.coarsen(time_s=factor, boundary="trim").mean()
    np.testing.assert_allclose(found.values(), expected.values, rtol=1e-5, atol=1e-6)
    assert (found.dtype, found.units, found.attributes["rebinned"]) == (np.float32, "spikes/s", "mean")


def test_sums_of_what_is_not_all_there_are_nan(lab: Laboratory) -> None:
    found = lab.one(
        lab.dataset_id, "spikes", align_to="go_cue", window_s="-0.1:0.4", smooth_s=0.02, rebin_s=0.1
    )
    one_by_one = lab.one(lab.dataset_id, "spikes", align_to="go_cue", window_s="-0.1:0.4", smooth_s=0.02)
    expected = one_by_one.values().reshape(TRIALS, 5, 5, 5).sum(axis=2)
    np.testing.assert_allclose(found.values(), expected, rtol=1e-5)
    assert 0 < np.isnan(expected).mean() < 1
    np.testing.assert_allclose(found.index("time_s").values, [-0.1, 0, 0.1, 0.2, 0.3], atol=1e-12)


@given(st.integers(1, 60), st.integers(1, 50))
@settings(deadline=None, max_examples=20)
def test_continuous_series_are_rebinned_piece_by_piece(lab: Laboratory, rows: int, factor: int) -> None:
    series = lab.array(lab.model_id, "continuous_factors")
    found = lab.one(lab.model_id, in_blocks(series, rows), rebin_s=factor * WIDTH_S)
    bins = 400 // factor
    expected = series.values()[: bins * factor].reshape(bins, factor, 2).mean(axis=1, dtype=np.float64)
    np.testing.assert_allclose(found.values(), expected, rtol=1e-5, atol=1e-6)
    assert found.shape == expected.shape


@pytest.mark.parametrize(
    ("rebin_s", "says", "hint"),
    [
        (0.03, "expected a whole multiple of the bin width, 0.02 s; got 0.03 s", "nearest are 0.02 and 0.04"),
        (0.001, "expected a whole multiple", "nearest are 0.02"),
        (50, "expected at most 0.6 s", "it is in seconds: did you mean 0.05?"),
        (1, "expected at most 0.6 s", "it is in seconds"),
        (1e300, "expected", ""),
    ],
)
def test_width_that_does_not_fit_is_refused(lab: Laboratory, rebin_s: float, says: str, hint: str) -> None:
    with pytest.raises(Invalid) as caught:
        lab.one(lab.model_id, "rates", rebin_s=rebin_s)
    assert says in caught.value.detail
    assert hint in (caught.value.hint or "")
