"""The arrows of the layout: api → store; worker → store, models; client → HTTP only; models → nothing of ours."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"api", "worker", "models", "store", "latentry", "benchmarks", "tests"}
ALLOWED = {
    "api": {"api", "store"},
    "worker": {"worker", "store", "models"},
    "models": {"models"},
    "store": {"store"},
    "client/latentry": {"latentry"},
}


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        forbidden = (imported_packages(path) & OURS) - ALLOWED[package]
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


@pytest.mark.parametrize(
    "module", ["worker/tasks.py", "worker/celery_app.py", "worker/scheduler.py", "worker/leases.py"]
)
def test_celery_side_never_imports_torch(module: str) -> None:
    """A fork after threaded torch hangs, so torch lives in the training process alone."""
    seen: set[Path] = set()
    waiting = [ROOT / module]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in modules:
                assert name.split(".")[0] not in ("torch", "models"), f"{path.name} imports {name}"
                found = ROOT / (name.replace(".", "/") + ".py")
                if name.split(".")[0] in ("worker", "store") and found.exists():
                    waiting.append(found)
    assert len(seen) > 3


def test_client_imports_without_service_packages() -> None:
    allowed = {"httpx", "numpy", "typer", "rich", "matplotlib", "latentry"}
    allowed |= {"xarray", "pandas", "yaml"}  # where they are installed, for what they alone can do
    import sys

    for path in (ROOT / "client/latentry").rglob("*.py"):
        assert imported_packages(path) <= allowed | set(sys.stdlib_module_names), path.name
