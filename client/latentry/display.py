"""Progress of a job in the terminal: a live table with learning curves, or plain lines where there is no terminal."""

from collections.abc import Mapping
from time import monotonic
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from latentry.client import Client
from latentry.commands.formatting import left_in_words, number
from latentry.documents import is_inherited
from latentry.errors import NotDone

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 30
_MOST_ROWS = 20
_ENDS = {
    "trained": "trained",
    "stopped": "given up",
    "diverged": "diverged",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""States in which a model trains no more, in words."""
_RENEW_S = 2.0
"""How often the service is asked for its estimate of the time left, while events come."""
_TRAINS_NO_MORE = ("stopping", "inferring", "done")


def _order(point: Mapping[str, Any]) -> tuple[float, bool, int]:
    """Return the key that orders models of a progress event as the service selects."""
    loss = point["best_smoothed_sv_loss"]
    return (float("inf") if loss is None else loss, is_inherited(point), point["number"])


def sparkline(values: list[float], width: int = _CURVE_WIDTH) -> str:
    """Draw numbers as a line of blocks, the lowest as ``▁`` and the highest as ``█``."""
    if not values:
        return ""
    step = max(1, -(-len(values) // width))
    means = [sum(part) / len(part) for part in (values[i : i + step] for i in range(0, len(values), step))]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def chart(values: list[float], width: int, height: int) -> list[str]:
    """Draw numbers from left to right as a line of blocks, with the highest and the lowest named at the left.

    Parameters
    ----------
    values
        At least one.
    width, height
        Columns and lines of the drawing, without the names.
    """
    step = max(1, -(-len(values) // width))
    means = [sum(part) / len(part) for part in (values[i : i + step] for i in range(0, len(values), step))]
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
    """What is known of a job from its events, and how it is drawn.

    Parameters
    ----------
    epochs
        Of each model, by the budget.
    models
        By the budget.
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

    @property
    def is_due(self) -> bool:
        """Whether it is time to read the job again, and `renew` what is shown."""
        return monotonic() >= self._renew_at

    def renew(self, job: Mapping[str, Any]) -> None:
        """Take the time left, and the bits per spike of the best model, from a job that was just read."""
        self._left = left_in_words(job["progress"]["seconds_left"])
        self._bits = job["progress"].get("best_sv_bits_per_spike_valid")
        self._renew_at = monotonic() + _RENEW_S
        self._progress.update(self._task, left=self._left or "")

    def take(self, event: dict[str, Any]) -> None:
        """Take in an event of the job."""
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
                self._ends.pop(point["number"], None)  # it was taken up again
                if point["sv_loss"] is not None:
                    self._curves.setdefault(point["number"], []).append(point["sv_loss"])
        self._progress.update(
            self._task,
            description=self.state,
            completed=self.epochs_trained(),
            total=max(1, self.epochs_to_train()),
        )

    def epochs_trained(self) -> int:
        """Over all models."""
        return sum(point["epoch"] for point in self._latest.values())

    def epochs_to_train(self) -> int:
        """Over all models, at most: of those that have ended, what they came to."""
        if self.state in _TRAINS_NO_MORE:
            return self.epochs_trained()
        ended: int = sum(point["epoch"] for number, point in self._latest.items() if number in self._ends)
        return ended + max(0, self.models - len(self._ends)) * self.epochs

    def best(self) -> tuple[int, float] | None:
        """Number and lowest smoothed SV loss of the best model so far."""
        known = [one for one in self._latest.values() if one["best_smoothed_sv_loss"] is not None]
        if not known:
            return None
        best = min(known, key=_order)
        return best["number"], best["best_smoothed_sv_loss"]

    def line(self) -> str:
        """The state in one line."""
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


def follow(client: Client, job_id: str, console: Console) -> dict[str, Any]:
    """Show a job until it ends, with what its diagnostics warn of, and return it.

    Raises
    ------
    NotDone
        If it failed or was cancelled.
    """
    budget = client.get_job(job_id)["specification"]["budget"]
    display = JobDisplay(budget["epochs"], budget["models"])
    if console.is_terminal:
        with Live(display, console=console, refresh_per_second=4):
            for event in client.events(job_id):
                display.take(event)
                if display.is_due:
                    display.renew(client.get_job(job_id))
    else:
        for event in client.events(job_id):
            display.take(event)
            if display.is_due:
                display.renew(client.get_job(job_id))
            if event["kind"] in ("progress", "job.state"):
                console.print(display.line())
    job = client.get_job(job_id)
    if job["state"] != "done":
        raise NotDone(f"the job {job_id} is {job['state']}", (job["error"] or {}).get("message", ""))
    warning = (job.get("diagnostics") or {}).get("warning")
    if warning:
        console.print(f"[bold yellow]Warning:[/bold yellow] {escape(warning)}")
    return job
