"""``latentry keys`` and ``latentry webhooks``."""

from typing import Any

import pytest

from domain.states import JobState
from store.database import Database
from store.tables import Key, Worker
from tests.api.api_examples import add_dataset, add_job
from tests.client.command_line import CommandLine


@pytest.fixture
def latentry(light_url: str) -> CommandLine:
    return CommandLine(light_url)


def test_a_key_from_its_making_to_its_end(latentry: CommandLine, sqlite_database: Database) -> None:
    asked = ("keys", "create", "the dashboard", "--scope", "read", "--expires", "2099-01-01T00:00:00Z")
    made: dict[str, Any] = latentry(*asked, "--json").json()
    assert (made["name"], made["scopes"], made["expires_at"]) == (
        "the dashboard",
        ["read"],
        "2099-01-01T00:00:00Z",
    )
    reader = CommandLine(latentry.url, key=made["secret"])
    assert reader("keys", "whoami").out == "default: read\n"
    assert reader("keys", "whoami", "--json").json()["key_id"] == made["id"]
    shown = latentry("keys", "create", "person", "--tenant", "smith")
    assert shown.out.startswith("lat_")
    assert shown.out.count("\n") == 1
    assert "smith: read, write" in shown.messages
    listed = latentry("keys", "list")
    assert "the dashboard" in listed.out
    assert made["secret"] not in listed.out
    assert latentry("keys", "revoke", made["id"]).out == f"{made['id']} is revoked\n"
    assert reader("keys", "whoami", expect=4).messages.startswith("Error: the key was revoked")
    with sqlite_database.read() as session:
        assert session.get_one(Key, made["id"]).revoked_at is not None
    assert [one["id"] for one in latentry("keys", "list", "--json").json()].count(made["id"]) == 1
    assert latentry("keys", "revoke", "key_" + "0" * 24, expect=3).out == ""
    for time in ("soon", "2099-01-01", "2099-01-01T00:00:00"):
        refused = latentry("keys", "create", "a", "--expires", time, expect=2).messages
        assert "expected a time with a time zone, such as 2027-01-31T00:00:00Z" in refused


def test_days_of_a_tenant(latentry: CommandLine) -> None:
    shown = latentry("retention", "show")
    assert "LATENTRY_KEEP_EVENTS_DAYS" in shown.out
    changed = latentry("retention", "set", "default", "events=30", "originals=forever", "--json").json()
    days = {one["kind"]: (one["days"], one["is_own"]) for one in changed}
    assert (days["events"], days["originals"], days["curves"]) == ((30, True), (None, True), (30, False))
    assert "the operator" in latentry("retention", "show", "--tenant", "default").out
    wrong = latentry("retention", "set", "default", "events=soon", expect=2).messages
    assert "expected KIND=DAYS, such as events=30" in wrong
    assert "no tenant nobody" in latentry("retention", "show", "--tenant", "nobody", expect=3).messages


def test_usage_and_quotas_of_tenants(latentry: CommandLine) -> None:
    shown = latentry("usage").out
    assert [word in shown for word in ("stored_bytes", "537 GB", "device_seconds_per_day", "16 days")] == [
        True
    ] * 4
    latentry("keys", "create", "person", "--tenant", "smith")
    asked = ("usage", "--tenant", "smith", "--set", "stored_bytes=2e12", "--set", "open_jobs=0", "--json")
    assert latentry(*asked).json()["own_amounts"] == {"stored_bytes": 2e12, "open_jobs": 0}
    latentry("usage", "--tenant", "smith", "--set", "open_jobs=default")
    assert latentry("usage", "--tenant", "smith", "--json").json()["own_amounts"] == {"stored_bytes": 2e12}
    assert [one["tenant"] for one in latentry("usage", "--all", "--json").json()] == ["default", "smith"]
    assert "expected --tenant" in latentry("usage", "--set", "open_jobs=1", expect=2).messages
    assert (
        "got 'open_jobs=few'"
        in latentry("usage", "--tenant", "smith", "--set", "open_jobs=few", expect=2).messages
    )


def test_the_operator_pauses_a_tenant_and_drains_a_worker(
    latentry: CommandLine, sqlite_database: Database
) -> None:
    assert "no worker is alive" in latentry("workers", "list").messages
    with sqlite_database.write() as session:
        session.add(Worker(name="rig-2:4711:1f2e", device="cuda:0"))
    listed = latentry("workers", "list").out
    assert [word in listed for word in ("rig-2:4711:1f2e", "cuda:0", "idle", "slices")] == [True] * 4
    assert latentry("workers", "drain", "rig-2:4711:1f2e").out == "rig-2:4711:1f2e ends\n"
    assert "ends" in latentry("workers", "list").out
    assert latentry("workers", "list", "--json").json()["workers"][0]["draining_since"]
    assert "no worker nobody is alive" in latentry("workers", "drain", "nobody", expect=3).messages
    latentry("keys", "create", "person", "--tenant", "smith")
    paused = latentry("tenants", "pause", "smith", "--reason", "the disk is replaced")
    assert paused.out.startswith("smith is paused since 2")
    assert "the disk is replaced" in latentry("usage", "--tenant", "smith").messages
    assert "the disk is replaced" in latentry("tenants", "list").out
    assert latentry("tenants", "resume", "smith").out == "smith is active\n"
    assert [one["paused_at"] for one in latentry("tenants", "list", "--json").json()] == [None, None]


def test_a_webhook_from_its_making_to_its_end(latentry: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.webhooks.service.resolve", lambda *_arguments, **_options: ["93.184.216.34"])
    asked = ("webhooks", "add", "https://hooks.example.org/latentry", "--state", "done", "--state", "failed")
    made = latentry(*asked, "--json").json()
    assert made["states"] == ["done", "failed"]
    shown = latentry("webhooks", "add", "https://hooks.example.org/other")
    assert shown.out.startswith("whsec_")
    assert "jobs that are cancelled, done, failed" in shown.messages
    listed = latentry("webhooks", "list")
    assert "https://hooks.example.org/latentry" in listed.out
    assert made["secret"] not in listed.out
    assert latentry("webhooks", "test", made["id"]).out.endswith(" is waiting\n")
    sent = latentry("webhooks", "deliveries", made["id"], "--json").json()
    assert [one["state"] for one in sent] == ["waiting"]
    assert sent[0]["id"] in latentry("webhooks", "deliveries", made["id"]).out
    assert latentry("webhooks", "remove", made["id"]).out == f"{made['id']} is removed\n"
    assert made["id"] not in [one["id"] for one in latentry("webhooks", "list", "--json").json()]
    assert latentry("webhooks", "remove", made["id"], expect=3).out == ""
    assert latentry("webhooks", "add", "nonsense", expect=2).messages.startswith("Error: ")


def test_labels_are_edited_and_found_and_the_log_says_by_whom(
    latentry: CommandLine, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session)
        job_id = add_job(session, dataset_id, state=JobState.DONE)
    key = latentry("keys", "create", "Ada", "--scope", "read", "--scope", "write", "--scope", "admin")
    ada = CommandLine(latentry.url, key=key.out.strip())
    for kind, one in (("datasets", dataset_id), ("jobs", job_id)):
        done = ada(
            kind, "edit", one, "--name", "day 3", "--notes", "arm tired", "--tag", "Pilot", "--tag", "b"
        )
        assert done.out == f"{one} is named 'day 3'; tags: Pilot, b\n"
        edited = ada(kind, "edit", one, "--tag", "c", "--untag", "pilot", "--json").json()
        assert (edited["notes"], edited["tags"]) == ("arm tired", ["b", "c"])
        found = ("--text", "TIRED", "--tag", "B", "--tag", "c", "--state", "done", "--state", "running")
        found = found if kind == "jobs" else (*found[:6], "--state", "ready")
        assert [row["id"] for row in ada(kind, "list", *found, "--json").json()] == [one]
        assert "b, c" in ada(kind, "list").out
        assert ada(kind, "list", "--tag", "pilot", "--json").json() == []
        assert ada(kind, "list", "--by", "nobody", "--json").json() == []
        assert [row["id"] for row in ada(kind, "list", "--by", "service", "--json").json()] == [one]
        page = ada(kind, "show", one).out
        assert all(part in page for part in ("arm tired", "b, c", "service"))
        assert "give --name, --notes" in ada(kind, "edit", one, expect=2).messages
        assert (
            "--tag: String should have at most 50"
            in ada(kind, "edit", one, "--tag", "x" * 51, expect=2).messages
        )
    assert "Error: --state: " in ada("jobs", "list", "--state", "ready", expect=2).messages
    assert [row["action"] for row in ada("audit", "--object", job_id, "--json").json()] == ["job.changed"] * 2
    shown = ada("audit", "--kind", "dataset").out
    assert all(part in shown for part in ("Ada", "dataset.changed", dataset_id, "name, notes, tags"))
    by_name = ada("audit", "--by", "Ada", "--json").json()
    assert (
        by_name
        == [row for row in ada("audit", "--json").json() if (row["by"] or {}).get("name") == "Ada"]
        != []
    )
    assert ada("audit", "--action", "job.cancelled", "--json").json() == []


def test_a_share_from_its_making_to_its_end(latentry: CommandLine, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session), state=JobState.DONE)
    shown = latentry("shares", "create", job_id, "--label", "for the PI", "--days", "7")
    assert shown.out.startswith("ltshare_")
    visitor = CommandLine(latentry.url, key=shown.out.strip())
    assert visitor("jobs", "show", job_id, "--json").json()["id"] == job_id
    [listed] = latentry("shares", "list", "--target", job_id, "--json").json()
    assert (listed["label"], listed["state"]) == ("for the PI", "active")
    assert "for the PI" in latentry("shares", "list").out
    assert latentry("shares", "revoke", listed["id"]).out == f"{listed['id']} is revoked\n"
    assert "the link was revoked" in visitor("jobs", "show", job_id, expect=4).messages
