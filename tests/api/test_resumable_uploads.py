"""The protocol tus 1.0.0: by a stock client, cut off anywhere, two at once, over, another's."""

import base64
import hashlib
import socket
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tusclient.client import TusClient
from tusclient.uploader import Uploader

from api.dependencies import _tenant
from api.uploads import receiving
from store.array_store import open_array_store
from store.database import Database, database_now
from store.settings import Settings
from store.tables import Upload
from store.uploads import locked, partial_path
from tests.api.api_examples import OTHER_TENANT, PROBLEM, add_tenant, call, chunks, count
from tests.app_copies import app_of

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = TUS | {"Content-Type": "application/offset+octet-stream"}
CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def begin(client: TestClient, length: int = len(CONTENT), **headers: str) -> str:
    answer = client.post("/v1/uploads", headers=TUS | {"Upload-Length": str(length)} | headers)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["Location"])


def patch(client: TestClient, url: str, offset: int, content: Any, **headers: str) -> httpx.Response:
    return client.patch(url, content=content, headers=PIECE | {"Upload-Offset": str(offset)} | headers)


def offset_of(client: TestClient, url: str) -> int:
    answer = client.head(url, headers=TUS)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    return int(answer.headers["Upload-Offset"])


def set_expiry(database: Database, url: str, seconds: float) -> None:
    with database.write() as session:
        row = session.get_one(Upload, url.rsplit("/", 1)[1])
        row.expires_at = database_now(session) + timedelta(seconds=seconds)


def test_a_stock_client_uploads_and_resumes(light_url: str, tmp_path: Path) -> None:
    path = tmp_path / "session 1.npz"
    path.write_bytes(CONTENT)
    client = TusClient(f"{light_url}/v1/uploads")

    def uploader(**arguments: Any) -> Uploader:
        return client.uploader(
            str(path), chunk_size=1000, metadata={"filename": path.name}, upload_checksum=True, **arguments
        )

    first = uploader()
    first.upload_chunk()
    for stop_at in (2500, 7001, len(CONTENT)):
        uploader(url=first.url).upload(stop_at=stop_at)
    document = httpx.get(first.url).json()
    assert (document["state"], document["offset"], document["bytes"]) == (
        "complete",
        len(CONTENT),
        len(CONTENT),
    )
    assert (document["sha256"], document["filename"]) == (SHA256, "session 1.npz")
    made = httpx.post(
        f"{light_url}/v1/datasets", json={"upload_id": document["id"], "options": {"format": "npz"}}
    )
    assert made.status_code == 202, made.text
    source = made.json()["source"]
    assert (source["sha256"], source["filename"], made.json()["name"]) == (
        SHA256,
        "session 1.npz",
        "session 1.npz",
    )


def test_server_says_what_it_offers(client: TestClient, settings: Settings) -> None:
    answer = client.options("/v1/uploads")
    assert (answer.status_code, answer.headers["Tus-Version"]) == (204, "1.0.0")
    assert answer.headers["Tus-Max-Size"] == str(settings.upload_max_bytes)
    assert "creation-with-upload" in answer.headers["Tus-Extension"].split(",")


def test_an_upload_from_begin_to_end(client: TestClient, database: Database, settings: Settings) -> None:
    metadata = f"filename {base64.b64encode('Mäuse.npz'.encode()).decode()},other"
    begun = client.post(
        "/v1/uploads", content=CONTENT[:100],
        headers=PIECE | {"Upload-Length": str(len(CONTENT)), "Upload-Metadata": metadata},
    )  # fmt: skip
    assert (begun.status_code, begun.headers["Upload-Offset"]) == (201, "100")
    url = begun.headers["Location"]
    assert url == begun.json()["links"]["self"]
    head = client.head(url, headers=TUS)
    assert {head.headers[name] for name in ("Upload-Length", "Upload-Metadata")} == {
        str(len(CONTENT)),
        metadata,
    }
    assert "GMT" in head.headers["Upload-Expires"]
    early = client.post("/v1/datasets", json={"upload_id": begun.json()["id"]})
    assert (early.status_code, early.headers["content-type"]) == (409, PROBLEM)
    assert f"is receiving: it has 100 of {len(CONTENT)} bytes" in early.json()["detail"]
    one = patch(client, url, 100, CONTENT[100:5000])
    assert (one.status_code, one.headers["Upload-Offset"], one.headers["Tus-Resumable"]) == (
        204,
        "5000",
        "1.0.0",
    )
    assert client.get(url).json()["sha256"] is None
    assert patch(client, url, 5000, CONTENT[5000:]).headers["Upload-Offset"] == str(len(CONTENT))
    document = client.get(url).json()
    assert (document["state"], document["sha256"], document["filename"]) == ("complete", SHA256, "Mäuse.npz")
    assert [path.name for path in settings.uploads_dir.iterdir()] == [SHA256]
    over = patch(client, url, len(CONTENT), b"")
    assert (over.status_code, over.json()["detail"].endswith("is complete: it accepts no bytes here")) == (
        409,
        True,
    )
    first = client.post("/v1/datasets", json={"upload_id": document["id"], "name": "mice"})
    assert (first.status_code, first.json()["name"], first.json()["source"]["bytes"]) == (
        202,
        "mice",
        len(CONTENT),
    )
    assert client.post("/v1/datasets", json={"upload_id": document["id"]}).status_code == 200
    assert client.post("/v1/datasets", content=CONTENT).json()["id"] == first.json()["id"]
    assert client.delete(url, headers=TUS).status_code == 204
    assert client.get(url).status_code == 404
    assert [path.name for path in settings.uploads_dir.iterdir()] == [SHA256], "the data set keeps it"
    assert count(database, Upload) == 0


def test_mistakes_are_told(light_client: TestClient, settings: Settings) -> None:
    url = begin(light_client)
    assert patch(light_client, url, 0, b"abc").status_code == 204
    too_long = {"Upload-Length": str(settings.upload_max_bytes + 1)}
    length = {"Upload-Length": "9"}
    answers = {
        409: patch(light_client, url, 0, b"abc"),
        412: light_client.patch(
            url, content=b"d", headers=PIECE | {"Upload-Offset": "3", "Tus-Resumable": "0.2.2"}
        ),
        413: light_client.post("/v1/uploads", headers=TUS | too_long),
        415: light_client.patch(url, content=b"d", headers=TUS | {"Upload-Offset": "3"}),
        422: light_client.post("/v1/uploads", headers=TUS),
        400: patch(light_client, url, 3, b"d", **{"Upload-Checksum": "md5 AAAA"}),
        404: patch(light_client, "/v1/uploads/upl_0123456789abcdef01234567", 0, b"d"),
    }
    for status, answer in answers.items():
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answers[409].headers["Upload-Offset"] == "3"
    assert answers[412].headers["Tus-Version"] == answers[413].headers["Tus-Resumable"] == "1.0.0"
    assert answers[413].headers["Tus-Max-Size"] == str(settings.upload_max_bytes)
    assert answers[422].json()["errors"][0]["pointer"] == "Upload-Length"
    assert light_client.post("/v1/uploads", headers=length).status_code == 412
    assert light_client.post("/v1/uploads", content=b"x", headers=TUS | length).status_code == 415
    assert light_client.post("/v1/uploads", headers=TUS | {"Upload-Length": "0"}).status_code == 422
    for metadata in ("filename %", "filename /w==", f"filename {base64.b64encode(bytes(3)).decode()}"):
        answer = light_client.post("/v1/uploads", headers=TUS | length | {"Upload-Metadata": metadata})
        assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)
    assert offset_of(light_client, url) == 3
    more = patch(light_client, url, 3, iter([bytes(5000), bytes(6000)]))
    assert (more.status_code, offset_of(light_client, url)) == (413, 3)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_checksums_are_checked(light_client: TestClient, algorithm: str) -> None:
    def checksum(content: bytes) -> dict[str, str]:
        digest = base64.b64encode(hashlib.new(algorithm, content).digest()).decode()
        return {"Upload-Checksum": f"{algorithm} {digest}"}

    url = begin(light_client)
    assert patch(light_client, url, 0, CONTENT[:10], **checksum(CONTENT[:10])).status_code == 204
    wrong = patch(light_client, url, 10, CONTENT[10:2000], **checksum(CONTENT[10:2001]))
    assert (wrong.status_code, wrong.headers["content-type"], offset_of(light_client, url)) == (
        460,
        PROBLEM,
        10,
    )
    assert wrong.json()["type"] == "urn:latentry:problem:checksum-mismatch"
    assert patch(light_client, url, 10, CONTENT[10:], **checksum(CONTENT[10:])).status_code == 204
    assert light_client.get(url).json()["sha256"] == SHA256


def test_a_repeated_key_begins_no_second_upload(client: TestClient, database: Database) -> None:
    key = {"Idempotency-Key": "k"}
    url = begin(client, **key)
    assert patch(client, url, 0, b"abc").status_code == 204
    again = client.post(
        "/v1/uploads", content=b"abc", headers=PIECE | {"Upload-Length": str(len(CONTENT))} | key
    )
    assert (again.headers["Location"], again.headers["Upload-Offset"]) == (url, "3")
    other = client.post("/v1/uploads", headers=TUS | {"Upload-Length": "5"} | key)
    assert (other.status_code, count(database, Upload)) == (422, 1)


@given(cuts=st.lists(st.integers(0, 3000), max_size=6), is_checked=st.booleans())
@hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_cut_off_at_any_byte_it_goes_on_there(light_app: FastAPI, cuts: list[int], is_checked: bool) -> None:
    """The connection breaks after so many bytes of each request; what came is kept, and the whole is what was sent."""
    content, client = CONTENT[:3000], TestClient(light_app)
    url, offset = begin(client, len(content)), 0
    for cut in cuts:
        rest = content[offset:]
        headers = PIECE | {"Upload-Offset": str(offset), "Content-Length": str(len(rest))}
        if is_checked:
            headers["Upload-Checksum"] = f"sha256 {base64.b64encode(hashlib.sha256(rest).digest()).decode()}"
        sent = rest[:cut]
        pieces = [sent[:100], sent[100:]]
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        answer = call(light_app, "PATCH", url, messages, headers)  # and then the client is gone
        assert answer.status in (400, 409)
        if answer.status == 400 and not is_checked:
            offset += len(sent)
        assert offset_of(client, url) == offset
    if offset < len(content):
        assert patch(client, url, offset, content[offset:]).status_code == 204
    assert client.get(url).json()["sha256"] == hashlib.sha256(content).hexdigest()


def test_two_at_once_are_not_mixed(light_app: FastAPI, light_client: TestClient, settings: Settings) -> None:
    url = begin(light_client)
    with locked(partial_path(settings, url.rsplit("/", 1)[1])):  # as another process holds it
        for answer in (patch(light_client, url, 0, b"abc"), light_client.delete(url, headers=TUS)):
            assert (answer.status_code, answer.headers["content-type"]) == (423, PROBLEM)
            assert answer.headers["Retry-After"] == "1"
    statuses: list[int] = []

    def send() -> None:
        statuses.append(
            patch(TestClient(light_app), url, 0, iter([CONTENT[:6000], CONTENT[6000:]])).status_code
        )

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(204) == 1
    assert set(statuses) <= {204, 409, 423}
    assert light_client.get(url).json()["sha256"] == SHA256


def test_a_silent_connection_lets_go(light_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "LONGEST_SILENCE_SECONDS", 0.3)
    host, port = light_url.removeprefix("http://").split(":")
    with httpx.Client(base_url=light_url) as client, socket.create_connection((host, int(port))) as silent:
        url = begin(client)  # type: ignore[arg-type]
        head = f"PATCH {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT)}\r\nUpload-Offset: 0\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in PIECE.items())
        silent.sendall(head.encode() + b"\r\n" + CONTENT[:77])
        assert b"400 Bad Request" in silent.recv(1000)
        assert patch(client, url, 77, CONTENT[77:]).status_code == 204  # type: ignore[arg-type]
        assert client.get(url).json()["sha256"] == SHA256


def test_another_tenant_s_upload_is_not_there(
    light_app: FastAPI,
    light_client: TestClient,
    sqlite_database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with sqlite_database.write() as session:
        add_tenant(session)
    url = begin(light_client)
    assert patch(light_client, url, 0, CONTENT).status_code == 204
    monkeypatch.setitem(light_app.dependency_overrides, _tenant, lambda: OTHER_TENANT)
    upload_id = url.rsplit("/", 1)[1]
    for answer in (
        light_client.get(url),
        light_client.head(url, headers=TUS),
        patch(light_client, url, 0, b"x"),
        light_client.delete(url, headers=TUS),
        light_client.post("/v1/datasets", json={"upload_id": upload_id}),
    ):
        assert answer.status_code == 404
    monkeypatch.undo()
    assert light_client.get(url).json()["state"] == "complete"


def test_a_whole_file_by_put(client: TestClient, settings: Settings) -> None:
    digest = f"sha-256=:{base64.b64encode(bytes.fromhex(SHA256)).decode()}:"
    first = client.put("/v1/uploads?filename=a.npz", content=CONTENT, headers={"Content-Digest": digest})
    assert (first.status_code, first.headers["Location"]) == (201, first.json()["links"]["self"])
    document = first.json()
    assert (document["state"], document["sha256"], document["filename"]) == ("complete", SHA256, "a.npz")
    again = client.put("/v1/uploads?filename=a.npz", content=CONTENT)
    assert (again.status_code, again.json()["id"]) == (200, document["id"])
    wrong = client.put("/v1/uploads", content=CONTENT[1:], headers={"Repr-Digest": digest})
    assert (wrong.status_code, wrong.json()["type"]) == (422, "urn:latentry:problem:digest-mismatch")
    both = {"Content-Digest": digest, "Repr-Digest": digest.replace("=:", "=:A", 1)[:-2] + ":"}
    assert client.put("/v1/uploads", content=CONTENT, headers=both).status_code == 422
    assert client.put("/v1/uploads", content=b"").status_code == 422
    assert client.put("/v1/uploads", content=bytes(2**20 + 1)).status_code == 413
    assert [path.name for path in settings.uploads_dir.iterdir()] == [SHA256]
    made = client.post("/v1/datasets", json={"upload_id": document["id"], "options": {"format": "npz"}})
    assert (made.status_code, made.json()["options"]) == (202, {"format": "npz"})


@pytest.mark.parametrize(
    ("body", "query", "status", "pointer"),
    [
        ({"upload_id": "upl_0"}, "", 404, None),
        ({"upload": "x"}, "", 422, "/upload_id"),
        ({"upload_id": "x", "options": {"chop": {"window_s": 0}}}, "", 422, "/options/chop/window_s"),
        ({"upload_id": "x"}, "?format=npz", 422, "format"),
        ([], "", 422, ""),
    ],
)
def test_wrong_reference_is_refused(
    light_client: TestClient, body: Any, query: str, status: int, pointer: str | None
) -> None:
    answer = light_client.post(f"/v1/datasets{query}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    if pointer is not None:
        assert answer.json()["errors"][0]["pointer"] == pointer


def test_a_body_of_json_has_the_limit_of_others(light_app: FastAPI, light_client: TestClient) -> None:
    json_type = {"Content-Type": "application/json"}
    assert light_client.post("/v1/datasets", content=b"{", headers=json_type).status_code == 400
    answer = call(light_app, "POST", "/v1/datasets", chunks(3, 2**13), json_type)
    assert answer.status == 413
    assert "LATENTRY_BODY_MAX_BYTES" in answer.json()["hint"]


def test_a_large_file_is_written_and_read_in_blocks(tmp_path: Path, sqlite_database: Database) -> None:
    app = app_of(
        Settings(data_dir=tmp_path / "data"), sqlite_database, open_array_store("sql:", sqlite_database)
    )
    size = 20 * 2**20 + 5
    client = TestClient(app)
    url = begin(client, size)
    assert patch(client, url, 0, iter([bytes(2**20)] * 20)).headers["Upload-Offset"] == str(20 * 2**20)
    assert patch(client, url, 20 * 2**20, b"\0" * 5).status_code == 204
    assert client.get(url).json()["sha256"] == hashlib.sha256(bytes(size)).hexdigest()
