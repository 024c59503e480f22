"""Transformations as a client asks for them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from api.arrays.transformations import Transformation
from store.settings import Settings
from tests.api.api_examples import PROBLEM
from tests.api.transformations.laboratory import (
    CONDITIONS,
    TRIALS,
    WIDTH_S,
    Laboratory,
    past_the_end,
    spikes,
)
from tests.app_copies import app_of


@pytest.fixture(scope="module")
def client(lab: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    settings = Settings(data_dir=tmp_path_factory.mktemp("app"))
    return TestClient(app_of(settings, lab.database, lab.store), raise_server_exceptions=False)


def values(answer: Any) -> NDArray[Any]:
    assert answer.status_code == 200, answer.text
    found: NDArray[Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return found


def test_every_step_gives_what_it_gives_within(client: TestClient, lab: Laboratory) -> None:
    for owner, name, wanted in [
        (lab.dataset_id, "spikes", {"align_to": "go_cue", "window_s": "-0.1:0.2"}),
        (lab.dataset_id, "spikes", {"rebin_s": 0.06}),
        (lab.dataset_id, "hand", {"smooth_s": 0.05}),
        (lab.model_id, "factors", {"rotate_to": lab.reference_id, "rotation": "cca"}),
        (lab.model_id, "rates", {"components": 2, "average": "condition", "statistic": "std"}),
        (lab.model_id, "continuous_factors", {"smooth_s": 0.1, "rebin_s": 0.1}),
    ]:
        plural = "datasets" if owner == lab.dataset_id else "models"
        answer = client.get(f"/v1/{plural}/{owner}/arrays/{name}", params=wanted)
        expected = lab.one(owner, name, **wanted).values()
        np.testing.assert_allclose(values(answer), expected, rtol=1e-5, atol=1e-6)
        assert values(answer).dtype == expected.dtype


def test_selection_comes_first(client: TestClient, lab: Laboratory) -> None:
    url = f"/v1/datasets/{lab.dataset_id}/arrays/spikes"
    chosen = np.array([CONDITIONS[trial % 4] == "left" for trial in range(TRIALS)])
    counts = np.where(past_the_end()[..., None], np.nan, spikes())[chosen, :, 1:3]
    found = values(
        client.get(url, params={"where": "condition:eq:left", "neuron": "1:3", "average": "condition"})
    )
    np.testing.assert_allclose(found[0], np.nanmean(counts, axis=0), rtol=1e-6)
    found = values(client.get(url, params={"slice": ":,4:10,0", "rebin_s": 3 * WIDTH_S}))
    expected = spikes()[:, 4:10, 0].reshape(TRIALS, 2, 3).sum(axis=2)
    whole = ~past_the_end()[:, 4:10].reshape(TRIALS, 2, 3).any(axis=2)
    np.testing.assert_array_equal(found, np.where(whole, expected, 0))


def test_what_is_beside_comes_in_formats_of_several_arrays(client: TestClient, lab: Laboratory) -> None:
    url = f"/v1/models/{lab.model_id}/arrays/rates"
    answer = client.get(url, params={"average": "condition", "format": "npz"})
    assert answer.status_code == 200, answer.text
    found = np.load(io.BytesIO(answer.content), allow_pickle=False)
    for one in lab.transform(lab.model_id, "rates", average="condition"):
        np.testing.assert_allclose(found[one.name], one.values(), rtol=1e-6)
    document = client.get(url, params={"average": "speed", "slice": ":,0:2,0:2", "format": "json"}).json()
    assert (document["dims"], document["shape"]) == (["speed", "time_s", "neuron"], [3, 2, 2])


@pytest.mark.parametrize("name", ["csv", "arrow", "parquet", "hdf5", "nwb", "zarr"])
def test_every_format_writes_what_is_made(client: TestClient, lab: Laboratory, name: str) -> None:
    for wanted in (
        {"align_to": "go_cue", "window_s": "-0.1:0.2"},
        {"average": "condition,speed"},
        {"rotate_to": lab.reference_id, "rotation": "cca"},
        {"smooth_s": "0.04", "components": "2", "average": "split"},
    ):
        answer = client.get(f"/v1/models/{lab.model_id}/arrays/factors", params={**wanted, "format": name})
        assert answer.status_code in (200, 422), answer.text
        if answer.status_code == 422:  # NWB has no place for everything; it says so
            assert name == "nwb", answer.text
        assert len(answer.content) > 100


def test_same_question_has_the_same_tag_and_another_another(client: TestClient, lab: Laboratory) -> None:
    url = f"/v1/models/{lab.model_id}/arrays/factors"
    asked: list[dict[str, Any]] = [
        {},
        {"smooth_s": 0.04},
        {"smooth_s": 0.06},
        {"rotate_to": lab.reference_id},
        {"rotate_to": lab.model_id},
        {"average": "condition"},
        {"average": "condition", "statistic": "sem"},
    ]
    tags = [client.get(url, params=one).headers["ETag"] for one in asked]
    assert len(set(tags)) == len(asked)
    for one, tag in zip(asked, tags, strict=True):
        again = client.get(url, params=one, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        ({"window_s": "0:1"}, "align_to"),
        ({"align_to": "go_cue"}, "window_s"),
        ({"event_clock": "trial"}, "align_to"),
        ({"rotation": "cca"}, "rotate_to"),
        ({"statistic": "sem"}, "average"),
        ({"align_to": "go_cue", "window_s": "a:b"}, "window_s"),
        ({"align_to": "go_cue", "window_s": "0:0.1", "event_clock": "wall"}, "event_clock"),
        ({"smooth_s": "-1"}, "smooth_s"),
        ({"smooth_s": "nan"}, "smooth_s"),
        ({"smooth_s": "inf"}, "smooth_s"),
        ({"smooth_s": "5"}, "smooth_s"),
        ({"rebin_s": "0"}, "rebin_s"),
        ({"rebin_s": "1e300"}, "rebin_s"),
        ({"rebin_s": "1e-300"}, "rebin_s"),
        ({"rotate_to": "mod_none"}, "rotate_to"),
        ({"rotate_to": "\x00"}, "rotate_to"),
        ({"rotate_to": "m", "rotation": "pca"}, "rotation"),
        ({"components": "0"}, "components"),
        ({"components": "4"}, "components"),
        ({"components": "99999"}, "components"),
        ({"average": ""}, "average"),
        ({"average": "\x00\ud800".encode("utf-8", "replace").decode()}, "average"),
        ({"average": "condition", "statistic": "median"}, "statistic"),
        ({"average": "condition", "slice": "3"}, "average"),
        ({"smooth_s": "0.04", "slice": ":,3"}, "smooth_s"),
        ({"smooth_s": "0.04", "slice": ":,::2"}, "smooth_s"),
        ({"rebin_s": "0.04", "slice": ":,0:0"}, "rebin_s"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_parameter(
    client: TestClient, lab: Laboratory, wanted: dict[str, str], pointer: str
) -> None:
    answer = client.get(f"/v1/models/{lab.model_id}/arrays/factors", params=wanted)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), answer.text
    assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]


def test_every_array_takes_every_transformation_or_refuses_it(client: TestClient, lab: Laboratory) -> None:
    outcomes: dict[int, int] = {}
    wanted = [
        {"align_to": "go_cue", "window_s": "0:0.1"},
        {"smooth_s": "0.03"},
        {"rebin_s": "0.04"},
        {"rotate_to": lab.reference_id},
        {"components": "1"},
        {"average": "condition"},
    ]
    for owner, plural in ((lab.dataset_id, "datasets"), (lab.model_id, "models")):
        names = [one["name"] for one in client.get(f"/v1/{plural}/{owner}/arrays").json()["items"]]
        for name in names:
            for one in wanted:
                for part in ("", "2", ":,0:0"):
                    answer = client.get(f"/v1/{plural}/{owner}/arrays/{name}", params={**one, "slice": part})
                    outcomes[answer.status_code] = outcomes.get(answer.status_code, 0) + 1
                    assert answer.status_code in (200, 422), (name, one, part, answer.text)
    assert outcomes[200] > 50
    assert outcomes[422] > 50


def test_every_parameter_is_documented() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/transformations.md").read_text()
    for name in Transformation.model_fields:
        assert f"`{name}" in page.split("\n## ")[0]
