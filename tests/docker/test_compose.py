"""The compose files: valid by the specification, and in step with the settings and the embedded service."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml

from store.settings import Settings
from tests.docker.compose_document import (
    DOCKER,
    REPOSITORY,
    SECRETS,
    URLS,
    MissingVariableError,
    interpolate,
    read_document,
    services,
)
from tests.docker.dockerfile_document import instructions
from worker import embedded
from worker.child_processes import TORCH_ENVIRONMENT
from worker.embedded import EmbeddedService
from worker.training_workers import training_workers

FILES = [("compose.yaml", SECRETS), ("compose.workers.yaml", URLS)]
MAIN = services("compose.yaml", SECRETS)
WORKERS = services("compose.workers.yaml", URLS)
LONG_RUNNING = [
    pytest.param(service, id=f"{file}-{name}")
    for file, found in (("main", MAIN), ("workers", WORKERS))
    for name, service in found.items()
    if name != "migrate"
]
OTHERS = ("postgres", "redis", "prometheus", "grafana")
OF_THE_IMAGE = [name for name in MAIN if name not in OTHERS]


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        ("a ${X} $$(b)", {"X": "1"}, "a 1 $(b)"),
        ("${X:-d}", {}, "d"),
        ("${X:-d}", {"X": ""}, "d"),
        ("${X:-d}", {"X": "1"}, "1"),
        ("${X:-${Y:?no Y}-z}", {"Y": "2"}, "2-z"),
        ("${X:?no X}", {"X": "1"}, "1"),
    ],
)
def test_variables_are_replaced_as_compose_does(
    text: str, variables: Mapping[str, str], expected: str
) -> None:
    assert interpolate(text, variables) == expected


def validated(document: dict[str, Any]) -> compose_spec.PyCompose:
    """Parse by the specification, which takes no merge keys below the top: they are resolved by now."""
    compose = compose_spec.PyCompose.from_yaml(yaml.safe_dump(document))
    compose.validate()
    return compose


@pytest.mark.parametrize(("file", "variables"), FILES)
def test_valid_by_the_specification(file: str, variables: Mapping[str, str]) -> None:
    compose = validated(read_document(file, variables))
    assert set(compose.service_names()) == set(services(file, variables))


@pytest.mark.parametrize("mistake", ["healthchek: {test: [CMD, x]}", "networks: [nowhere]"])
def test_the_specification_finds_mistakes(mistake: str) -> None:
    document = read_document("compose.yaml", SECRETS)
    document["services"]["redis"] |= yaml.safe_load(mistake)
    with pytest.raises(ValueError, match=r"healthchek|nowhere"):
        validated(document)


@pytest.mark.parametrize(("file", "variables"), FILES)
def test_volumes_and_dependencies_are_defined(file: str, variables: Mapping[str, str]) -> None:
    document = read_document(file, variables)
    for service in document["services"].values():
        sources = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {one for one in sources if not one.startswith("./")} <= set(document.get("volumes", {}))
        for name, dependency in service.get("depends_on", {}).items():
            if dependency["condition"] == "service_healthy":
                assert "healthcheck" in document["services"][name]


@pytest.mark.parametrize("missing", sorted(SECRETS))
@pytest.mark.parametrize("empty", [{}, {"LATENTRY_DATABASE_URL": "x", "LATENTRY_REDIS_URL": "y"}])
def test_refuses_to_start_without_a_password(missing: str, empty: dict[str, str]) -> None:
    variables = {name: value for name, value in SECRETS.items() if name != missing} | empty
    with pytest.raises(MissingVariableError, match=f"set {missing} in docker/.env"):
        read_document("compose.yaml", variables)


@pytest.mark.parametrize("missing", sorted(URLS))
def test_a_further_machine_refuses_to_start_without_an_address(missing: str) -> None:
    with pytest.raises(MissingVariableError, match=f"set {missing} in docker/.env"):
        read_document(
            "compose.workers.yaml", {name: value for name, value in URLS.items() if name != missing}
        )


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_every_long_running_service(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])
    assert {"max-size", "max-file"} == set(service["logging"]["options"])
    assert "memory" in service["deploy"]["resources"]["limits"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("service", LONG_RUNNING)
def test_every_worker_has_the_health_check_that_finds_its_random_name(service: dict[str, Any]) -> None:
    command = service.get("command", [])
    if "-Q" in command:
        queue = command[command.index("-Q") + 1]
        assert service["healthcheck"]["test"] == ["CMD", "python", "/opt/latentry/health.py", queue]


@pytest.mark.parametrize("name", OF_THE_IMAGE)
def test_every_service_of_the_image(name: str) -> None:
    service = MAIN[name]
    assert service["init"] is True  # Celery's and uvicorn's SIGTERM handlers need a PID 1 that forwards
    assert service["cap_drop"] == ["ALL"]
    if name != "migrate":
        assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert service["depends_on"]["redis"] == {"condition": "service_healthy"}
    # Those that import torch have it; `control` needs it for searches by Gaussian processes.
    without_torch = name not in ("worker", "worker-gpu", "control", "infer")
    assert service["image"] == (
        "latentry-service:local" if without_torch else f"latentry{'-gpu' * (name == 'worker-gpu')}:local"
    )
    build = service["build"]
    assert build.get("target") == ("service" if without_torch else None)
    assert (DOCKER / build["context"]).resolve() == REPOSITORY
    assert (REPOSITORY / build["dockerfile"]).is_file()


def test_migrates_once() -> None:
    assert MAIN["migrate"]["restart"] == "no"
    assert MAIN["migrate"]["command"] == ["python", "-m", "store.migrate"]
    assert MAIN["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_only_the_api_and_grafana_have_a_port_and_only_on_this_machine() -> None:
    assert {name for name, service in MAIN.items() if "ports" in service} == {"api", "grafana"}
    assert MAIN["grafana"]["ports"] == ["127.0.0.1:3000:3000"]
    assert MAIN["api"]["ports"] == ["127.0.0.1:8000:8000"]
    assert not any("ports" in service for service in WORKERS.values())


def test_those_that_need_it_reach_the_outside_and_nothing_reaches_the_database_from_there() -> None:
    networks = read_document("compose.yaml", SECRETS)["networks"]
    open_ones = {name for name, network in networks.items() if not network.get("internal")}
    assert open_ones == {"frontend", "outside"}
    on = {name: set(service["networks"]) for name, service in MAIN.items()}
    assert on.pop("grafana") == {"frontend", "monitoring"}
    assert on.pop("prometheus") == {"backend", "monitoring"}
    assert all("backend" in found for found in on.values())
    # Webhooks are sent by `maintenance`; files in a bucket are read, written and deleted where the uploads are.
    need = {"maintenance"} | {name for name, service in MAIN.items() if mounts(service, "uploads")}
    assert {name for name, found in on.items() if found & open_ones} == need
    assert {name for name, found in on.items() if "frontend" in found} == {"api"}


def mounts(service: dict[str, Any], volume: str) -> bool:
    return any(one.startswith(f"{volume}:") for one in service.get("volumes", []))


def test_caches_have_volumes_and_workers_load_no_code_that_others_wrote() -> None:
    environment = dict(
        re.findall(r"([A-Z_]+)=(\S+)", " ".join(rest for keyword, rest in instructions() if keyword == "ENV"))
    )
    assert environment["MPLCONFIGDIR"].startswith(environment["XDG_CACHE_HOME"])
    place = environment["XDG_CACHE_HOME"]
    for volume, users in (("analyses", {"api"}), ("kernels", {"worker", "worker-gpu", "infer"})):
        assert {name for name, service in MAIN.items() if mounts(service, volume)} == users
        for name in users:
            assert f"{volume}:{place}" in MAIN[name]["volumes"]


def test_uploads_are_shared_by_those_that_need_them_alone() -> None:
    with_uploads = {name for name, service in MAIN.items() if mounts(service, "uploads")}
    assert with_uploads == {"api", "control", "ingest"}
    for name in with_uploads:
        folder = Settings(data_dir=Path(MAIN[name]["environment"]["LATENTRY_DATA_DIR"])).uploads_dir
        assert f"uploads:{folder}" in MAIN[name]["volumes"]


def test_the_ingest_has_more_memory_than_the_parser_may_take() -> None:
    limit = MAIN["ingest"]["deploy"]["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("g")) * 2**30 > Settings().parse_memory_bytes + 2**30


def test_a_further_machine_runs_the_same_workers() -> None:
    differing = {"depends_on", "networks", "environment"}
    for name, service in WORKERS.items():
        main = {key: value for key, value in MAIN[name].items() if key not in differing}
        assert {key: value for key, value in service.items() if key not in differing} == main
        assert set(MAIN[name]["environment"]) - set(service["environment"]) == {"LATENTRY_DATA_DIR"}


def test_commands_are_those_of_the_embedded_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`latentry up` and compose start the same processes; only names and addresses differ."""
    started: dict[str, list[str]] = {}
    monkeypatch.setenv("LATENTRY_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(
        EmbeddedService, "_spawn", lambda self, name, command, *_: started.update({name: command})
    )
    monkeypatch.setattr(embedded, "_wait_for", lambda *_: None)
    service = EmbeddedService(tmp_path, port=0, workers=1)
    service.start()
    service.stop()
    assert set(started) == {"api", "maintenance", "control", "ingest", "worker-0", "infer"}
    assert MAIN["infer"]["environment"].items() >= TORCH_ENVIRONMENT.items()
    for name, command in started.items():
        ours = "worker" if name == "worker-0" else name
        assert same_process(MAIN[ours]["command"]) == same_process(["python", *command[1:]])
        assert command[0] == sys.executable


def test_the_worker_of_gpus_starts_the_same_command_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAIN["worker-gpu"]["command"] == ["python", "-m", "latentry.main", "worker"]
    assert MAIN["worker-gpu"]["environment"]["LATENTRY_DEVICE"] == "cuda"
    monkeypatch.setattr("worker.training_workers._gpus", lambda: 2)
    for one in training_workers("cuda", None):
        assert same_process(MAIN["worker"]["command"]) == same_process(["python", *one.command[1:]])


def same_process(command: list[str]) -> list[str]:
    addresses = ("--host", "--port", "-n")
    return [
        word
        for number, word in enumerate(command)
        if word not in addresses and command[number - 1] not in addresses
    ]


def test_every_setting_named_exists() -> None:
    known = {f"LATENTRY_{name.upper()}" for name in Settings.model_fields}
    known |= {"LATENTRY_URL", "LATENTRY_KEY"}  # of the client
    files = [DOCKER / name for name in ("Dockerfile", "compose.yaml", "compose.workers.yaml", "env.example")]
    for file in [*files, REPOSITORY / "docs" / "deployment.md"]:
        named = set(re.findall(r"LATENTRY_[A-Z_]*[A-Z]", file.read_text()))
        assert named, file
        assert named <= known, f"{file.name}: {sorted(named - known)}"


def test_the_example_of_an_environment_has_no_password_and_nothing_unused() -> None:
    text = (DOCKER / "env.example").read_text()
    written = dict(re.findall(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert written == dict.fromkeys(SECRETS, "")
    used = set(re.findall(r"\$\{([A-Z_]+)", "".join((DOCKER / file).read_text() for file, _ in FILES)))
    of_compose_itself = {"COMPOSE_PROFILES", "COMPOSE_FILE"}
    offered = set(re.findall(r"^#([A-Z_]+)=", text, re.MULTILINE))
    assert {name for name in offered if not name.startswith("LATENTRY_")} <= used | of_compose_itself


def test_every_variable_of_the_compose_files_is_documented() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", "".join((DOCKER / file).read_text() for file, _ in FILES)))
    documented = set(re.findall(r"`([A-Z_]+)`", (REPOSITORY / "docs" / "deployment.md").read_text()))
    assert used <= documented, sorted(used - documented)
