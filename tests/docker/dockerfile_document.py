"""Reads what the tests need of docker/Dockerfile and .dockerignore: what is copied from the checkout."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.docker.compose_document import DOCKER, REPOSITORY


@dataclass(frozen=True)
class Copy:
    """A COPY from the checkout.

    Attributes
    ----------
    stage
        Name of the stage, empty for the last one.
    sources
        Paths in the checkout. Those of the whole checkout are what .dockerignore lets through.
    target
        Where they go.
    """

    stage: str
    sources: tuple[Path, ...]
    target: str


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile, in order: keyword and rest, with continued lines joined."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def let_through() -> list[str]:
    """Paths of the checkout that .dockerignore does not keep out."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def copies() -> list[Copy]:
    """Every COPY from the checkout."""
    stage, found = "", []
    for keyword, rest in instructions():
        words = shlex.split(rest)
        if keyword == "FROM":
            stage = words[2] if len(words) == 3 else ""
        elif keyword == "COPY" and not rest.startswith("--from"):
            existing = [path for path in let_through() if (REPOSITORY / path).exists()]
            sources = existing if words[:-1] == ["."] else words[:-1]
            found.append(Copy(stage, tuple(map(Path, sources)), words[-1]))
    return found


def default_command() -> list[str]:
    """What the image runs when it is told nothing."""
    command: list[str] = next(json.loads(rest) for keyword, rest in instructions() if keyword == "CMD")
    return command
