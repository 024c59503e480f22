"""What a data set looks like, as JSON and drawn: from what the ingest left beside its arrays."""

import json
import xml.dom.minidom
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from zarr.abc.store import Store

from api.datasets.preview_routes import PreviewDocument
from domain.states import DatasetState
from store.array_store import write_object
from store.database import Database
from store.tables import Dataset
from tests.api.api_examples import OTHER_TENANT, PROBLEM, add_dataset, add_tenant
from worker.ingest.quality_control.preview import make_preview
from worker.ingest.recording import Recording

PNG_SIZE = (1200, 800)


def preview(**changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    trials, bins = 40, 30
    lengths = random.integers(15, bins + 1, trials)
    spikes = random.poisson(0.4, (trials, bins, 6)) * (np.arange(bins)[:, None] < lengths[:, None, None])
    fields: dict[str, Any] = {
        "trial_length_bins": lengths.astype(np.int64),
        "trial_metadata": {"direction": [("left", "right", None)[trial % 3] for trial in range(trials)]},
        "time_zero_s": -0.2,
        "trial_start_s": np.arange(trials) * 30.0,
    }
    split = np.full(trials, -1, np.int8)
    return make_preview(Recording(spikes.astype(np.uint8), 0.02, split=split, **(fields | changes)))


def add(database: Database, arrays: Store, document: dict[str, Any], name: str = "example") -> str:
    with database.write() as session:
        dataset_id = add_dataset(session, array_path="groups/p")
        session.get_one(Dataset, dataset_id).name = name
    write_object(arrays, "groups/p/preview.json", json.dumps(document).encode())
    return dataset_id


def png_size(picture: bytes) -> tuple[int, int]:
    assert picture.startswith(b"\x89PNG\r\n")
    return int.from_bytes(picture[16:20], "big"), int.from_bytes(picture[20:24], "big")


def test_the_document(client: TestClient, database: Database, arrays: Store) -> None:
    made = preview()
    dataset_id = add(database, arrays, made)
    answer = client.get(f"/v1/datasets/{dataset_id}/preview")
    assert answer.status_code == 200
    assert answer.json() == made
    PreviewDocument.model_validate(answer.json())


@pytest.mark.parametrize("kind", ["preview", "preview.png", "preview.svg"])
def test_what_one_has_is_not_sent_again(
    kind: str, light_client: TestClient, sqlite_database: Database
) -> None:
    arrays: Store = light_client.app.state.arrays  # type: ignore[attr-defined]
    url = f"/v1/datasets/{add(sqlite_database, arrays, preview())}/{kind}"
    first = light_client.get(url)
    assert first.status_code == 200
    assert "immutable" in first.headers["cache-control"]
    again = light_client.get(url, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert light_client.get(url, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "name",
    [pytest.param("example", marks=pytest.mark.slow), "a $\\frac{ <b> & \n line \x01" + "x" * 150, "脑 → 🧠"],
)
def test_the_pictures(name: str, light_client: TestClient, sqlite_database: Database) -> None:
    arrays: Store = light_client.app.state.arrays  # type: ignore[attr-defined]
    dataset_id = add(sqlite_database, arrays, preview(), name)
    picture = light_client.get(f"/v1/datasets/{dataset_id}/preview.png")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert png_size(picture.content) == PNG_SIZE
    drawn = light_client.get(f"/v1/datasets/{dataset_id}/preview.svg")
    assert drawn.headers["content-type"].startswith("image/svg+xml")
    assert xml.dom.minidom.parseString(drawn.content).documentElement.tagName == "svg"


@pytest.mark.parametrize(
    "changes",
    [
        {"trial_metadata": {}},
        {"trial_start_s": None, "time_zero_s": 0.0},
        {"trial_metadata": {"condition $x_{": [f"$\\badmath{{ {number % 11}" for number in range(40)]}},
        {"trial_length_bins": np.full(40, 1, np.int64)},
    ],
)
def test_odd_data_sets_are_drawn(
    changes: dict[str, Any], light_client: TestClient, sqlite_database: Database
) -> None:
    arrays: Store = light_client.app.state.arrays  # type: ignore[attr-defined]
    made = preview(**changes)
    PreviewDocument.model_validate(made)
    answer = light_client.get(f"/v1/datasets/{add(sqlite_database, arrays, made)}/preview.png")
    assert png_size(answer.content) == PNG_SIZE


def test_a_combined_one_names_those_of_its_sessions(
    light_client: TestClient, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, array_path="groups/none")
        session.get_one(Dataset, dataset_id).source = {"kind": "sessions", "dataset_ids": ["dat_1", "dat_2"]}
    answer = light_client.get(f"/v1/datasets/{dataset_id}/preview")
    assert answer.status_code == 404
    assert answer.json()["hint"].endswith("/v1/datasets/dat_1/preview and /v1/datasets/dat_2/preview")


@pytest.mark.parametrize("kind", ["preview", "preview.png", "preview.svg"])
def test_where_there_is_none(kind: str, client: TestClient, database: Database) -> None:
    with database.write() as session:
        add_tenant(session)
        ids = {
            "no preview": add_dataset(session, array_path="groups/none"),
            "no arrays": add_dataset(session),
            "other": add_dataset(session, tenant=OTHER_TENANT, array_path="groups/p"),
            "ingesting": add_dataset(session, state=DatasetState.INGESTING),
            "rejected": add_dataset(session, state=DatasetState.REJECTED),
        }
    answers = {what: client.get(f"/v1/datasets/{one}/{kind}") for what, one in ids.items()}
    statuses = {what: answer.status_code for what, answer in answers.items()}
    assert statuses == {"no preview": 404, "no arrays": 404, "other": 404, "ingesting": 409, "rejected": 409}
    assert all(answer.headers["content-type"] == PROBLEM for answer in answers.values())
    assert "has no preview" in answers["no preview"].json()["detail"]
    assert "upload it again" in answers["no preview"].json()["hint"]
    seen = client.get(f"/v1/datasets/{ids['no preview']}/{kind}", headers={"If-None-Match": "*"})
    assert seen.status_code == 404
