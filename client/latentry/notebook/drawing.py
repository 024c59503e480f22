"""Learning curves as SVG."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from latentry.notebook.elements import Html

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 560, 200, 52, 30, 10, 120
_COLOURS = (
    "#2b6cb0",
    "#dd6b20",
    "#2a7d46",
    "#805ad5",
    "#b83232",
    "#319795",
    "#97266d",
    "#744210",
    "#4a5568",
    "#d69e2e",
)
_MOST_POINTS = 300
_LARGEST_LOSS = 1e100
"""A larger loss means that the model diverged; it is not drawn, as a loss that is not finite."""

Curve = Sequence[tuple[float, float | None]]
"""Epochs, each with its loss or None."""


def curves_svg(curves: Mapping[str, Curve], y_label: str, thick: str | None = None) -> Html:
    """Draw losses over epochs.

    Parameters
    ----------
    curves
        Curves by their labels; those without a finite loss are not drawn.
    y_label
        Label of the axis of losses.
    thick
        Label of the most important curve.

    Returns
    -------
    Html
        An SVG; empty if there is nothing to draw.
    """
    finite = {label: found for label, curve in curves.items() if (found := _finite(curve))}
    if not finite:
        return Html("")
    epochs = [epoch for curve in finite.values() for epoch, _ in curve]
    low, high = _range_of([loss for curve in finite.values() for _, loss in curve])
    first, last = min(epochs), max(max(epochs), min(epochs) + 1)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(epoch: float, loss: float) -> str:
        x = _LEFT + (right - _LEFT) * (epoch - first) / (last - first)
        y = bottom - (bottom - _TOP) * (min(loss, high) - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [_axes(first, last, low, high, y_label)]
    for number, (label, curve) in enumerate(finite.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        width = 2.5 if label == thick else 1.2
        path = " ".join(place(epoch, loss) for epoch, loss in _thinned(_from_the_top(curve, high)))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        y = _TOP + 8 + 16 * number
        weight = "bold" if label == thick else "normal"
        parts.append(f'<rect x="{right + 12}" y="{y - 4}" width="14" height="3" fill="{colour}"/>')
        parts.append(
            f'<text x="{right + 30}" y="{y}" font-weight="{weight}" dominant-baseline="middle">{escape(label)}</text>'
        )
    height = max(_HEIGHT, _TOP + 16 * len(finite) + 8)
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="11" fill="currentColor" role="img" aria-label="{escape(y_label)} over epochs">'
        + "".join(parts)
        + "</svg>"
    )


def _axes(first: float, last: float, low: float, high: float, y_label: str) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    middle = (_TOP + bottom) / 2
    return (
        f'<path d="M{_LEFT},{_TOP} V{bottom} H{right}" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
        f'<text x="{_LEFT - 5}" y="{_TOP + 4}" text-anchor="end">{high:.4g}</text>'
        f'<text x="{_LEFT - 5}" y="{bottom}" text-anchor="end">{low:.4g}</text>'
        f'<text x="{_LEFT}" y="{bottom + 14}">{first:g}</text>'
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{last:g}</text>'
        f'<text x="{(_LEFT + right) / 2}" y="{bottom + 26}" text-anchor="middle">epoch</text>'
        f'<text transform="translate(10,{middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )


def _finite(curve: Curve) -> list[tuple[float, float]]:
    return [(epoch, loss) for epoch, loss in curve if loss is not None and abs(loss) < _LARGEST_LOSS]


def _thinned(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most a few hundred points of a curve, including the last."""
    step = math.ceil(len(curve) / _MOST_POINTS)
    return curve[::-1][::step][::-1]


def _from_the_top(curve: list[tuple[float, float]], high: float) -> list[tuple[float, float]]:
    """Return a curve from the point before it enters the frame; the whole curve if it never does."""
    for place, (_, loss) in enumerate(curve):
        if loss <= high:
            return curve[max(0, place - 1) :]
    return curve


def _range_of(losses: list[float]) -> tuple[float, float]:
    """Return the range of the axis: from the lowest loss to one below the high losses of the first epochs."""
    ordered = sorted(losses)
    low, usual, high = ordered[0], ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], ordered[-1]
    if high - low > 3 * (usual - low) > 0:
        high = usual
    return (low, high) if high > low else (low, low + max(abs(low), 1.0) * 0.01)
