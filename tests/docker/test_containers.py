"""The images and the compose file, truly built and run: `make test-containers`. It takes about ten minutes."""

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from latentry import Client
from latentry.sample import write_sample

from tests.docker.compose_document import SECRETS, services
from tests.docker.dockerfile_document import instructions
from tests.docker.podman import Compose, build, podman, skip_without_podman
from tests.servers import free_port
from tests.waiting import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

PREFIX = "latentry-test"
IMAGES = {"SERVICE_IMAGE": "localhost/latentry-test-service:local", "IMAGE": "localhost/latentry-test:local"}
SIZE_LIMITS_MB = {"SERVICE_IMAGE": 1100, "IMAGE": 2200}
"""With a slim base image, as `docs/deployment.md` lists. The image with CUDA has 7.15 GB."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Both images, built of this checkout."""
    ours = services("compose.yaml", SECRETS)
    (base,) = (
        rest.removeprefix("PYTHON_IMAGE=") for _, rest in instructions() if rest.startswith("PYTHON_IMAGE=")
    )
    skip_without_podman({base, ours["postgres"]["image"], ours["redis"]["image"]})
    folder = tmp_path_factory.mktemp("indexes")
    build(folder, IMAGES["SERVICE_IMAGE"], "--target", "service")
    build(folder, IMAGES["IMAGE"])
    return IMAGES


@pytest.fixture(scope="module")
def compose(images: dict[str, str]) -> Iterator[Compose]:
    """The services of the compose file, with two workers."""
    variables = SECRETS | images | {"API_PORT": str(free_port()), "WORKERS": "2"}
    project = Compose(PREFIX, variables | {"LATENTRY_LEASE_SECONDS": "10", "LATENTRY_HEARTBEAT_SECONDS": "2"})
    project.remove()
    try:
        project.up()
        yield project
    finally:
        project.remove()


@pytest.fixture
def client(compose: Compose) -> Iterator[Client]:
    with Client(
        f"http://127.0.0.1:{compose.variables['API_PORT']}", key=SECRETS["LATENTRY_ADMIN_KEY"]
    ) as client:
        yield client


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_an_image_is_small_and_contains_what_it_needs(images: dict[str, str], name: str) -> None:
    image = images[name]
    size = int(podman("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
    print(f"{image}: {size:.0f} MB")
    print(podman("history", "--format", "{{.Size}}\t{{.CreatedBy}}", image))
    assert size < SIZE_LIMITS_MB[name]

    def run(*command: str) -> str:
        return podman("run", "--rm", "--network=none", image, *command, check=False)

    assert run("id", "-u") == "10001"
    assert run("sh", "-c", "touch /opt/latentry/x || echo refused") == "refused"
    has_torch = name == "IMAGE"
    assert run("python", "-c", "import torch; print(torch.version.cuda)") == ("None" if has_torch else "")
    assert bool(run("sh", "-c", "command -v gcc")) == has_torch
    assert run("sh", "-c", "command -v pip uv") in (
        "/usr/local/bin/pip",
        "/usr/bin/pip",
        "",
    )  # of the base image
    compiled = "from models import compiled; print(compiled.library() is not None)"
    assert not has_torch or run("python", "-c", compiled) == "True"


def test_every_service_is_healthy_and_each_worker_has_its_own_name(compose: Compose, client: Client) -> None:
    wait_until(lambda: len(client.readiness()["workers"]) == 2)
    ready = client.readiness()
    assert ready["ready"] is True
    assert ready["warnings"] == []
    (workers,) = (check for check in client.checks()["checks"] if check["name"] == "workers")
    assert len(workers["details"]["workers"]) == 2


def test_services_reach_the_outside_only_where_they_need_it(compose: Compose) -> None:
    """This machine stands for the internet: it listens at its address in the network `outside`."""
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    with socket.create_server((compose.gateway("outside"), 0)) as server:
        host, port = map(str, server.getsockname())
        reached = {
            name
            for name in compose.services
            if name not in ("migrate", "postgres", "redis")
            and compose.run_in(compose.containers(name)[0], "python", "-c", connect, host, port)[0] == 0
        }
    assert reached >= {"api", "maintenance", "control", "ingest"}
    assert reached.isdisjoint({"worker", "infer"})
    # From the network `outside`, the database and the broker cannot be reached.
    for service, port in (("postgres", "5432"), ("redis", "6379")):
        address = compose.address(compose.containers(service)[0], "backend")
        assert compose.run_in(compose.containers("api")[0], "python", "-c", connect, address, port)[0] == 0
        stranger = ["run", "--rm", f"--network={PREFIX}_outside", IMAGES["SERVICE_IMAGE"], "python", "-c"]
        code = (
            connect.replace("socket.create", "print('started', flush=True); socket.create", 1)
            + "; print('reached')"
        )
        assert podman(*stranger, code.replace("), 5)", "), 2)"), address, port, check=False) == ""


def test_the_process_that_parses_uploads_has_no_sockets_although_its_container_has_a_network(
    compose: Compose,
) -> None:
    code = "import ctypes, socket; from worker.ingest import parse; {}; socket.socket()"
    ingest = compose.containers("ingest")[0]
    assert compose.run_in(ingest, "python", "-c", code.format("pass"))[0] == 0
    denied = compose.run_in(ingest, "python", "-c", code.format("parse._deny_sockets(ctypes.CDLL(None))"))
    assert denied[0] == 1
    assert "PermissionError" in denied[1]


def test_a_job_survives_a_killed_worker_and_its_results_a_new_start(
    compose: Compose, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "spikes.npz"
    write_sample(file, 0)
    dataset = client.upload_dataset(file)
    job = client.create_job(
        {"dataset_id": dataset["id"], "preset": "quick", "space": {"cd_rate": {"low": 0.3, "high": 0.6}}}
    )
    next(event for event in client.events(job["id"]) if event["kind"] == "progress")
    for container in compose.containers("worker"):  # also the one that trains
        compose.run_in(container, "python", "-c", "import os; os.kill(-1, 9)")
    compose.wait_until_healthy("worker")  # `restart` has started them again
    done = client.wait_for_job(job["id"])
    assert done["state"] == "done", done
    model = done["selected_model_id"]
    rates = client.get_model(model).rates[:]
    assert rates.shape == (120, 50, 36)
    assert np.isfinite(rates).all()

    before = client.readiness()
    compose.down()
    assert podman("ps", "--all", "--quiet", "--filter", f"name={PREFIX}") == ""
    compose.up()
    assert client.readiness()["ready"] is before["ready"] is True
    assert client.get_job(job["id"])["state"] == "done"
    assert np.array_equal(client.get_model(model).rates[:], rates)
    assert client.upload_dataset(file)["id"] == dataset["id"]  # its file is still there, too
