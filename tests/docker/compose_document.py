"""Reads a compose file as Docker Compose does: variables first, then YAML, then merge keys."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"
SECRETS = {
    "POSTGRES_PASSWORD": "postgressecret",
    "REDIS_PASSWORD": "redissecret",
    "LATENTRY_ADMIN_KEY": "operatorsecretoperatorsecret",
}
URLS = {
    "LATENTRY_DATABASE_URL": "postgresql+psycopg://latentry:x@main/latentry",
    "LATENTRY_REDIS_URL": "redis://:x@main:6379/0",
}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MissingVariableError(Exception):
    """A variable without a value was required; the message is the compose file's."""


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}``, which may be nested, and ``$$``."""
    result, position = "", 0
    while (dollar := text.find("$", position)) >= 0:
        result += text[position:dollar]
        if text.startswith("$$", dollar):
            result += "$"
            position = dollar + 2
            continue
        name = _NAME.match(text, dollar + 2)
        assert name is not None, f"not a form that Compose knows: {text[dollar : dollar + 40]!r}"
        assert text[dollar + 1] == "{"
        end = _closing_brace(text, dollar)
        operator, argument = text[name.end() : name.end() + 2], text[name.end() + 2 : end]
        value = variables.get(name.group(), "")
        if not value and operator == ":-":
            value = interpolate(argument, variables)
        elif not value and operator == ":?":
            raise MissingVariableError(argument)
        else:
            assert operator in (":-", ":?") or name.end() == end
        result += value
        position = end + 1
    return result + text[position:]


def _closing_brace(text: str, start: int) -> int:
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if text[position] == "}" and depth == 0:
            return position
    raise AssertionError(f"no end: {text[start : start + 40]!r}")


def read_document(name: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """Read a compose file of ``docker/``."""
    document: dict[str, Any] = yaml.safe_load(interpolate((DOCKER / name).read_text(), variables))
    return document


def services(name: str, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Services of a compose file of ``docker/``, by name."""
    found: dict[str, dict[str, Any]] = read_document(name, variables)["services"]
    return found
