"""Streamed moments against NumPy's of everything at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.moments import Moments, in_step, joined

cuts = st.lists(st.integers(0, 20), max_size=4).map(sorted)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), cuts, st.integers(0, 10), st.sampled_from([0.0, 1e4]))
def test_moments_are_numpy_s_however_rows_are_cut(
    seed: int, cut: list[int], absent: int, offset: float
) -> None:
    random = np.random.default_rng(seed)
    rows = (offset + random.normal(size=(20, 3))).astype(np.float32)
    rows[random.integers(0, 20, absent), random.integers(0, 3, absent)] = random.choice([np.nan, np.inf])
    found = Moments(3).add_all(np.split(rows, cut))
    there = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
    assert found.count == len(there) > 1
    np.testing.assert_allclose(found.mean, there.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(there.T), rtol=1e-8, atol=1e-11)


def test_moments_take_samples_of_any_axes() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5, 3))
    found = Moments(3).add_all([values])
    np.testing.assert_allclose(found.covariance, np.cov(values.reshape(-1, 3).T))
    assert np.isnan(Moments(2).add_all([np.ones((1, 2))]).covariance).all()


@settings(deadline=None)
@given(cuts, cuts)
def test_arrays_in_step_have_the_same_rows(first: list[int], second: list[int]) -> None:
    rows = np.arange(20)[:, None]
    blocks = list(in_step(np.split(rows, first), np.split(rows, second)))
    assert all(len(one) == len(other) for one, other in blocks)
    assert all((one == other).all() for one, other in blocks)
    assert sum(len(one) for one, _ in blocks) == 20
    together = np.concatenate(list(joined(np.split(rows, first), np.split(rows, second))))
    assert (together.dtype, together.tolist()) == (np.float64, np.tile(rows, 2).tolist())


@pytest.mark.parametrize(("first", "second", "longer"), [(3, 4, "second"), (4, 3, "first")])
def test_arrays_out_of_step_are_refused(first: int, second: int, longer: str) -> None:
    with pytest.raises(ValueError, match=f"the {longer} array has more rows"):
        list(in_step([np.zeros((first, 1))], [np.zeros((second, 1))]))
