"""The logs: one format for all processes. Each process calls `configure` once, when it starts.

Code logs with the standard library: ``logger.info("the slice ended", extra={"seconds": 2.5})``. A line gets the fields of `extra`
and those of the context, to which ``structlog.contextvars.bind_contextvars(job=…)`` adds. docs/operating.md lists the fields.
"""

import json
import logging
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import MutableMapping
from time import monotonic
from types import TracebackType
from typing import Any

import structlog
from sqlalchemy import make_url
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.processors import JSONRenderer, TimeStamper, format_exc_info
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name

from store.identifiers import ANYWHERE
from store.settings import Settings, get_settings

_KINDS = {"job": "job", "mod": "model", "sli": "slice", "dat": "dataset", "inf": "inference", "upl": "upload"}
_KINDS |= {"key": "subject_key", "shr": "share", "whk": "webhook", "dlv": "delivery"}
_FIRST = ("time", "level", "event")
_MOST_CHARACTERS = 8_000
"""Length of a value. Of a longer one the end is kept too, since a traceback ends with its error."""
_SHORTEST_LITERAL = 8
_HIDDEN = "[hidden]"
_SECRETS = (
    re.compile(r"(\b(?:lat_|ltshare_|whsec_))[\w+/=-]{12,}"),
    re.compile(r"(?i)(\b(?:bearer|basic) +)[\w+/=.~-]{12,}"),
    re.compile(r"""(?i)(\bauthorization\\?["']?\s*[:=,]\s*b?\\?["']?)[^\s"'\\,]{4,}(?: [^\s"'\\,]{8,})?"""),
    re.compile(r"""(://[^\s:/@"'\\]*:)[^\s/@"'\\]+(?=@)"""),
    re.compile(r"""(?i)([?&](?:key|token|secret|password|signature|x-amz-[a-z-]+)=)[^\s&"'\\]+"""),
)
"""What must not be logged, after a part that may be: keys, headers, passwords of URLs, and parameters of signed URLs."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def configure(process: str, settings: Settings | None = None) -> None:
    """Let this process log to its standard error, in the format of the settings.

    Parameters
    ----------
    process
        Name of this process in each line.
    """
    settings = settings or get_settings()
    is_terminal = sys.stderr.isatty()
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not is_terminal)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(process, settings, as_json=as_json, colors=is_terminal))
    handler.addFilter(_LineLimit(settings.log_lines_per_minute))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    # Celery logs two lines for each message, which is only a hint; Alembic two for each look at the schema.
    for name in ("celery.worker.strategy", "celery.app.trace", "alembic.runtime.migration"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    logging.raiseExceptions = not as_json  # a line that cannot be written would go to standard error as it is
    sys.excepthook = _log_crash
    threading.excepthook = lambda crash: _log_crash(
        crash.exc_type, crash.exc_value or crash.exc_type(), crash.exc_traceback
    )


def identified(*texts: str) -> dict[str, str]:
    """Return the ids in texts as fields of a line: ``{"job": "job_…"}``."""
    found = (one for text in texts for one in ANYWHERE.findall(text))
    return {_KINDS[one.partition("_")[0]]: one for one in found}


def _formatter(process: str, settings: Settings, *, as_json: bool, colors: bool) -> ProcessorFormatter:
    literals = _literal_secrets(settings)

    def add_process(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        fields = {**dict.fromkeys(_FIRST), "process": process, "pid": os.getpid(), **fields}
        return {
            name: value for name, value in fields.items() if value is not None and name != "color_message"
        }

    def hide_secrets(_logger: Any, _name: str, text: Any) -> str:
        line = str(text)
        for pattern in _SECRETS:
            line = pattern.sub(rf"\1{_HIDDEN}", line)
        for literal in literals:
            line = line.replace(literal, _HIDDEN)
        return line

    renderer = (
        JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
        )
    )
    added: list[Any] = [
        merge_contextvars,
        ExtraAdder(),
        add_log_level,
        add_logger_name,
        TimeStamper("iso", key="time"),
    ]
    last: list[Any] = [ProcessorFormatter.remove_processors_meta, format_exc_info, _shorten, add_process]
    return ProcessorFormatter(foreign_pre_chain=added, processors=[*last, renderer, hide_secrets])


def _shorten(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make each value one short scalar, without the control characters that a terminal would obey."""
    for name, value in fields.items():
        if value is None or isinstance(value, bool | int | float):
            continue
        text = str(value) if name == "exception" else " | ".join(str(value).splitlines())
        if len(text) > _MOST_CHARACTERS:
            text = f"{text[: _MOST_CHARACTERS // 4]} […] {text[-_MOST_CHARACTERS * 3 // 4 :]}"
        fields[name] = _CONTROL.sub(lambda found: rf"\x{ord(found[0]):02x}", text)
    return fields


def _literal_secrets(settings: Settings) -> list[str]:
    """Return the secrets of the settings, as they stand in a line. Short ones could be ordinary words."""
    given = [settings.admin_key.get_secret_value()]
    given += [str(make_url(url).password or "") for url in (settings.database_url, settings.redis_url)]
    given += [os.environ.get(name, "") for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
    secrets = {one for one in given if len(one) >= _SHORTEST_LITERAL}
    return sorted(secrets | {json.dumps(one)[1:-1] for one in secrets}, key=len, reverse=True)


class _LineLimit(logging.Filter):
    """Drops lines above a number in a minute, for each logger and tenant, so that no client fills the disk or hides others.

    The first line of the next minute tells how many were dropped.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most, self._minute = most, 0
        self._lines = Counter[tuple[str, Any]]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is logged."""
        if (minute := int(monotonic() // 60)) != self._minute:
            dropped = sum(max(0, number - self._most) for number in self._lines.values())
            self._minute, self._lines = minute, Counter()
            if dropped:
                record.not_logged = dropped
        source = record.name, get_contextvars().get("tenant")
        self._lines[source] += 1
        return self._lines[source] <= self._most


def _log_crash(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger(__name__).critical("an error was not handled", exc_info=(kind, error, traceback))
