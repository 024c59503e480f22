"""Show the progress of a job: as a live table with learning curves in a terminal or a notebook, else as plain lines."""

import io
import sys
from collections.abc import Mapping
from importlib import import_module
from time import monotonic
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from latentry.documents import Document, is_inherited
from latentry.formatting import left_in_words, number

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 30
_MOST_ROWS = 20
_ENDS = {
    "trained": "trained",
    "stopped": "stopped early",
    "diverged": "diverged",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""States in which a model has ended, in words."""
_RENEW_S = 2.0
"""Time between two requests for the estimate of the time left, in seconds."""
_TRAINS_NO_MORE = ("stopping", "inferring", "done")


def _order(point: Mapping[str, Any]) -> tuple[float, bool, int]:
    """Return the key that orders models of a progress event as the service selects."""
    loss = point["best_smoothed_sv_loss"]
    return (float("inf") if loss is None else loss, is_inherited(point), point["number"])


def _means(values: list[float], width: int) -> list[float]:
    """Return means of neighbouring values, at most `width` of them."""
    step = max(1, -(-len(values) // width))
    return [sum(part) / len(part) for part in (values[i : i + step] for i in range(0, len(values), step))]


def sparkline(values: list[float], width: int = _CURVE_WIDTH) -> str:
    """Draw numbers as a line of blocks, the lowest as ``▁`` and the highest as ``█``."""
    if not values:
        return ""
    means = _means(values, width)
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def chart(values: list[float], width: int, height: int) -> list[str]:
    """Draw numbers from left to right as blocks, with the highest and the lowest number at the left.

    Parameters
    ----------
    values
        At least one number.
    width, height
        Columns and lines of the drawing, without the numbers at the left.
    """
    means = _means(values, width)
    low, high = min(means), max(means)
    most = height * len(_BLOCKS) - 1
    levels = [round((mean - low) / (high - low) * most) if high > low else 0 for mean in means]
    lines = []
    for row in reversed(range(height)):
        name = f"{high:.4f}" if row == height - 1 else f"{low:.4f}" if row == 0 else ""
        drawn = "".join(
            _BLOCKS[level % len(_BLOCKS)] if level // len(_BLOCKS) == row else " " for level in levels
        )
        lines.append(f"{name:>10} {drawn}".rstrip())
    return lines


class JobDisplay:
    """The state of a job, collected from its events, as a table. Subclasses show it while it changes.

    Parameters
    ----------
    epochs, models
        Epochs of each model, and models, by the budget of the job.
    """

    def __init__(self, epochs: int, models: int) -> None:
        self.epochs, self.models = epochs, models
        self.state = "queued"
        self._latest: dict[int, dict[str, Any]] = {}
        self._curves: dict[int, list[float]] = {}
        self._ends: dict[int, str] = {}
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )  # fmt: skip
        self._task: TaskID = self._progress.add_task(self.state, total=epochs * models, left="")
        self._left: str | None = None
        self._bits: float | None = None
        self._renew_at = 0.0

    def __enter__(self) -> Self:
        """Begin to show the job."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""

    @property
    def is_due(self) -> bool:
        """Return whether it is time to read the job again and to call `renew`."""
        return monotonic() >= self._renew_at

    def renew(self, job: Mapping[str, Any]) -> None:
        """Take the time left and the bits per spike of the best model from a job that was just read."""
        self._left = left_in_words(job["progress"]["seconds_left"])
        self._bits = job["progress"].get("best_sv_bits_per_spike_valid")
        self._renew_at = monotonic() + _RENEW_S
        self._progress.update(self._task, left=self._left or "")

    def take(self, event: Document) -> None:
        """Update the state by an event of the job."""
        data = event["data"]
        if event["kind"] == "job.state":
            self.state, self._renew_at = data["state"], 0.0
        elif event["kind"] == "job.extended":
            self.epochs, self.models = data["budget"]["epochs"], data["budget"]["models"]
        elif event["kind"] == "model.state" and "number" in data:
            self._ends.pop(data["number"], None)
            if data["state"] in _ENDS:
                self._ends[data["number"]] = _ENDS[data["state"]]
        elif event["kind"] == "progress":
            for point in data["models"]:
                self._latest[point["number"]] = point
                self._ends.pop(point["number"], None)  # it continues
                if point["sv_loss"] is not None:
                    self._curves.setdefault(point["number"], []).append(point["sv_loss"])
        self._progress.update(
            self._task,
            description=self.state,
            completed=self.epochs_trained(),
            total=max(1, self.epochs_to_train()),
        )

    def epochs_trained(self) -> int:
        """Return the epochs trained, over all models."""
        return sum(point["epoch"] for point in self._latest.values())

    def epochs_to_train(self) -> int:
        """Return the largest possible number of epochs over all models; models that have ended count with what they trained."""
        if self.state in _TRAINS_NO_MORE:
            return self.epochs_trained()
        ended: int = sum(point["epoch"] for number, point in self._latest.items() if number in self._ends)
        return ended + max(0, self.models - len(self._ends)) * self.epochs

    def best(self) -> tuple[int, float] | None:
        """Return the number and the lowest smoothed SV loss of the best model so far."""
        known = [one for one in self._latest.values() if one["best_smoothed_sv_loss"] is not None]
        if not known:
            return None
        best = min(known, key=_order)
        return best["number"], best["best_smoothed_sv_loss"]

    def line(self) -> str:
        """Return the state in one line."""
        best = self.best()
        text = f"{self.state}: {self.epochs_trained()} of {self.epochs_to_train()} epochs"
        text += f", lowest SV loss {best[1]:.4f} (model {best[0]})" if best else ""
        text += f", {self._bits:.3f} bits per spike" if best and self._bits is not None else ""
        return f"{text}, {self._left}" if self._left else text

    def __rich__(self) -> Group:
        best = self.best()
        table = Table(box=None, pad_edge=False)
        for column in (
            "model", "state", "epoch", "SV loss", "bits/spike", "validation loss", "SV loss over epochs"
        ):  # fmt: skip
            table.add_column(column, justify="left" if "over" in column else "right")
        for point in sorted(self._latest.values(), key=_order)[:_MOST_ROWS]:
            table.add_row(
                str(point["number"]),
                self._ends.get(point["number"], "trains"),
                f"{point['epoch']}/{self.epochs}",
                number(point["sv_loss"]),
                number(point.get("sv_bits_per_spike_valid"), 3),
                number(point["validation_loss"]),
                sparkline(self._curves.get(point["number"], [])),
                style="bold" if best and point["number"] == best[0] else "",
            )
        return Group(table, self._progress.get_renderable())


class TerminalDisplay(JobDisplay):
    """The table, drawn again and again in a terminal; `console` is standard error by default."""

    def __init__(self, epochs: int, models: int, console: Console | None = None) -> None:
        super().__init__(epochs, models)
        self._live = Live(self, console=console or Console(stderr=True), refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class NotebookDisplay(JobDisplay):
    """The table as preformatted text in the output of a cell, which events replace."""

    def __enter__(self) -> Self:
        self._handle = import_module("IPython.display").display(self, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.update(self)

    def take(self, event: Document) -> None:
        """Update the state by an event of the job."""
        super().take(event)
        if event["kind"] in ("progress", "job.state"):
            self._handle.update(self)

    def __repr__(self) -> str:
        return self.line()

    def _repr_html_(self) -> str:
        console = Console(width=110, record=True, file=io.StringIO(), force_jupyter=False)
        console.print(self)
        form = '<pre style="white-space:pre;line-height:1.2;font-family:monospace">{code}</pre>'
        return console.export_html(inline_styles=True, code_format=form)


def live_display(job: Mapping[str, Any]) -> JobDisplay | None:
    """Return the display for this process; None if it has neither a terminal nor a notebook."""
    budget = job["specification"]["budget"]
    if _is_notebook():
        return NotebookDisplay(budget["epochs"], budget["models"])
    if sys.stderr.isatty():
        return TerminalDisplay(budget["epochs"], budget["models"])
    return None


def _is_notebook() -> bool:
    """Return whether this process is a kernel of Jupyter, without importing it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
