"""The client is light: what it imports, how fast it begins, what its own distribution needs."""

import ast
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "numpy",
    "httpx",
    "rich",
    "matplotlib",
    "xarray",
    "pandas",
    "typer",
    "zarr",
    "IPython",
    "asyncio",
    "torch",
)


def imported_by(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    "code", ["import latentry", "import latentry; latentry.Client, latentry.LatentryError"]
)
def test_nothing_heavy_is_imported(code: str) -> None:
    found = imported_by(code)
    assert "latentry" in found
    assert not found & set(HEAVY)


def test_a_client_needs_no_numpy_until_arrays_are_read() -> None:
    found = imported_by("from latentry import Client; Client()")
    assert "httpx" in found
    assert not found & {"numpy", "matplotlib", "xarray", "pandas", "zarr", "torch"}


def cpu_seconds(code: str) -> float:
    """Of a process, which a busy machine makes no longer."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_it_begins_at_once() -> None:
    assert min(cpu_seconds("from latentry import Client") for _ in range(3)) < 0.3
    assert min(cpu_seconds("from latentry import Client; Client()") for _ in range(3)) < 0.6


def test_a_name_that_is_not_there() -> None:
    import latentry

    with pytest.raises(AttributeError, match="no attribute 'Clients'"):
        latentry.Clients  # noqa: B018
    assert set(latentry.__all__) <= set(dir(latentry))
    for name in latentry.__all__:
        assert getattr(latentry, name).__name__ == name


def test_its_own_distribution_needs_what_it_imports() -> None:
    project = tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]
    needed = {requirement.split(">")[0] for requirement in project["dependencies"]}
    optional = {
        requirement.split(">")[0]
        for extra in project["optional-dependencies"].values()
        for requirement in extra
    }
    imported = set()
    for path in (ROOT / "client/latentry").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"latentry"}
    outside = {"PyYAML" if name == "yaml" else name for name in outside}
    assert outside <= needed | optional
    assert needed <= outside
    assert (ROOT / "client/latentry/py.typed").exists()
    assert (ROOT / "client" / project["readme"]).exists()
