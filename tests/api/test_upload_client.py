"""Our own client sends files: in pieces over a connection that breaks, and with options."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from latentry import AsyncClient, Client
from latentry.errors import LatentryError

from store.database import Database
from store.tables import Dataset, Upload
from tests.api.api_examples import count
from tests.api.conftest import serve
from tests.api.test_resumable_uploads import CONTENT, SHA256


@pytest.fixture
def unsteady_url(light_app: FastAPI) -> Iterator[str]:
    """A server whose first uploads break off: after 3000 bytes, then before any, then after all but the answer."""
    failures = iter([3000, 0, 10**9])

    async def unsteady(scope: Any, receive: Any, send: Any) -> None:
        room = next(failures, None) if scope.get("method") == "PATCH" else None
        if room is None:
            await light_app(scope, receive, send)
            return
        left = room

        async def cut() -> Any:
            nonlocal left
            if not left:
                return {"type": "http.disconnect"}
            message = await receive()
            body = message.get("body", b"")[:left]
            left -= len(body)
            return message | {"body": body, "more_body": not left or message.get("more_body", False)}

        async def no_answer(message: Any) -> None:
            raise OSError("the connection broke")

        await light_app(scope, cut, no_answer)

    yield from serve(unsteady)  # type: ignore[arg-type]


def test_our_client_goes_on_where_it_was(
    unsteady_url: str, tmp_path: Path, sqlite_database: Database
) -> None:
    path, told = tmp_path / "a.npz", []
    path.write_bytes(CONTENT)
    with Client(unsteady_url) as client:
        upload_id = client.upload_file(path, progress=lambda *sent: told.append(sent))
        assert client.get(f"/v1/uploads/{upload_id}")["sha256"] == SHA256
        assert told[-1] == (len(CONTENT), len(CONTENT))
        path.write_bytes(b"")
        with pytest.raises(LatentryError, match="Upload-Length"):
            client.upload_file(path)
    assert count(sqlite_database, Upload) == 1


def test_the_asynchronous_client_sends_the_same(
    light_app: FastAPI, tmp_path: Path, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "a.npz", []
    path.write_bytes(CONTENT)
    monkeypatch.setattr(AsyncClient, "wait_for_dataset", AsyncClient.get_dataset)

    async def send() -> set[str]:
        async with AsyncClient("http://service", transport=httpx.ASGITransport(light_app)) as client:
            return {
                (
                    await client.upload_dataset(path, resumable=way, progress=lambda *sent: told.append(sent))
                ).id
                for way in (True, False)
            }

    assert len(asyncio.run(send())) == 1
    assert told.count((len(CONTENT), len(CONTENT))) == 2
    assert count(sqlite_database, Dataset) == 1


@pytest.mark.parametrize("resumable", [True, False])
def test_our_client_s_options(
    light_url: str,
    tmp_path: Path,
    sqlite_database: Database,
    monkeypatch: pytest.MonkeyPatch,
    resumable: bool,
) -> None:
    def ready(self: Client, dataset_id: str) -> Any:
        return self.get(f"/v1/datasets/{dataset_id}")

    monkeypatch.setattr(Client, "wait_for_dataset", ready)
    path, told = tmp_path / "a.npz", io.StringIO()
    path.write_bytes(CONTENT)
    with Client(light_url) as client:
        made = client.upload_dataset(
            path, name="n", options={"chop": {"window_s": 2.0}}, bin_width_s=0.02, resumable=resumable,
            progress=lambda sent, size: print(sent, size, file=told),
        )  # fmt: skip
        assert (made["name"], made["source"]["filename"]) == ("n", "a.npz")
        assert made["options"] == {"chop": {"window_s": 2.0}, "bin_width_s": 0.02}
        assert told.getvalue().endswith(f"{len(CONTENT)} {len(CONTENT)}\n")
        derived = client.derive_dataset(made["id"], {"bin_width_s": 0.01}, name="finer")
        assert (derived["derived_from"], derived["name"]) == (made["id"], "finer")
        assert derived["options"] == {"chop": {"window_s": 2.0}, "bin_width_s": 0.01}
        same = client.upload_dataset(path, options={"chop": {"window_s": 2.0}}, bin_width_s=0.01)
        assert same["id"] == derived["id"]
    assert count(sqlite_database, Dataset) == 2
