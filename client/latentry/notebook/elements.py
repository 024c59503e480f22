"""Elements of HTML. All text from outside is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_CELL = "text-align:left;padding:1px 12px 1px 0;border:none;background:none;vertical-align:top"
_COLOURS = {
    "done": "#2a7d46", "ready": "#2a7d46", "trained": "#2a7d46", "running": "#2b6cb0", "training": "#2b6cb0",
    "inferring": "#2b6cb0", "ingesting": "#2b6cb0", "stopping": "#b7791f", "paused": "#b7791f", "queued": "#6b7280",
    "failed": "#b83232", "rejected": "#b83232", "cancelled": "#6b7280", "diverged": "#b83232", "stopped": "#6b7280",
}  # fmt: skip


class Html(str):
    """Text that is already HTML."""


def html_of(content: Any) -> Html:
    """Return content as HTML: text is escaped, numbers are rounded to four digits, None is a dash."""
    if isinstance(content, Html):
        return content
    if content is None:
        return Html("–")
    if isinstance(content, float):
        return Html(f"{content:.4g}")
    return Html(escape(str(content)))


def block(*contents: Any) -> str:
    """Return contents one after the other, as one block."""
    inner = "".join(html_of(content) for content in contents)
    return f'<div style="font-size:13px;line-height:1.5;max-width:760px">{inner}</div>'


def heading(kind: str, name: str, identifier: str, state: str = "") -> Html:
    """Return the first line of a page: kind, name, id and state."""
    colour = _COLOURS.get(state, "#6b7280")
    badge = f'<span style="background:{colour};color:#fff;border-radius:8px;padding:0 8px">{html_of(state)}</span>'
    return Html(
        f"<div><strong>{html_of(kind)}</strong> {html_of(name)} "
        f'<code style="background:none">{html_of(identifier)}</code> {badge if state else ""}</div>'
    )


def line(*contents: Any) -> Html:
    """Return a line of text."""
    return Html(f"<div>{' '.join(html_of(content) for content in contents)}</div>")


def notes(texts: Iterable[str], title: str, colour: str = "#b7791f") -> Html:
    """Return a list of texts under a title; empty if there are none."""
    items = "".join(f"<li>{html_of(text)}</li>" for text in texts)
    if not items:
        return Html("")
    return Html(
        f'<div style="border-left:3px solid {colour};padding-left:8px;margin:4px 0">{html_of(title)}'
        f'<ul style="margin:0;padding-left:18px">{items}</ul></div>'
    )


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Html:
    """Return a table; empty if there are no rows."""
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{html_of(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    if not body:
        return Html("")
    head = "".join(f'<th style="{_CELL};opacity:.7">{html_of(name)}</th>' for name in header)
    return Html(f'<table style="border-collapse:collapse;margin:4px 0"><tr>{head}</tr>{body}</table>')


def bar(fraction: float) -> Html:
    """Return a progress bar for a fraction, 0 to 1."""
    share = 100 * min(1.0, max(0.0, fraction))
    return Html(
        '<div style="background:rgba(128,128,128,.25);border-radius:4px;height:8px;width:320px;margin:4px 0">'
        f'<div style="background:#2b6cb0;border-radius:4px;height:8px;width:{share:.1f}%"></div></div>'
    )


def picture(source: str, description: str) -> Html:
    """Return a picture by its URL or data URL; scripts in an image are not executed."""
    if not source:
        return Html("")
    return Html(f'<img src="{escape(source)}" alt="{escape(description)}" style="max-width:100%">')
