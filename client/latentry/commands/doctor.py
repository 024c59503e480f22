"""``latentry doctor``: what is wrong, here and at the service, and what to do."""

from typing import TYPE_CHECKING

import typer

from latentry.commands import client_checks
from latentry.commands.calling import Call, Document, command
from latentry.commands.exits import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

_SIGNS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}
_ORDER = list(_SIGNS)


def register(app: typer.Typer, panel: str) -> None:
    """Add the command to a panel of the help."""

    @command(app, "doctor", panel=panel, example="doctor --url https://latentry.lab.example")
    def doctor(call: Call) -> None:
        """Check this installation, the way to the service, the key, and every part of the service; say what to do.

        Ends with 1 if something failed; warnings end with 0.
        """
        found: list[Document] = []
        with call.messages.status("Looking …"):
            found.extend(client_checks.look(call.url, call.key))
        status = max((one["status"] for one in found), key=_ORDER.index)
        document = {"status": status, "url": client_checks.shown(call.url), "checks": found}
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
            table.add_row("", Text("From here" if side == "client" else "At the service", style="bold"), "")
        sign, colour = _SIGNS[one["status"]]
        table.add_row(Text(sign, style=colour), one["name"].replace("_", " "), Text(one["message"]))
        if one["hint"] and one["status"] != "ok":
            table.add_row("", "", Text(f"→ {one['hint']}", style=colour))
    page.print(table)
    failed = sum(one["status"] == "failed" for one in found)
    warnings = sum(one["status"] == "warning" for one in found)
    if not failed and not warnings:
        page.print("All is well.")
    else:
        page.print(
            f"{failed} failed, {warnings} {'warning' if warnings == 1 else 'warnings'}.", highlight=False
        )
