"""The same bytes with the same options are the same data set; other options of the same file are another one."""

import asyncio
import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.datasets.service import create_or_find
from api.dependencies import _tenant
from domain.content_hash import content_digest
from domain.dataset_options import DatasetOptions
from domain.states import DatasetState
from store.database import Database
from store.settings import Settings
from store.tables import Dataset, OutboxMessage, Upload
from tests.api.api_examples import OTHER_TENANT, PROBLEM, add_dataset, add_tenant, count

RAW = {"Content-Type": "application/octet-stream"}
SHA256 = hashlib.sha256(b"spikes").hexdigest()


def post(client: TestClient, query: str = "", content: bytes = b"spikes", **headers: str) -> httpx.Response:
    return client.post(f"/v1/datasets{query}", content=content, headers=RAW | headers)


def set_state(database: Database, dataset_id: str, state: DatasetState) -> None:
    with database.write() as session:
        session.get_one(Dataset, dataset_id).state = state


def digest_of(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def test_same_bytes_and_options_are_the_same_data_set(client: TestClient, database: Database) -> None:
    first = post(client, "?name=a&filename=a.npz&bin_width_s=0.02")
    assert first.status_code == 202
    assert first.json()["digest"] == content_digest(
        "upload", {"sha256": SHA256, "options": {"bin_width_s": 0.02}}
    )
    same = [
        post(client, "?name=b&filename=b.npz&bin_width_s=2e-2"),
        post(client, '?options={"bin_width_s":0.02,"trials":{}}'),
        post(client, '?bin_width_s=0.02&options={"bin_width_s":0.02}'),
        client.post(
            "/v1/datasets", files={"file": ("c.npz", b"spikes")}, data={"options": '{"bin_width_s": 0.02}'}
        ),
    ]
    for answer in same:
        assert (answer.status_code, answer.json()) == (200, first.json())
        assert answer.headers["Location"] == first.headers["Location"]
        assert answer.headers["Retry-After"] == "1"
    set_state(database, first.json()["id"], DatasetState.READY)
    ready = post(client, "?bin_width_s=0.02")
    assert (ready.status_code, ready.json()["id"], "Retry-After" in ready.headers) == (
        200,
        first.json()["id"],
        False,
    )
    others = [post(client), post(client, "?bin_width_s=0.01"), post(client, "?bin_width_s=0.02", b"other")]
    assert [answer.status_code for answer in others] == [202] * 3
    assert len({first.json()["id"], *(answer.json()["id"] for answer in others)}) == 4
    assert (count(database, OutboxMessage), count(database, Upload)) == (4, 0)


def test_what_was_rejected_is_tried_anew(client: TestClient, database: Database) -> None:
    first = post(client).json()
    set_state(database, first["id"], DatasetState.REJECTED)
    second = post(client)
    assert second.status_code == 202
    assert (second.json()["id"] != first["id"], second.json()["digest"]) == (True, first["digest"])
    assert post(client).json()["id"] == second.json()["id"]


def test_many_at_once_make_one(app: FastAPI, database: Database) -> None:
    def upload(number: int) -> httpx.Response:
        return post(TestClient(app, raise_server_exceptions=False), f"?name={number}")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(upload, range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [202]
    assert len({answer.text for answer in answers}) == 1
    assert (count(database, Dataset), count(database, Upload)) == (1, 0)


def test_a_race_that_nobody_saw_coming_makes_one(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the insert another request committed the same."""
    source = {"kind": "synthetic", "system": "lorenz"}
    with database.write() as session:
        first = create_or_find(session, Settings(), "default", name="", source=source, content={}).document
    look, blind = create_or_find.__globals__["find_equal"], iter([True, False])
    monkeypatch.setitem(
        create_or_find.__globals__, "find_equal", lambda *args: None if next(blind) else look(*args)
    )
    with database.write() as session:
        again = create_or_find(session, Settings(), "default", name="", source=source, content={})
    assert (again.is_new, again.document.id) == (False, first.id)
    assert (count(database, Dataset), count(database, OutboxMessage)) == (1, 1)


def test_a_key_is_answered_as_it_was(client: TestClient, database: Database) -> None:
    made, found = {"Idempotency-Key": "made"}, {"Idempotency-Key": "found"}
    first = post(client, **made)
    assert post(client, **found).status_code == 200
    set_state(database, first.json()["id"], DatasetState.REJECTED)
    assert (post(client, **made).status_code, post(client, **made).json()) == (202, first.json())
    assert (post(client, **found).status_code, post(client, **found).json()) == (200, first.json())


def test_another_tenant_s_equal_file_is_another_data_set(
    light_app: FastAPI,
    light_client: TestClient,
    sqlite_database: Database,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sqlite_database.write() as session:
        add_tenant(session)
    mine = post(light_client, "?name=mine")
    monkeypatch.setitem(light_app.dependency_overrides, _tenant, lambda: OTHER_TENANT)
    theirs = post(light_client, "?name=theirs")
    assert (mine.status_code, theirs.status_code) == (202, 202)
    assert mine.json()["id"] != theirs.json()["id"]
    assert (
        light_client.post(f"/v1/datasets/{mine.json()['id']}:derive", json={"options": {}}).status_code == 404
    )
    assert [path.name for path in settings.uploads_dir.iterdir()] == [SHA256]


def test_synthetic_data_sets_are_the_same_by_their_parameters(client: TestClient) -> None:
    def make_one(**parameters: Any) -> httpx.Response:
        return client.post("/v1/datasets:synthesize", json={"system": "lorenz", **parameters})

    first = make_one(name="a")
    same = make_one(seed=0, name="b", neurons=29)
    assert (first.status_code, same.status_code) == (202, 200)
    assert same.json() == first.json()
    assert (first.json()["options"], first.json()["derived_from"]) == (None, None)
    assert make_one(seed=1).status_code == 202


OPTIONS = {"trials": {"align_to": "go", "window_s": [-0.25, 0.75]}, "neurons": {"where": {"quality": "good"}}}


@pytest.mark.parametrize("how", ["query", "form"])
def test_options_are_kept_as_they_differ_from_their_defaults(light_client: TestClient, how: str) -> None:
    text = json.dumps({**OPTIONS, "split": {"kind": "given"}, "chop": None})
    if how == "query":
        answer = light_client.post(
            "/v1/datasets", params={"options": text, "format": "nwb"}, content=b"1", headers=RAW
        )
    else:
        answer = light_client.post(
            "/v1/datasets", files={"file": ("a.nwb", b"1")}, data={"options": text, "format": "nwb"}
        )
    assert answer.status_code == 202, answer.text
    assert answer.json()["options"] == {**OPTIONS, "format": "nwb"}


@pytest.mark.parametrize(
    ("options", "pointer", "says"),
    [
        ('{"trials": {"window_s": [1, 0]}}', "/options/trials", "expected its start before its end"),
        ('{"trials": {"window_s": [0, "x"]}}', "/options/trials/window_s/1", "got 'x'"),
        ('{"trials": {"window_s": "0:1"}}', "/options/trials/window_s", "expected a list; got '0:1'"),
        ('{"trials": {"window": [0, 1]}}', "/options/trials/window", "there is no such field"),
        ('{"chop": {"window_s": -1}}', "/options/chop/window_s", "greater than or equal to 0.000001; got -1"),
        ('{"neurons": {"minimum_rate_hz": NaN}}', "/options", "expected a JSON object"),
        ('{"format": "mat"}', "/options/format", "got 'mat'"),
        ("[1]", "/options", "expected an object; got a list"),
        ("{", "/options", "expected a JSON object; EOF"),
        ("[" * 5000, "/options", "expected a JSON object; recursion"),
        ('{"format": "nwb"}', "/options/format", "format is 'npz' here and 'nwb' in options"),
        ('{"mapping": {"spikes": "a\\u0000"}}', "/options/mapping/spikes", "should match pattern"),
    ],
)
@pytest.mark.parametrize("how", ["query", "form"])
def test_wrong_options_are_refused_where_they_are(
    light_client: TestClient, settings: Settings, how: str, options: str, pointer: str, says: str
) -> None:
    fields = {"options": options, "format": "npz"}
    if how == "query":
        answer = light_client.post("/v1/datasets", params=fields, content=b"1", headers=RAW)
    else:
        answer = light_client.post("/v1/datasets", files={"file": ("a.npz", b"1")}, data=fields)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM), answer.text
    [problem] = answer.json()["errors"]
    assert problem["pointer"] == pointer
    assert says in problem["message"]
    assert not settings.uploads_dir.exists() or list(settings.uploads_dir.iterdir()) == []


def test_digest_of_the_body_is_checked(light_client: TestClient, settings: Settings) -> None:
    wrong = post(light_client, **{"Content-Digest": digest_of(b"other")})
    assert (wrong.status_code, wrong.headers["content-type"]) == (422, PROBLEM)
    assert wrong.json()["type"] == "urn:latentry:problem:digest-mismatch"
    assert SHA256 in wrong.json()["detail"]
    assert list(settings.uploads_dir.iterdir()) == []
    for header in (digest_of(b"spikes"), f"md5=:AAAA:, {digest_of(b'spikes')}", "sha-512=:AAAA:"):
        assert post(light_client, **{"Content-Digest": header}).status_code in (200, 202)
    for header in ("sha-256=AAAA", "sha-256=:AAAA:", "sha-256=:%:", "sha-256="):
        answer = post(light_client, **{"Repr-Digest": header})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "Repr-Digest")
    file = {"file": ("a.npz", b"spikes")}
    form = light_client.post("/v1/datasets", files=file, headers={"Repr-Digest": digest_of(b"spikes")})
    assert form.status_code == 200
    form = light_client.post("/v1/datasets", files=file, headers={"Content-Digest": digest_of(b"spikes")})
    assert (form.status_code, form.json()["errors"][0]["pointer"]) == (422, "Content-Digest")


def derive(client: TestClient, dataset_id: str, **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": body.pop("key")} if "key" in body else {}
    return client.post(f"/v1/datasets/{dataset_id}:derive", json=body, headers=headers)


@pytest.mark.parametrize("state", [one for one in DatasetState if one != DatasetState.DELETING])
def test_a_file_is_read_anew_with_other_options(
    client: TestClient, database: Database, state: DatasetState
) -> None:
    parent = post(client, "?name=session&filename=a.npz&bin_width_s=0.02").json()
    set_state(database, parent["id"], state)
    made = derive(client, parent["id"], options=OPTIONS, key="k")
    assert made.status_code == 202, made.text
    child = made.json()
    assert made.headers["Location"] == f"/v1/datasets/{child['id']}"
    whole = {"bin_width_s": 0.02, **OPTIONS}
    assert (child["derived_from"], child["options"], child["name"]) == (parent["id"], whole, "session")
    assert (child["source"], child["state"]) == (parent["source"], "ingesting")
    assert derive(client, parent["id"], options=OPTIONS, name="x").json()["id"] == child["id"]
    assert derive(client, parent["id"], options=OPTIONS, name="x").status_code == 200
    again = derive(client, parent["id"], options=OPTIONS, key="k")
    assert (again.status_code, again.json()) == (202, child)
    assert derive(client, parent["id"], options={}, key="k").status_code == 422
    plain = derive(client, child["id"], options=dict.fromkeys(whole), name="plain").json()
    assert (plain["derived_from"], plain["options"]) == (child["id"], {})
    same = derive(client, parent["id"], options={"bin_width_s": 0.02})
    if state == DatasetState.REJECTED:
        assert (same.status_code, same.json()["derived_from"]) == (202, parent["id"])
    else:
        assert (same.status_code, same.json()["id"]) == (200, parent["id"])
    assert post(client, f"?options={json.dumps(whole)}").json()["id"] == child["id"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"rebin_s": 0.04, "trials": {"align_to": "go", "window_s": [-0.2, 0.5], "where": {"a": 1}}}),
        ({"rebin_s": 0.02, "chop": {"window_s": 2.0}}, {
            "rebin_s": 0.02, "chop": {"window_s": 2.0},
            "trials": {"align_to": "go", "window_s": [-0.2, 0.5], "where": {"a": 1}},
        }),
        ({"rebin_s": None, "trials": {"window_s": [0, 1], "where": {"b": {"min": 2}}}}, {
            "trials": {"align_to": "go", "window_s": [0, 1], "where": {"a": 1, "b": {"min": 2, "max": None}}},
        }),
        ({"trials": {"window_s": None, "where": {"a": None}}}, {"rebin_s": 0.04, "trials": {"align_to": "go"}}),
        ({"trials": None, "mapping": None}, {"rebin_s": 0.04}),
    ],
)  # fmt: skip
def test_derived_data_sets_start_from_the_options_of_their_parent(
    light_client: TestClient, sqlite_database: Database, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    given = {
        "rebin_s": 0.04,
        "trials": {"align_to": "go", "window_s": [-0.2, 0.5], "where": {"a": 1}},
    }
    parent = post(light_client, f"?options={json.dumps(given)}").json()
    set_state(sqlite_database, parent["id"], DatasetState.REJECTED)
    made = derive(light_client, parent["id"], options=changes)
    assert made.status_code == 202, made.text
    found = made.json()["options"]
    assert DatasetOptions.model_validate(found) == DatasetOptions.model_validate(expected)
    assert found == DatasetOptions.model_validate(expected).canonical()


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"chop": {"overlap_s": 0.6}}, "/options/chop"),
        ({"rebinn_s": None}, "/options/rebinn_s"),
        ({"trials": {"windows": None}}, "/options/trials/windows"),
        ({"trials": 3}, "/options/trials"),
    ],
)
def test_changes_that_do_not_fit_the_options_of_the_parent(
    light_client: TestClient, sqlite_database: Database, changes: dict[str, Any], pointer: str
) -> None:
    """A window of 1 s is the parent's: half of it is 0.5 s."""
    parent = post(light_client, '?options={"chop": {"window_s": 1.0, "overlap_s": 0.1}}').json()
    set_state(sqlite_database, parent["id"], DatasetState.READY)
    wrong = derive(light_client, parent["id"], options=changes)
    assert (wrong.status_code, [one["pointer"] for one in wrong.json()["errors"]]) == (422, [pointer])


def test_what_was_not_uploaded_has_no_file(light_client: TestClient, sqlite_database: Database) -> None:
    made = light_client.post("/v1/datasets:synthesize", json={"system": "lorenz"}).json()
    answer = derive(light_client, made["id"], options={})
    assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
    assert "its source is synthetic" in answer.json()["detail"]
    with sqlite_database.write() as session:
        old = add_dataset(session)
    answer = derive(light_client, old, options={})
    assert (answer.status_code, answer.json()["hint"]) == (409, "upload the file again")
    missing = derive(light_client, old)
    assert (missing.status_code, missing.json()["errors"][0]["pointer"]) == (422, "/options")
    wrong = derive(light_client, old, options={"chop": {"overlap_s": 3}})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/options/chop")
    assert derive(light_client, "dat_0", options={}).status_code == 404


def test_derivations_of_one_data_set_at_the_same_time_wait_for_each_other(
    app: FastAPI, client: TestClient
) -> None:
    """On PostgreSQL, transactions that lock the same rows in different orders would deadlock."""
    parent = post(client).json()["id"]

    async def derive(number: int) -> int:
        transport = httpx.ASGITransport(app, client=(f"192.0.2.{number}", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as one:
            body = {"options": {"bin_width_s": 0.01 * (number + 1)}}
            return (await one.post(f"/v1/datasets/{parent}:derive", json=body)).status_code

    async def derive_all() -> list[int]:
        return await asyncio.gather(*map(derive, range(8)))

    assert asyncio.run(derive_all()) == [202] * 8
