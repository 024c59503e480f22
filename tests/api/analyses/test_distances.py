"""Distances between conditions: against SciPy and against all pairs of trials, through filters and transformations."""

import io
import warnings
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, mahalanobis
from sqlalchemy import select

from api.arrays import trial_conditions
from store.database import Database
from store.tables import Trial
from tests.api.analyses.conftest import BINS, CONDITIONS, FACTORS, TRIALS, Lab

Floats = NDArray[np.float64]


def means(values: NDArray[Any], condition: list[str | None]) -> Floats:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice")
        return np.stack(
            [np.nanmean(values[[one == name for one in condition]], axis=0) for name in CONDITIONS]
        )


def overall(by_bin: Floats) -> Floats:
    return np.sqrt(np.nanmean(np.square(by_bin), axis=0))


def as_floats(matrix: Any) -> Floats:
    return np.array(matrix, dtype=np.float64)


def test_euclidean_distances_are_scipy_s(lab: Lab) -> None:
    mean = means(lab.factors.astype(np.float64), lab.condition)
    by_bin = np.stack([cdist(mean[:, t], mean[:, t]) for t in range(BINS)])
    found = lab.get("distances", over_time=True)
    np.testing.assert_allclose(as_floats(found["over_time"]), by_bin, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(as_floats(found["distances"]), overall(by_bin), rtol=1e-6, atol=1e-9)
    assert [one["value"] for one in found["conditions"]] == list(CONDITIONS)
    assert [one["trials"] for one in found["conditions"]] == [
        lab.condition.count(name) for name in CONDITIONS
    ]
    assert (found["bins"], found["dimensions"], len(found["time_s"])) == (BINS, FACTORS, BINS)


def test_mahalanobis_distances_are_scipy_s(lab: Lab) -> None:
    mean = means(lab.factors.astype(np.float64), lab.condition)
    code = np.array([CONDITIONS.index(one) if one else -1 for one in lab.condition])
    apart = (lab.factors - mean[code])[code >= 0]
    known = np.isfinite(apart).all(2)
    cells = sum(np.isfinite(lab.factors[code == c]).all(2).any(0).sum() for c in range(3))
    covariance = apart[known].T @ apart[known] / (known.sum() - cells)
    inverse = np.linalg.inv(covariance)
    by_bin = np.array(
        [[[mahalanobis(a, b, inverse) for a in mean[:, t]] for b in mean[:, t]] for t in range(BINS)]
    )
    found = lab.get("distances", metric="mahalanobis")
    np.testing.assert_allclose(as_floats(found["distances"]), overall(by_bin), rtol=1e-5, atol=1e-9)


def test_unbiased_distances_are_the_mean_over_all_pairs_of_trials(lab: Lab) -> None:
    """Cross-validated by hand: A and B each one trial, over all pairs of different ones."""
    chosen = [trial for trial in range(TRIALS) if lab.condition[trial] in ("left", "up")][:12]
    given = {"where": f"number:in:{','.join(map(str, chosen))}", "unbiased": True, "over_time": True}
    found = lab.get("distances", **given)
    left, up = ([trial for trial in chosen if lab.condition[trial] == name] for name in ("left", "up"))
    values = lab.factors.astype(np.float64)
    for t in (0, 7):  # every trial reaches these bins
        products = [
            (values[a, t] - values[b, t]) @ (values[c, t] - values[d, t])
            for a, c in permutations(left, 2)
            for b, d in permutations(up, 2)
        ]
        squared = np.mean(products)
        expected = np.sign(squared) * np.sqrt(abs(squared))
        assert found["over_time"][t][0][1] == pytest.approx(expected, rel=1e-6)
    assert found["over_time"][0][0][0] == 0


def test_unbiased_distances_of_equal_conditions_are_zero_on_average(lab: Lab) -> None:
    """`speed` says nothing of the factors: what is left of a distance is noise, and it is of both signs."""
    asked = {"by": "speed", "where": "condition:eq:left", "time_s": "-0.1:0.3", "over_time": True}
    biased = as_floats(lab.get("distances", **asked)["over_time"])[:, 0, 1]
    unbiased = as_floats(lab.get("distances", **asked, unbiased=True)["over_time"])[:, 0, 1]
    squared = np.sign(unbiased) * np.square(unbiased)
    assert (squared < 0).any()
    assert (squared > 0).any()
    assert abs(squared.mean()) < 0.2 * np.square(biased).mean()


@pytest.mark.parametrize(
    "given",
    [
        {"smooth_s": 0.03},
        {"rebin_s": 0.06},
        {"components": 2},
        {"time_s": "0.0:0.2"},
        {"split": "valid"},
        {"where": "speed:eq:1"},
        {"where": "number:lt:40", "components": 3, "smooth_s": 0.03, "time_s": "0.1:0.4"},
        {"factor": "0,3"},
    ],
)
def test_selection_and_transformations_come_first(lab: Lab, given: dict[str, Any]) -> None:
    """What is compared is what the route of arrays answers to the same question."""
    answer = lab.client.get(
        f"/v1/models/{lab.model_id}/arrays/factors", params={**given, "format": "json", "slice": ""}
    )
    assert answer.status_code == 200, answer.text
    document = answer.json()
    values = np.array(document["values"], dtype=np.float64)
    trials = document["coordinates"]["trial"]["values"]
    mean = means(values, [lab.condition[trial] for trial in trials])
    by_bin = np.stack([cdist(mean[:, t], mean[:, t]) for t in range(mean.shape[1])])
    found = lab.get("distances", **given)
    np.testing.assert_allclose(as_floats(found["distances"]), overall(by_bin), rtol=1e-5, atol=1e-6)


@given(
    chosen=st.lists(st.integers(0, TRIALS - 1), min_size=1, max_size=12, unique=True), unbiased=st.booleans()
)
@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_few_trials_give_distances_or_say_why_not(lab: Lab, chosen: list[int], unbiased: bool) -> None:
    query = {"where": f"number:in:{','.join(map(str, chosen))}", "unbiased": unbiased}
    numbers = {name: [lab.condition[trial] for trial in chosen].count(name) for name in CONDITIONS}
    present = [name for name in CONDITIONS if numbers[name]]
    answer = lab.client.get(f"/v1/models/{lab.model_id}/distances", params=query)
    if len(present) < 2:
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "by")
        return
    found = as_floats(answer.json()["distances"])
    for i, one in enumerate(present):
        for j, other in enumerate(present):
            enough = not unbiased or min(numbers[one], numbers[other]) > 1
            assert np.isfinite(found[i, j]) == enough
    np.testing.assert_array_equal(found, found.T)


def test_initial_conditions_and_data_have_distances_too(lab: Lab) -> None:
    found = lab.get("distances", array="initial_conditions")
    mean = means(lab.initial_conditions.astype(np.float64), lab.condition)
    np.testing.assert_allclose(as_floats(found["distances"]), cdist(mean, mean), rtol=1e-6, atol=1e-9)
    of_data = lab.ask(f"/v1/datasets/{lab.dataset_id}/distances", array="velocity")
    mean = means(lab.velocity, lab.condition)
    by_bin = np.stack([cdist(mean[:, t], mean[:, t]) for t in range(BINS)])
    np.testing.assert_allclose(as_floats(of_data["distances"]), overall(by_bin), rtol=1e-6, atol=1e-9)


def test_padding_of_counts_is_left_out(lab: Lab) -> None:
    """Counts are 0 after a trial's end, and these are no counts."""
    whole = lab.ask(f"/v1/datasets/{lab.dataset_id}/distances", array="spikes", over_time=True)
    spikes = lab.ask(f"/v1/datasets/{lab.dataset_id}/arrays/spikes", format="json")
    values = np.array(spikes["values"], dtype=np.float64)
    values[np.arange(BINS) >= lab.lengths[:, None]] = np.nan
    mean = means(values, lab.condition)
    by_bin = np.stack([cdist(mean[:, t], mean[:, t]) for t in range(BINS)])
    np.testing.assert_allclose(as_floats(whole["over_time"]), by_bin, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("query", "pointer", "told"),
    [
        ({"by": "colour"}, "by", "condition, number, speed; conditions may be: condition, speed"),
        ({"by": "number", "where": "number:eq:1"}, "by", "other trials; conditions may be: condition, speed"),
        ({"by": "condition", "where": "condition:eq:up"}, "by", "1 values of 'condition'"),
        ({"average": "condition"}, "array", "axis is trials"),
        ({"array": "trial_length_bins"}, "array", "expected numbers of dims"),
        ({"metric": "manhattan"}, "metric", "euclidean"),
        ({"colour": "red"}, "colour", "no such parameter"),
        ({"where": "number:eq:1"}, "by", "1 values"),
        ({"metric": "mahalanobis", "where": "number:in:0,1"}, "metric", "two trials"),
    ],
)
def test_mistakes_are_told(lab: Lab, query: dict[str, Any], pointer: str, told: str) -> None:
    answer = lab.get("distances", 422, **query)
    assert pointer in [one["pointer"] for one in answer["errors"]]
    assert told in str(answer)


def set_metadata(lab: Lab, details: list[dict[str, Any]]) -> None:
    database = Database(lab.settings.database_url)
    with database.write() as session:
        for trial in session.execute(select(Trial).where(Trial.dataset_id == lab.dataset_id)).scalars():
            trial.details = details[trial.trial]
    database.close()
    trial_conditions._metadata.clear()
    trial_conditions._conditions.clear()


@pytest.fixture
def renamed(lab: Lab) -> Iterator[Callable[..., None]]:
    """Rename `condition`, and leave out other metadata that look like conditions."""

    def rename(name: str, **others: Any) -> None:
        set_metadata(
            lab, [{"number": one["number"], name: one["condition"], **others} for one in lab.details]
        )

    yield rename
    set_metadata(lab, lab.details)


def test_conditions_of_another_name_are_found(lab: Lab, renamed: Callable[..., None]) -> None:
    """`direction` is the only metadata that looks like conditions: it is taken in all places where conditions are needed."""
    expected = lab.get("distances", by="condition")
    selected = lab.ask(f"/v1/datasets/{lab.dataset_id}/trials", where="condition:eq:up")
    path = f"/v1/models/{lab.model_id}/arrays/factors"
    average = lab.ask(path, average="condition", format="json")
    renamed("direction")
    for asked in ({}, {"by": "condition"}, {"by": "direction"}):
        found = lab.get("distances", **asked)
        assert found["by"] == "direction"
        assert found["conditions"] == expected["conditions"]
        np.testing.assert_allclose(
            as_floats(found["distances"]), as_floats(expected["distances"]), rtol=1e-4, atol=1e-6
        )
    again = lab.ask(path, average="condition", format="json")
    assert again["dims"] == ["direction", "time_s", "factor"]
    assert again["values"] == average["values"]
    chosen = lab.ask(f"/v1/datasets/{lab.dataset_id}/trials", where="condition:eq:up")["items"]
    assert [one["trial"] for one in chosen] == [one["trial"] for one in selected["items"]]
    assert all(one["details"]["direction"] == "up" for one in chosen)


def test_without_conditions_the_error_names_the_metadata(lab: Lab, renamed: Callable[..., None]) -> None:
    renamed("trial", colour="red")
    answer = lab.get("distances", 422)
    assert answer["errors"][0]["pointer"] == "by"
    assert "name some with by=; their metadata: colour, number, trial" in answer["hint"]
    assert "have no metadata 'condition'" in lab.get("distances", 422, by="condition")["detail"]


def test_what_there_is_not(lab: Lab) -> None:
    assert "it has factors" in lab.get("distances", 404, array="rates")["hint"]
    lab.ask(f"/v1/models/{lab.other_model_id}/distances", 404)
    lab.ask("/v1/models/mod_nothing/distances", 404)


def test_pictures_and_entity_tags(lab: Lab) -> None:
    tags = set()
    for what, begins in (("", b"{"), (".png", b"\x89PNG"), (".svg", b"<?xml")):
        url = f"/v1/models/{lab.model_id}/distances{what}"
        answer = lab.client.get(url)
        assert answer.content.startswith(begins)
        again = lab.client.get(url, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        other = lab.client.get(
            url, params={"components": 2}, headers={"If-None-Match": answer.headers["ETag"]}
        )
        assert other.status_code == 200
        tags.add(answer.headers["ETag"])
    assert len(tags) == 3
    png = lab.client.get(f"/v1/models/{lab.model_id}/distances.png", params={"by": "speed"}).content
    from matplotlib.image import imread

    assert imread(io.BytesIO(png)).shape[:2] == (700, 800)
