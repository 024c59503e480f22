"""How a job goes, shown while it is waited for: in a terminal, or in a notebook without widgets."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, Self

from latentry.documents import Document


class LiveDisplay(Protocol):
    """Shows events of a job as they come."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(self, *_: object) -> None:
        """Leave what was last shown."""

    def take(self, event: Document) -> None:
        """Take in an event."""

    @property
    def is_due(self) -> bool:
        """Whether it is time to read the job again, and `renew` what is shown."""

    def renew(self, job: Mapping[str, Any]) -> None:
        """Show the time left and the bits per spike of a job that was just read."""


def live_display(job: Mapping[str, Any]) -> LiveDisplay | None:
    """What shows a job here; None where there is neither a terminal nor a notebook."""
    budget = job["specification"]["budget"]
    if _is_notebook():
        return NotebookDisplay(budget["epochs"], budget["models"])
    if sys.stderr.isatty():
        return TerminalDisplay(budget["epochs"], budget["models"])
    return None


class TerminalDisplay:
    """A table that is drawn anew, on standard error; arguments as `latentry.display.JobDisplay` has them."""

    def __init__(self, epochs: int, models: int) -> None:
        from rich.console import Console
        from rich.live import Live

        from latentry.display import JobDisplay

        self._job = JobDisplay(epochs, models)
        self._live = Live(self._job, console=Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def take(self, event: Document) -> None:
        """Take in an event."""
        self._job.take(event)

    @property
    def is_due(self) -> bool:
        """As of `latentry.display.JobDisplay`."""
        return self._job.is_due

    def renew(self, job: Mapping[str, Any]) -> None:
        """Take the service's estimate of the time left."""
        self._job.renew(job)


class NotebookDisplay:
    """The same table as preformatted text in a cell's output, which is exchanged as events come."""

    def __init__(self, epochs: int, models: int) -> None:
        from latentry.display import JobDisplay

        self._job = JobDisplay(epochs, models)

    def __enter__(self) -> Self:
        self._handle = import_module("IPython.display").display(self, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.update(self)

    def take(self, event: Document) -> None:
        """Take in an event."""
        self._job.take(event)
        if event["kind"] in ("progress", "job.state"):
            self._handle.update(self)

    @property
    def is_due(self) -> bool:
        """As of `latentry.display.JobDisplay`."""
        return self._job.is_due

    def renew(self, job: Mapping[str, Any]) -> None:
        """Take the service's estimate of the time left."""
        self._job.renew(job)

    def __repr__(self) -> str:
        return self._job.line()

    def _repr_html_(self) -> str:
        from rich.console import Console

        console = Console(width=110, record=True, file=io.StringIO(), force_jupyter=False)
        console.print(self._job)
        form = '<pre style="white-space:pre;line-height:1.2;font-family:monospace">{code}</pre>'
        return console.export_html(inline_styles=True, code_format=form)


def _is_notebook() -> bool:
    """Whether this runs in a kernel of Jupyter, which is not imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
