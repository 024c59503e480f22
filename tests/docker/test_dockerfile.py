"""The Dockerfile: linted, and in step with the checkout and pyproject.toml."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docker.compose_document import DOCKER, REPOSITORY, SECRETS, services
from tests.docker.dockerfile_document import copies, instructions, let_through


def hadolint() -> str:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert found is not None, "hadolint is not installed: pip install -e '.[test]'"
    return found


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([hadolint(), "--no-color", DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text((DOCKER / "Dockerfile").read_text() + "RUN cd /tmp && sudo true\n")
    assert subprocess.run([hadolint(), bad], capture_output=True).returncode == 1


def test_the_images_are_built_of_the_wheel_and_a_few_files_alone() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    described = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    built_by = {"client/generate_synchronous.py", "client/hatch_build.py"}
    of_images = {"docker/health.py", "docker/install_packages.sh"}
    assert set(let_through()) == {*packages, "web"} | described | built_by | of_images


def test_every_copied_path_exists_and_is_let_through() -> None:
    copied = {str(source) for copy in copies() for source in copy.sources}
    assert all((REPOSITORY / path).exists() for path in copied)
    assert copied <= set(let_through())


def test_source_is_copied_after_the_packages_are_installed() -> None:
    before_packages = {
        str(path) for copy in copies() if copy.stage in ("requirements", "packages") for path in copy.sources
    }
    assert before_packages == {"pyproject.toml"}


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage, with those of the stages that it begins from; the last one has no name."""
    found: dict[str, list[tuple[str, str]]] = {}
    stage = ""
    for keyword, rest in instructions():
        if keyword == "FROM":
            base, _, stage = rest.partition(" AS ")
            found[stage] = list(found.get(base, []))
        elif keyword != "ARG" or found:
            found[stage].append((keyword, rest))
    return found


@pytest.mark.parametrize(("stage", "packages"), [("service", []), ("", ["gcc", "libc6-dev"])])
def test_both_images_are_not_root_and_one_has_a_compiler_alone(stage: str, packages: list[str]) -> None:
    found = stages()[stage]
    (user,) = [rest for keyword, rest in found if keyword == "USER"]
    assert int(user.split(":")[0]) > 0
    installs = [rest for _, rest in found if "apt-get" in rest]
    listed = [
        word for rest in installs for word in rest.split("--no-install-recommends")[1].split("&&")[0].split()
    ]
    assert listed == packages  # for models/compiled
    has_torch = any("torch.txt" in rest for keyword, rest in found if keyword == "RUN")
    assert has_torch == bool(packages)


def test_torch_is_the_build_without_cuda_unless_another_is_wanted() -> None:
    assert ("ARG", 'TORCH_BACKEND="cpu"') in stages()[""]
    built = {
        name: service["build"]["args"]
        for name, service in services("compose.yaml", SECRETS).items()
        if "build" in service
    }
    assert {name: args["TORCH_BACKEND"] or "" for name, args in built.items()} == {
        name: "" if name == "worker-gpu" else "cpu" for name in built
    }


def test_the_base_image_has_a_tag_and_the_files_name_no_registry() -> None:
    bases = [rest.split()[0] for keyword, rest in instructions() if keyword == "FROM"]
    assert set(bases) <= {"${PYTHON_IMAGE}", *stages()}
    default = next(
        rest for keyword, rest in instructions() if keyword == "ARG" and rest.startswith("PYTHON_IMAGE=")
    )
    images = [default.removeprefix("PYTHON_IMAGE=")]
    images += [service["image"] for service in services("compose.yaml", SECRETS).values()]
    for image in images:
        name, _, tag = image.partition(":")
        assert tag not in ("", "latest"), f"{image} has no tag of its own"
        assert "." not in name, f"{image} names a registry"
