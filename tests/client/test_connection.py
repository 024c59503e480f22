"""Requests that are sent again, and those that are not; what is raised; what is sent along."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from latentry import AsyncClient, Client, errors
from latentry.errors import BY_TYPE, LatentryError, error_of
from latentry.retry import Patience

from api.errors import TYPE_PREFIX, Problem

NOW = {"time": 0.0}
Step = int | type[Exception] | tuple[int, dict[str, str]]


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; the clock goes on by them alone."""
    pauses: list[float] = []
    NOW["time"] = 0.0

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        NOW["time"] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr("latentry.retry.monotonic", lambda: NOW["time"])
    return pauses


class Steps:
    """A service that does one step after the other, and the last for ever."""

    def __init__(self, *steps: Step) -> None:
        self.steps, self.requests = list(steps), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, type):
            raise step("it broke", request=request)  # type: ignore[call-arg]
        status, headers = step if isinstance(step, tuple) else (step, {})
        body = {"id": "job_1", "state": "paused"} if status < 400 else {"detail": "no", "status": status}
        return httpx.Response(status, json=body, headers=headers)


def client_of(service: Steps, **arguments: Any) -> Client:
    return Client("http://service", transport=httpx.MockTransport(service), **arguments)


def asked_before(service: Steps) -> Client:
    """A client whom the service has answered once."""
    client = client_of(service)
    service.steps.insert(0, 200)
    client.get("/v1/jobs")
    service.requests.clear()
    return client


BREAKS: list[Step] = [503, 429, 502, 504, httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError]


@pytest.mark.parametrize("step", BREAKS, ids=str)
def test_reading_is_tried_again(step: Step, slept: list[float]) -> None:
    service = Steps(step, step, step, 200)
    assert asked_before(service).get_job("job_1").id == "job_1"
    assert len(service.requests) == 4
    assert len(slept) == 3
    for pause, longest in zip(slept, (0.25, 0.5, 1.0), strict=True):
        assert longest / 2 <= pause <= longest


@pytest.mark.parametrize("step", BREAKS, ids=str)
def test_making_is_tried_again_with_the_same_key(step: Step) -> None:
    service = Steps(step, step, 200)
    client = asked_before(service)
    client.create_job({"dataset_id": "dat_1"})
    keys = [request.headers["Idempotency-Key"] for request in service.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    service.steps = [200]
    client.create_job({"dataset_id": "dat_1"})
    assert service.requests[-1].headers["Idempotency-Key"] != keys[0]


@pytest.mark.parametrize(
    ("step", "again"),
    [
        (503, True),
        (429, True),
        (httpx.ConnectError, True),
        (502, False),
        (504, False),
        (httpx.ReadError, False),
    ],
    ids=str,
)
def test_a_verb_is_tried_again_only_if_it_was_not_done(step: Step, again: bool) -> None:
    service = Steps(step, 200)
    client = asked_before(service)
    if again:
        assert client.pause_job("job_1").state == "paused"
    else:
        with pytest.raises(errors.Unavailable):
            client.pause_job("job_1")
    assert len(service.requests) == 1 + again
    assert "Idempotency-Key" not in service.requests[0].headers


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_what_stays_wrong_is_not_tried_again(status: int, slept: list[float]) -> None:
    service = Steps(status)
    with pytest.raises(LatentryError) as caught:
        client_of(service).get("/v1/jobs")
    assert (caught.value.status, len(service.requests), slept) == (status, 1, [])


@pytest.mark.parametrize("header", ["7", "Thu, 01 Jan 2099 00:00:07 GMT"])
def test_the_service_says_how_long_to_wait(header: str, slept: list[float]) -> None:
    service = Steps((429, {"Retry-After": header}), 200)
    client = client_of(service)
    if header == "7":
        client.get("/v1/jobs")
        assert slept == [7.0]
    else:
        with pytest.raises(errors.TooManyRequests):  # nobody waits until 2099
            client.get("/v1/jobs")
        assert slept == []


def test_patience_has_an_end(slept: list[float]) -> None:
    service = Steps(503)
    with pytest.raises(errors.Unavailable):
        client_of(service, patience_s=20.0).get("/v1/jobs")
    assert 12 < sum(slept) < 20
    assert max(slept) <= 8
    slept.clear()
    with pytest.raises(errors.Unavailable):
        client_of(service, patience_s=0.0).get("/v1/jobs")
    assert slept == []


def test_a_service_that_never_answered_gets_a_second(slept: list[float]) -> None:
    service = Steps(httpx.ConnectError)
    with pytest.raises(errors.NoAnswer, match="nothing answers at http://service"):
        client_of(service).get("/v1/jobs")
    assert sum(slept) < 1
    assert len(service.requests) > 1


def test_how_the_service_is_is_asked_once(slept: list[float]) -> None:
    service = Steps(503)
    service_answer: Callable[[httpx.Request], httpx.Response] = service
    with pytest.raises(errors.Unavailable):
        client_of(service).get("/readyz")
    assert slept == []

    def away(request: httpx.Request) -> httpx.Response:
        service_answer(request)
        return httpx.Response(503, json={"ready": False, "warnings": ["the database is away"]})

    client = Client("http://service", transport=httpx.MockTransport(away))
    assert client.readiness() == {"ready": False, "warnings": ["the database is away"]}


def test_an_uploaded_file_is_sent_again_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"spikes")
    service = Steps(503, 200)
    client = asked_before(service)
    service.steps += [200]
    client.wait_for_dataset = client.get_dataset  # type: ignore[method-assign]
    client.upload_dataset(path)
    assert [request.content for request in service.requests[:2]] == [b"spikes", b"spikes"]


@pytest.mark.parametrize("kind", [Problem, *Problem.__subclasses__()], ids=lambda kind: kind.code)
def test_every_problem_has_a_class(kind: type[Problem]) -> None:
    document = {"type": TYPE_PREFIX + kind.code, "status": int(kind.status), "detail": "d", "hint": "h"}
    error = error_of(httpx.Response(int(kind.status), json=document))
    assert (str(error), error.detail, error.hint, error.status) == ("d (h)", "d", "h", kind.status)
    assert error.type == TYPE_PREFIX + kind.code
    of_protocol = {
        "method-not-allowed",
        "wrong-tus-version",
        "unsupported-media-type",
        "range",
        "checksum-mismatch",
        "request-timeout",
        "headers-too-large",
    }
    assert (type(error) is LatentryError) == (kind.code in of_protocol)


def test_classes_of_problems_are_those_of_the_service() -> None:
    assert set(BY_TYPE) <= {kind.code for kind in (Problem, *Problem.__subclasses__())}


def test_an_error_says_what_to_do() -> None:
    field = {
        "pointer": "/bin_width_s",
        "code": "bin_width",
        "message": "is 20",
        "hint": "did you mean 0.020 s?",
    }
    problem = {"type": TYPE_PREFIX + "invalid", "detail": "/bin_width_s: is 20", "errors": [field]}
    error = error_of(httpx.Response(422, json=problem))
    assert isinstance(error, errors.Invalid)
    assert str(error) == "/bin_width_s: is 20 (did you mean 0.020 s?)"
    assert error.errors == [field]
    proxy = error_of(httpx.Response(502, text="<html>bad gateway</html>"))
    assert isinstance(proxy, errors.Unavailable)
    assert str(proxy) == "the service answered 502 Bad Gateway"


def test_the_key_goes_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Steps(200)
    client_of(service, key="lat_secret").get("/v1/jobs")
    monkeypatch.setenv("LATENTRY_KEY", "lat_of_environment")
    monkeypatch.setenv("LATENTRY_URL", "http://elsewhere:1/")
    Client(transport=httpx.MockTransport(service)).get("/v1/jobs")
    Client(key="", transport=httpx.MockTransport(service)).get("/v1/jobs")
    sent = [request.headers.get("Authorization") for request in service.requests]
    assert sent == ["Bearer lat_secret", "Bearer lat_of_environment", None]
    assert str(service.requests[1].url) == "http://elsewhere:1/v1/jobs"
    assert "lat_secret" not in repr(client_of(service, key="lat_secret"))


def test_the_address_may_be_that_of_the_api() -> None:
    for url in ("http://service", "http://service/", "http://service/v1", "http://service/v1/"):
        assert Client(url).url == "http://service"
    assert Client("http://lab.example/latentry/v1").url == "http://lab.example/latentry"
    for url in ("127.0.0.1:8000", "ftp://service", "http://"):
        with pytest.raises(errors.LatentryError, match="is not the address of a service"):
            Client(url)


def test_a_download_is_whole_or_not_there(tmp_path: Path) -> None:
    parts = iter([b"half", None, b"whole", b" file"])

    class Body(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for part in parts:
                if part is None:
                    raise httpx.ReadError("it broke")
                yield part

    def service(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("missing"):
            return httpx.Response(404, json={"detail": "not there"})
        name = 'attachment; filename="../../a b.npz"'
        return httpx.Response(200, stream=Body(), headers={"Content-Disposition": name})

    client = Client("http://service", transport=httpx.MockTransport(service))
    path = client.download("/v1/models/mod_1/download", tmp_path)
    assert path == tmp_path / "_.._a_b.npz"
    assert path.read_bytes() == b"whole file"
    with pytest.raises(LatentryError):
        client.download("/missing", tmp_path / "b.npz")
    assert list(tmp_path.iterdir()) == [path]


def test_events_go_on_after_the_last_that_came() -> None:
    def events(*numbers: int) -> bytes:
        return b"".join(b"data: %s\n\n" % json.dumps({"id": one, "kind": "x"}).encode() for one in numbers)

    class Broken(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield events(1, 2)
            raise httpx.ReadError("it broke")

    asked: list[str] = []

    def service(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["Last-Event-ID"])
        if len(asked) == 1:
            return httpx.Response(200, stream=Broken())
        stops = b"retry: 1000\n: the stream ends: the service stops\n\n"
        return httpx.Response(200, content=events(3) + stops if len(asked) == 2 else events(4))

    client = Client("http://service", transport=httpx.MockTransport(service))
    assert [event["id"] for event in client.events("job_1")] == [1, 2, 3, 4]
    assert asked == ["0", "2", "3"]


def test_a_quiet_stream_that_breaks_often_is_followed(slept: list[float]) -> None:
    """As behind a proxy that ends every connection: as long as there are signs of life it goes on."""

    class Quiet(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            NOW["time"] += 45
            yield b": still here\n\n"
            raise httpx.ReadError("it broke")

    asked = iter(range(100))

    def service(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Quiet()) if next(asked) < 5 else httpx.Response(200)

    client = Client("http://service", transport=httpx.MockTransport(service))
    assert list(client.events("job_1")) == []
    assert len(slept) == 5


def test_patience_of_what_was_sent_and_is_not_repeatable() -> None:
    assert Patience(60, is_repeatable=False).after_failure(was_sent=True) is None
    assert Patience(60, is_repeatable=False).after_failure(was_sent=False) is not None
    assert Patience(60).after_answer(503, "nonsense") is not None


SENDS: dict[str, Callable[[Any, str, Any, Path], Any]] = {
    **{
        method: lambda client, path, params, _, method=method: client.request(method, path, params=params)
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    },
    "get": lambda client, path, params, _: client.get(path, params),
    "post": lambda client, path, params, _: client.post(path, {}, params),
    "download": lambda client, path, params, folder: client.download(path, folder / "body", params),
}
"""Every way to send a request with parameters."""


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", SENDS)
def test_a_query_in_the_path_is_kept_and_merged(name: str, is_async: bool, tmp_path: Path) -> None:
    """`POST /v1/jobs?validate_only=true` that loses its query would begin the job."""
    service = Steps(200)

    def send(path: str, params: Any = None) -> list[tuple[str, str]]:
        transport = httpx.MockTransport(service)
        if is_async:

            async def send_async() -> None:
                async with AsyncClient("http://service/lab", transport=transport) as client:
                    await SENDS[name](client, path, params, tmp_path)

            asyncio.run(send_async())
        else:
            with Client("http://service/lab", transport=transport) as client:
                SENDS[name](client, path, params, tmp_path)
        assert service.requests[-1].url.path == "/lab/v1/jobs"
        return service.requests[-1].url.params.multi_items()

    assert send("/v1/jobs") == []
    assert send("/v1/jobs?validate_only=true") == [("validate_only", "true")]
    assert send("/v1/jobs?validate_only=true", {}) == [("validate_only", "true")]
    assert send("/v1/jobs?validate_only=true", {"x": None}) == [("validate_only", "true")]
    assert send("/v1/jobs", {"x": True, "y": None, "z": [1, 2]}) == [("x", "true"), ("z", "1"), ("z", "2")]
    both = send("/v1/jobs?where=a%20b%26&where=c", {"page_size": 3})
    assert both == [("where", "a b&"), ("where", "c"), ("page_size", "3")]
    assert send("/v1/jobs?page_size=3", {"page_size": 3}) == [("page_size", "3")]  # both say the same
    sent = len(service.requests)
    with pytest.raises(LatentryError, match="'page_size' is 3 in the path and 4 in params"):
        send("/v1/jobs?page_size=3", {"page_size": 4})
    assert len(service.requests) == sent


def test_a_computation_that_takes_too_long_is_not_tried_again(slept: list[float]) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(
            504, json={"type": "urn:latentry:problem:computation-timeout", "detail": "too long"}
        )

    with pytest.raises(errors.ComputationTimeout):
        Client("http://test", transport=httpx.MockTransport(answer)).get("/v1/models/any/decoding")
    assert (len(requests), slept) == (1, [])
