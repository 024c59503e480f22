"""The service behind nginx with ``docker/nginx.conf``: TLS, a path of its own, streams, sizes, and who tells addresses."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from latentry import Client

from api.errors import Unauthorized
from api.limits.wrong_keys import WrongKeys
from api.server import options_of
from store.settings import Settings
from tests.api.api_examples import Example
from tests.api.conftest import serve
from tests.servers import free_port
from tests.waiting import wait_until

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None,
    reason="needs nginx and openssl: apt-get install nginx-light openssl",
)
CONFIGURATION = Path(__file__).resolve().parents[2] / "docker" / "nginx.conf"
MOST_CONNECTIONS = 5
TUS = {"Tus-Resumable": "1.0.0"}


@dataclass(frozen=True)
class Proxy:
    """The addresses of nginx, and its certificate."""

    https: str
    http: str
    certificate: Path


@pytest.fixture(scope="module")
def proxy(example: Example, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("nginx")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    settings = Settings(data_dir=folder, root_path="/latentry", trusted_proxies="127.0.0.1")
    for api in serve(example.app, **options_of(settings)):
        https, http = free_port(), free_port()
        site = CONFIGURATION.read_text()
        for old, new in (
            ("127.0.0.1:8000", api.removeprefix("http://")),
            ("listen 443", f"listen 127.0.0.1:{https}"),
            ("listen 80", f"listen 127.0.0.1:{http}"),
            ("latentry.example.org", "localhost"),
            ("/etc/ssl/latentry", str(folder)),
            ("client_header_timeout 10s", "client_header_timeout 1s"),
            ("limit_conn latentry 100", f"limit_conn latentry {MOST_CONNECTIONS}"),
        ):
            assert old in site
            site = site.replace(old, new)
        (folder / "site.conf").write_text(site)
        user = "user root;" if os.getuid() == 0 else ""
        temporary = "".join(
            f"{name}_temp_path {folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}"
            f"http {{ access_log off; {temporary} include {folder}/site.conf; }}"
        )
        assert NGINX is not None
        process = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf"])
        try:
            wait_until(lambda: (folder / "pid").exists() or process.poll() is not None)  # noqa: B023  # called at once
            assert process.poll() is None, "nginx has ended: see its message above"
            yield Proxy(
                f"https://localhost:{https}/latentry", f"http://localhost:{http}/latentry", certificate
            )
        finally:
            process.terminate()
            process.wait()


def connect(proxy: Proxy) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    connection = socket.create_connection(("127.0.0.1", httpx.URL(proxy.https).port or 0), timeout=20)
    return context.wrap_socket(connection, server_hostname="localhost")


@pytest.fixture
def web(proxy: Proxy) -> Iterator[httpx.Client]:
    """Any HTTP client; addresses are below ``/latentry``."""
    context = ssl.create_default_context(cafile=str(proxy.certificate))
    with httpx.Client(base_url=proxy.https, verify=context, timeout=20) as client:
        yield client


def assert_problem(answer: bytes, status: int, code: str) -> None:
    """Check an answer of nginx itself."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert b"Content-Type: application/problem+json" in head
    problem = json.loads(body)
    assert (problem["type"], problem["status"]) == (f"urn:latentry:problem:{code}", status)
    assert problem["detail"]
    assert problem["hint"]


def test_plain_http_leads_to_tls(proxy: Proxy) -> None:
    answer = httpx.get(proxy.http + "/v1/jobs?state=queued")
    assert answer.status_code == 308
    assert answer.headers["Location"] == "https://localhost/latentry/v1/jobs?state=queued"


def test_documentation(web: httpx.Client) -> None:
    page = web.get("/docs")
    parts = re.findall(r'(?:src|href)="(docs/assets/[^"]+)"', page.text)
    assert len(parts) >= 2
    for part in [*parts, "openapi.json"]:
        assert web.get(page.url.join(part)).status_code == 200
    assert web.get("/openapi.json").json()["servers"] == [{"url": "/latentry"}]


def test_the_page(web: httpx.Client) -> None:
    page = web.get("/")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    parts = re.findall(r'(?:src|href)="(assets/[^"]+)"', page.text)
    assert len(parts) > 8
    for part in parts:
        assert web.get(page.url.join(part)).status_code == 200, part


def test_links_and_redirects(web: httpx.Client, example: Example) -> None:
    documents = ["/v1", f"/v1/jobs/{example.job_id}", f"/v1/datasets/{example.dataset_id}"]
    documents += [f"/v1/models/{example.model_id}", f"/v1/models/{example.model_id}/arrays"]
    links = [
        link
        for document in documents
        for link in re.findall(r'"(/[^" ]+)"', web.get(document).text)
        if "/v1/" in link or link.endswith(("docs", "openapi.json"))
    ]
    assert len(links) > 15
    assert {link for link in links if not link.startswith("/latentry/")} == set()
    assert {link for link in links if "/latentry/latentry" in link} == set()
    for link in links[:12]:
        assert web.get(web.base_url.join(link)).status_code in (200, 307, 409), link
    group = web.get(f"/v1/models/{example.model_id}/zarr")
    assert group.headers["Location"] == f"/latentry/v1/models/{example.model_id}/zarr/zarr.json"
    assert "it supports GET" in web.delete("/v1/jobs").json()["hint"]


def test_uploads(web: httpx.Client, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = web.post("/v1/uploads", headers={**TUS, "Upload-Length": "6"})
    assert begun.headers["Location"].startswith("/latentry/v1/uploads/")
    upload = begun.url.join(begun.headers["Location"])
    piece = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    assert web.patch(upload, content=b"abc", headers=piece).headers["Upload-Offset"] == "3"
    assert web.head(upload, headers=TUS).headers["Upload-Offset"] == "3"
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.certificate))
    file = tmp_path / "spikes.npz"
    file.write_bytes(os.urandom(2**16))
    with Client(proxy.https) as client:
        assert client.upload_file(file).startswith("upl_")


def test_sizes(web: httpx.Client, proxy: Proxy) -> None:
    head = f"PUT /latentry/v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: {11 * 2**30}\r\n\r\n"
    with connect(proxy) as connection:
        connection.sendall(head.encode())
        assert_problem(connection.recv(4096), 413, "too-large")
    with connect(proxy) as connection:
        connection.sendall(
            b"GET /latentry/healthz HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"a" * 40_000 + b"\r\n\r\n"
        )
        assert_problem(connection.recv(4096), 431, "headers-too-large")
    with connect(proxy) as connection:
        connection.sendall(b"GET /latentry/healthz\x01 HTTP/1.1\r\n\r\n")
        assert_problem(connection.recv(4096), 400, "bad-request")
    with connect(proxy) as connection:
        connection.sendall(b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert_problem(connection.recv(4096), 404, "not-found")
    answer = httpx.get(proxy.https.replace("https", "http", 1))  # without TLS
    assert (answer.status_code, answer.json()["status"]) == (400, 400)
    assert web.get("/v1/jobs/" + "a" * 1000, headers={"X-Large": "a" * 20_000}).status_code == 404


def test_events_are_not_buffered(web: httpx.Client, example: Example) -> None:
    job = web.post("/v1/jobs", json={"dataset_id": example.dataset_id, "preset": "quick"}).json()
    with web.stream("GET", f"/v1/jobs/{job['id']}/events/stream") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert next(stream.iter_bytes())  # the job goes on, and so does its stream
    assert web.post(f"/v1/jobs/{job['id']}:cancel").json()["state"] == "cancelled"


def test_the_proxy_alone_tells_addresses(web: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def count(_limits: WrongKeys, host: str, error: Unauthorized) -> Unauthorized:
        seen.append(host)
        return error

    monkeypatch.setattr(WrongKeys, "count", count)
    web.get("/v1/jobs", headers={"X-Forwarded-For": "203.0.113.7", "Authorization": "Bearer lat_wrong"})
    assert seen == ["127.0.0.1"]


def test_limits_of_connections(web: httpx.Client, proxy: Proxy, example: Example) -> None:
    with connect(proxy) as silent:
        silent.sendall(b"GET / HT")
        assert silent.recv(1) == b""  # nginx closes it
    job = web.post("/v1/jobs", json={"dataset_id": example.dataset_id, "preset": "quick"}).json()["id"]
    with ExitStack() as stack:
        answers = [
            stack.enter_context(web.stream("GET", f"/v1/jobs/{job}/events/stream"))
            for _ in range(MOST_CONNECTIONS + 1)
        ]
        assert [answer.status_code for answer in answers] == [200] * MOST_CONNECTIONS + [429]
        assert json.loads(answers[-1].read())["type"].endswith("too-many-requests")
        assert answers[-1].headers["Retry-After"] == "5"
    web.post(f"/v1/jobs/{job}:cancel")
