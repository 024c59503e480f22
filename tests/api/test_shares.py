"""Shares: a link shows its target and what belongs to it, nothing else, and only as long as it is valid."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from api.grants import OPERATIONS, TargetKind
from domain.states import JobState, ModelState
from store.array_store import open_array_store
from store.database import Database
from store.originals import open_originals
from store.settings import Settings
from store.tables import AuditEntry, IdempotentRequest, Key, utc_now
from tests.api.api_examples import Example, add_dataset, add_job, add_model, count, fill
from tests.api.conftest import serve
from tests.api.test_keys import ADMIN, OPERATOR, bearer, make
from tests.app_copies import app_of
from worker.maintenance.deletion import Storage, work_off
from worker.maintenance.retention import Sweep

KINDS: tuple[TargetKind, ...] = ("dataset", "job", "model")
NOWHERE = "0" * 24
PREFIXES = {"dataset": "dat", "job": "job", "model": "mod"}


@dataclass
class Lab:
    """A service that requires keys, with one of everything and a second data set, job and model of the same tenant."""

    client: TestClient
    example: Example
    key: dict[str, str]
    own: dict[str, str]
    others: dict[str, str]

    @property
    def database(self) -> Database:
        return self.example.database

    def share(self, kind: str, **request: Any) -> dict[str, Any]:
        answer = self.client.post(
            "/v1/shares", json={f"{kind}_id": self.own[kind], **request}, headers=self.key
        )
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def status(self, token: str, path: str | None = None) -> int:
        return self.client.get(path or "/v1/caller", headers=bearer(token)).status_code


def make_lab(folder: Path, database: Database, **settings: Any) -> Lab:
    arrays = open_array_store("sql:", database)
    found = Settings(data_dir=folder / "data", require_key=True, admin_key=ADMIN, **settings)
    example = fill(app_of(found, database, arrays), database, arrays)
    client = TestClient(example.app, raise_server_exceptions=False)
    with database.write() as session:
        dataset = add_dataset(session, array_path="groups/a")
        job = add_job(session, dataset, state=JobState.DONE)
        model = add_model(session, job, state=ModelState.TRAINED, latents_path="groups/a")
    own = {"dataset": example.dataset_id, "job": example.job_id, "model": example.model_id}
    others = {"dataset": dataset, "job": job, "model": model}
    return Lab(client, example, bearer(make(client, scopes=["read", "write"])["secret"]), own, others)


@pytest.fixture
def lab(tmp_path: Path, database: Database) -> Lab:
    return make_lab(tmp_path, database)


@pytest.fixture
def light_lab(tmp_path: Path, sqlite_database: Database) -> Lab:
    return make_lab(tmp_path, sqlite_database)


def requests_of(app: FastAPI, ids: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield method, path and operation id of every route that needs a key, with these ids in its path."""
    for path, operations in app.openapi()["paths"].items():
        by_plural = re.match(r"/v1/(dataset|job|model)s/", path)
        filled = path.replace("{owner_id}", ids.get(by_plural[1], "x") if by_plural else f"inf_{NOWHERE}")
        for kind in KINDS:
            filled = filled.replace(f"{{{kind}_id}}", ids[kind])
        filled = filled.replace("{name}", "rates").replace("{key}", "zarr.json")
        for method, operation in operations.items():
            if path.startswith("/v1/"):
                yield method.upper(), re.sub(r"{\w+}", "x", filled), operation["operationId"]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "job" else pytest.mark.slow) for kind in KINDS]
)
def test_a_share_shows_its_target_and_no_route_shows_anything_else(light_lab: Lab, kind: TargetKind) -> None:
    app, client = light_lab.example.app, light_lab.client
    mine = bearer(light_lab.share(kind)["token"])
    own, answered = light_lab.own, set[str]()
    for method, path, operation in requests_of(app, own):
        if "events/stream" in path:
            continue  # its job has ended, so it would send nothing but the end; another test reads it
        answer = client.request(method, path, headers=mine)
        if operation in OPERATIONS[kind]:
            assert answer.status_code not in (401, 403, 405), (method, path)
            assert "this link" not in answer.text, (method, path)
            answered.add(operation)
        else:
            assert answer.status_code == 403, (method, path)
            assert method == "HEAD" or answer.json()["detail"].startswith("this link only shows the "), path
    assert answered | {"stream_events"} >= OPERATIONS[kind], "operations that do not exist"
    existing = {kind: light_lab.others[kind] for kind in KINDS}
    missing = {kind: f"{PREFIXES[kind]}_{NOWHERE}" for kind in KINDS}
    foreign = {
        "dataset": light_lab.example.other_dataset_id,
        "job": light_lab.example.other_job_id,
        "model": light_lab.example.other_model_id,
    }
    for ids in (existing, missing, foreign):
        for method, path, operation in requests_of(app, ids):
            if not any(one in path for one in ids.values()):
                continue
            answer = client.request(method, path, headers=mine)
            assert answer.status_code == (404 if operation in OPERATIONS[kind] else 403), (method, path)
            if answer.status_code == 404 and method != "HEAD":
                named = next(one for one in ids.values() if one in path)
                assert answer.json()["detail"] == f"this link shows no {named}"


def test_nothing_that_changes_and_no_list_is_shown(light_lab: Lab) -> None:
    methods = {
        operation["operationId"]: (method, path)
        for path, operations in light_lab.example.app.openapi()["paths"].items()
        for method, operation in operations.items()
    }
    for operation in frozenset().union(*OPERATIONS.values()) - {"get_caller"}:
        method, path = methods[operation]
        assert method in ("get", "head"), operation
        assert re.match(r"/v1/(datasets|jobs|models)/{\w+_id}", path), operation


def test_other_resources_in_the_query_are_hidden_too(light_lab: Lab) -> None:
    mine, example = bearer(light_lab.share("model")["token"]), light_lab.example
    path = f"/v1/models/{example.model_id}/arrays/factors"
    assert light_lab.client.get(f"{path}?rotate_to={example.model_id}", headers=mine).status_code != 404
    for other in (light_lab.others["model"], example.other_model_id, f"mod_{NOWHERE}"):
        answer = light_lab.client.get(f"{path}?rotate_to={other}", headers=mine)
        assert (answer.status_code, answer.json()["detail"]) == (404, f"this link shows no {other}")


def test_the_models_of_a_job_belong_to_it(lab: Lab) -> None:
    with lab.database.write() as session:
        second = add_model(session, lab.own["job"], 1, state=ModelState.TRAINED)
    of_job, of_model, of_dataset = (lab.share(kind)["token"] for kind in ("job", "model", "dataset"))
    dataset = f"/v1/datasets/{lab.own['dataset']}"
    assert lab.status(of_job, f"/v1/models/{second}") == 200
    assert lab.status(of_model, f"/v1/models/{second}") == 404
    assert [lab.status(one, f"{dataset}/arrays/rates") for one in (of_job, of_model, of_dataset)] == [200] * 3
    assert [lab.status(one, f"{dataset}/download") for one in (of_job, of_model, of_dataset)] == [
        403,
        403,
        200,
    ]
    assert lab.status(of_model, f"/v1/jobs/{lab.own['job']}") == 403
    assert [lab.status(of_dataset, f"/v1/{kind}s/{lab.own[kind]}") for kind in ("job", "model")] == [403] * 2


def test_a_share_and_the_person_who_opens_it(lab: Lab) -> None:
    made = lab.share("job", label="for the PI", expires_in_days=7)
    assert made["token"].startswith("ltshare_")
    assert made["token"].startswith(made["beginning"])
    caller = lab.client.get("/v1/caller", headers=bearer(made["token"])).json()
    shown = {"kind": "job", "id": lab.own["job"], "expires_at": made["expires_at"]}
    assert caller == {
        "tenant": None, "name": None, "scopes": ["read"], "key_id": made["id"], "is_operator": False, "share": shown,
        "waits_for": None,
    }  # fmt: skip
    by_key = lab.client.post("/v1/jobs", json={"dataset_id": lab.own["dataset"]}, headers=lab.key).json()
    assert by_key["created_by"]["name"] == "Ada"
    share = lab.client.post("/v1/shares", json={"job_id": by_key["id"]}, headers=lab.key).json()
    assert (share["created_by"]["name"], share["state"]) == ("Ada", "active")
    assert share["target_name"].startswith("search on ")  # the job has no name
    seen = lab.client.get(f"/v1/jobs/{by_key['id']}", headers=bearer(share["token"]))
    assert seen.json()["created_by"] is None
    assert "Ada" not in seen.text
    listed = lab.client.get("/v1/shares", headers=lab.key).json()["items"]
    assert [one["id"] for one in listed] == [share["id"], made["id"]]
    assert listed[1] == {key: value for key, value in made.items() if key != "token"} | {
        "last_used_at": listed[1]["last_used_at"]
    }
    assert listed[1]["last_used_at"] is not None
    assert (listed[1]["label"], listed[1]["target_id"], listed[1]["kind"]) == (
        "for the PI",
        lab.own["job"],
        "job",
    )
    assert re.fullmatch(r"model \d+ of .+", lab.share("model")["target_name"])
    chosen = lab.client.get(f"/v1/shares?target_id={by_key['id']}", headers=lab.key).json()["items"]
    assert [one["id"] for one in chosen] == [share["id"]]
    assert lab.client.get(made["links"]["self"], headers=lab.key).json() == listed[1]


def test_a_share_is_no_key(lab: Lab) -> None:
    made = lab.share("dataset")
    assert made["id"] not in lab.client.get("/v1/keys", headers=OPERATOR).text
    for method in ("GET", "DELETE"):
        assert lab.client.request(method, f"/v1/keys/{made['id']}", headers=OPERATOR).status_code == 404
    other = bearer(make(lab.client, tenant="smith", scopes=["read", "write"])["secret"])
    assert lab.client.get("/v1/shares", headers=other).json()["items"] == []
    for method in ("GET", "DELETE"):
        assert lab.client.request(method, f"/v1/shares/{made['id']}", headers=other).status_code == 404
    body = {"dataset_id": lab.own["dataset"]}
    assert lab.client.post("/v1/shares", json=body, headers=other).status_code == 404
    reading = bearer(make(lab.client, scopes=["read"])["secret"])
    assert lab.client.post("/v1/shares", json=body, headers=reading).status_code == 403


def test_only_a_digest_of_the_token_is_stored(lab: Lab) -> None:
    once = lab.key | {"Idempotency-Key": "once"}
    body = {"model_id": lab.own["model"]}
    made, again = (lab.client.post("/v1/shares", json=body, headers=once).json() for _ in range(2))
    assert again == made | {"token": None}
    with lab.database.read() as session:
        rows = [
            *session.execute(select(Key)).scalars(),
            *session.execute(select(IdempotentRequest)).scalars(),
        ]
        assert not any(made["token"] in str(vars(row)) for row in rows)
    assert made["token"] not in lab.client.get("/v1/shares", headers=lab.key).text


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"job_id": f"job_{NOWHERE}"}, ""),
        ({"dataset_id": None}, ""),
        ({"expires_in_days": 400}, "/expires_in_days"),
        ({"expires_in_days": 0}, "/expires_in_days"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2099-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z", "expires_in_days": 1}, ""),
        ({"color": "red"}, "/color"),
    ],
)
def test_bad_requests(light_lab: Lab, change: dict[str, Any], pointer: str) -> None:
    body = {"dataset_id": light_lab.own["dataset"], **change}
    answer = light_lab.client.post("/v1/shares", json=body, headers=light_lab.key)
    assert answer.status_code == 422, answer.text
    [field] = answer.json()["errors"]
    assert field["pointer"] == pointer


def test_a_share_expires_after_30_days_by_default(light_lab: Lab) -> None:
    made = light_lab.share("job")
    with light_lab.database.read() as session:
        row = session.get_one(Key, made["id"])
    assert row.expires_at is not None
    assert row.expires_at - row.created_at == timedelta(days=30)


def test_the_number_of_valid_shares_is_limited(tmp_path: Path, database: Database) -> None:
    lab = make_lab(tmp_path, database, quota_shares=2)
    first, _ = lab.share("job"), lab.share("model")
    body = {"job_id": lab.own["job"]}
    refused = lab.client.post("/v1/shares", json=body, headers=lab.key)
    assert (refused.status_code, refused.json()["quota"]["name"]) == (409, "shares")
    lab.client.delete(f"/v1/shares/{first['id']}", headers=lab.key)
    assert lab.client.post("/v1/shares", json=body, headers=lab.key).status_code == 201
    with lab.database.write() as session:
        session.execute(
            update(Key).values(expires_at=utc_now() - timedelta(seconds=1)).where(Key.target_id.is_not(None))
        )
    assert lab.client.post("/v1/shares", json=body, headers=lab.key).status_code == 201


def test_requests_with_shares_leave_those_of_keys(tmp_path: Path, sqlite_database: Database) -> None:
    lab = make_lab(tmp_path, sqlite_database, quota_requests_per_minute=20, quota_key_requests_per_minute=8)
    tokens = [lab.share("job")["token"] for _ in range(4)]
    assert [lab.status(tokens[0]) for _ in range(9)] == [200] * 8 + [429]
    assert 429 in [
        lab.status(one) for one in tokens[1:] for _ in range(5)
    ]  # all shares of the tenant together
    assert lab.client.get("/v1/jobs", headers=lab.key).status_code == 200


def _revoke(lab: Lab, share: dict[str, Any]) -> None:
    revoked = lab.client.delete(f"/v1/shares/{share['id']}", headers=lab.key).json()
    assert revoked["state"] == "revoked"
    assert lab.client.delete(f"/v1/shares/{share['id']}", headers=lab.key).json() == revoked


def _expire(lab: Lab, share: dict[str, Any]) -> None:
    with lab.database.write() as session:
        past = utc_now() - timedelta(seconds=1)
        session.execute(update(Key).where(Key.id == share["id"]).values(expires_at=past))


def _revoke_key(lab: Lab, share: dict[str, Any]) -> None:
    lab.client.delete(f"/v1/keys/{share['created_by']['key_id']}", headers=OPERATOR)


def _delete_dataset(lab: Lab, share: dict[str, Any]) -> None:
    path = f"/v1/datasets/{lab.own['dataset']}?cascade=true"
    assert lab.client.delete(path, headers=lab.key).status_code == 202  # also if it is being deleted


@pytest.mark.parametrize("end", [_revoke, _expire, _revoke_key, _delete_dataset])
def test_a_share_that_ends_shows_nothing(lab: Lab, end: Callable[[Lab, dict[str, Any]], None]) -> None:
    shares = [lab.share(kind) for kind in KINDS]
    for share in shares:
        assert lab.status(share["token"], share["links"][share["kind"]]) == 200
    for share in shares:
        end(lab, share)
    for share in shares:
        answer = lab.client.get(share["links"][share["kind"]], headers=bearer(share["token"]))
        assert (answer.status_code, answer.json()["type"]) == (401, "urn:latentry:problem:unauthorized")
        assert answer.json()["detail"] == f"the link {'has expired' if end is _expire else 'was revoked'}"
        with lab.database.read() as session:
            entries = session.execute(select(AuditEntry).where(AuditEntry.object_id == share["id"])).scalars()
            actions = [one.action for one in entries]
        assert actions == ["share.created"] + ["share.revoked"] * (end is not _expire)


def test_a_deletion_deletes_shares_and_what_repeated_requests_would_answer(lab: Lab) -> None:
    shares = []
    for kind in KINDS:
        headers = lab.key | {"Idempotency-Key": kind}
        shares.append(
            lab.client.post("/v1/shares", json={f"{kind}_id": lab.own[kind]}, headers=headers).json()
        )
    deleted = lab.client.delete(f"/v1/jobs/{lab.own['job']}", headers=lab.key).json()
    assert deleted["rows"]["shares"] == 2
    settings: Settings = lab.example.app.state.settings
    work_off(Storage(lab.database, lab.example.arrays, open_originals(settings), settings), 60)
    assert count(lab.database, IdempotentRequest) == 1
    found = [lab.client.get(share["links"]["self"], headers=lab.key).status_code for share in shares]
    assert found == [200, 404, 404]
    assert [lab.status(share["token"]) for share in shares] == [200, 401, 401]


def test_old_shares_are_removed(lab: Lab) -> None:
    expired, revoked, valid = (lab.share(kind) for kind in KINDS)
    old = utc_now() - timedelta(days=91)
    with lab.database.write() as session:
        for share, column in ((expired, "expires_at"), (revoked, "revoked_at")):
            session.execute(update(Key).where(Key.id == share["id"]).values({column: old}))
        session.execute(update(Key).where(Key.target_id.is_(None)).values(revoked_at=old))
    assert Sweep(lab.database, Settings()).rows()["shares"] == 2
    listed = lab.client.get("/v1/shares", headers=OPERATOR).json()["items"]
    assert [one["id"] for one in listed] == [valid["id"]]
    with lab.database.read() as session:
        assert session.execute(select(Key.id).where(Key.target_id.is_(None))).scalars().all()


def test_the_stream_of_a_share_ends_with_it(tmp_path: Path, sqlite_database: Database) -> None:
    lab = make_lab(tmp_path, sqlite_database)
    with sqlite_database.write() as session:
        lab.own["job"] = add_job(session, lab.own["dataset"], state=JobState.PAUSED)
    share = lab.share("job")
    for url in serve(lab.example.app):
        path = f"{url}/v1/jobs/{lab.own['job']}/events/stream"
        with httpx.stream("GET", path, headers=bearer(share["token"]), timeout=30) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("event:")
            _revoke(lab, share)
            assert ": the stream ends: the key was revoked or has expired" in list(lines)
        assert httpx.get(path, headers=bearer(share["token"])).status_code == 401
