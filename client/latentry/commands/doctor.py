"""``latentry doctor``: find what is wrong with this installation, the connection and the service, and say what to do."""

import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import typer

from latentry.commands.calling import Call, Document, ExitCode, command
from latentry.installation import own_version

if TYPE_CHECKING:
    import httpx
    from rich.console import Console

Status = Literal["ok", "warning", "failed"]

_ANSWER_SECONDS = 5.0
_CHECKS_SECONDS = 30.0
_SLOW_SECONDS = 1.0
_MOST_SKEW_SECONDS = 10.0
_LOCAL = ("127.0.0.1", "localhost", "::1", "0.0.0.0")
_OLDER = "the service has no such route: it is older than this client; update it"
_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}
_ORDER = list(_SIGNS)


def register(app: typer.Typer, panel: str) -> None:
    """Add ``latentry doctor`` to a panel of the main help."""

    @command(app, "doctor", panel=panel, example="doctor --url https://latentry.lab.example")
    def doctor(call: Call) -> None:
        """Check this installation, the connection, the key, and every part of the service, and say what to do.

        The exit code is 1 if a check failed, and 0 if there are only warnings.
        """
        found: list[Document] = []
        with call.messages.status("Checking …"):
            found.extend(look(call.url, call.key))
        status = max((one["status"] for one in found), key=_ORDER.index)
        document = {"status": status, "url": shown(call.url), "checks": found}
        call.answer(document, lambda page: _print(found, page))
        if status == "failed":
            raise typer.Exit(ExitCode.FAILED)


def _print(found: list[Document], page: "Console") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    side = ""
    for one in found:
        if one["side"] != side:
            side = one["side"]
            table.add_row("", Text("Client" if side == "client" else "Service", style="bold"), "")
        sign, colour = _SIGNS[one["status"]]
        table.add_row(Text(sign, style=colour), one["name"].replace("_", " "), Text(one["message"]))
        if one["hint"] and one["status"] != "ok":
            table.add_row("", "", Text(f"→ {one['hint']}", style=colour))
    page.print(table)
    failed = sum(one["status"] == "failed" for one in found)
    warnings = sum(one["status"] == "warning" for one in found)
    if not failed and not warnings:
        page.print("All checks passed.")
    else:
        page.print(
            f"{failed} failed, {warnings} {'warning' if warnings == 1 else 'warnings'}.", highlight=False
        )


def look(url: str, key: str | None) -> Iterator[Document]:
    """Run all checks, in the order in which they depend on each other.

    Parameters
    ----------
    url, key
        Address of the service, and the key for it; None: no key is sent.

    Yields
    ------
    dict
        ``side`` (client or service), ``name``, ``status``, ``message``, ``hint``, ``details``.
    """
    import httpx

    yield _installation()
    yield _terminal()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=_ANSWER_SECONDS) as http:
        begun = time.monotonic()
        try:
            answer = http.get("/healthz")
        except httpx.HTTPError as error:
            yield _finding(
                "service", "failed", f"nothing answers at {shown(url)}: {_kind(error)}", start_hint(url)
            )
            return
        here = _service(url, answer, time.monotonic() - begun)
        yield here
        if here["status"] == "failed":
            return
        yield _clock(answer)
        yield _key(http, key)
        yield from _of_the_service(http)


def shown(url: str) -> str:
    """Return an address without its password."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":…@") if parts.password else url


def start_hint(url: str) -> str:
    """Return how to start a service at an address where nothing answers."""
    parts = urlsplit(url)
    if parts.hostname not in _LOCAL:
        return "is the address correct (--url, LATENTRY_URL)? Is the machine running? Is there a firewall or a proxy in between?"
    if not entry_points(group="latentry.service"):
        return (
            "only the client is installed here: `pip install .` in a clone of Latentry installs the service, or set LATENTRY_URL "
            "to a service"
        )
    folder = Path(os.environ.get("LATENTRY_DATA_DIR", "latentry-data")).expanduser().absolute()
    if _is_taken(folder):
        return (
            f"a service runs on {folder}, but not at this address: `latentry up` printed the address when it started; "
            f"its log is {folder / 'logs' / 'api.log'}"
        )
    port = "" if parts.port in (None, 8000) else f" --port {parts.port}"
    kept = "continues where it stopped" if (folder / "latentry.db").exists() else "keeps its data there"
    return f"start it: `latentry up --data-dir {folder}{port}` ({kept})"


def _is_taken(folder: Path) -> bool:
    """Return whether a running `latentry up` uses a folder."""
    try:
        import fcntl

        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (ImportError, OSError):
        return True
    return False


def _installation() -> Document:
    found = {"python": platform.python_version()}
    for name in ("latentry", "latentry-client", "httpx", "numpy", "typer", "rich", "matplotlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return _finding(
        "installation", "ok", ", ".join(f"{name} {number}" for name, number in found.items()), **found
    )


def _terminal() -> Document:
    is_terminal, encoding = sys.stdout.isatty(), (sys.stdout.encoding or "ascii").lower().replace("-", "")
    message = (
        "a terminal" if is_terminal else "no terminal: plain lines instead of live tables"
    ) + f", {encoding}"
    if not encoding.startswith("utf"):
        hint = "set PYTHONIOENCODING=utf-8 (or a UTF-8 locale): learning curves are drawn with Unicode characters"
        return _finding("terminal", "warning", message, hint)
    return _finding("terminal", "ok", message)


def _service(url: str, answer: "httpx.Response", seconds: float) -> Document:
    address, took = shown(url), f"{seconds * 1000:.0f} ms"
    try:
        is_ours = answer.status_code == 200 and answer.json() == {"status": "ok"}
    except ValueError:
        is_ours = False
    if not is_ours:
        hint = "another service or a proxy has this address: check --url and LATENTRY_URL"
        return _finding(
            "service", "failed", f"{address} answers, but it is not Latentry ({answer.status_code})", hint
        )
    if seconds > _SLOW_SECONDS:
        return _finding(
            "service", "warning", f"{address} answers in {took}", "is the network slow, or the machine busy?"
        )
    return _finding("service", "ok", f"{address} answers in {took}")


def _clock(answer: "httpx.Response") -> Document:
    try:
        there = parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return _finding(
            "clock", "warning", "the answer has no time", "a proxy seems to remove the header Date"
        )
    skew = (datetime.now(UTC) - there).total_seconds()
    if abs(skew) > _MOST_SKEW_SECONDS:
        hint = "synchronize the clocks of both machines by NTP"
        return _finding("clock", "warning", f"this machine's clock is {skew:+.0f} s off the service's", hint)
    return _finding("clock", "ok", "agrees with the service within two seconds")


def _key(http: "httpx.Client", key: str | None) -> Document:
    import httpx

    try:
        answer = http.get("/v1/caller")
    except httpx.HTTPError as error:
        return _finding(
            "key", "failed", f"could not be checked: {_kind(error)}", "see the other checks that failed"
        )
    if answer.is_success:
        caller = answer.json()
        what = "the key is valid" if key else "no key is given, and the service needs none"
        return _finding("key", "ok", f"{what}: {caller['tenant']}, {', '.join(caller['scopes'])}")
    if answer.status_code == 404:
        return _finding("key", "warning", "could not be checked", _OLDER)
    detail, hint = _problem(answer)
    return _finding("key", "failed", detail, hint or "set LATENTRY_KEY, or give --key")


def _of_the_service(http: "httpx.Client") -> Iterator[Document]:
    """Yield the service's checks of itself; if they fail, the warnings of its readiness."""
    import httpx

    try:
        answer = http.get("/v1/checks", timeout=_CHECKS_SECONDS)
        if answer.is_success:
            document = answer.json()
            yield _versions_agree(document["version"])
            for one in document["checks"]:
                yield {"side": "service", **one, "hint": one.get("hint") or ""}
            return
        detail, hint = _problem(answer)
        hint = _OLDER if answer.status_code == 404 else hint
        yield _finding(
            "checks", "failed", f"the service's own checks cannot be read: {detail}", hint, side="service"
        )
        for warning in http.get("/readyz").json().get("warnings", []):
            yield _finding("readiness", "failed", warning, "see the log of the API", side="service")
    except (httpx.HTTPError, ValueError) as error:
        yield _finding(
            "checks", "failed", f"no answer: {_kind(error)}", "see the log of the API", side="service"
        )


def _versions_agree(of_service: str) -> Document:
    if (here := own_version()) != of_service:
        message = f"the client is {here}, the service {of_service}"
        return _finding("version", "warning", message, "update the older one")
    return _finding("version", "ok", f"client and service are {here}")


def _problem(answer: "httpx.Response") -> tuple[str, str]:
    """Return detail and hint of an answer with an error."""
    try:
        problem = answer.json()
        return str(problem["detail"]), str(problem.get("hint") or "")
    except (ValueError, KeyError, TypeError):
        return f"the service answered {answer.status_code}", ""


def _kind(error: Exception) -> str:
    return str(error) or type(error).__name__


def _finding(
    name: str, status: Status, message: str, hint: str = "", side: str = "client", **details: Any
) -> Document:
    return {
        "side": side, "name": name, "status": status, "message": message, "hint": hint, "details": details or None
    }  # fmt: skip
