"""Principal components against scikit-learn's."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from api.errors import Invalid
from tests.api.transformations.laboratory import (
    NEURONS,
    TRIALS,
    Laboratory,
    past_the_end,
    with_values,
)


@pytest.mark.parametrize("number", [1, 3, NEURONS])
def test_components_are_scikit_learn_s(lab: Laboratory, number: int) -> None:
    found = lab.one(lab.model_id, "rates", components=number)
    rates = lab.array(lab.model_id, "rates").values().astype(np.float64)
    there = ~past_the_end()
    fitted = PCA(number, svd_solver="full").fit(rates[there])
    np.testing.assert_allclose(found.values()[there], fitted.transform(rates[there]), rtol=1e-4, atol=1e-4)
    assert np.isnan(found.values()[~there]).all()
    np.testing.assert_allclose(
        found.attributes["explained_variance_ratio"], fitted.explained_variance_ratio_, rtol=1e-9
    )
    assert (found.dims, found.shape) == (("trial", "time_s", "component"), (TRIALS, 30, number))
    assert (found.dtype, found.units, found.attributes["components_of"]) == (np.float32, "spikes/s", "neuron")
    np.testing.assert_array_equal(found.index("component").values, np.arange(number))


def test_bins_past_the_end_of_a_trial_are_no_zeros(lab: Laboratory) -> None:
    found = lab.one(lab.dataset_id, "spikes", smooth_s=0.04, components=2)
    smooth = lab.one(lab.dataset_id, "spikes", smooth_s=0.04).values()
    there = ~past_the_end()
    expected = PCA(2, svd_solver="full").fit(smooth[there].astype(np.float64))
    np.testing.assert_allclose(
        found.attributes["explained_variance_ratio"], expected.explained_variance_ratio_, rtol=1e-5
    )


def test_components_are_of_what_is_selected(lab: Laboratory) -> None:
    whole = lab.array(lab.model_id, "initial_conditions")
    part = with_values(whole, whole.values()[:5], coordinates=())
    found = lab.one(lab.model_id, part, components=1).values()
    np.testing.assert_allclose(found, PCA(1).fit_transform(whole.values()[:5].astype(np.float64)), rtol=1e-5)


def test_the_largest_loading_is_positive(lab: Laboratory) -> None:
    for sign in (1, -1):
        values = np.random.default_rng(0).normal(size=(24, 2)) * np.array([3.0, 1.0])
        whole = with_values(lab.array(lab.model_id, "initial_conditions"), sign * values, coordinates=())
        found = lab.one(lab.model_id, whole, components=2).values()
        assert (
            np.corrcoef(found[:, 0], sign * values[:, 0])[0, 1] > 0.9
        )  # whatever the solver's own sign would be


@pytest.mark.parametrize(
    ("name", "number", "says"),
    [
        ("rates", NEURONS + 1, "expected at most 5; got 6: 5 of neuron and 510 samples"),
        ("speed", 1, "expected an array whose last axis is neurons, factors or the like"),
    ],
)
def test_what_has_no_components_is_refused(lab: Laboratory, name: str, number: int, says: str) -> None:
    with pytest.raises(Invalid) as caught:
        lab.one(lab.dataset_id if name == "speed" else lab.model_id, name, components=number)
    assert says in caught.value.detail


def test_samples_that_are_too_few_or_all_the_same_are_refused(lab: Laboratory) -> None:
    whole = lab.array(lab.model_id, "initial_conditions")
    for values, says in (
        (np.zeros((0, 2)), "expected at most 0; got 1: 2 of initial_condition_dim and 0 samples"),
        (np.full((9, 2), np.nan), "and 0 samples without NaN"),
        (np.ones((9, 2)), "does not vary"),
    ):
        with pytest.raises(Invalid, match=says):
            lab.one(lab.model_id, with_values(whole, values, coordinates=()), components=1)
