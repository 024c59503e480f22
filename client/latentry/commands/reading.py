"""Documents that commands take: files of JSON, YAML or TOML, and single values as ``path.to.it=value``."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentry.commands.exits import UsageProblem

Document = dict[str, Any]


def read_document(path: Path) -> Document:
    """Read a file of JSON, YAML or TOML, told by the ending of its name.

    Raises
    ------
    UsageProblem
        If it can't be read as that, or holds something other than named values.
    """
    try:
        text = path.read_text("utf-8")
        document = _parse(path, text)
    except (OSError, ValueError) as error:
        raise UsageProblem(f"{path} can't be read: {error}") from error
    if not isinstance(document, dict):
        raise UsageProblem(f"{path}: expected named values, got {type(document).__name__}")
    return document


def _parse(path: Path, text: str) -> Any:
    if path.suffix in (".yaml", ".yml"):
        return _parse_yaml(text)
    if path.suffix == ".toml":
        return tomllib.loads(text)
    return json.loads(text)


def _parse_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        hint = "`pip install PyYAML`, or write JSON or TOML instead"
        raise UsageProblem("reading YAML needs PyYAML, which is not installed", hint) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def set_values(document: Document, assignments: Sequence[str]) -> Document:
    """The document with values set: each assignment is ``path.to.it=value``, the value JSON or else a text.

    Raises
    ------
    UsageProblem
        If an assignment is none, or its path leads through something that has no parts.
    """
    made: Document = json.loads(json.dumps(document))
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names):
            raise UsageProblem(
                f"expected name=value, got {assignment!r}", "such as trials.align_to=go_cue_time"
            )
        inner = made
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise UsageProblem(f"{assignment!r}: {name} is {inner!r}, which has no parts")
        inner[names[-1]] = _value(text)
    return made


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
