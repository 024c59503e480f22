"""``latentry doctor``: what is wrong, here and at the service, and what to do."""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from latentry.commands import doctor
from starlette.responses import JSONResponse

from api.checks import databases
from store.array_store import open_array_store
from store.database import Database
from store.settings import Settings
from tests.api.conftest import serve
from tests.app_copies import app_of
from tests.client.command_line import CommandLine
from tests.servers import free_port

SECRET = "operator-" + "0" * 20


@pytest.fixture(autouse=True)
def however_busy_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SLOW_SECONDS", 60.0)
    monkeypatch.setattr(databases, "_SLOW_SECONDS", 60.0)


def found_in(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in document["checks"]}


def test_a_service_without_broker_and_workers(light_url: str) -> None:
    latentry = CommandLine(light_url)
    document = latentry("doctor", "--json", expect=1).json()
    found = found_in(document)
    assert (document["status"], document["url"]) == ("failed", light_url)
    assert {name for name, one in found.items() if one["side"] == "client"} == {
        "installation", "terminal", "service", "clock", "key", "version",
    }  # fmt: skip
    assert {name for name, one in found.items() if one["status"] == "failed"} >= {
        "broker",
        "queues",
        "workers",
    }
    assert all(one["hint"] for one in found.values() if one["status"] != "ok")
    for name in (
        "installation",
        "service",
        "clock",
        "key",
        "version",
        "database",
        "migrations",
        "array_storage",
    ):
        assert found[name]["status"] == "ok", found[name]
    page = latentry("doctor", expect=1).out
    for part in ("Client", "Service", "✗  broker", "→ is it running", "array storage", " failed, "):
        assert part in page, part


def test_a_service_where_all_is_well(light_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_of_the_service", lambda _http: iter([]))
    latentry = CommandLine(light_url)
    assert latentry("doctor").out.endswith("All checks passed.\n")
    assert latentry("doctor", "--json").json()["status"] == "ok"


def test_a_service_that_is_slow(light_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SLOW_SECONDS", 0.0)
    found = found_in(CommandLine(light_url)("doctor", "--json", expect=1).json())
    assert found["service"]["status"] == "warning"


def test_a_clock_and_a_version_that_differ(light_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    get = httpx.Client.get

    def old(self: httpx.Client, path: str, **options: Any) -> httpx.Response:
        answer = get(self, path, **options)
        answer.headers["Date"] = "Tue, 06 Jan 2026 00:00:00 GMT"
        if path == "/v1/checks":
            return httpx.Response(200, json={**answer.json(), "version": "0.0.1"})
        return answer

    monkeypatch.setattr(httpx.Client, "get", old)
    found = found_in(CommandLine(light_url)("doctor", "--json", expect=1).json())
    assert found["clock"]["status"] == "warning"
    assert found["clock"]["message"].endswith("s off the service's")
    assert found["version"]["status"] == "warning"
    assert "0.0.1" in found["version"]["message"]


@pytest.fixture
def guarded_url(tmp_path: Path) -> Iterator[str]:
    """A service that asks for keys, and whose database is away."""
    settings = Settings(data_dir=tmp_path, require_key=True, admin_key=SECRET)
    away = Database(f"postgresql+psycopg://user:hidden-word@127.0.0.1:{free_port()}/lab")
    yield from serve(app_of(settings, away, open_array_store("sql:", away)))


def test_a_database_that_is_away(guarded_url: str) -> None:
    document = CommandLine(guarded_url, key=SECRET)("doctor", "--json", expect=1).json()
    found = found_in(document)
    assert found["key"]["status"] == "ok"
    assert found["database"]["message"] == "the database does not respond"
    assert "hidden-word" not in str(document)
    assert SECRET not in str(document)


def test_keys_that_are_missing_or_can_not_be_tried(guarded_url: str) -> None:
    without = found_in(CommandLine(guarded_url)("doctor", "--json", expect=1).json())
    assert "requires a key" in without["key"]["message"]
    assert without["checks"]["status"] == "failed"
    assert "the database does not respond" in without["readiness"]["message"]
    someone = found_in(CommandLine(guarded_url, key="lat_someone")("doctor", "--json", expect=1).json())
    assert someone["key"]["status"] == "failed"


@pytest.fixture
def another_url() -> Iterator[str]:
    """A server that is no Latentry."""

    async def another(scope: Any, receive: Any, send: Any) -> None:
        await JSONResponse({"hello": "world"})(scope, receive, send)

    yield from serve(another)  # type: ignore[arg-type]


def test_another_server_at_the_address(another_url: str) -> None:
    found = found_in(CommandLine(another_url)("doctor", "--json", expect=1).json())
    assert "it is not Latentry" in found["service"]["message"]
    assert "broker" not in found


def test_an_older_service() -> None:
    with httpx.Client(transport=httpx.WSGITransport(app=_not_there), base_url="http://service") as http:
        key = doctor._key(http, None)
        checks = list(doctor._of_the_service(http))
    assert key["status"] == "warning"
    assert "older than this client" in key["hint"]
    assert "older than this client" in checks[0]["hint"]


def _not_there(_environment: Any, start: Any) -> list[bytes]:
    start("404 Not Found", [("Content-Type", "application/problem+json")])
    return [b'{"detail": "there is no such path", "warnings": []}']


def test_nothing_answers_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTRY_DATA_DIR", str(tmp_path / "kept"))
    port = free_port()
    latentry = CommandLine(f"http://127.0.0.1:{port}")

    def hint() -> str:
        service = found_in(latentry("doctor", "--json", expect=1).json())["service"]
        assert service["status"] == "failed"
        return str(service["hint"])

    assert (
        hint() == f"start it: `latentry up --data-dir {tmp_path}/kept --port {port}` (keeps its data there)"
    )
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/latentry.db").touch()
    assert "continues where it stopped" in hint()
    with (tmp_path / "kept/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"a service runs on {tmp_path}/kept, but not at this address" in hint()
    assert "continues where it stopped" in hint()
    monkeypatch.setattr(doctor, "entry_points", lambda **_group: ())
    assert "`pip install .` in a clone of Latentry installs the service" in hint()


def test_nothing_answers_elsewhere() -> None:
    assert "firewall" in doctor.start_hint("https://latentry.lab.example")


def test_a_password_in_an_address_is_not_shown() -> None:
    assert doctor.shown("https://ada:hidden@lab.example:8000/x") == "https://ada:…@lab.example:8000/x"
    assert doctor.shown("http://127.0.0.1:8000") == "http://127.0.0.1:8000"
