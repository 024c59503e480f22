"""Nearest trials and states against scikit-learn, whatever the question."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from api.analyses.trajectories import Trajectories
from api.arrays.labelled import LabelledArray
from domain.scores.distances import nearest_trials
from tests.api.analyses.conftest import BINS, CONDITIONS, FACTORS, TRIALS, WIDTH_S, ZERO_S, Lab

CHECKED = hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
METRICS = st.sampled_from(["euclidean", "cosine"])


def states_of(lab: Lab, trials: list[int]) -> tuple[NDArray[np.float64], list[tuple[int, int]]]:
    """All states of some trials, and which each is."""
    places = [(trial, t) for trial in trials for t in range(lab.lengths[trial])]
    return np.array([lab.factors[place] for place in places], dtype=np.float64), places


def expected_states(
    lab: Lab, trials: list[int], vector: NDArray[Any], k: int, metric: str
) -> tuple[list[float], list[tuple[int, int]]]:
    states, places = states_of(lab, trials)
    k = min(k, len(states))
    distances, found = NearestNeighbors(n_neighbors=k, metric=metric).fit(states).kneighbors([vector])
    return list(distances[0]), [places[place] for place in found[0]]


def found_states(answer: Any, number: int = 0) -> tuple[list[float], list[tuple[int, int]]]:
    nearest = answer["answers"][number]["nearest"]
    places = [(one["trial"], round((one["time_s"] - ZERO_S) / WIDTH_S)) for one in nearest]
    return [one["distance"] for one in nearest], places


@given(
    trial=st.integers(0, TRIALS - 1),
    bin_=st.integers(0, BINS - 1),
    k=st.integers(1, 1000),
    metric=METRICS,
    condition=st.none() | st.sampled_from(CONDITIONS),
    own=st.booleans(),
)
@CHECKED
def test_states_are_scikit_learn_s(
    lab: Lab, trial: int, bin_: int, k: int, metric: str, condition: str | None, own: bool
) -> None:
    query: dict[str, Any] = {
        "trial": trial,
        "time_s": ZERO_S + (bin_ + 0.4) * WIDTH_S,
        "k": k,
        "metric": metric,
    }
    query |= {"exclude_own_trial": not own} | ({"where": f"condition:eq:{condition}"} if condition else {})
    if bin_ >= lab.lengths[trial]:
        assert "no values" in lab.get("nearest", 422, **query)["detail"]
        return
    trials = [one for one in range(TRIALS) if condition is None or lab.condition[one] == condition]
    trials = [one for one in trials if own or one != trial]
    answer = lab.get("nearest", **query)
    distances, places = found_states(answer)
    expected, at = expected_states(lab, trials, lab.factors[trial, bin_], k, metric)
    np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-6)
    assert places[:5] == at[:5]
    assert len(set(places)) == len(places)
    first = answer["answers"][0]["nearest"][0]
    assert first["details"] == lab.details[first["trial"]]
    assert first["split"] == ["train", "valid"][lab.splits[first["trial"]]]


@given(trial=st.integers(0, TRIALS - 1), k=st.integers(1, 80), metric=METRICS)
@CHECKED
def test_trials_are_compared_over_common_bins(lab: Lab, trial: int, k: int, metric: str) -> None:
    answer = lab.get("nearest", trial=trial, k=k, metric=metric)
    expected = {}
    for other in set(range(TRIALS)) - {trial}:
        common = min(lab.lengths[trial], lab.lengths[other])
        one, two = (lab.factors[row, :common].astype(np.float64).ravel() for row in (trial, other))
        if metric == "euclidean":
            expected[other] = math.dist(one, two) / math.sqrt(common)
        else:
            expected[other] = 1 - one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
    nearest = answer["answers"][0]["nearest"]
    assert len(nearest) == min(k, TRIALS - 1)
    in_order = sorted(expected.values())[: len(nearest)]
    np.testing.assert_allclose([one["distance"] for one in nearest], in_order, rtol=1e-6, atol=1e-9)
    for one in nearest:
        assert one["time_s"] is None
        assert one["distance"] == pytest.approx(expected[one["trial"]])


def test_trials_with_few_common_bins_are_left_out() -> None:
    trajectories = some_trajectories(200)
    values = next(trajectories.blocks())[1].copy()
    values[1, 20:] = np.nan
    values[2, 30:] = np.nan
    trajectories = replace(trajectories, array=replace(trajectories.array, blocks=lambda: iter([values])))
    for row, candidates in ((0, [True] * 4), (1, [True, False, True, True])):
        found = nearest_trials(trajectories, np.array(candidates), values[row], k=9, metric="euclidean")
        assert sorted(found.positions) == [0, 2, 3]


def test_initial_conditions_have_nearest_trials(lab: Lab) -> None:
    answer = lab.get("nearest", array="initial_conditions", trial=4, k=7)
    others = np.delete(np.arange(TRIALS), 4)
    search = NearestNeighbors(n_neighbors=7).fit(lab.initial_conditions[others].astype(np.float64))
    distances, found = search.kneighbors([lab.initial_conditions[4].astype(np.float64)])
    nearest = answer["answers"][0]["nearest"]
    np.testing.assert_allclose([one["distance"] for one in nearest], distances[0], rtol=1e-6)
    assert [one["trial"] for one in nearest] == others[found[0]].tolist()
    assert answer["of"] == "trials"


def test_transformed_states_are_those_of_the_transformed_array(lab: Lab) -> None:
    """Principal components are those of all trials, whichever are looked among."""
    asked = {"components": 2, "smooth_s": 0.03}
    document = lab.get("arrays/factors", **asked, format="json")
    values = np.array(document["values"], dtype=np.float64)
    answer = lab.get("nearest", trial=3, time_s=0.2, k=20, where="number:ge:30", **asked)
    states = values[30:].reshape(-1, 2)
    at = round((0.2 - ZERO_S) / WIDTH_S)
    known = np.flatnonzero(np.isfinite(states).all(1))
    expected, places = NearestNeighbors(n_neighbors=20).fit(states[known]).kneighbors([values[3, at]])
    distances, found = found_states(answer)
    np.testing.assert_allclose(distances, expected[0], rtol=1e-4, atol=1e-6)
    assert found[0] == (30 + known[places[0][0]] // BINS, known[places[0][0]] % BINS)


@given(
    vectors=st.lists(
        st.lists(st.floats(-10, 10, width=32), min_size=FACTORS, max_size=FACTORS), min_size=1, max_size=4
    ),
    k=st.integers(1, 30),
)
@CHECKED
def test_vectors_find_states(lab: Lab, vectors: list[list[float]], k: int) -> None:
    url = f"/v1/models/{lab.model_id}/nearest"
    answer = lab.client.post(url, params={"k": k}, json={"vectors": vectors})
    assert answer.status_code == 200, answer.text
    for number, vector in enumerate(vectors):
        distances, places = found_states(answer.json(), number)
        expected, at = expected_states(lab, list(range(TRIALS)), np.array(vector), k, "euclidean")
        np.testing.assert_allclose(distances, expected, rtol=1e-6, atol=1e-6)
        assert places[0] == at[0]
    alone = lab.client.post(url, params={"k": k}, json={"vector": vectors[0]}).json()
    assert alone["answers"][0] == answer.json()["answers"][0]


@pytest.mark.parametrize(
    ("query", "pointer", "told"),
    [
        ({}, "trial", "expected a value"),
        ({"trial": 60}, "trial", "0 to 59"),
        ({"trial": 1, "k": 1001}, "k", "1000"),
        ({"trial": 1, "k": 0}, "k", "1"),
        ({"trial": 1, "time_s": 0.51}, "time_s", "-0.1 to 0.5 s"),
        ({"trial": 1, "time_s": 0, "array": "initial_conditions"}, "time_s", "has no time"),
        ({"trial": 1, "average": "condition"}, "array", "axis is trials"),
        ({"trial": 1, "where": "condition"}, "where", "name:operator:value"),
    ],
)
def test_mistakes_are_told(lab: Lab, query: dict[str, Any], pointer: str, told: str) -> None:
    answer = lab.get("nearest", 422, **query)
    assert pointer in [one["pointer"] for one in answer["errors"]]
    assert told in str(answer)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"vector": [1.0] * FACTORS, "vectors": [[1.0] * FACTORS]},
        {"vector": [1.0] * (FACTORS - 1)},
        {"vectors": []},
        {"vectors": [[1.0] * FACTORS] * 33},
        {"vector": ["x"] * FACTORS},
        {"vector": [1e400] * FACTORS},
        {"vector": [1.0] * FACTORS, "colour": 1},
    ],
)
def test_vectors_that_do_not_fit(lab: Lab, body: dict[str, Any]) -> None:
    url = f"/v1/models/{lab.model_id}/nearest"
    answer = lab.client.post(url, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text


def test_others_models_and_data_sets_have_none(lab: Lab) -> None:
    lab.ask(f"/v1/models/{lab.other_model_id}/nearest", 404, trial=1)
    lab.ask(f"/v1/datasets/{lab.dataset_id}/nearest", 404, trial=1)


def test_entity_tags(lab: Lab) -> None:
    url = f"/v1/models/{lab.model_id}/nearest"
    tag = lab.client.get(url, params={"trial": 1}).headers["ETag"]
    assert lab.client.get(url, params={"trial": 1}, headers={"If-None-Match": tag}).status_code == 304
    assert lab.client.get(url, params={"trial": 2}, headers={"If-None-Match": tag}).status_code == 200


def some_trajectories(states: int) -> Trajectories:
    """Of 50 bins and 4 factors, of smooth random walks."""
    random = np.random.default_rng(0)
    values = np.cumsum(random.normal(size=(states // 50, 50, 4)), axis=1).astype(np.float32)
    array = LabelledArray(
        "factors",
        ("trial", "time_s", "factor"),
        values.shape,
        values.dtype,
        "",
        "",
        (),
        {},
        lambda: iter([values]),
    )
    return Trajectories(array, np.arange(len(values)), np.arange(50.0))
