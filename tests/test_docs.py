"""Every setting, route and type of error is in the docs."""

import json
import re
from pathlib import Path

import pytest

from api.errors import TYPE_PREFIX, Problem
from store.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    line = next(
        line
        for line in (ROOT / "docs/settings.md").read_text().splitlines()
        if line.startswith(f"| `LATENTRY_{name.upper()}` |")
    )
    assert line.endswith(f"| {Settings.model_fields[name].description} |")


@pytest.mark.parametrize("kind", [Problem, *Problem.__subclasses__()])
def test_every_error_is_documented(kind: type[Problem]) -> None:
    assert f"| `{TYPE_PREFIX}{kind.code}` | {int(kind.status)} |" in (ROOT / "docs/errors.md").read_text()


def test_no_setting_or_error_is_documented_that_is_not_there() -> None:
    settings = re.findall(r"^\| `LATENTRY_(\w+)`", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    assert sorted(name.lower() for name in settings) == sorted(Settings.model_fields)
    errors = re.findall(rf"^\| `{TYPE_PREFIX}([\w-]+)`", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert sorted(errors) == sorted(kind.code for kind in (Problem, *Problem.__subclasses__()))


def test_every_route_is_documented() -> None:
    page = (ROOT / "docs/api.md").read_text()
    paths = json.loads((ROOT / "api/openapi.json").read_text())["paths"]
    assert len(paths) > 15
    for path, methods in paths.items():
        for method in methods:
            assert method == "head" or f"`{method.upper()} {path}`" in page, f"{method.upper()} {path}"
    for method, path in re.findall(r"`([A-Z]+) (/[^`]+)`", page):
        assert method.lower() in paths.get(path, {}), f"{method} {path}"
