"""`latentry.synchronous` is what is made of `latentry.asynchronous`, and both offer the same."""

import importlib.util
import inspect
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from latentry import AsyncClient, Client

CLIENT = Path(__file__).resolve().parents[2] / "client"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    specification = importlib.util.spec_from_file_location("generator", CLIENT / "generate_synchronous.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_synchronous_client_is_generated(generator: ModuleType) -> None:
    found = {path.name: path.read_text() for path in (CLIENT / "latentry/synchronous").glob("*.py")}
    assert found == generator.generated()
    assert len(found) > 8


def test_nothing_asynchronous_is_left() -> None:
    for path in (CLIENT / "latentry/synchronous").glob("*.py"):
        code = path.read_text().split('"""', 2)[2]
        for word in ("async ", "await ", "asyncio", "Async", "__a"):
            for line in code.splitlines():
                assert word not in line.replace("__array__", "").replace("__all__", ""), (
                    f"{path.name}: {line}"
                )


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(AsyncClient) == methods(Client)
    assert inspect.iscoroutinefunction(AsyncClient.get_job)
    assert not inspect.iscoroutinefunction(Client.get_job)


def test_the_wheel_of_the_client_has_both_clients(tmp_path: Path) -> None:
    """It is built from a checkout that has not generated anything yet."""
    project = shutil.copytree(
        CLIENT, tmp_path / "client", ignore=shutil.ignore_patterns("synchronous", "__pycache__")
    )
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, check=True, cwd=project, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("asynchronous", "synchronous"):
        assert {path.name for path in (CLIENT / "latentry" / package).glob("*.py")} == {
            Path(name).name for name in names if Path(name).parent == Path("latentry") / package
        }
