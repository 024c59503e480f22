"""Webhooks over HTTP: made, listed, tested and deleted; and which URLs are refused."""

import base64
import ipaddress
import socket
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.webhooks.service import MOST_WEBHOOKS
from domain.states import DeliveryState, JobState, ModelState
from store.database import Database, database_now
from store.identifiers import new_id
from store.public_addresses import AddressRefused, check_url, is_public, resolve
from store.tables import Job, Webhook, WebhookDelivery
from tests.api.api_examples import OTHER_TENANT, PROBLEM, add_dataset, add_job, add_model, add_tenant

URL = "https://receiver.example/hook"
PUBLIC = "93.184.215.14"


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The names there are, with their addresses; addresses mean themselves, in all ways of writing them."""
    known = {"receiver.example": [PUBLIC], "xn--bcher-kva.example": [PUBLIC]}
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host in known:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]
        try:
            return real(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:
            if host == "localhost":
                return real("127.0.0.1", port)
            raise

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known


def make(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/webhooks", json={"url": URL, **changes})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_the_secret_is_shown_once(client: TestClient) -> None:
    made = make(client, states=["done"])
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) <= 64
    assert client.get(f"/v1/webhooks/{made['id']}").json() == made
    assert client.get("/v1/webhooks").json() == {"items": [made], "next_page_token": None}
    assert made["states"] == ["done"]
    assert made["url"] == URL


def test_a_repeated_request_makes_one_webhook_and_keeps_no_secret(light_client: TestClient) -> None:
    first, again = (
        light_client.post("/v1/webhooks", json={"url": URL}, headers={"Idempotency-Key": "a"}) for _ in "ab"
    )
    assert first.headers["Cache-Control"] == "no-store"
    assert again.json() == first.json() | {"secret": None}
    assert len(light_client.get("/v1/webhooks").json()["items"]) == 1


def test_lists_have_pages(light_client: TestClient) -> None:
    ids = [make(light_client)["id"] for _ in range(3)]
    first = light_client.get("/v1/webhooks", params={"page_size": 2}).json()
    second = light_client.get("/v1/webhooks", params={"page_token": first["next_page_token"]}).json()
    assert [one["id"] for one in first["items"] + second["items"]] == ids[::-1]
    tests = [light_client.post(f"/v1/webhooks/{ids[0]}:test").json()["id"] for _ in range(3)]
    path = f"/v1/webhooks/{ids[0]}/deliveries"
    first = light_client.get(path, params={"page_size": 2}).json()
    second = light_client.get(path, params={"page_token": first["next_page_token"]}).json()
    assert [one["id"] for one in first["items"] + second["items"]] == tests[::-1]


def test_there_may_be_only_so_many(light_client: TestClient) -> None:
    for _ in range(MOST_WEBHOOKS):
        last = make(light_client)
    refused = light_client.post("/v1/webhooks", json={"url": URL})
    assert refused.status_code == 409
    assert refused.headers["content-type"] == PROBLEM
    assert light_client.delete(f"/v1/webhooks/{last['id']}").status_code == 204
    make(light_client)


REFUSED = [
    "http://receiver.example/hook",
    "ftp://receiver.example/hook",
    "receiver.example/hook",
    "https:///hook",
    "https://xn--" + "9" * 1900 + ".example/",
    "https://user:password@receiver.example/",
    "https://user@receiver.example/",
    "https://receiver.example/#part",
    "https://receiver.example:22/",
    "https://receiver.example:80/",
    "https://receiver.example:99999/",
    "https://receiver.example/a b",
    "https://receiver.example\\@127.0.0.1/",
    "https://nobody.example/",
    "https://localhost/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0/",
    "https://10.1.2.3/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:a00:1]/",
    "https://[fe80::1]/",
    "https://[fc00::1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
    "",
]


def test_urls_that_lead_elsewhere_are_refused(light_client: TestClient) -> None:
    for url in REFUSED:
        answer = light_client.post("/v1/webhooks", json={"url": url})
        assert answer.status_code == 422, url
        assert [problem["pointer"] for problem in answer.json()["errors"]] == ["/url"]
    assert (
        "got 'receiver.example/hook'"
        in light_client.post("/v1/webhooks", json={"url": "receiver.example/hook"}).text
    )
    assert light_client.get("/v1/webhooks").json()["items"] == []


def test_other_urls_are_taken(light_client: TestClient) -> None:
    for url in (URL + "?a=b", "https://receiver.example:8443/"):
        assert make(light_client, url=url)["url"] == url
    assert make(light_client, url="https://bücher.example/")["url"] == "https://xn--bcher-kva.example/"


def test_every_address_of_a_name_counts(light_client: TestClient, names: dict[str, list[str]]) -> None:
    names["receiver.example"] = [PUBLIC, "127.0.0.1"]
    answer = light_client.post("/v1/webhooks", json={"url": URL})
    assert answer.status_code == 422
    assert "127.0.0.1" in answer.json()["detail"]
    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1"):
        resolve("receiver.example", 443, allow_private=False)
    assert list(resolve("receiver.example", 443, allow_private=True)) == [PUBLIC, "127.0.0.1"]


def test_private_addresses_can_be_allowed() -> None:
    assert str(check_url("http://127.0.0.1:8000/hook", allow_private=True)) == "http://127.0.0.1:8000/hook"
    with pytest.raises(AddressRefused, match="user or password"):
        check_url("http://a:b@127.0.0.1/", allow_private=True)


@pytest.mark.parametrize(
    "network",
    # The special-purpose registries of IANA, and multicast.
    [
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32", "::/128", "::1/128", "::ffff:0:0/104", "64:ff9b::/96",
        "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    ],
)  # fmt: skip
def test_special_networks_are_not_public(network: str) -> None:
    whole = ipaddress.ip_network(network)
    assert not is_public(whole[0])
    assert not is_public(whole[-1])
    assert not is_public(whole[whole.num_addresses // 2])


@pytest.mark.parametrize("address", ["8.8.8.8", PUBLIC, "2606:2800:21f::1", "::ffff:8.8.8.8"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def deliveries(client: TestClient, webhook_id: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get(f"/v1/webhooks/{webhook_id}/deliveries").json()["items"]
    return items


def test_the_end_of_a_job_is_written_for_whom_it_concerns(
    client: TestClient, database: Database, dataset_id: str
) -> None:
    with database.write() as session:
        job_id = add_job(session, dataset_id, name="first try")
        model_id = add_model(session, job_id, state=ModelState.TRAINED, losses=(2.0, 1.0))
        session.get_one(Job, job_id).selected_model_id = model_id
    told, other = make(client)["id"], make(client, states=["done", "failed"])["id"]
    deleted = make(client)["id"]
    client.delete(f"/v1/webhooks/{deleted}")
    assert client.post(f"/v1/jobs/{job_id}:cancel").status_code == 200
    [message] = deliveries(client, told)
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert message["state"] == "waiting"
    assert message["job_id"] == job_id
    assert message["body"]["type"] == "job.cancelled"
    assert message["body"]["data"] == {
        **{
            name: job[name] for name in ("id", "name", "state", "dataset_id", "selected_model_id", "ended_at")
        },
        "final_model_id": None,
        "scores": {"sv_loss": 1.0, "sv_bits_per_spike_valid": 0.0},
        "error": None,
        "links": {
            "job": f"/v1/jobs/{job_id}",
            "dataset": f"/v1/datasets/{dataset_id}",
            "selected_model": f"/v1/models/{model_id}",
        },
    }
    assert deliveries(client, other) == []
    client.post(f"/v1/jobs/{job_id}:cancel")  # nothing ends twice
    assert len(deliveries(client, told)) == 1
    client.post(f"/v1/jobs/{job_id}:retry")
    client.post(f"/v1/jobs/{job_id}:cancel")
    assert len({one["id"] for one in deliveries(client, told)}) == 2
    with database.read() as session:
        assert session.query(WebhookDelivery).filter_by(webhook_id=deleted).count() == 0


def test_what_is_rolled_back_tells_nobody(light_client: TestClient, sqlite_database: Database) -> None:
    webhook_id = make(light_client)["id"]

    class Away(Exception):
        pass

    def fail() -> None:
        with sqlite_database.write() as session:
            add_job(session, add_dataset(session), state=JobState.DONE)
            session.flush()
            assert session.query(WebhookDelivery).count() == 1
            raise Away

    with pytest.raises(Away):
        fail()
    assert deliveries(light_client, webhook_id) == []


def test_deletion_gives_up_what_waits(client: TestClient, database: Database) -> None:
    webhook_id = make(client)["id"]
    message = client.post(f"/v1/webhooks/{webhook_id}:test")
    assert message.status_code == 202
    assert message.json()["body"]["type"] == "webhook.test"
    with database.write() as session:
        row = session.get_one(WebhookDelivery, message.json()["id"])
        row.lease_token, row.lease_expires_at = "somebody's", database_now(session)
    assert client.delete(f"/v1/webhooks/{webhook_id}").status_code == 204
    with database.read() as session:
        row = session.get_one(WebhookDelivery, message.json()["id"])
        assert row.state == DeliveryState.GIVEN_UP
        assert row.lease_token is None
        assert row.ended_at is not None
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/deliveries"), ("POST", ":test")):
        assert client.request(method, f"/v1/webhooks/{webhook_id}{path}").status_code == 404


def test_tests_do_not_pile_up(light_client: TestClient) -> None:
    webhook_id = make(light_client)["id"]
    statuses = [light_client.post(f"/v1/webhooks/{webhook_id}:test").status_code for _ in range(11)]
    assert statuses == [202] * 10 + [409]


def test_another_tenants_webhook_is_not_there(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        add_tenant(session)
        theirs = Webhook(
            id=new_id("whk"), tenant_id=OTHER_TENANT, url=URL, states=["done"], secret="whsec_AA=="
        )
        session.add(theirs)
        session.flush()
        add_job(session, add_dataset(session), state=JobState.DONE)
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/deliveries"), ("POST", ":test")):
        answer = light_client.request(method, f"/v1/webhooks/{theirs.id}{path}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == PROBLEM
    assert light_client.get("/v1/webhooks").json()["items"] == []
    with sqlite_database.read() as session:
        assert session.query(WebhookDelivery).count() == 0
