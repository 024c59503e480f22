"""The line of each request in the log, and its id."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.request_log import _METHODS
from store import metrics
from store.settings import Settings

ADMIN_KEY = 40 * "a"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"require_key": True, "admin_key": SecretStr(ADMIN_KEY)})


@pytest.fixture
def operator(light_app: FastAPI) -> TestClient:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    return TestClient(light_app, headers=headers, raise_server_exceptions=False)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    names = ("method", "route", "path", "status", "client", "tenant", "key", "dataset", "job")
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    caplog.set_level(logging.INFO, "latentry.requests")
    return lambda: [fields(one) for one in caplog.records if one.name == "latentry.requests"]


def test_one_line_for_each_request(
    operator: TestClient, light_dataset_id: str, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    key = operator.post("/v1/keys", json={"name": "mine"}).json()
    headers = {"Authorization": f"Bearer {key['secret']}"}
    operator.get(f"/v1/datasets/{light_dataset_id}?x={key['secret']}", headers=headers)
    body = {"dataset_id": light_dataset_id, "preset": "quick"}
    made = operator.post("/v1/jobs", json=body, headers=headers)
    operator.get("/v1/jobs", headers={"Authorization": "Bearer lat_" + 40 * "w"})
    operator.get(f"/no/such/{key['secret']}/place", headers=headers)
    operator.request("A" * 50, "/v1/jobs", headers=headers)
    first, read, created, wrong, missing, strange = lines()
    of_key = {"client": "testclient", "tenant": "default", "key": key["id"]}
    assert (first["status"], first["route"], first["key"]) == (201, "/v1/keys", "operator")
    route = "/v1/datasets/{dataset_id}"
    assert read == of_key | {"method": "GET", "route": route, "status": 422, "dataset": light_dataset_id}
    assert created == of_key | {
        "method": "POST",
        "route": "/v1/jobs",
        "status": 202,
        "job": made.json()["id"],
    }
    assert wrong == {"client": "testclient", "method": "GET", "route": "/v1/jobs", "status": 401}
    assert (missing["status"], missing["route"]) == (404, "none")
    assert (strange["status"], strange["method"]) == (405, "A" * 16)


def test_the_id_of_a_request_is_taken_or_given(operator: TestClient) -> None:
    assert (
        operator.get("/v1/jobs", headers={"X-Request-Id": "mine:1/2"}).headers["x-request-id"] == "mine:1/2"
    )
    for bad in ("", "a b", "é", 'x"', "x" * 129, "<script>"):
        given = operator.get("/v1/jobs", headers={"X-Request-Id": bad.encode()}).headers["x-request-id"]
        assert len(given) == 24
        assert given != bad
    refused = operator.get("/nowhere", headers={"X-Request-Id": "mine", "Authorization": "Bearer no"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (404, "mine")


def test_an_internal_error_has_the_id_too(
    operator: TestClient, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("api.jobs.service.list_page", crash)
    answer = operator.get("/v1/jobs", headers={"X-Request-Id": "mine"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "mine")
    assert [one["status"] for one in lines()] == [500]


def test_words_of_clients_make_no_series_of_metrics(operator: TestClient) -> None:
    def series() -> set[tuple[str, ...]]:
        (family,) = metrics.requests.collect()
        return {tuple(one.labels.values()) for one in family.samples}

    def send(word: str) -> None:
        operator.request(word.upper(), "/v1/jobs")
        operator.get(f"/{word}")
        operator.get(f"/v1/jobs/{word}", headers={"X-Request-Id": word})

    send("one")
    before = series()
    for word in ("two", "three"):
        send(word)
    assert series() == before
    assert {one[0] for one in before} <= {*_METHODS, "other"}
