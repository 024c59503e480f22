"""Messages to webhooks: signed, sent at least once, tried again, given up; and never sent where they may not go."""

import base64
import datetime as dt
import hmac
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from domain.states import DeliveryState
from store.database import Database, database_now
from store.identifiers import new_id
from store.settings import Settings
from store.tables import DEFAULT_TENANT, AuditEntry, Webhook, WebhookDelivery
from store.webhooks import announce_test, forget, new_secret
from tests.waiting import wait_until
from tests.worker.lab import Lab
from tests.worker.maintenance.receiver import Receiver, receiving
from worker.maintenance.retention import Sweep
from worker.maintenance.webhook_sending import Answer, send, signature_headers
from worker.maintenance.webhooks import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    Claimed,
    claim,
    delay_s,
    deliver,
    deliver_until,
    finish,
    next_due,
)

BODY = {"type": "webhook.test", "timestamp": "2026-01-02T03:04:05Z", "data": {"name": "Übung"}}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path, webhook_allow_private=True, webhook_timeout_seconds=1, maintenance_seconds=0.02
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def make(database: Database) -> Callable[[str], Webhook]:
    """Makes a webhook of which a message waits."""

    def made(url: str) -> Webhook:
        with database.write() as session:
            row = Webhook(
                id=new_id("whk"), tenant_id=DEFAULT_TENANT, url=url, states=["done"], secret=new_secret()
            )
            session.add(row)
            session.flush()
            announce_test(session, row)
        return row

    return made


def only_delivery(database: Database) -> WebhookDelivery:
    with database.read() as session:
        return session.execute(select(WebhookDelivery)).scalar_one()


def make_due(database: Database) -> None:
    with database.write() as session:
        session.execute(select(WebhookDelivery)).scalar_one().due_at = database_now(session)


def attempt(database: Database, settings: Settings) -> WebhookDelivery:
    """Send what is due, and return its row afterwards."""
    claimed = next_due(database, settings)
    assert claimed is not None
    deliver(database, settings, claimed)
    return only_delivery(database)


def test_a_message_is_taken_and_verified(
    database: Database, settings: Settings, receiver: Receiver, make: Callable[[str], Webhook]
) -> None:
    webhook = make(receiver.url + "?lab=1")
    row = attempt(database, settings)
    assert (row.state, row.status, row.attempts, row.error) == (DeliveryState.DELIVERED, 200, 1, None)
    [came] = receiver.came
    assert came.path == "/hook?lab=1"
    assert came.headers["host"] == receiver.url.split("/")[2]
    assert came.headers["webhook-id"] == row.id
    assert came.headers["user-agent"].startswith("Latentry/")
    told = standardwebhooks.Webhook(webhook.secret).verify(came.body, came.headers)
    assert told == row.body
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(new_secret()).verify(came.body, came.headers)
    assert next_due(database, settings) is None


def test_signatures_are_those_of_the_documentation() -> None:
    """docs/pipelines.md: the base64 of HMAC-SHA256 over `id.timestamp.body`, with the decoded secret as key."""
    secret, content = new_secret(), '{"a":"ü"}'
    now = dt.datetime.now(dt.UTC)
    headers = signature_headers(secret, "dlv_1", now, content)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"dlv_1.{int(now.timestamp())}.{content}".encode()
    expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert headers == {
        "webhook-id": "dlv_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": f"v1,{expected}",
    }


def test_what_is_not_taken_is_sent_again_under_the_same_id(
    database: Database, settings: Settings, receiver: Receiver, make: Callable[[str], Webhook]
) -> None:
    webhook = make(receiver.url)
    receiver.statuses = [500, 302, 404]
    receiver.headers = {"Location": "/elsewhere"}
    for number in (1, 2, 3):
        row = attempt(database, settings)
        assert (row.state, row.attempts) == (DeliveryState.WAITING, number)
        assert row.error is not None
        waits = (row.due_at - dt.datetime.now(dt.UTC)).total_seconds()
        assert 0.7 * FIRST_DELAY_S * 3 ** (number - 1) - 3 < waits < 1.3 * FIRST_DELAY_S * 3 ** (number - 1)
        assert next_due(database, settings) is None
        make_due(database)
    assert attempt(database, settings).state == DeliveryState.DELIVERED
    assert {came.path for came in receiver.came} == {"/hook"}  # no redirect is followed
    assert len({came.headers["webhook-id"] for came in receiver.came}) == 1
    for came in receiver.came:
        standardwebhooks.Webhook(webhook.secret).verify(came.body, came.headers)


def test_delays_grow_and_differ_and_span_a_day() -> None:
    delays = [delay_s(attempts) for attempts in range(1, 30)]
    assert all(first < second for first, second in itertools.pairwise(delays[:7]))
    assert max(delays) <= 1.25 * LONGEST_DELAY_S
    assert len(set(delays)) == len(delays)
    within_a_day = sum(total <= 86_400 for total in itertools.accumulate(delays))
    assert 10 <= within_a_day <= 16


def test_it_is_given_up_in_the_end(
    database: Database, settings: Settings, make: Callable[[str], Webhook]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        make(f"http://127.0.0.1:{closed.getsockname()[1]}/")
    row = attempt(database, settings)
    assert row.state == DeliveryState.WAITING
    assert row.status is None
    assert "ConnectError" in (row.error or "")
    with database.write() as session:
        found = session.get_one(WebhookDelivery, row.id)
        found.created_at -= dt.timedelta(seconds=settings.webhook_seconds - 1)
        found.due_at = database_now(session)
    row = attempt(database, settings)
    assert row.state == DeliveryState.GIVEN_UP
    assert row.ended_at is not None
    for age, kept in ((29, True), (31, False)):
        Sweep(database, settings, now=row.ended_at + dt.timedelta(days=age)).rows()
        with database.read() as session:
            assert (session.get(WebhookDelivery, row.id) is not None) == kept
    with database.read() as session:
        assert session.get(WebhookDelivery, row.id) is None


def test_a_receiver_may_ask_for_time(
    database: Database, settings: Settings, receiver: Receiver, make: Callable[[str], Webhook]
) -> None:
    make(receiver.url)
    receiver.statuses, receiver.headers = [503], {"Retry-After": "1000"}
    row = attempt(database, settings)
    assert 990 < (row.due_at - dt.datetime.now(dt.UTC)).total_seconds() < 1001


def test_one_that_is_gone_is_deleted(
    database: Database, settings: Settings, receiver: Receiver, make: Callable[[str], Webhook]
) -> None:
    webhook = make(receiver.url)
    receiver.statuses = [410]
    row = attempt(database, settings)
    assert (row.state, row.status) == (DeliveryState.GIVEN_UP, 410)
    with database.read() as session:
        assert session.get_one(Webhook, webhook.id).deleted_at is not None
        entry = session.execute(select(AuditEntry)).scalar_one()
        assert (entry.action, entry.key_name, "410" in entry.details["reason"]) == (
            "webhook.deleted",
            "service",
            True,
        )


def test_a_lost_sender_leaves_it_to_another(
    database: Database, settings: Settings, receiver: Receiver, make: Callable[[str], Webhook]
) -> None:
    make(receiver.url)
    lost = next_due(database, settings)
    assert lost is not None
    assert next_due(database, settings) is None  # one at a time
    with database.write() as session:
        session.get_one(WebhookDelivery, lost.delivery_id).lease_expires_at = database_now(session)
    row = attempt(database, settings)
    assert (row.state, row.losses) == (DeliveryState.DELIVERED, 1)
    with database.write() as session:
        finish(session, settings, lost, Answer(500))  # it wakes, and writes nothing
    assert only_delivery(database).state == DeliveryState.DELIVERED


def test_one_killed_in_the_middle_is_sent_again(
    sqlite_database: Database, settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    with sqlite_database.write() as session:
        webhook = Webhook(
            id=new_id("whk"), tenant_id=DEFAULT_TENANT, url=receiver.url, states=["done"], secret=new_secret()
        )
        session.add(webhook)
        session.flush()
        announce_test(session, webhook)
    receiver.silent_s = 20
    environment = {
        **os.environ,
        "LATENTRY_DATA_DIR": str(tmp_path),
        "LATENTRY_DATABASE_URL": sqlite_database.url,
        "LATENTRY_WEBHOOK_ALLOW_PRIVATE": "true",
    }
    program = (
        "from store.database import get_database as d; from store.settings import get_settings as s\n"
        "from worker.maintenance.webhooks import deliver, next_due\n"
        "deliver(d(), s(), next_due(d(), s()))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    wait_until(lambda: receiver.came or process.poll() is not None)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    receiver.silent_s = 0
    with sqlite_database.write() as session:
        row = session.execute(select(WebhookDelivery)).scalar_one()
        assert row.state == DeliveryState.WAITING
        assert row.lease_token is not None
        row.lease_expires_at = database_now(session)
    assert attempt(sqlite_database, settings).state == DeliveryState.DELIVERED
    first, second = receiver.came
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


def test_a_deleted_webhook_gets_nothing(
    database: Database, settings: Settings, receiver: Receiver, make: Callable[[str], Webhook]
) -> None:
    webhook = make(receiver.url)
    claimed = next_due(database, settings)
    assert claimed is not None
    with database.write() as session:
        row = session.get_one(Webhook, webhook.id)
        forget(session, row, "the webhook was deleted")
        late = announce_test(session, row)  # as one that was written at the same moment
        session.flush()
        late_id = late.id
    deliver(database, settings, claimed)  # it was on its way
    assert next_due(database, settings) is None
    with database.read() as session:
        for delivery_id in (claimed.delivery_id, late_id):
            assert session.get_one(WebhookDelivery, delivery_id).state == DeliveryState.GIVEN_UP


def test_one_that_is_slow_keeps_no_other_waiting(
    sqlite_database: Database, settings: Settings, receiver: Receiver
) -> None:
    with receiving() as slow, sqlite_database.write() as session:
        slow.silent_s = 20
        for url in (slow.url, slow.url, receiver.url, receiver.url):
            webhook = Webhook(
                id=new_id("whk"), tenant_id=DEFAULT_TENANT, url=url, states=["done"], secret=new_secret()
            )
            session.add(webhook)
            session.flush()
            announce_test(session, webhook)
        session.commit()
        stopping = threading.Event()
        thread = threading.Thread(target=deliver_until, args=(stopping, sqlite_database, settings))
        thread.start()
        wait_until(lambda: len(receiver.came) == 2)
        stopping.set()
        thread.join(120)
        assert not thread.is_alive()


def test_messages_of_one_that_hangs_wait_for_those_of_others(
    database: Database, settings: Settings, make: Callable[[str], Webhook]
) -> None:
    hangs = make("http://127.0.0.1:1/hangs")
    with database.write() as session:
        for _ in range(3):
            announce_test(session, hangs)
    takes = make("http://127.0.0.1:1/takes")
    first = next_due(database, settings)
    assert first is not None
    assert first.webhook_id == hangs.id
    with database.write() as session:
        finish(session, settings, first, Answer(None, "no answer"))
    claimed = [next_due(database, settings), next_due(database, settings)]
    assert [one and one.webhook_id for one in claimed] == [takes.id, hangs.id]


def test_a_drip_does_not_last_longer_than_its_time(receiver: Receiver) -> None:
    receiver.silent_s = 20
    started = time.monotonic()
    answer = send(receiver.url, new_secret(), "dlv_1", BODY, timeout_s=0.4, allow_private=True)
    assert answer.status is None
    assert "0.4 s" in (answer.error or "")
    assert 0.3 < time.monotonic() - started < 15


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "2130706433"])
def test_nothing_is_sent_to_private_addresses(receiver: Receiver, host: str) -> None:
    url = receiver.url.replace("http:", "https:").replace("127.0.0.1", host)
    answer = send(url, new_secret(), "dlv_1", BODY, timeout_s=5, allow_private=False)
    assert answer.status is None
    assert "not in the public network" in (answer.error or "")
    assert receiver.came == []


def test_a_name_is_checked_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name meant a public address when the webhook was made, and means the service's own network now."""
    connected: list[Any] = []
    monkeypatch.setattr(socket, "create_connection", lambda *given, **_: connected.append(given))
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (one, 443)) for one in ("8.8.8.8", "10.0.0.1")]
    )
    answer = send("https://rebinding.example/", new_secret(), "dlv_1", BODY, timeout_s=5, allow_private=False)
    assert "10.0.0.1" in (answer.error or "")
    assert connected == []


def test_the_checked_address_is_called_and_the_certificate_is_of_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(_self_signed("receiver.example"))
    lookups: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: str, port: int, *given: Any, **named: Any) -> Any:
        lookups.append(host)
        return real("127.0.0.1" if host.endswith(".example") else host, port, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with receiving(certificate) as receiver:
        port = receiver.url.split(":")[2].split("/")[0]

        def sent(host: str) -> Answer:
            url = f"https://{host}:{port}/hook"
            return send(url, new_secret(), "dlv_1", BODY, timeout_s=5, allow_private=True)

        assert "CERTIFICATE_VERIFY_FAILED" in (sent("receiver.example").error or "")  # nobody trusts it
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert "Hostname mismatch" in (sent("other.example").error or "")
        lookups.clear()
        assert sent("receiver.example").is_taken
        assert lookups == [
            "receiver.example",
            "127.0.0.1",
        ]  # the name once: what was checked is what is called
        [came] = receiver.came
        assert came.headers["host"] == f"receiver.example:{port}"


def _self_signed(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)


def test_a_search_tells_that_it_is_done(tmp_path: Path, spikes_file: Path, receiver: Receiver) -> None:
    lab = Lab(tmp_path)
    lab.settings.webhook_allow_private = True
    made = lab.client.post("/v1/webhooks", json={"url": receiver.url})
    assert made.status_code == 201, made.text
    job_id = lab.search(lab.ingest(spikes_file), budget={"models": 1, "epochs": 1})
    claimed = next_due(lab.database, lab.settings)
    assert isinstance(claimed, Claimed)
    deliver(lab.database, lab.settings, claimed)
    [came] = receiver.came
    told = standardwebhooks.Webhook(made.json()["secret"]).verify(came.body, came.headers)
    job = lab.client.get(f"/v1/jobs/{job_id}").json()
    model = lab.client.get(job["links"]["selected_model"]).json()
    assert told["type"] == "job.done"
    assert told["data"]["selected_model_id"] == job["selected_model_id"] == model["id"]
    assert told["data"]["scores"] == model["scores"]
    assert told["data"]["ended_at"] == job["ended_at"]
    assert lab.client.get(told["data"]["links"]["arrays"]).status_code == 200


def test_claims_are_of_one_process_at_a_time(database: Database, settings: Settings, make: Any) -> None:
    for number in range(5):
        make(f"http://127.0.0.1:9/{number}")
    claimed: list[str] = []

    def work() -> None:
        while True:
            with database.write() as session:
                found = claim(session, settings)
            if found is None:
                return
            claimed.append(found.delivery_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == len(set(claimed)) == 5
