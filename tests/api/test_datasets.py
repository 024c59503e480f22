"""Lists and pages, waiting, other tenants, trials, synthesis."""

import json
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.events.long_poll import wanted_wait_seconds
from api.http.pagination import encode_token
from domain.states import DatasetState
from store.database import Database
from store.tables import Dataset, Job
from tests.api.api_examples import PROBLEM, Example, add_dataset, add_job, add_tenant


def pages(client: TestClient, path: str, page_size: int) -> list[list[dict[str, Any]]]:
    found, token = [], None
    while True:
        parameters = {"page_size": page_size} | ({"page_token": token} if token else {})
        page = client.get(path, params=parameters).json()
        found.append(page["items"])
        token = page["next_page_token"]
        if token is None:
            return found


def test_list_is_cut_into_pages_newest_first(client: TestClient, database: Database) -> None:
    made = []
    for _ in range(5):
        with database.write() as session:
            made.append(add_dataset(session))
        time.sleep(0.002)  # ids sort by the millisecond
    with database.write() as session:
        add_tenant(session)
        add_dataset(session, tenant="other")
    for size, lengths in ((2, [2, 2, 1]), (5, [5]), (1, [1] * 5)):
        found = pages(client, "/v1/datasets", size)
        assert [len(page) for page in found] == lengths
        assert [item["id"] for page in found for item in page] == made[::-1]


def test_pages_do_not_shift_when_something_is_added(
    light_client: TestClient, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        made = [add_dataset(session) for _ in range(3)]
    first = light_client.get("/v1/datasets?page_size=2").json()
    time.sleep(0.002)
    with sqlite_database.write() as session:
        add_dataset(session)
    second = light_client.get(f"/v1/datasets?page_token={first['next_page_token']}").json()
    assert sorted(item["id"] for item in first["items"] + second["items"]) == sorted(made)


LISTS = [
    "/v1/datasets",
    "/v1/jobs",
    "/v1/datasets/{dataset}/trials",
    "/v1/jobs/{job}/models",
    "/v1/jobs/{job}/events",
]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "token",
    ["", "x", "%00", "ü", "a" * 201, encode_token("1; DROP"), encode_token("\x00"), encode_token("-1")],
)
def test_bad_page_token_is_refused(reader: TestClient, example: Example, path: str, token: str) -> None:
    url = path.format(dataset=example.dataset_id, job=example.job_id)
    answer = reader.get(url, params={"page_token": token})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json()["errors"][0]["pointer"] == "page_token"


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("size", ["0", "501", "-1", "x", ""])
def test_bad_page_size_is_refused(reader: TestClient, example: Example, path: str, size: str) -> None:
    url = path.format(dataset=example.dataset_id, job=example.job_id)
    answer = reader.get(url, params={"page_size": size})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "page_size"


def test_token_of_another_kind_of_list_is_refused(reader: TestClient, example: Example) -> None:
    token = reader.get(f"/v1/datasets/{example.dataset_id}/trials?page_size=1").json()["next_page_token"]
    assert reader.get("/v1/datasets", params={"page_token": token}).status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/v1/datasets/{0.other_dataset_id}",
        "/v1/datasets/{0.other_dataset_id}/trials",
        "/v1/datasets/{0.other_dataset_id}/arrays",
        "/v1/datasets/{0.other_dataset_id}/arrays/spikes",
        "/v1/datasets/{0.other_dataset_id}/zarr/zarr.json",
        "/v1/jobs/{0.other_job_id}",
        "/v1/jobs/{0.other_job_id}/models",
        "/v1/jobs/{0.other_job_id}/events",
        "/v1/jobs/{0.other_job_id}/events/stream",
        "/v1/models/{0.other_model_id}",
        "/v1/models/{0.other_model_id}/learning_curve",
        "/v1/models/{0.other_model_id}/arrays",
        "/v1/models/{0.other_model_id}/arrays/rates",
        "/v1/models/{0.other_model_id}/zarr/zarr.json",
        "/v1/uploads/{0.other_upload_id}",
    ],
)
def test_what_is_another_tenant_s_is_not_found(reader: TestClient, example: Example, path: str) -> None:
    theirs = path.format(example)
    answer = reader.get(theirs)
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    # nothing tells it from one that does not exist
    owner = theirs.split("/")[3]
    absent = owner[:-6] + "000000"
    assert reader.get(theirs.replace(owner, absent)).json()["detail"] == answer.json()["detail"].replace(
        owner, absent
    )
    mine = theirs
    for kind in ("dataset", "job", "model", "upload"):
        mine = mine.replace(getattr(example, f"other_{kind}_id"), getattr(example, f"{kind}_id"))
    assert reader.get(mine).status_code == 200


@pytest.mark.parametrize("key", ["x", "%00", "dat_", "%FF", "dat_0123456789abcdef01234567%0A", "a" * 5000])
@pytest.mark.parametrize("path", ["/v1/datasets/", "/v1/jobs/", "/v1/models/", "/v1/uploads/"])
def test_an_id_that_can_t_be_is_not_found(client: TestClient, path: str, key: str) -> None:
    answer = client.get(path + key)
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)


def test_prefer_wait_answers_at_the_end(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, state=DatasetState.INGESTING)

    def finish() -> None:
        time.sleep(0.4)
        with sqlite_database.write() as session:
            session.get_one(Dataset, dataset_id).state = DatasetState.REJECTED

    thread = threading.Thread(target=finish)
    begin = time.monotonic()
    thread.start()
    answer = light_client.get(f"/v1/datasets/{dataset_id}", headers={"Prefer": "wait=30"}).json()
    thread.join()
    assert answer["state"] == "rejected"
    assert 0.4 <= time.monotonic() - begin < 30


def test_prefer_wait_is_over_in_time(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, state=DatasetState.INGESTING)
    assert light_client.get(f"/v1/datasets/{dataset_id}").json()["state"] == "ingesting"
    begin = time.monotonic()
    answer = light_client.get(f"/v1/datasets/{dataset_id}", headers={"Prefer": "wait=1"}).json()
    assert answer["state"] == "ingesting"
    assert time.monotonic() - begin >= 1.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("wait=5", 5),
        ("respond-async, wait=7", 7),
        ("wait=900", 60),
        ("await=5", 0),
        ("wait=x", 0),
    ],
)
def test_prefer_is_read(header: str | None, seconds: float) -> None:
    assert wanted_wait_seconds(header) == seconds


def test_trials_are_in_the_order_given(client: TestClient, database: Database) -> None:
    splits = ["train", "valid", None] * 4
    with database.write() as session:
        dataset_id = add_dataset(session, splits=splits)
    found = pages(client, f"/v1/datasets/{dataset_id}/trials", 5)
    assert [len(page) for page in found] == [5, 5, 2]
    trials = [trial for page in found for trial in page]
    assert [trial["trial"] for trial in trials] == list(range(12))
    assert [trial["split"] for trial in trials] == splits
    assert trials[3]["details"] == {"condition": 3}


@pytest.mark.parametrize(
    ("state", "says"), [(DatasetState.INGESTING, "is ingesting"), (DatasetState.REJECTED, "is rejected")]
)
def test_trials_and_arrays_wait_until_it_is_ready(
    light_client: TestClient, sqlite_database: Database, state: DatasetState, says: str
) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, state=state)
    for rest in ("trials", "arrays", "arrays/spikes", "zarr/zarr.json"):
        answer = light_client.get(f"/v1/datasets/{dataset_id}/{rest}")
        assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
        assert says in answer.json()["detail"]
        assert ("Retry-After" in answer.headers) == (state == DatasetState.INGESTING)
    links = light_client.get(f"/v1/datasets/{dataset_id}").json()["links"]
    assert not {"trials", "arrays", "zarr", "preview"} & set(links)


def test_rejected_data_set_has_its_problems(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, state=DatasetState.REJECTED)
    assert light_client.get(f"/v1/datasets/{dataset_id}").json()["problems"][0]["message"] == "no spikes"


def test_where_a_file_lies_is_not_told(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session)
        row = session.get_one(Dataset, dataset_id)
        row.source = {**row.source, "path": "/srv/secret"}
    assert "secret" not in light_client.get(f"/v1/datasets/{dataset_id}").text


LORENZ = {
    "conditions": 65, "trials_per_condition": 20, "bins": 50, "neurons": 29, "mean_count_per_bin": 0.2,
    "bin_width_s": 0.01, "seed": 0,
}  # fmt: skip
NETWORK = {
    "conditions": 400, "trials_per_condition": 10, "bins": 100, "neurons": 50, "max_rate_hz": 30.0,
    "bin_width_s": 0.01, "seed": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("system", "defaults"),
    [
        ("lorenz", LORENZ),
        ("chaotic_rnn", {**NETWORK, "gain": 2.5}),
        ("driven", {**NETWORK, "gain": 1.5, "inputs": 1, "pulse": 50.0}),
        ("two_sessions", {**LORENZ, "session": 0}),
    ],
)
def test_synthesis_writes_its_defaults(client: TestClient, system: str, defaults: dict[str, Any]) -> None:
    answer = client.post("/v1/datasets:synthesize", json={"system": system, "neurons": 30, "name": "L"})
    assert answer.status_code == 202
    dataset = answer.json()
    assert answer.headers["Location"] == f"/v1/datasets/{dataset['id']}"
    assert (dataset["state"], dataset["name"]) == ("ingesting", "L")
    assert dataset["source"] == {"kind": "synthetic", "system": system, **defaults, "neurons": 30}
    assert client.post("/v1/datasets:synthesize", json={"system": system}).json()["name"] == system


@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        (
            {"system": "rossler"},
            "/system",
            "one of 'lorenz', 'chaotic_rnn', 'driven', 'two_sessions'; got 'rossler'",
        ),
        ({"system": None}, "/system", "'two_sessions'; got null"),
        ({"bins": 1}, "/bins", "greater than or equal to 2; got 1"),
        ({"bins": "many"}, "/bins", "got 'many'"),
        ({"neuron": 5}, "/neuron", "there is no such field"),
        ({"bin_width_s": 20}, "/bin_width_s", "less than or equal to 1; got 20"),
        ({"mean_count_per_bin": 1e999}, "/mean_count_per_bin", "finite number; got Infinity"),
        ({"seed": -1}, "/seed", "greater than or equal to 0; got -1"),
        ({"name": "a\x00"}, "/name", "should match pattern"),
        (
            {"conditions": 1000, "bins": 2000, "neurons": 2000},
            "",
            "is 80000000000; expected at most 100000000",
        ),
        ({"gain": 2.5}, "/gain", "there is no such field"),
        ({"session": 1}, "/session", "there is no such field"),
        ({"system": "two_sessions", "session": 2}, "/session", "less than or equal to 1; got 2"),
        ({"system": "two_sessions", "mean_count_per_bin": 0}, "/mean_count_per_bin", "greater than 0; got 0"),
        ({"system": "two_sessions", "neurons": [29, 23]}, "/neurons", "valid integer; got a list"),
        ({"system": "chaotic_rnn", "mean_count_per_bin": 0.2}, "/mean_count_per_bin", "no such field"),
        ({"system": "chaotic_rnn", "gain": -1.5}, "/gain", "greater than 0; got -1.5"),
        ({"system": "chaotic_rnn", "gain": 1e999}, "/gain", "finite number; got Infinity"),
        ({"system": "chaotic_rnn", "inputs": 1}, "/inputs", "there is no such field"),
        (
            {"system": "chaotic_rnn", "bin_width_s": 0.1},
            "/bin_width_s",
            "less than or equal to 0.05; got 0.1",
        ),
        ({"system": "chaotic_rnn", "bins": 2000, "neurons": 2000}, "", "is 16000000000; expected at most"),
        ({"system": "driven", "inputs": 17}, "/inputs", "less than or equal to 16; got 17"),
        (
            {"system": "driven", "inputs": 3, "neurons": 2},
            "",
            "inputs is 3; expected at most the number of neurons",
        ),
        ({"system": "driven", "pulse": 0}, "/pulse", "greater than 0; got 0"),
        ({"system": "driven", "max_rate_hz": 1001}, "/max_rate_hz", "less than or equal to 1000; got 1001"),
    ],
)
def test_wrong_synthesis_is_refused(
    light_client: TestClient, change: dict[str, Any], pointer: str, says: str
) -> None:
    content = json.dumps({"system": "lorenz"} | change)
    headers = {"Content-Type": "application/json"}
    answer = light_client.post("/v1/datasets:synthesize", content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    [problem] = answer.json()["errors"]
    assert problem["pointer"] == pointer
    assert says in problem["message"]
    assert light_client.get("/v1/datasets").json()["items"] == []


def test_synthesis_needs_a_system(light_client: TestClient) -> None:
    answer = light_client.post("/v1/datasets:synthesize", json={"conditions": 5})
    assert answer.status_code == 422
    [problem] = answer.json()["errors"]
    assert problem["pointer"] == "/system"
    assert (problem["code"], problem["message"]) == ("missing", "expected a value; got none")


def test_repeated_synthesis_is_made_once(light_client: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = [
        light_client.post("/v1/datasets:synthesize", json={"system": "lorenz"}, headers=headers)
        for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    other = light_client.post(
        "/v1/datasets:synthesize", json={"system": "lorenz", "seed": 1}, headers=headers
    )
    assert other.status_code == 422
    assert len(light_client.get("/v1/datasets").json()["items"]) == 1


def ids(client: TestClient, path: str, **filters: str) -> list[str]:
    answer = client.get(path, params=filters)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


@pytest.mark.parametrize("kind", ["datasets", "jobs"])
def test_lists_are_filtered_by_name_date_and_state(client: TestClient, database: Database, kind: str) -> None:
    made = {}
    for day, name in ((1, "Reach_100%"), (2, "reach 1005"), (3, "Grasp")):
        with database.write() as session:
            dataset_id = add_dataset(session)
            item = dataset_id if kind == "datasets" else add_job(session, dataset_id)
            row: Any = session.get_one(Dataset if kind == "datasets" else Job, item)
            row.name, row.created_at = name, datetime(2026, 3, day, 12, tzinfo=UTC)
            row.state = (
                {1: "ready", 2: "ready", 3: "rejected"}[day]
                if kind == "datasets"
                else ("done" if day < 3 else "failed")
            )
            made[day] = item
        time.sleep(0.002)  # ids sort by the millisecond
    path = f"/v1/{kind}"
    assert ids(client, path, name="reach") == [made[2], made[1]]
    assert ids(client, path, name="100%") == [made[1]], "what LIKE would read as a pattern"
    assert ids(client, path, name="") == [made[3], made[2], made[1]]
    assert ids(client, path, created_after="2026-03-02") == [made[3], made[2]]
    assert ids(client, path, created_before="2026-03-02T12:00:00Z") == [made[1]]
    assert ids(client, path, created_before="2026-03-02T13:30:00+02:00") == [made[1]]
    assert ids(client, path, created_after="2026-03-02T12:00:00", created_before="2026-03-03") == [made[2]]
    assert ids(client, path, state="rejected" if kind == "datasets" else "failed") == [made[3]]
    assert ids(client, path, name="reach", created_after="2026-03-03") == []
    first = client.get(path, params={"name": "reach", "page_size": 1}).json()
    assert [item["id"] for item in first["items"]] == [made[2]]
    assert ids(client, path, name="reach", page_token=first["next_page_token"]) == [made[1]]
    assert ids(client, path, created_after="0001-01-01T00:00:00+14:00") == [made[3], made[2], made[1]]
    assert ids(client, path, created_after="9999-12-31T23:59:59-14:00") == []
    answer = client.get(path, params={"created_after": "yesterday"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "created_after")
    answer = client.get(path, params={"nam": "x"})
    assert "name" in answer.json()["errors"][0]["hint"] + answer.json()["errors"][0]["message"]


def test_jobs_name_their_data_set_and_are_listed_by_it(
    light_client: TestClient, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        first, second = add_dataset(session), add_dataset(session)
        session.get_one(Dataset, second).name = "Monday"
        job_of_first, job_of_second = add_job(session, first), add_job(session, second)
    assert ids(light_client, "/v1/jobs", dataset_id=second) == [job_of_second]
    assert ids(light_client, "/v1/jobs", dataset_id="dat_" + 24 * "0") == []
    assert light_client.get(f"/v1/jobs/{job_of_second}").json()["dataset_name"] == "Monday"
    assert light_client.get(f"/v1/jobs/{job_of_first}").json()["dataset_name"] == "example"


@pytest.mark.parametrize(
    ("path", "parameter", "what"),
    [
        ("/v1/jobs", "dataset_id", "data set"),
        ("/v1/inferences", "dataset_id", "data set"),
        ("/v1/inferences", "model_id", "model"),
    ],
)
@pytest.mark.parametrize("given", ["reaches", "", "dat_0", "\x00", "job_" + 24 * "0", "x" * 5000])
def test_lists_of_something_that_is_no_id_are_refused(
    client: TestClient, path: str, parameter: str, what: str, given: str
) -> None:
    answer = client.get(path, params={parameter: given})
    assert answer.status_code == 422
    [problem] = answer.json()["errors"]
    assert problem["pointer"] == parameter
    prefix = {"data set": "dat", "model": "mod"}[what]
    expected = f"expected the id of a {what}, such as {prefix}_0192f3c4a5b6aabbccddeeff; got "
    assert problem["message"].startswith(expected)
    assert len(problem["message"]) < 200
    absent = client.get(path, params={parameter: f"{prefix}_{24 * '0'}"})
    assert absent.json()["items"] == []
