"""Runs docker/compose.yaml with Podman, container by container, from the values of the file.

Podman needs systemd for the condition `service_healthy`, which many machines with containers inside containers lack. So the
services are started here in the order of `depends_on`, and their health checks are run here.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.docker.compose_document import REPOSITORY, read_document
from tests.waiting import wait_until

_BUILD_SECONDS, _START_SECONDS = 1800, 240
_INDEXES = {"index-url", "extra-index-url", "find-links"}
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def podman(*arguments: str, check: bool = True, seconds: float = 120, both: bool = False) -> str:
    """Run podman and return its output, with its errors if `both`; if it failed, an empty text unless `check`."""
    errors = subprocess.STDOUT if both else subprocess.PIPE
    done = subprocess.run(
        ["podman", *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, timeout=seconds
    )
    assert done.returncode == 0 or not check, f"podman {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return done.stdout.strip() if done.returncode == 0 else ""


def skip_without_podman(images: set[str]) -> None:
    """Skip, and say why, if this machine cannot run the compose file."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed (Debian: apt install podman netavark aardvark-dns)")
    if os.geteuid() != 0:
        pytest.skip("needs root: networks that are internal and have names, memory limits")
    for image in sorted(images):
        if not podman("image", "ls", "--quiet", image) and not podman(
            "pull", image, check=False, seconds=600
        ):
            pytest.skip(
                f"the image {image} is not on this machine, and no registry gives it: load it, or make a stand-in"
            )


def build(folder: Path, image: str, *options: str) -> None:
    """Build an image of the Dockerfile, with the package indexes that this machine's pip is configured with.

    They are mounted while it is built; nothing of them stays in the image.
    """
    command = [
        "build",
        "--layers",
        "--isolation",
        "chroot",
        "--network",
        "host",
        "-f",
        "docker/Dockerfile",
        "-t",
        image,
    ]
    configured = pip_options()
    backend = "" if configured.keys() & _INDEXES else "cpu"  # pip's indexes then say where torch comes from
    command += [f"--volume={mount}" for mount in _mounts(folder, configured)]
    command += [
        f"--build-arg=TORCH_BACKEND={backend}",
        f"--build-arg=TORCH=torch=={version('torch').partition('+')[0]}",
    ]
    done = subprocess.run(
        ["podman", *command, *options, str(REPOSITORY)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def pip_options() -> dict[str, list[str]]:
    """Return the options of pip's configuration files and variables, with the values of each."""
    lines = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, list[str]] = {}
    for name, values in re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", lines, re.MULTILINE):
        found[name] = [*dict.fromkeys([*found.get(name, []), *values.replace("\\n", " ").split()])]
    return found


def _mounts(folder: Path, configured: dict[str, list[str]]) -> list[str]:
    """Write a pip.conf and a uv.toml, and return them, the certificates and the folders that they name as volumes."""
    indexes = {name: configured[name] for name in sorted(configured.keys() & _INDEXES)}
    pip = "[global]\n" + "".join(f"{name} = {' '.join(values)}\n" for name, values in indexes.items())
    uv = 'system-certs = true\n[pip]\nindex-strategy = "unsafe-best-match"\n'
    for name, values in indexes.items():
        uv += f"{name} = {json.dumps(values[0] if name == 'index-url' else values)}\n"
    (folder / "pip.conf").write_text(pip)
    (folder / "uv.toml").write_text(uv)
    mounts = [f"{folder}/pip.conf:/etc/pip.conf:ro", f"{folder}/uv.toml:/etc/uv/uv.toml:ro"]
    certificates = configured.get("cert", [_CERTIFICATES])[0]
    if Path(certificates).is_file():
        mounts.append(f"{certificates}:{_CERTIFICATES}:ro")
    # The pages of an index in a folder link to files beside it.
    folders = {
        str(Path(value.removeprefix("file://")).parent) if value.startswith("file://") else value
        for values in indexes.values()
        for value in values
    }
    return mounts + [
        f"{one}:{one}:ro" for one in sorted(folders) if one.startswith("/") and Path(one).is_dir()
    ]


@dataclass
class Compose:
    """The project of the compose file: its networks, volumes and containers, all with a prefix.

    Attributes
    ----------
    prefix
        Begins every name.
    variables
        What `.env` would contain.
    """

    prefix: str
    variables: dict[str, str]
    document: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.document = read_document("compose.yaml", self.variables)
        self.services: dict[str, dict[str, Any]] = {
            name: service for name, service in self.document["services"].items() if "profiles" not in service
        }

    def up(self) -> None:
        """Create what does not exist, and start every service when what it depends on is healthy or complete."""
        for name, network in self.document["networks"].items():
            podman(
                "network", "create", *(["--internal"] if network.get("internal") else []), self._named(name)
            )
        for name in self.in_order():
            for dependency, waited in self.services[name].get("depends_on", {}).items():
                if waited["condition"] == "service_completed_successfully":
                    code = podman("wait", self.containers(dependency)[0], seconds=_START_SECONDS)
                    assert code == "0", podman("logs", self.containers(dependency)[0], both=True)
                else:
                    self.wait_until_healthy(dependency)
            for container in self.containers(name):
                self._start(container, self.services[name])
        for name, service in self.services.items():
            if "healthcheck" in service:
                self.wait_until_healthy(name)

    def down(self) -> None:
        """Stop and remove the containers, in the opposite order, and the networks; volumes stay."""
        for name in reversed(self.in_order()):
            grace = self.services[name].get("stop_grace_period", "10s")
            seconds = int(grace[:-1]) * (60 if grace.endswith("m") else 1)
            for container in self.containers(name):
                podman("stop", "--time", str(seconds), container, check=False, seconds=seconds + 60)
                podman("rm", "--force", container, check=False)
        for name in self.document["networks"]:
            podman("network", "rm", "--force", self._named(name), check=False)

    def remove(self) -> None:
        """Remove everything, volumes too."""
        self.down()
        for name in self.document["volumes"]:
            podman("volume", "rm", "--force", self._named(name), check=False)

    def in_order(self) -> list[str]:
        """Return the services, each one after those that it depends on."""
        order: list[str] = []
        while len(order) < len(self.services):
            order.append(
                next(
                    name
                    for name, service in self.services.items()
                    if name not in order and set(service.get("depends_on", {})) <= set(order)
                )
            )
        return order

    def containers(self, service: str) -> list[str]:
        """Return the names of the containers of a service, one for each replica."""
        number = int(self.services[service].get("deploy", {}).get("replicas", 1))
        return [f"{self._named(service)}_{one}" for one in range(1, number + 1)]

    def run_in(self, container: str, *command: str) -> tuple[int, str]:
        """Run a command in a container, and return its status and what it wrote."""
        done = subprocess.run(
            ["podman", "exec", container, *command], capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout + done.stderr

    def wait_until_healthy(self, service: str) -> None:
        """Wait until the health check of the file succeeds in every container of a service."""
        kind, *command = self.services[service]["healthcheck"]["test"]
        if kind == "CMD-SHELL":
            command = ["/bin/sh", "-c", command[0].replace("$$", "$")]
        for container in self.containers(service):
            wait_until(partial(self._responds, container, command), _START_SECONDS)

    def _responds(self, container: str, command: list[str]) -> bool:
        return self.run_in(container, *command)[0] == 0

    def address(self, container: str, network: str) -> str:
        """Return the address of a container in a network."""
        networks = json.loads(podman("inspect", "--format", "{{json .NetworkSettings.Networks}}", container))
        return str(networks[self._named(network)]["IPAddress"])

    def gateway(self, network: str) -> str:
        """Return the address of this machine in a network."""
        (found,) = json.loads(podman("network", "inspect", self._named(network)))
        return str(found["subnets"][0]["gateway"])

    def _named(self, name: str) -> str:
        return f"{self.prefix}_{name}"

    def _start(self, container: str, service: dict[str, Any]) -> None:
        name = container.removeprefix(f"{self.prefix}_").rpartition("_")[0]
        networks = ",".join(map(self._named, service["networks"]))
        options = ["--detach", "--name", container, f"--network={networks}", f"--network-alias={name}"]
        from_file = self.variables if "env_file" in service else {}
        environment = from_file | service.get("environment", {})
        options += [f"--env={key}={value}" for key, value in environment.items()]
        options += [f"--volume={self._named(volume)}" for volume in service.get("volumes", [])]
        options += [f"--publish={port}" for port in service.get("ports", [])]
        options += [f"--cap-drop={one}" for one in service.get("cap_drop", [])]
        options += [f"--security-opt={one.replace(':true', '')}" for one in service.get("security_opt", [])]
        options += [f"--restart={service['restart']}"] + ["--init"] * service.get("init", False)
        options += [f"--shm-size={service['shm_size']}"] if "shm_size" in service else []
        for kind, limit in service["deploy"]["resources"]["limits"].items():
            options.append(f"--{kind}={limit}")
        podman("run", *options, service["image"], *map(str, service.get("command", [])))
