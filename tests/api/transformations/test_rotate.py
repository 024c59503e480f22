"""Rotations between models against SciPy's Procrustes and scikit-learn's canonical correlations."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import LinearRegression

from api.arrays.transformations import Transformation, depends_on
from api.errors import Invalid
from domain.linear_maps import cca, procrustes
from domain.moments import Moments
from domain.states import JobState, ModelState
from store.array_store import open_array_store
from store.database import Database
from store.tables import Model
from tests.api.api_examples import OTHER_TENANT, add_dataset, add_job, add_model, add_tenant
from tests.api.transformations.laboratory import (
    TRIALS,
    Laboratory,
    build,
    factors,
    past_the_end,
    with_values,
)


def both() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors of the model [bins, 3] and of the reference [bins, 4], where there are any."""
    there = ~past_the_end()
    return factors(8, 3)[there].astype(np.float64), factors(9, 4)[there].astype(np.float64)


def share_explained(found: NDArray[Any], reference: NDArray[Any]) -> float:
    left = ((found - reference) ** 2).sum()
    return float(1 - left / ((reference - reference.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (3, 4), (4, 3), (1, 4), (4, 1)])
def test_procrustes_is_scipy_s_with_a_shift_and_a_scale(ours: int, theirs: int) -> None:
    there = ~past_the_end()
    x, y = (factors(seed, n)[there].astype(np.float64) for seed, n in ((8, ours), (9, theirs)))
    found = procrustes(Moments(ours + theirs).add_all([np.hstack([x, y])]), ours)
    most = max(ours, theirs)
    centred = [
        np.pad(one - one.mean(axis=0), [(0, 0), (0, most - one.shape[1])]) for one in (x, y)
    ]  # the narrower has zeros
    turned = (centred[0] @ orthogonal_procrustes(*centred)[0])[:, :theirs]
    scale = (turned * centred[1][:, :theirs]).sum() / (turned**2).sum()
    expected = scale * turned + y.mean(axis=0)
    mapped = (x - found.before) @ found.matrix + found.after
    np.testing.assert_allclose(mapped, expected, rtol=1e-6, atol=1e-8)
    assert found.attributes["scale"] == pytest.approx(scale)
    assert found.attributes["variance_explained"] == pytest.approx(share_explained(expected, y))
    assert found.attributes["rotation_bins"] == there.sum()


def test_what_was_only_rotated_is_found_again() -> None:
    y = both()[0]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    x = 5 + 2.0 * (y @ turn)
    for fit in (procrustes, cca):
        found = fit(Moments(6).add_all([np.hstack([x, y])]), 3)
        np.testing.assert_allclose((x - found.before) @ found.matrix + found.after, y, atol=1e-6)
        assert found.attributes["variance_explained"] == pytest.approx(1)


def test_canonical_correlations_are_scikit_learn_s() -> None:
    x, y = both()
    found = cca(Moments(7).add_all([np.hstack([x, y])]), 3)
    fitted = CCA(n_components=3, scale=False, max_iter=20_000, tol=1e-12).fit(x, y)
    variates = fitted.transform(x, y)
    correlations = [
        float(np.corrcoef(*pair)[0, 1]) for pair in zip(variates[0].T, variates[1].T, strict=True)
    ]
    np.testing.assert_allclose(found.attributes["canonical_correlations"], correlations, rtol=1e-5)
    # Each variate of the one, of variance 1, is put where the reference's own is.
    ours, theirs = (one / one.std(axis=0) for one in variates)
    back = LinearRegression().fit(theirs, y)
    expected = ours @ back.coef_.T + y.mean(axis=0)
    mapped = (x - found.before) @ found.matrix + found.after
    np.testing.assert_allclose(mapped, expected, atol=0.02)  # scikit-learn's is iterative
    assert np.ptp(expected) > 2
    assert found.attributes["variance_explained"] == pytest.approx(share_explained(mapped, y))


def test_directions_without_variance_are_left_out() -> None:
    x, y = both()
    flat = np.hstack([x, x[:, :1], np.full((len(x), 1), 3.0)])  # a copy, and a constant
    found = cca(Moments(9).add_all([np.hstack([flat, y])]), 5)
    plain = cca(Moments(7).add_all([np.hstack([x, y])]), 3)
    np.testing.assert_allclose(
        found.attributes["canonical_correlations"], plain.attributes["canonical_correlations"], rtol=1e-6
    )
    mapped = (flat - found.before) @ found.matrix
    np.testing.assert_allclose(mapped, (x - plain.before) @ plain.matrix, atol=1e-5)


@pytest.mark.parametrize("rotation", [None, "procrustes", "cca"])
def test_factors_are_brought_into_the_space_of_another_model(lab: Laboratory, rotation: str | None) -> None:
    found = lab.one(lab.model_id, "factors", rotate_to=lab.reference_id, rotation=rotation)
    x, y = both()
    fitted = (cca if rotation == "cca" else procrustes)(Moments(7).add_all([np.hstack([x, y])]), 3)
    expected = (factors(8, 3) - fitted.before) @ fitted.matrix + fitted.after
    np.testing.assert_allclose(found.values(), expected, rtol=1e-4, atol=1e-5)
    assert (found.shape, found.dtype, found.dims[-1]) == ((TRIALS, 30, 4), np.float32, "factor")
    assert found.attributes["rotated_to"] == lab.reference_id
    assert found.attributes["rotation"] == (rotation or "procrustes")
    there = np.isfinite(expected).all(axis=-1)
    said = found.attributes["variance_explained"]
    assert said == pytest.approx(share_explained(found.values()[there], factors(9, 4)[there]), abs=1e-4)
    assert said > (0.99 if rotation == "cca" else 0.5)


def test_rotation_does_not_hang_on_what_is_selected(lab: Laboratory) -> None:
    whole = lab.array(lab.model_id, "factors")
    part = with_values(
        whole,
        whole.values()[3:6, 4:9],
        coordinates=tuple(
            one.taken({"trial": slice(3, 6), "time_s": slice(4, 9)}[one.dim]) for one in whole.coordinates
        ),
    )
    rotated = lab.one(lab.model_id, whole, rotate_to=lab.reference_id).values()
    np.testing.assert_allclose(
        lab.one(lab.model_id, part, rotate_to=lab.reference_id).values(), rotated[3:6, 4:9]
    )
    smooth = lab.one(lab.model_id, whole, smooth_s=0.04, rotate_to=lab.reference_id).values()
    assert not np.allclose(smooth, rotated, equal_nan=True)


def test_initial_conditions_and_continuous_factors_are_rotated(lab: Laboratory) -> None:
    for name in ("initial_conditions", "continuous_factors"):
        found = lab.one(lab.model_id, name, rotate_to=lab.model_id)
        np.testing.assert_allclose(found.values(), lab.array(lab.model_id, name).values(), atol=1e-5)
        assert found.attributes["variance_explained"] == pytest.approx(1)


def test_what_else_an_answer_depends_on(lab: Laboratory) -> None:
    with lab.context(lab.model_id) as context:
        assert depends_on(Transformation(), context) == ()
        assert depends_on(Transformation(rotate_to=lab.reference_id), context) == ("lab/reference",)
        with pytest.raises(Invalid, match="there is no model"):
            depends_on(Transformation(rotate_to="mod_0"), context)


def test_what_cannot_be_rotated_is_refused(sqlite_database: Database) -> None:
    lab = build(sqlite_database, open_array_store("sql:", sqlite_database))
    with sqlite_database.write() as session:
        add_tenant(session)
        other_data = add_dataset(session, array_path="lab/data")
        elsewhere = add_job(session, other_data, state=JobState.DONE)
        of_other_data = add_model(session, elsewhere, state=ModelState.TRAINED, latents_path="lab/reference")
        job_id = session.get_one(Model, lab.model_id).job_id
        without = add_model(session, job_id, 7)
        stranger = add_model(session, job_id, 8, latents_path="lab/reference", tenant=OTHER_TENANT)
        of_data = add_model(session, job_id, 9, latents_path="lab/data")
    for name, reference, says in [
        ("factors", of_other_data, f"has those for {other_data}"),
        ("factors", without, "has no latents"),
        ("factors", stranger, f"there is no model {stranger}"),
        ("factors", "mod_x", "there is no model"),
        ("factors", of_data, "has no array 'factors'"),
        (
            "rates",
            lab.reference_id,
            "expected latents whose last axis is one of factor, initial_condition_dim, input, generator_unit",
        ),
    ]:
        with pytest.raises(Invalid) as caught:
            lab.one(lab.model_id, name, rotate_to=reference)
        assert says in caught.value.detail
        assert (caught.value.errors or [])[0].pointer == "rotate_to"
    whole = lab.array(lab.model_id, "factors")
    with pytest.raises(Invalid, match="expected all 3 of factor; 2 are selected"):
        lab.one(lab.model_id, with_values(whole, whole.values()[..., :2]), rotate_to=lab.reference_id)
