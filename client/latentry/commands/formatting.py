"""Figures in words, and tables: how answers are shown to people."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def time_in_words(text: str | None) -> str:
    """A time as the service writes it, in this machine's zone, to the minute."""
    if text is None:
        return "–"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def seconds_in_words(seconds: float | None) -> str:
    """A duration in the largest unit that it has two of."""
    if seconds is None:
        return "–"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def left_in_words(seconds_left: float | None) -> str | None:
    """Return the service's estimate `seconds_left` of a job in words; None where it has none."""
    if seconds_left is None:
        return None
    digits = 2 if seconds_left >= 10 else 1
    return f"about {seconds_in_words(float(f'{seconds_left:.{digits}g}'))} left"


def bytes_in_words(size: float | None) -> str:
    """A size in decimal units, as disks are sold."""
    if size is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many decimals; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def value_in_words(value: Any) -> str:
    """A value of a document on one line."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_in_words(one)}" for name, one in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(value_in_words(one) for one in value) or "–"
    return str(value)


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """A table of rows; columns whose name begins with ``>`` are flushed right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(
            name.lstrip(">"), justify="right" if name.startswith(">") else "left", no_wrap=name == "id"
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def pairs_table(pairs: Iterable[tuple[str, Any]]) -> "Table":
    """Names and values, one pair a line; what is None is left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None:
            table.add_row(name, Text(value_in_words(value)))
    return table


def scores_in_words(document: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield each score of a model or an inference, with the scores of simple predictors on the same samples in brackets."""
    for name, value in document["scores"].items():
        baselines = (document.get("baselines") or {}).get(name, {})
        beside = ", ".join(f"{one} {value_in_words(found)}" for one, found in baselines.items())
        yield name, value_in_words(value) + (f" ({beside})" if beside else "") if value is not None else None
