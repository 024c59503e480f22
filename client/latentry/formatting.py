"""Format numbers, times and sizes as words, and documents as tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def time_in_words(text: str | None) -> str:
    """Return a time of the service in this machine's time zone, to the minute."""
    if text is None:
        return "–"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")


def seconds_in_words(seconds: float | None) -> str:
    """Return a duration in the largest unit of which it has at least two."""
    if seconds is None:
        return "–"
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def left_in_words(seconds_left: float | None) -> str | None:
    """Return the service's estimate of the time left in words; None if there is no estimate."""
    if seconds_left is None:
        return None
    digits = 2 if seconds_left >= 10 else 1
    return f"about {seconds_in_words(float(f'{seconds_left:.{digits}g}'))} left"


def bytes_in_words(size: float | None) -> str:
    """Return a size in decimal units (1 kB is 1000 bytes)."""
    if size is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with this many decimals; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def value_in_words(value: Any) -> str:
    """Return a value of a document on one line."""
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


def axes_in_words(array: Mapping[str, Any]) -> str:
    """Return the dims of an array with their lengths: ``trial 20 × time_s 50``."""
    return " × ".join(f"{dim} {size}" for dim, size in zip(array["dims"], array["shape"], strict=True))


def print_plain(page: "Console", text: str) -> None:
    """Print a text as it is: without colours or markup, and without breaking lines."""
    page.print(text, highlight=False, markup=False, soft_wrap=True)


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """Return a table of rows; columns whose name begins with ``>`` are aligned to the right."""
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
    """Return a table of names and values, one pair a line, without values that are None."""
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
