"""A client that is refused and comes again waits for a second, and costs no work of the database."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event

from api import early_refusals
from api.early_refusals import EarlyRefusals
from api.events.event_poller import StreamListener
from store.array_store import open_array_store
from store.database import Database
from store.settings import Settings
from tests.api.test_keys import ADMIN, bearer, make
from tests.app_copies import app_of

HELD_SECONDS = 0.2
Refuse = Callable[[FastAPI, TestClient, dict[str, str]], tuple[str, dict[str, str]]]
"""Brings a client to its limit; returns a path and headers."""


def wrong_keys(app: FastAPI, client: TestClient, key: dict[str, str]) -> tuple[str, dict[str, str]]:
    for number in range(4):
        client.get("/v1/jobs", headers=bearer(f"lat_{number}"))
    return "/v1/jobs", bearer("lat_x")


def streams(app: FastAPI, client: TestClient, key: dict[str, str]) -> tuple[str, dict[str, str]]:
    caller = app.state.known_keys.get(key["Authorization"].removeprefix("Bearer "))

    async def listen() -> None:
        app.state.feed._listeners.add(StreamListener("job", caller.tenant_id, caller.key_id, 0))

    assert client.portal
    client.portal.call(listen)
    return "/v1/jobs/job/events/stream", key


def requests(app: FastAPI, client: TestClient, key: dict[str, str]) -> tuple[str, dict[str, str]]:
    for _ in range(20):
        client.get("/v1/jobs", headers=key)
    return "/v1/jobs", key


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """Collect the statements of a block."""
    found: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        found.append(statement)

    engine = database.engine
    event.listen(engine, "before_cursor_execute", note)
    yield found
    event.remove(engine, "before_cursor_execute", note)


@pytest.mark.usefixtures("still_minute")
@pytest.mark.parametrize("refuse", [wrong_keys, streams, requests])
def test_a_refused_client_waits_and_costs_little(
    database: Database, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early_refusals, "_HELD_SECONDS", HELD_SECONDS)
    settings = Settings(
        data_dir=tmp_path, require_key=True, admin_key=ADMIN, redis_url="redis://127.0.0.1:9/0",
        wrong_keys_per_minute=2, streams_per_key=1, quota_key_requests_per_minute=20,
    )  # fmt: skip
    app = app_of(settings, database, open_array_store("sql:", database))
    with TestClient(app) as client:
        key, other = (bearer(make(client)["secret"]) for _ in range(2))
        assert client.get("/v1/jobs", headers=key).status_code == 200
        path, headers = refuse(app, client, key)
        with counted(database) as statements:
            began = time.monotonic()
            answer = client.get(path, headers=headers)
            assert time.monotonic() - began >= HELD_SECONDS
        assert answer.status_code == 429, answer.text
        assert len(statements) <= 2  # the time, and the key, which may be right now
        assert answer.headers["Retry-After"]
        if refuse is not wrong_keys:
            assert answer.json()["quota"]["rest"] == 0
            assert ("frees_at" in answer.json()["quota"]) == (refuse is requests)
        # A right key works, also one that the process has not seen before.
        assert client.get("/v1/usage", headers=other).status_code == 200


def test_few_requests_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_refusals, "_MOST_HELD", 0)

    async def hold() -> None:
        await EarlyRefusals(app=None)._hold()  # type: ignore[arg-type]  # no request is passed on

    import anyio

    began = time.monotonic()
    anyio.run(hold)
    assert time.monotonic() - began < early_refusals._HELD_SECONDS
