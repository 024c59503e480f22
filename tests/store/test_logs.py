"""The format of the logs, and what they never contain."""

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from structlog.contextvars import bind_contextvars, clear_contextvars

from store.logs import configure, identified
from store.settings import Settings

ADMIN_KEY = 'a long "word" that is a key'
PASSWORD = "pass-of-database"
SECRETS = [
    "lat_" + 43 * "x",
    "ltshare_" + 43 * "y",
    "whsec_" + 42 * "z" + "+/=",
    "dXNlcjpsYXRfMTIzNDU2",
    PASSWORD,
    "broker-pass",
    "5ignature",
]
PROGRAM = """
import logging, sys, threading, warnings
from structlog.contextvars import bind_contextvars
from store.logs import configure
configure("program")
logger = logging.getLogger("a.library")
{lines}
"""


def logged_by_process(lines: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(lines=lines)], capture_output=True, text=True, check=False
    )
    assert not done.stdout
    return done.stderr


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that returns what code logs in this process, with some settings."""
    root = logging.getLogger()
    for place, name in ((root, "handlers"), (sys, "excepthook"), (threading, "excepthook")):
        monkeypatch.setattr(place, name, getattr(place, name))
    monkeypatch.setattr(logging, "raiseExceptions", True)
    level = root.level

    def log(code: Callable[[logging.Logger], None], **settings: Any) -> str:
        monkeypatch.setattr(sys, "stderr", written := io.StringIO())
        configure("program", Settings(admin_key=SecretStr(ADMIN_KEY), **settings))
        code(logging.getLogger("a.library"))
        return written.getvalue()

    yield log
    root.setLevel(level)
    logging.captureWarnings(False)
    clear_contextvars()


def documents(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_is_one_document_with_the_fields_of_its_context() -> None:
    first, second, third, *crashes = documents(
        logged_by_process(
            "bind_contextvars(job='job_1')\n"
            "logger.info('%d slices', 2, extra={'seconds': 0.5, 'key': None, 'ids': ['a']})\n"
            "logger.debug('not this one')\n"
            "warnings.warn('old')\n"
            "logger.error('two\\nlines \\x1b[31m \\udc80' + 20_000 * 'x')\n"
            "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
            "1 / 0"
        )
    )
    assert list(first)[:3] == ["time", "level", "event"]
    assert first["time"].endswith("Z")
    del first["time"], first["pid"]
    assert first == {
        "level": "info",
        "event": "2 slices",
        "process": "program",
        "job": "job_1",
        "seconds": 0.5,
        "ids": "['a']",
        "logger": "a.library",
    }
    assert (second["level"], second["logger"]) == ("warning", "py.warnings")
    assert third["event"].startswith(r"two | lines \x1b[31m")
    assert 7_000 < len(third["event"]) < 9_000
    for crash in crashes:
        assert (crash["level"], crash["event"]) == ("critical", "an error was not handled")
        assert crash["exception"].endswith("ZeroDivisionError: division by zero")
    assert len(crashes) == 2


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_logged(logged: Callable[..., str], log_format: str) -> None:
    lat, share, webhook, basic, password, broker, signature = SECRETS
    texts = [
        ADMIN_KEY,
        f"GET /v1/jobs?key={lat}&x=1",
        f"{{'authorization': 'Bearer {lat}'}} [(b'authorization', b'Basic {basic}')]",
        f"Authorization: Basic {basic}",
        f"https://lab.example/#{share} {webhook}",
        f"postgresql+psycopg://latentry:{password}@postgres/latentry redis://:{broker}@redis:6379/0",
        f"https://bucket/object?X-Amz-Signature={signature}",
    ]

    def code(logger: logging.Logger) -> None:
        bind_contextvars(bound=texts)
        for text in texts:
            logger.warning(text, extra={"other": text})
            logger.error("%s", {"a": [text]})
            try:
                raise ValueError(text)
            except ValueError:
                logger.exception("failed")

    text = logged(
        code,
        log_format=log_format,
        database_url=f"postgresql+psycopg://latentry:{password}@postgres/latentry",
        redis_url=f"redis://:{broker}@redis:6379/0",
    )
    assert text.count("[hidden]") > 100
    for secret in [*SECRETS, ADMIN_KEY, json.dumps(ADMIN_KEY)[1:-1]]:
        assert secret not in text
    assert "postgres/latentry" in text  # what is no secret stays
    if log_format == "json":
        assert len(documents(text)) == 3 * len(texts)


def test_settings_that_are_refused_show_no_secret() -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(admin_key=SecretStr("too short"), database_url=f"postgresql://x:{PASSWORD}@y/z")
    assert "too short" not in str(raised.value)
    assert PASSWORD not in str(raised.value)


def test_a_flood_of_lines_is_cut_and_leaves_others_alone(
    logged: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def code(logger: logging.Logger) -> None:
        monkeypatch.setattr("store.logs.monotonic", lambda: 60.0)
        bind_contextvars(tenant="loud")
        for _ in range(50):
            logger.info("flood")
        bind_contextvars(tenant="quiet")
        logger.info("heard")
        logging.getLogger("another").info("heard")
        monkeypatch.setattr("store.logs.monotonic", lambda: 120.0)
        logger.info("later")

    *before, last = documents(logged(code, log_lines_per_minute=10, log_format="json"))
    assert [one["event"] for one in before] == 10 * ["flood"] + 2 * ["heard"]
    assert (last["event"], last["not_logged"]) == ("later", 40)


def test_level_and_format_are_settings(logged: Callable[..., str]) -> None:
    def code(logger: logging.Logger) -> None:
        logger.debug("seen")
        logger.info("seen")

    text = logged(code, log_format="console", log_level="debug")
    assert [line.split()[1:4] for line in text.splitlines()] == [
        ["[debug", "]", "seen"],
        ["[info", "]", "seen"],
    ]
    assert len(documents(logged(code))) == 1  # no terminal


def test_ids_become_fields() -> None:
    job, model = f"job_{24 * '0'}", f"mod_{24 * '1'}"
    assert identified(f"/v1/jobs/{job}:stop", f"/v1/models/{model}") == {"job": job, "model": model}
