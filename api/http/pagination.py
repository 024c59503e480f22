"""Filters of lists, and keyset pagination: an opaque token carries the last key of a page."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Protocol, TypeVar

from fastapi import Query
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from api.errors import Invalid
from api.http.on_loop import on_loop
from domain.labels import Tag
from store import identifiers
from store.tables import folded, tag_text

PageSize = Annotated[int, Query(ge=1, le=500, description="Maximum number of items on a page.")]
PageToken = Annotated[
    str | None, Query(max_length=200, description="The `next_page_token` of the previous page.")
]

_NUMBER = re.compile(r"[0-9]{1,18}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

Item = TypeVar("Item", bound=BaseModel)
Row = TypeVar("Row")
Entity = TypeVar("Entity", bound="HasId")


class HasId(Protocol):
    """A row with an id."""

    @property
    def id(self) -> Any:
        """The id."""


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next_page_token: str | None = Field(
        None, description="Pass it as `page_token` to get the next page. Null on the last page."
    )


CreatedAfter = Annotated[
    datetime | None,
    Query(description="Only items created at this time or later (UTC unless the time has a zone)."),
]
CreatedBefore = Annotated[datetime | None, Query(description="Only items created before this time.")]
NO_NUL = r"^[^\x00]*$"  # PostgreSQL has no NUL in text


@dataclass(frozen=True)
class Filters:
    """The filters that the lists of jobs and of data sets share."""

    text: Annotated[
        str | None,
        Query(
            max_length=200,
            pattern=NO_NUL,
            description="Only items that have this text in their name, notes, tags or file name, or whose id begins with it; of "
            "jobs also those whose data set has it. Case is ignored.",
        ),
    ] = None
    tag: Annotated[
        list[Tag] | None,
        Query(max_length=20, description="Only items with all of these tags; case is ignored. Repeatable."),
    ] = None
    created_by: Annotated[
        str | None,
        Query(
            max_length=200,
            pattern=NO_NUL,
            description="Only items made by this key: its id, or its name as in `created_by.name`.",
        ),
    ] = None

    name: Annotated[
        str | None,
        Query(
            max_length=200,
            pattern=NO_NUL,
            description="Only items whose name contains this text; case is ignored.",
        ),
    ] = None
    created_after: CreatedAfter = None
    created_before: CreatedBefore = None

    def has_text(self, table: Any) -> ColumnElement[bool]:
        """Return the SQL condition that a row has the text."""
        text = folded(self.text or "")
        return or_(
            table.search_text.contains(text, autoescape=True), table.id.startswith(text, autoescape=True)
        )

    def conditions(self, table: Any, *also_with_text: ColumnElement[bool]) -> list[ColumnElement[bool]]:
        """Return the SQL conditions on the rows of a table; a row of the last kind also counts as one that has the text."""
        found = []
        if self.text is not None:
            found.append(or_(self.has_text(table), *also_with_text))
        found += [table.search_text.contains(tag_text(tag), autoescape=True) for tag in self.tag or ()]
        if self.created_by is not None:
            found.append(
                or_(table.created_by_key == self.created_by, table.created_by_name == self.created_by)
            )
        if self.name is not None:
            found.append(func.lower(table.name).contains(self.name.lower(), autoescape=True))
        if self.created_after is not None:
            found.append(table.created_at >= utc(self.created_after))
        if self.created_before is not None:
            found.append(table.created_at < utc(self.created_before))
        return found


FiltersDependency = Annotated[Filters, on_loop(Filters)]


def _id_of(prefix: str, what: str, description: str = "") -> Any:
    """Return the type of a query parameter that selects by the id of a resource. An id that does not exist selects nothing."""
    example = f"{prefix}_0192f3c4a5b6aabbccddeeff"

    def check(given: str) -> str:
        if not given.startswith(f"{prefix}_") or identifiers.PATTERN.fullmatch(given) is None:
            shown = repr(given if len(given) <= 60 else given[:60] + "…")
            raise ValueError(f"expected the id of a {what}, such as {example}; got {shown}")
        return given

    extra = {"pattern": f"^{prefix}_[0-9a-f]{{24}}$"}
    described = Query(
        description=description or f"Only the items of this {what}.",
        examples=[example],
        json_schema_extra=extra,
    )
    return Annotated[Annotated[str, AfterValidator(check)] | None, described]


DatasetIdFilter = _id_of("dat", "data set")
ParentIdFilter = _id_of("dat", "data set", "Only data sets that were derived from this one.")
SessionIdFilter = _id_of("dat", "data set", "Only combined data sets of which this one is a session.")
JobIdFilter = _id_of("job", "job")
ModelIdFilter = _id_of("mod", "model")


def utc(time: datetime) -> datetime:
    """Return a time in UTC. A time without a zone is one in UTC; so is one that leaves the years 1 to 9999 in UTC."""
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError:
        return time.replace(tzinfo=UTC)


def encode_token(key: str) -> str:
    """Return the page token of a key."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_id(token: str | None) -> str | None:
    """Return the id in the page token of a list that is ordered by id; None without a token.

    Raises
    ------
    Invalid
        If the token does not belong to such a list.
    """
    return _decode(token, identifiers.PATTERN)


def decode_tenant(token: str | None) -> str | None:
    """Return the tenant in the page token of the list of tenants; None without a token, or raise `Invalid`."""
    return _decode(token, _TENANT)


def decode_number(token: str | None) -> int | None:
    """Return the number in the page token of a list that is ordered by number; None without a token.

    Raises
    ------
    Invalid
        If the token does not belong to such a list.
    """
    key = _decode(token, _NUMBER)
    return None if key is None else int(key)


def _decode(token: str | None, pattern: re.Pattern[str]) -> str | None:
    if token is None:
        return None
    try:
        key = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("ascii")
    except ValueError:
        key = ""
    if pattern.fullmatch(key) is None:
        message = "expected the next_page_token of an earlier page of this list"
        raise Invalid.field("page_token", "page_token", message, "omit it to get the first page")
    return key


def cut_page(rows: Sequence[Row], page_size: int, keys: Sequence[str]) -> tuple[Sequence[Row], str | None]:
    """Return a page of rows and the token of the next page; a surplus row shows that there is a next page."""
    if len(rows) <= page_size:
        return rows, None
    return rows[:page_size], encode_token(keys[page_size - 1])


def newest_page(
    session: Session, query: Select[Entity], table: Any, page_size: int, page_token: str | None
) -> tuple[Sequence[Entity], str | None]:
    """Return a page of the rows of a query, newest first, and the token of the next page.

    Parameters
    ----------
    session, query
        The query that selects the rows of the list.
    table
        The table of the rows. Its ids rise with time.
    page_size, page_token
        As the client gave them.
    """
    ids = query.with_only_columns(table.id).order_by(table.id.desc()).limit(page_size + 1)
    if (before := decode_id(page_token)) is not None:
        ids = ids.where(table.id < before)
    # Two queries: the first may read an index alone, and a row can have many kilobytes.
    keys = session.execute(ids).scalars().all()
    found, token = cut_page(keys, page_size, keys)
    rows = session.execute(select(table).where(table.id.in_(found)).order_by(table.id.desc())).scalars().all()
    return rows, token
