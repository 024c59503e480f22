"""The style of the service's pictures, and the lock that lets one be drawn at a time."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from api.computing.picture_types import PictureKind
from domain.cancellation import cancellation_point

_LOCK = Lock()
DPI = 100
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc4778", "#56b4e9", "#8c5a2b",
    "#7a5195", "#5c6b73", "#d55e00", "#12b5b0", "#8c8c00", "#111111",
)  # fmt: skip
"""Colours of conditions. People with colour blindness can distinguish them, too."""
INK, FAINT, GRID = "#22303a", "#6c7a86", "#e4e9ed"
_FRAME = "#b6bfc6"


@contextmanager
def drawing() -> Iterator[None]:
    """Draw no other picture meanwhile, since matplotlib is not thread-safe.

    While the lock is held, do not call `cancellation_point`: a paused picture would block all others.
    """
    while not _LOCK.acquire(timeout=0.01):
        cancellation_point()
    try:
        yield
    finally:
        _LOCK.release()


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """Return an empty figure."""
    figure = Figure(figsize=(width_inches, height_inches), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def saved(figure: Figure, kind: PictureKind) -> bytes:
    """Return a figure as a file; equal figures give equal SVG files."""
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return picture.getvalue()


def style_axis(axis: Axes, *, grid: bool = True) -> None:
    """Give an axis thin lines to the left and below, small labels and a faint grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_FRAME)
    axis.tick_params(which="both", color=_FRAME, labelcolor=FAINT, labelsize=8)
    axis.tick_params(length=3)
    axis.set_axisbelow(True)
    if grid:
        axis.grid(axis="y", color=GRID, linewidth=0.8)


def printable(text: str, most: int = 40) -> str:
    """Return a text cut to a length, without line breaks and other characters that cannot be printed."""
    kept = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return kept if len(kept) <= most else kept[: most - 1] + "…"
