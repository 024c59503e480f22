"""Keys: nothing opens without one where one is asked for, and each opens what it may."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from aiohttp.client_exceptions import ClientResponseError
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import select, update

from api import early_refusals
from api.limits.wrong_keys import network_of
from store.array_store import open_array_store
from store.database import Database
from store.settings import Settings
from store.tables import IdempotentRequest, Key
from tests.api.api_examples import PROBLEM, Example, fill
from tests.api.conftest import serve
from tests.app_copies import app_of
from tests.servers import broker

ADMIN = "operator-" + "0" * 20
OPEN = {"/v1", "/healthz", "/readyz"}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


OPERATOR = bearer(ADMIN)


@pytest.fixture
def guarded(tmp_path: Path, database: Database) -> FastAPI:
    settings = Settings(data_dir=tmp_path / "data", require_key=True, admin_key=ADMIN)
    return app_of(settings, database, open_array_store("sql:", database))


@pytest.fixture
def asks(guarded: FastAPI) -> TestClient:
    return TestClient(guarded, raise_server_exceptions=False)


def make(client: TestClient, by: dict[str, str] = OPERATOR, **request: Any) -> dict[str, Any]:
    answer = client.post("/v1/keys", json={"name": "Ada", **request}, headers=by)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_every_route_asks_for_a_key(asks: TestClient, guarded: FastAPI) -> None:
    paths = guarded.openapi()["paths"]
    asked = 0
    for path, operations in paths.items():
        for method in operations:
            answer = asks.request(method.upper(), re.sub(r"{\w+}", "x", path))
            if path in OPEN:
                assert answer.status_code == 200
                continue
            asked += 1
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            if method != "head":
                assert answer.headers["content-type"] == PROBLEM
                assert answer.json()["type"] == "urn:latentry:problem:unauthorized"
    assert asked > 40


def test_a_key_by_each_way_to_send_it(asks: TestClient) -> None:
    made = make(asks)
    assert made["secret"].startswith("lat_")
    assert len(made["secret"]) == len("lat_") + 43
    assert made["secret"].startswith(made["beginning"])
    for answer in (
        asks.get("/v1/caller", headers=bearer(made["secret"])),
        asks.get("/v1/caller", headers={"Authorization": f"bearer  {made['secret']} "}),
        asks.get("/v1/caller", auth=("anybody", made["secret"])),
        asks.get("/v1/caller", auth=("", made["secret"])),
    ):
        assert answer.json() == {
            "tenant": "default",
            "name": "Ada",
            "share": None,
            "scopes": ["read", "write"],
            "key_id": made["id"],
            "is_operator": False,
            "waits_for": None,
        }


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "lat_x", "Digest x", "Basic", "Basic !", "Basic bGF0", "Basic //8=", "Bearer lat_x"]
)  # fmt: skip
def test_what_is_no_key(asks: TestClient, header: str) -> None:
    answer = asks.get("/v1/datasets", headers={"Authorization": header})
    assert (answer.status_code, answer.headers["content-type"]) == (401, PROBLEM)
    assert "lat_" in answer.json()["hint"] or "keys create" in answer.json()["hint"]


def test_only_a_digest_is_kept(asks: TestClient, database: Database) -> None:
    key = {"Idempotency-Key": "once"}
    made = make(asks, OPERATOR | key)
    again = make(asks, OPERATOR | key)
    assert again == made | {"secret": None}
    with database.read() as session:
        assert len(session.execute(select(Key)).all()) == 1
        kept = [str(vars(session.execute(select(table)).scalar_one())) for table in (Key, IdempotentRequest)]
    assert not any(made["secret"] in row for row in kept)
    for answer in (asks.get("/v1/keys", headers=OPERATOR), asks.get(f"/v1/keys/{made['id']}", headers=OPERATOR)):  # fmt: skip
        assert made["secret"] not in answer.text


def test_scopes(asks: TestClient) -> None:
    reading, writing = make(asks, scopes=["read"])["secret"], make(asks, scopes=["write"])["secret"]
    body = {"system": "lorenz", "trials_per_condition": 2}
    assert asks.get("/v1/datasets", headers=bearer(reading)).status_code == 200
    refused = asks.post("/v1/datasets:synthesize", json=body, headers=bearer(reading))
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:latentry:problem:forbidden")
    assert "'write'" in refused.json()["detail"]
    assert asks.post("/v1/datasets:synthesize", json=body, headers=bearer(writing)).status_code == 202
    assert asks.get("/v1/datasets", headers=bearer(writing)).status_code == 403
    both = make(asks)["secret"]
    for answer in (
        asks.get("/v1/keys", headers=bearer(both)),
        asks.post("/v1/keys", json={"name": "x"}, headers=bearer(both)),
        asks.delete("/v1/keys/key_000000000000000000000000", headers=bearer(both)),
    ):
        assert answer.status_code == 403


def test_nobody_gives_more_than_they_have(asks: TestClient) -> None:
    boss = bearer(make(asks, scopes=["read", "admin"], tenant="smith")["secret"])
    # Making a key is writing.
    assert asks.post("/v1/keys", json={"name": "x", "scopes": ["read"]}, headers=boss).status_code == 403
    boss = bearer(make(asks, scopes=["read", "write", "admin"], tenant="smith")["secret"])
    made = make(asks, boss, scopes=["read"])
    assert made["tenant"] == "smith"
    answer = asks.post("/v1/keys", json={"name": "x", "tenant": "jones"}, headers=boss)
    assert (answer.status_code, "jones" in answer.json()["detail"]) == (403, True)


def test_tenants_see_nothing_of_each_other(asks: TestClient) -> None:
    scopes = ["read", "write", "admin"]
    smith, jones = (make(asks, tenant=name, scopes=scopes) for name in ("smith", "jones"))
    body = {"system": "lorenz", "trials_per_condition": 2}
    made = asks.post("/v1/datasets:synthesize", json=body, headers=bearer(smith["secret"])).json()
    assert asks.get(f"/v1/datasets/{made['id']}", headers=bearer(smith["secret"])).status_code == 200
    assert asks.get(f"/v1/datasets/{made['id']}", headers=bearer(jones["secret"])).status_code == 404
    assert asks.get("/v1/datasets", headers=bearer(jones["secret"])).json()["items"] == []
    assert asks.get(f"/v1/keys/{smith['id']}", headers=bearer(jones["secret"])).status_code == 404
    assert asks.delete(f"/v1/keys/{smith['id']}", headers=bearer(jones["secret"])).status_code == 404
    listed = asks.get("/v1/keys", headers=bearer(jones["secret"])).json()["items"]
    assert [one["id"] for one in listed] == [jones["id"]]
    first = asks.get("/v1/keys?page_size=1", headers=OPERATOR).json()
    rest = asks.get(f"/v1/keys?page_token={first['next_page_token']}", headers=OPERATOR).json()
    assert [one["id"] for one in first["items"] + rest["items"]] == [jones["id"], smith["id"]]


def test_revoked_and_expired(asks: TestClient, database: Database) -> None:
    made = make(asks, expires_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat())
    mine = bearer(made["secret"])
    assert asks.get("/v1/datasets", headers=mine).status_code == 200
    with database.write() as session:
        session.execute(update(Key).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    answer = asks.get("/v1/datasets", headers=mine)
    assert (answer.status_code, answer.json()["detail"]) == (401, "the key has expired")
    with database.write() as session:
        session.execute(update(Key).values(expires_at=None))
    assert asks.get("/v1/datasets", headers=mine).status_code == 200
    revoked = asks.delete(f"/v1/keys/{made['id']}", headers=OPERATOR).json()
    assert revoked["revoked_at"] is not None
    assert asks.delete(f"/v1/keys/{made['id']}", headers=OPERATOR).json() == revoked
    answer = asks.get("/v1/datasets", headers=mine)
    assert (answer.status_code, answer.json()["detail"]) == (401, "the key was revoked")


def test_last_use_is_written_to_the_minute(asks: TestClient, database: Database) -> None:
    made = make(asks)

    def last_used() -> datetime | None:
        with database.read() as session:
            return session.get_one(Key, made["id"]).last_used_at

    assert last_used() is None
    asks.get("/v1/caller", headers=bearer(made["secret"]))
    first = last_used()
    asks.get("/v1/caller", headers=bearer(made["secret"]))
    assert first is not None
    assert last_used() == first
    with database.write() as session:
        session.execute(update(Key).values(last_used_at=first - timedelta(minutes=2)))
    asks.get("/v1/caller", headers=bearer(made["secret"]))
    assert (last_used() or first) >= first


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["all"]}, "/scopes/0"),
        ({"tenant": "Smith Lab"}, "/tenant"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "/expires_at"),
        ({"expires_at": "2099-01-01T00:00:00"}, "/expires_at"),
        ({"color": "red"}, "/color"),
    ],
)
def test_bad_requests_for_keys(asks: TestClient, change: dict[str, Any], pointer: str) -> None:
    answer = asks.post("/v1/keys", json={"name": "x", **change}, headers=OPERATOR)
    assert answer.status_code == 422
    [field] = answer.json()["errors"]
    assert field["pointer"] == pointer


def test_without_requiring_keys_everything_is_open_and_a_wrong_key_is_not(light_client: TestClient) -> None:
    assert light_client.get("/v1/caller").json()["is_operator"] is True
    made = make(light_client, {}, scopes=["read"])
    assert light_client.get("/v1/caller", headers=bearer(made["secret"])).json()["scopes"] == ["read"]
    assert light_client.get("/v1/caller", headers=bearer("lat_wrong")).status_code == 401


@pytest.mark.parametrize(
    "given", [{"require_key": True}, {"admin_key": "short"}, {"require_key": True, "admin_key": "short"}]
)
def test_it_does_not_start_with_a_weak_secret(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="openssl rand -hex 32"):
        Settings(data_dir=tmp_path, **given)


@pytest.fixture
def example_with_keys(tmp_path: Path, sqlite_database: Database) -> Iterator[tuple[str, Example]]:
    settings = Settings(data_dir=tmp_path, require_key=True, admin_key=ADMIN)
    arrays = open_array_store("sql:", sqlite_database)
    example = fill(app_of(settings, sqlite_database, arrays), sqlite_database, arrays)
    for url in serve(example.app):
        yield url, example


def test_stock_xarray_and_zarr_open_latents_by_url_with_a_key(
    example_with_keys: tuple[str, Example],
) -> None:
    url, example = example_with_keys
    group = f"{url}/v1/models/{example.model_id}/zarr"
    secret = make(TestClient(example.app))["secret"]
    options = {"headers": bearer(secret)}
    found = xarray.open_zarr(group, storage_options=options, consolidated=True)
    assert found["factors"].dims == ("some_trial", "some_time", "factor")
    assert found["rates"].attrs["units"] == "spikes/s"
    values = zarr.open_group(group, mode="r", storage_options=options)["factors"]
    assert isinstance(values, zarr.Array)
    np.testing.assert_array_equal(found["factors"].values, values[...])
    by_url = group.replace("http://", f"http://key:{secret}@")
    assert xarray.open_zarr(by_url, consolidated=True)["factors"].equals(found["factors"])
    with pytest.raises(ClientResponseError, match="401"):
        xarray.open_zarr(group, consolidated=True)


def wrong_statuses(client: TestClient, number: int) -> list[int]:
    answers = [client.get("/v1/jobs", headers=bearer(f"lat_{i}")) for i in range(number)]
    assert all(
        (one.status_code == 401) == ("Retry-After" not in one.headers)
        and one.headers["content-type"] == PROBLEM
        and "the key is unknown" in one.json()["detail"]
        for one in answers
    )
    return [one.status_code for one in answers]


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "broker").mkdir()
    with broker(tmp_path / "broker") as found:
        yield found.url


@pytest.mark.usefixtures("still_minute")
@pytest.mark.parametrize("has_redis", [True, False])
def test_wrong_keys_slow_down(
    tmp_path: Path,
    sqlite_database: Database,
    redis_url: str,
    has_redis: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one address and of all; two processes count together if they have a Redis. A right key always works."""
    monkeypatch.setattr(early_refusals, "_HELD_SECONDS", 0.01)
    settings = Settings(
        data_dir=tmp_path, require_key=True, admin_key=ADMIN, wrong_keys_per_minute=4, wrong_keys_per_minute_in_all=7,
        redis_url=redis_url if has_redis else "redis://127.0.0.1:9/0",
    )  # fmt: skip
    arrays = open_array_store("sql:", sqlite_database)
    first, second = (app_of(settings, sqlite_database, arrays) for _ in range(2))
    of_a, of_a_elsewhere = (TestClient(app, client=("192.0.2.1", 1)) for app in (first, second))
    of_b, of_c = (TestClient(first, client=(f"192.0.2.{number}", 1)) for number in (2, 3))
    right = bearer(make(of_b)["secret"])
    assert wrong_statuses(of_a, 6) == [401] * 4 + [429] * 2
    assert wrong_statuses(of_a_elsewhere, 1) == ([429] if has_redis else [401])
    assert 0 < int(of_a.get("/v1/jobs", headers=bearer("lat_x")).headers["Retry-After"]) <= 120
    assert wrong_statuses(of_b, 3) == [401] * 3
    assert wrong_statuses(of_c, 1) == [429]  # of all addresses together
    for client in (of_a, of_b, of_c, of_a_elsewhere):
        assert client.get("/v1/jobs", headers=right).status_code == 200
    assert of_c.get("/v1/jobs").status_code == 401  # no key is no guess


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("testclient", "testclient", True),
    ],
)
def test_addresses_of_one_client(one: str, other: str, is_same: bool) -> None:
    assert (network_of(one) == network_of(other)) is is_same
