"""Draw a search as SVG: epochs from left to right, a row for each model, an arrow for each copy, the lineage of one model thick.

A browser shows what each line means when the pointer is on it.
"""

import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from api.computing.drawing import drawing
from api.jobs.lineage import changes, segments
from api.jobs.search_schemas import LineageSegment
from domain.search_space import Value
from domain.states import ModelState
from store.tables import Decision, Job, Model

_WIDTH, _ROWS_HEIGHT, _LOWEST_ROW, _HIGHEST_ROW = 10.0, 9.0, 0.05, 0.26  # inches
_TOP, _BOTTOM, _LABEL_HEIGHT = 0.9, 0.55, 0.14
_INK, _FAINT, _GRID, _LINEAGE, _COPY = "#263238", "#78868f", "#e6eaed", "#e8590c", "#5f7f9c"
_STATES: dict[ModelState, tuple[str, str]] = {
    ModelState.TRAINING: ("#1c7ed6", "trains"),
    ModelState.TRAINED: ("#2f9e44", "trained"),
    ModelState.STOPPED: ("#b6bfc6", "stopped early"),
    ModelState.DIVERGED: ("#c92a2a", "diverged"),
    ModelState.FAILED: ("#862e9c", "failed"),
    ModelState.CANCELLED: ("#8d7b68", "cancelled"),
    ModelState.QUEUED: ("#91b8dc", "waits"),
}
"""Colour of a model's line, and the word for its state."""

_SVG = "{http://www.w3.org/2000/svg}"
ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def draw(job: Job, models: Sequence[Model], decisions: Sequence[Decision], followed: Model) -> bytes:
    """Return the models of a job and the lineage of one of them as an SVG document."""
    rows = {model.number: row for row, model in enumerate(models)}
    row_height = min(_HIGHEST_ROW, max(_LOWEST_ROW, _ROWS_HEIGHT / len(rows)))
    height = _TOP + row_height * len(rows) + _BOTTOM
    selected = "selected " if followed.id == job.selected_model_id else ""
    heading = _printable(f"Lineage of the {selected}model {followed.number} of {job.name or job.id}")
    with (
        drawing(),
        matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}),
    ):
        figure = Figure(figsize=(_WIDTH, height), facecolor="white")
        axes = figure.add_axes((0.07, _BOTTOM / height, 0.9, row_height * len(rows) / height))
        epochs = max(1, *(model.epochs_trained for model in models))
        _prepare(axes, rows, epochs, followed.number, every=math.ceil(_LABEL_HEIGHT / row_height))
        titles = {
            "models": _draw_models(axes, models, rows),
            "copies": _draw_copies(axes, decisions, rows),
            "lineage": _draw_lineage(axes, segments(followed, decisions), rows),
        }
        figure.text(
            0.07, 1 - 0.25 / height, heading, fontsize=12, fontweight="bold", color=_INK, parse_math=False
        )
        legend = _legend(models, followed.number, has_copies=bool(titles["copies"]))
        figure.legend(
            handles=legend, loc="upper left", bbox_to_anchor=(0.06, 1 - 0.35 / height), ncols=len(legend),
            frameon=False, labelcolor=_INK,
        )  # fmt: skip
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return _with_titles(picture.getvalue(), heading, titles)


def _prepare(axes: Axes, rows: Mapping[int, int], epochs: int, followed: int, every: int) -> None:
    """Set the scales and their labels: the number of each model, or of every few models where rows are narrow."""
    axes.set_xlim(0, epochs)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("epoch", color=_INK)
    axes.set_ylabel("model", color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True))
    shown = [
        number
        for number, row in rows.items()
        if number == followed or (row % every == 0 and abs(row - rows[followed]) >= every)
    ]
    axes.set_yticks([rows[number] for number in shown], [str(number) for number in shown])
    axes.tick_params(length=0, labelcolor=_FAINT)
    for number, label in zip(shown, axes.get_yticklabels(), strict=True):
        if number == followed:
            label.set(color=_LINEAGE, fontweight="bold")
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_models(axes: Axes, models: Sequence[Model], rows: Mapping[int, int]) -> list[str]:
    """Draw a line for each model that trained, with a dot where it ended well and a cross where it did not."""
    trained = [model for model in models if model.epochs_trained > 0]
    places = [(model.epochs_trained, rows[model.number]) for model in trained]
    states = [ModelState(model.state) for model in trained]
    lines = LineCollection(
        [[(0, row), (end, row)] for end, row in places], colors=[_STATES[state][0] for state in states],
        linewidths=1.4, gid="models",
    )  # fmt: skip
    axes.add_collection(lines, autolim=False)
    for state in set(states):
        if state.is_final:
            ends = [place for place, one in zip(places, states, strict=True) if one == state]
            marker = "o" if state == ModelState.TRAINED else "x"
            x, y = zip(*ends, strict=True)
            axes.scatter(x, y, s=12, color=_STATES[state][0], marker=marker, zorder=4, clip_on=False)
    return [_of_model(model) for model in trained]


def _of_model(model: Model) -> str:
    loss = "" if model.smoothed_sv_loss is None else f", lowest smoothed SV loss {model.smoothed_sv_loss:.6g}"
    reason = f"\n{model.end_reason}" if model.end_reason else ""
    state = _STATES[ModelState(model.state)][1]
    return f"model {model.number}: {state}, {model.epochs_trained} epochs{loss}{reason}"


def _draw_copies(axes: Axes, decisions: Sequence[Decision], rows: Mapping[int, int]) -> list[str]:
    """Draw an arrow from each model that was copied to the model that copied it."""
    held: dict[int, list[Decision]] = defaultdict(list)
    for one in decisions:
        if one.kind in ("begin", "copy"):
            held[one.model_number].append(one)
    arrows, titles = [], []
    for one in decisions:
        parent = one.parent_number
        if one.kind != "copy" or parent is None or parent not in rows or one.model_number not in rows:
            continue
        before = next((of.hyperparameters for of in reversed(held[parent]) if of.epoch < one.epoch), {})
        title = f"epoch {one.epoch}: model {one.model_number} copies model {parent}\n{one.reason}"
        titles.append(title + _listed(changes(before, one.hyperparameters) if before else {}))
        arrows.append(_arrow(axes, one.epoch, rows[parent], rows[one.model_number]))
    copies = PathCollection(
        arrows, facecolors="none", edgecolors=_COPY, linewidths=0.9, alpha=0.5, gid="copies", zorder=2
    )
    axes.add_collection(copies, autolim=False)
    return titles


def _draw_lineage(axes: Axes, lineage: Sequence[LineageSegment], rows: Mapping[int, int]) -> list[str]:
    """Draw the lineage: along the row of each segment, and an arrow from row to row at each copy."""
    paths, titles = [], []
    before: LineageSegment | None = None
    for segment in lineage:
        row, start, end = rows[segment.model_number], segment.from_epoch, segment.to_epoch
        title = f"model {segment.model_number}, epochs {start} to {end}\n{segment.reason}{_listed(segment.changes)}"
        if before is not None:
            paths.append(_arrow(axes, start, rows[before.model_number], row))
            titles.append(title)
        if end > start:
            paths.append(Path([(start, row), (end, row)]))
            titles.append(title)
        before = segment
    thick = PathCollection(
        paths,
        facecolors="none",
        edgecolors=_LINEAGE,
        linewidths=3.2,
        gid="lineage",
        capstyle="round",
        zorder=3,
    )
    axes.add_collection(thick, autolim=False)
    return titles


def _arrow(axes: Axes, epoch: int, start: int, end: int) -> Path:
    """Return an arrow from row to row, with its head."""
    width, back = 0.004 * axes.get_xlim()[1], end - math.copysign(0.3, end - start)
    points = [(epoch, start), (epoch, end), (epoch - width, back), (epoch, end), (epoch + width, back)]
    return Path(points, [Path.MOVETO, Path.LINETO, Path.MOVETO, Path.LINETO, Path.LINETO])


def _legend(models: Sequence[Model], followed: int, *, has_copies: bool) -> list[Line2D]:
    """Return a line for each state that models are in, for copies, and for the lineage."""
    states = {ModelState(model.state) for model in models}
    lines = [
        Line2D([], [], color=colour, label=word)
        for state, (colour, word) in _STATES.items()
        if state in states
    ]
    if has_copies:
        lines.append(Line2D([], [], color=_COPY, linewidth=0.9, label="weights copied"))
    return [*lines, Line2D([], [], color=_LINEAGE, linewidth=3.2, label=f"lineage of model {followed}")]


def _printable(text: str) -> str:
    """Return a text without control characters, which XML does not have."""
    return "".join(letter for letter in text if letter.isprintable() or letter == "\n")


def _with_titles(picture: bytes, heading: str, titles: Mapping[str, Sequence[str]]) -> bytes:
    """Return an SVG with titles for the whole and for each path of the groups of these ids, in order."""
    root = ElementTree.fromstring(picture)
    groups = {one.get("id"): one for one in root.iter(f"{_SVG}g")}
    for name, texts in titles.items():
        paths = groups[name].iter(f"{_SVG}path") if texts else ()
        for path, text in zip(list(paths), texts, strict=True):
            ElementTree.SubElement(path, f"{_SVG}title").text = _printable(text)
    title = ElementTree.Element(f"{_SVG}title")
    title.text = heading
    root.insert(0, title)
    document: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
    return document


def _listed(changed: Mapping[str, tuple[Value | None, Value | None]]) -> str:
    return "".join(f"\n{name}: {_number(old)} → {_number(new)}" for name, (old, new) in changed.items())


def _number(value: Value | None) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:.4g}"
