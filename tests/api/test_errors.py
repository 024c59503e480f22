"""Every error is `application/problem+json`, whoever raises it."""

import socket
import threading

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from latentry import Client
from latentry.errors import LatentryError
from pydantic import ValidationError
from sqlalchemy import make_url, text
from zarr.storage import MemoryStore

from api.errors import TYPE_PREFIX
from api.validation_errors import field_problems
from domain.job_specification import JobSpecification
from store.database import Database
from store.settings import Settings
from store.tables import Worker
from tests.api.api_examples import PROBLEM, Example, call, chunks
from tests.app_copies import app_of
from tests.servers import free_port


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/datasets/x/y", "/v1/models", "/v2/jobs"])
def test_no_such_route(reader: TestClient, method: str, path: str) -> None:
    answer = reader.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    assert answer.json() == {
        "type": f"{TYPE_PREFIX}not-found", "title": "Not found", "status": 404,
        "detail": f"there is no route {path}", "hint": "/docs lists the routes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "offered"),
    [
        ("DELETE", "/v1/jobs", "GET, POST"),
        ("PUT", "/v1/datasets", "GET, POST"),
        ("PUT", "/v1/datasets/x", "DELETE, GET, PATCH"),
        ("GET", "/v1/datasets:synthesize", "POST"),
        ("POST", "/v1/models/x/zarr/a/b", "GET, HEAD"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_method_that_is_not_offered(reader: TestClient, method: str, path: str, offered: str) -> None:
    answer = reader.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (405, PROBLEM)
    assert answer.headers["Allow"] == offered
    assert answer.json()["hint"] == f"it supports {offered}"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets:synthesize", "/v1/jobs/x:cancel"])
def test_large_body(light_app: FastAPI, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    told = call(light_app, "POST", path, chunks(0, 0), headers | {"Content-Length": str(2**14 + 1)})
    assert (told.status, told.headers["content-type"]) == (413, PROBLEM)
    assert told.json()["detail"] == "the body may have at most 16384 bytes; it has 16385"
    assert "LATENTRY_BODY_MAX_BYTES" in told.json()["hint"]
    if "cancel" not in path:  # which reads no body
        untold = call(light_app, "POST", path, chunks(17, 1000), headers)
        assert (untold.status, untold.headers["content-type"]) == (413, PROBLEM)
        assert untold.json()["hint"] == told.json()["hint"]


def test_crash(
    light_client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr("api.jobs.service.list_page", crash)
    answer = light_client.get("/v1/jobs")
    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
    assert answer.json()["type"] == f"{TYPE_PREFIX}internal"
    assert "secret" not in answer.text
    assert "the secret of the house" in caplog.text


def test_readiness_without_database(
    light_client: TestClient, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert light_client.get("/readyz").json()["ready"] is True

    def fail(*_: object) -> None:
        raise ConnectionError("postgresql://user:password@host")

    monkeypatch.setattr(sqlite_database, "read", fail)
    answer = light_client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert "password" not in answer.text
    assert light_client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("revision", "says"),
    [
        ("0001", ("has the schema 0001, but", "python -m store.migrate")),
        ("ffff", ("has the schema ffff, which", "does not know", "install the version")),
        (None, ("has no schema", "python -m store.migrate")),
    ],
)
def test_readiness_on_another_schema(
    client: TestClient, database: Database, revision: str | None, says: tuple[str, ...]
) -> None:
    with database.write() as session:
        session.add(Worker(name="laboratory-host:1:ab", device="cpu"))
        before = session.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    ready = client.get("/readyz")
    assert (ready.status_code, len(ready.json()["workers"])) == (200, 1)

    def write(*revisions: str) -> None:
        with database.write() as session:
            session.execute(text("DELETE FROM alembic_version"))
            for one in revisions:
                session.execute(text("INSERT INTO alembic_version VALUES (:it)"), {"it": one})

    write(*([revision] if revision else []))
    answer = client.get("/readyz")
    write(*before)
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    (warning,) = answer.json()["warnings"]
    assert all(part in warning for part in says), warning
    # Strangers may read both answers.
    for secret in ("laboratory-host", "127.0.0.1", str(make_url(database.url).database)):
        assert secret not in ready.text + answer.text


def test_database_that_is_away(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(f"postgresql+psycopg://user:secret@127.0.0.1:{free_port()}/latentry")
    client = TestClient(app_of(settings, database, MemoryStore()), raise_server_exceptions=False)
    for method, path in (
        ("GET", "/v1/jobs"),
        ("GET", f"/v1/jobs/job_{24 * '0'}/importance"),
        ("POST", f"/v1/jobs/job_{24 * '0'}:stop"),
    ):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM), path
        assert answer.headers["Retry-After"] == "5"
        assert answer.json()["type"] == f"{TYPE_PREFIX}unavailable"
        assert "secret" not in answer.text + caplog.text
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_the_openapi_document_is_served(reader: TestClient) -> None:
    assert reader.get("/openapi.json").json()["openapi"].startswith("3.1")


def test_client_raises_what_the_problem_says(example_url: str, example: Example) -> None:
    with Client(example_url) as client, pytest.raises(LatentryError) as caught:
        client.create_job({"dataset_id": example.dataset_id, "budget": {"models": 0}})
    assert caught.value.status == 422
    assert caught.value.message == "/budget/models: should be greater than or equal to 1; got 0"
    assert caught.value.problem["errors"][0]["pointer"] == "/budget/models"


def test_client_says_when_nothing_answers() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(LatentryError, match="nothing answers at"):
        client.get("/healthz")


def test_client_says_when_the_connection_breaks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        with (
            Client(f"http://127.0.0.1:{server.getsockname()[1]}") as client,
            pytest.raises(LatentryError, match=r"the connection to http://.* broke: "),
        ):
            client.get("/healthz")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
FIELDS = st.sampled_from(
    ["space", "budget", "learning_rate", "dropout", "low", "high", "models", "Range", "a/b", "~"]
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(FIELDS, inner, max_size=4)
)


@given(st.dictionaries(FIELDS, DOCUMENTS))
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_pointers_point_into_the_document(body: dict[str, object]) -> None:
    try:
        JobSpecification.model_validate(body)
    except ValidationError as error:
        errors = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
    found, _more = field_problems(errors, body)
    assert found
    for problem in found:
        here: object = body
        *parents, last = problem.pointer.split("/")[1:] or [""]
        for part in parents:
            name = part.replace("~1", "/").replace("~0", "~")
            here = here[int(name)] if isinstance(here, list) else here[name]  # type: ignore[index]
        name = last.replace("~1", "/").replace("~0", "~")
        if problem.code == "missing":
            assert isinstance(here, dict)
            assert name not in here
        elif isinstance(here, list):
            assert int(name) < len(here)
        elif problem.pointer:
            assert name in here  # type: ignore[operator]


def test_readiness_says_which_device_a_worker_took(client: TestClient, database: Database) -> None:
    with database.write() as session:
        session.add(Worker(name="w", device="cpu", device_name="auto: torch is built without CUDA"))
    [worker] = client.get("/readyz").json()["workers"]
    assert (worker["device"], worker["device_name"]) == ("cpu", "auto: torch is built without CUDA")
