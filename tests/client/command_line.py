"""Runs the command line in this process, as a shell would."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from latentry.main import app
from typer import testing

testing._get_command = cache(testing._get_command)  # the tree of commands is the same for all tests


@dataclass(frozen=True)
class Ran:
    """What a command said, and how it ended."""

    code: int
    out: str
    messages: str

    def json(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)

    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class CommandLine:
    """``latentry`` against one service."""

    url: str
    key: str = ""

    def __call__(self, *arguments: str | Path, expect: int = 0) -> Ran:
        environment = {"LATENTRY_URL": self.url, "LATENTRY_KEY": self.key or None}
        done = testing.CliRunner().invoke(app, [str(one) for one in arguments], env=environment)
        ran = Ran(done.exit_code, done.stdout, done.stderr)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert ran.code == expect, (ran.out, ran.messages)
        return ran
