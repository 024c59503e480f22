"""The arrows of the layout, between packages and between the folders of a package."""

import ast
import functools
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"api", "worker", "models", "domain", "store", "web", "latentry", "benchmarks", "tests"}
ALLOWED = {
    "api": {"api", "store", "domain"},
    "worker": {"worker", "store", "models", "domain"},
    "models": {"models", "domain"},
    "store": {"store", "domain"},
    "domain": {"domain"},
    "client/latentry": {"latentry"},
    "web": set(),
}


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file, to be read only: several tests share it."""
    return ast.parse(path.read_text())


@functools.cache
def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
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


def test_domain_imports_pydantic_and_numpy_alone() -> None:
    allowed = {"pydantic", "numpy", "domain", *sys.stdlib_module_names}
    for path in (ROOT / "domain").rglob("*.py"):
        assert imported_packages(path) <= allowed, path.name


@functools.cache
def imported_modules(path: Path) -> set[str]:
    """Return every module that a file imports when it runs, also within functions."""
    names: set[str] = set()
    unused = {
        statement
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
    }
    for node in ast.walk(parsed(path)):
        if node in unused:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FOLDERS = sorted({path.parent for package in ALLOWED for path in (ROOT / package).rglob("*.py")})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_no_circles_in_a_folder(folder: Path) -> None:
    """What stands in one folder, files and folders, never imports each other in a circle."""
    arrows: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        if path != folder / "__init__.py":
            arrows.setdefault(_entry(path, folder), set())
    prefix = folder.relative_to(ROOT / "client" if ROOT / "client" in folder.parents else ROOT).parts
    for path in folder.rglob("*.py"):
        if path == folder / "__init__.py":
            continue
        for name in imported_modules(path):
            parts = tuple(name.split("."))
            if parts[: len(prefix)] == prefix and len(parts) > len(prefix):
                target = parts[len(prefix)]
                if target in arrows and target != _entry(path, folder):
                    arrows[_entry(path, folder)].add(target)
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' → '.join(reversed(error.args[1]))}")


def _entry(path: Path, folder: Path) -> str:
    """Return the file's or sub-folder's name in `folder` that holds `path`."""
    return path.relative_to(folder).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "module",
    [
        "worker/tasks.py",
        "worker/celery_app.py",
        "worker/scheduling/scheduler.py",
        "worker/scheduling/leases.py",
    ],
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
        for node in ast.walk(parsed(path)):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in modules:
                assert name.split(".")[0] not in ("torch", "models"), f"{path.name} imports {name}"
                found = ROOT / (name.replace(".", "/") + ".py")
                if name.split(".")[0] in ("worker", "store", "domain") and found.exists():
                    waiting.append(found)
    assert len(seen) > 3


def test_client_imports_without_service_packages() -> None:
    allowed = {"httpx", "numpy", "typer", "rich", "matplotlib", "latentry"}
    allowed |= {"xarray", "pandas", "yaml"}  # where they are installed, for what they alone can do
    for path in (ROOT / "client/latentry").rglob("*.py"):
        assert imported_packages(path) <= allowed | set(sys.stdlib_module_names), path.name
