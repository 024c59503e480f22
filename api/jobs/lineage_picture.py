"""A search drawn as SVG: epochs to the right, a row for each model, copies as arrows, one model's lineage thick."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from api.jobs.lineage import changes, segments
from api.jobs.search_schemas import LineageSegment
from domain.states import ModelState
from store.tables import Decision, Job, Model

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 72, 28, 84, 52
_ROWS_HEIGHT, _LOWEST_ROW, _HIGHEST_ROW = 900.0, 5.0, 26.0
_LABEL_HEIGHT = 12.0
_MOST_TICKS = 10
_INK, _FAINT, _LINEAGE, _COPY = "#263238", "#78868f", "#e8590c", "#5f7f9c"
_COLOURS: dict[ModelState, tuple[str, str]] = {
    ModelState.TRAINING: ("#1c7ed6", "trains"),
    ModelState.TRAINED: ("#2f9e44", "trained"),
    ModelState.STOPPED: ("#b6bfc6", "given up"),
    ModelState.DIVERGED: ("#c92a2a", "diverged"),
    ModelState.FAILED: ("#862e9c", "failed"),
    ModelState.CANCELLED: ("#8d7b68", "cancelled"),
    ModelState.QUEUED: ("#91b8dc", "waits"),
}
_STYLE = "".join(
    (
        f"text{{font:12px system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:{_INK}}}",
        f".faint{{fill:{_FAINT}}}.bold{{font-weight:600;fill:{_LINEAGE}}}.title{{font-size:16px;font-weight:600}}",
        "line,path{fill:none;stroke-linecap:round;stroke-linejoin:round}",
        f".copy{{stroke:{_COPY};stroke-width:1.2;opacity:.45}}.copy:hover{{opacity:1;stroke-width:2.2}}",
        f".lineage{{stroke:{_LINEAGE}}}",
    )
)
# XML 1.0 has no words for these
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Frame:
    """Where epochs and models lie in the picture.

    Parameters
    ----------
    rows
        Place of each model, by its number.
    epochs
        Of the longest training.
    """

    rows: dict[int, int]
    epochs: int

    @property
    def row_height(self) -> float:
        return min(_HIGHEST_ROW, max(_LOWEST_ROW, _ROWS_HEIGHT / len(self.rows)))

    @property
    def bottom(self) -> float:
        return _TOP + self.row_height * len(self.rows)

    def x(self, epoch: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * epoch / self.epochs

    def y(self, number: int) -> float:
        return _TOP + self.row_height * (self.rows[number] + 0.5)


def draw(job: Job, models: Sequence[Model], decisions: Sequence[Decision], followed: Model) -> str:
    """Draw the models of a job, and the lineage of one of them.

    Returns
    -------
    str
        An SVG document.
    """
    copies = [one for one in decisions if one.kind == "copy" and one.parent_number is not None]
    rows = {model.number: row for row, model in enumerate(models)}
    frame = _Frame(rows, max(1, *(model.epochs_trained for model in models)))
    chosen = "selected " if followed.id == job.selected_model_id else ""
    heading = f"Lineage of the {chosen}model {followed.number} of {job.id}"
    height = frame.bottom + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" role="img">',
        _title(heading),
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="title" x="{_LEFT}" y="30">{_text(heading)}</text>',
        *_legend(models, followed, has_copies=bool(copies)),
        *_axes(frame, followed.number),
        *(_model_line(frame, model) for model in models),
        *_copies(frame, decisions, copies),
        *_thick_line(frame, segments(followed, decisions)),
        *(_end_mark(frame, model) for model in models),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _text(text: str) -> str:
    return escape(_NO_XML.sub("", text))


def _title(text: str) -> str:
    return f"<title>{_text(text)}</title>"


def _head(x: float, from_y: float, to_y: float, size: float) -> str:
    """The head of an arrow that goes up or down, as a part of its path."""
    back = to_y - math.copysign(size * 1.5, to_y - from_y)
    return f"M{x - size:.1f} {back:.1f}L{x:.1f} {to_y:.1f}L{x + size:.1f} {back:.1f}"


def _legend(models: Sequence[Model], followed: Model, *, has_copies: bool) -> Iterator[str]:
    """What colours and lines mean: of those that are there."""
    states = {ModelState(model.state) for model in models}
    entries = [
        (f'stroke="{colour}" stroke-width="3"', name)
        for state, (colour, name) in _COLOURS.items()
        if state in states
    ]
    if has_copies:
        entries.append(('class="copy" style="opacity:1"', "weights copied"))
    entries.append(('class="lineage" stroke-width="5"', f"lineage of model {followed.number}"))
    x = float(_LEFT)
    for line, name in entries:
        yield f'<line x1="{x:.0f}" y1="54" x2="{x + 26:.0f}" y2="54" {line}/>'
        yield f'<text x="{x + 34:.0f}" y="58">{_text(name)}</text>'
        x += 34 + 6.6 * len(name) + 24


def _axes(frame: _Frame, followed: int) -> Iterator[str]:
    step = _tick_step(frame.epochs)
    for epoch in range(0, frame.epochs + 1, step):
        x = frame.x(epoch)
        yield f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{frame.bottom:.1f}" stroke="#e6eaed"/>'
        yield f'<text class="faint" x="{x:.1f}" y="{frame.bottom + 18:.1f}" text-anchor="middle">{epoch}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text x="{middle:.0f}" y="{frame.bottom + 40:.1f}" text-anchor="middle">epoch</text>'
    yield (
        f'<text x="18" y="{(_TOP + frame.bottom) / 2:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 18 {(_TOP + frame.bottom) / 2:.1f})">model</text>'
    )
    every = math.ceil(_LABEL_HEIGHT / frame.row_height)
    for number, row in frame.rows.items():
        near = abs(row - frame.rows[followed])
        if number == followed or (row % every == 0 and near >= every):
            style = "bold" if number == followed else "faint"
            yield f'<text class="{style}" x="{_LEFT - 12}" y="{frame.y(number) + 4:.1f}" text-anchor="end">{number}</text>'


def _tick_step(epochs: int) -> int:
    """The least of 1, 2, 5, 10, … that gives no more ticks than there is room for."""
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            if epochs / step <= _MOST_TICKS:
                return step
        scale *= 10


def _model_line(frame: _Frame, model: Model) -> str:
    if model.epochs_trained == 0:
        return ""
    colour, name = _COLOURS[ModelState(model.state)]
    loss = "" if model.smoothed_sv_loss is None else f", lowest smoothed SV loss {model.smoothed_sv_loss:.6g}"
    reason = f"\n{model.end_reason}" if model.end_reason else ""
    told = f"model {model.number}: {name}, {model.epochs_trained} epochs{loss}{reason}"
    y = frame.y(model.number)
    return (
        f'<line x1="{frame.x(0):.1f}" y1="{y:.1f}" x2="{frame.x(model.epochs_trained):.1f}" y2="{y:.1f}" '
        f'stroke="{colour}" stroke-width="{min(2.4, frame.row_height / 4):.1f}">{_title(told)}</line>'
    )


def _end_mark(frame: _Frame, model: Model) -> str:
    """A dot where a model came to its end, a cross where it was given up or lost."""
    state = ModelState(model.state)
    if model.epochs_trained == 0 or not state.is_final:
        return ""
    x, y = frame.x(model.epochs_trained), frame.y(model.number)
    size, (colour, _) = min(4.0, frame.row_height / 2), _COLOURS[state]
    if state == ModelState.TRAINED:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill="{colour}" stroke="#fff"/>'
    low, high = f"{x - size:.1f} {y - size:.1f}", f"{x + size:.1f} {y + size:.1f}"
    cross = f"M{low}L{high}M{x - size:.1f} {y + size:.1f}L{x + size:.1f} {y - size:.1f}"
    return f'<path d="{cross}" stroke="{colour}" stroke-width="2"/>'


def _copies(frame: _Frame, decisions: Sequence[Decision], copies: Sequence[Decision]) -> Iterator[str]:
    held: dict[int, list[Decision]] = defaultdict(list)
    for one in decisions:
        if one.kind in ("begin", "copy"):
            held[one.model_number].append(one)
    head = min(2.6, frame.row_height / 6)
    for one in copies:
        parent = one.parent_number
        if parent not in frame.rows or one.model_number not in frame.rows:
            continue
        before = next((of.hyperparameters for of in reversed(held[parent]) if of.epoch < one.epoch), {})
        told = f"epoch {one.epoch}: model {one.model_number} copies model {parent}\n{one.reason}"
        told += _changes_in_words(changes(before, one.hyperparameters) if before else {})
        x, start, end = frame.x(one.epoch), frame.y(parent), frame.y(one.model_number)
        bend = x + 5 + 0.06 * abs(end - start)
        yield (
            f'<path class="copy" d="M{x:.1f} {start:.1f}Q{bend:.1f} {(start + end) / 2:.1f} {x:.1f} {end:.1f}'
            f'{_head(x, start, end, head)}">{_title(told)}</path>'
        )


def _thick_line(frame: _Frame, lineage: Sequence[LineageSegment]) -> Iterator[str]:
    """The lineage: along the row of each segment, and from row to row where one was copied."""
    width = min(6.0, max(3.5, frame.row_height / 3))
    before: LineageSegment | None = None
    for segment in lineage:
        y, start, end = frame.y(segment.model_number), frame.x(segment.from_epoch), frame.x(segment.to_epoch)
        told = (
            f"model {segment.model_number}, epochs {segment.from_epoch} to {segment.to_epoch}\n{segment.reason}"
            + _changes_in_words(segment.changes)
        )
        if before is not None:
            from_y = frame.y(before.model_number)
            yield (
                f'<path class="lineage" d="M{start:.1f} {from_y:.1f}L{start:.1f} {y:.1f}'
                f'{_head(start, from_y, y, 1.3 * width)}" stroke-width="{width:.1f}">{_title(told)}</path>'
            )
        if end > start:
            yield (
                f'<line class="lineage" x1="{start:.1f}" y1="{y:.1f}" x2="{end:.1f}" y2="{y:.1f}" '
                f'stroke-width="{width:.1f}">{_title(told)}</line>'
            )
        before = segment


def _changes_in_words(changed: dict[str, tuple[float | None, float | None]]) -> str:
    return "".join(f"\n{name}: {_number(old)} → {_number(new)}" for name, (old, new) in changed.items())


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
