"""What people write on a data set or a job: its name, notes and tags; and the text in which a search looks for them."""

from functools import cache
from typing import Any

from sqlalchemy import JSON, BigInteger, Connection, Text, event, inspect
from sqlalchemy.orm import Mapped, Mapper, mapped_column

from store.tables.base import Base

_TAG_EDGE = "\x1f"
"""Encloses each tag in the text of a search. No other part of the text contains it."""
_SEARCHED = {"name", "notes", "tags", "source"}


class LabelsMixin:
    """Notes and tags of a row that has a name.

    `search_text` and `row_bytes` are kept up to date by themselves. Python folds the case of the text, because SQLite folds ASCII
    alone, and PostgreSQL as its locale says.
    """

    notes: Mapped[str] = mapped_column(Text, default="", server_default="")
    tags: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
    search_text: Mapped[str] = mapped_column(Text, default="", server_default="", deferred=True)

    row_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Size of the row and of the rows that it brings, which a quota counts. Any change of a text or a document updates it."""

    def search_parts(self) -> list[str]:
        """Return the texts that a search looks in, besides the tags."""
        return [getattr(self, "name", ""), self.notes or ""]


def search_text(parts: list[str], tags: list[str]) -> str:
    """Return the text in which a search looks."""
    texts = [part.replace(_TAG_EDGE, " ") for part in parts]
    return folded("\n".join(texts) + "".join(_TAG_EDGE + tag for tag in tags) + _TAG_EDGE)


def tag_text(tag: str) -> str:
    """Return what the text of a search contains if the row has this tag."""
    return folded(_TAG_EDGE + tag.replace(_TAG_EDGE, " ") + _TAG_EDGE)


def folded(text: str) -> str:
    """Return the text without the difference of upper and lower case."""
    return text.casefold()


@event.listens_for(LabelsMixin, "before_insert", propagate=True)
@event.listens_for(LabelsMixin, "before_update", propagate=True)
def _write_derived(mapper: Mapper[Any], _connection: Connection, row: LabelsMixin) -> None:
    attributes = inspect(row).attrs
    changed = {name for name in _counted(mapper) if attributes[name].history.has_changes()}
    text = search_text(row.search_parts(), row.tags or []) if changed else ""
    if changed & _SEARCHED:
        row.search_text = text
    if changed and isinstance(row, Base):
        row.row_bytes = row.size_bytes_of_row()
        if "search_text" not in vars(row):  # it is not loaded
            row.row_bytes += len(text.encode(errors="surrogatepass"))


@cache
def _counted(mapper: Mapper[Any]) -> frozenset[str]:
    """Return the columns whose change changes the size of a row: those without a limit, and sizes of rows that it brings."""
    unlimited = {one.key for one in mapper.column_attrs if isinstance(one.columns[0].type, JSON | Text)} - {
        "search_text"
    }
    return frozenset(unlimited | {"name"} | ({"trial_bytes"} & set(mapper.column_attrs.keys())))
