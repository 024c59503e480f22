"""Lists: filters, and keyset pagination, where an opaque token carries the last key of a page."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy import ColumnElement, func

from api.errors import Invalid
from api.validation_errors import FieldProblem
from store import identifiers

PageSize = Annotated[int, Query(ge=1, le=500, description="Most items of a page.")]
PageToken = Annotated[str | None, Query(max_length=200, description="`next_page_token` of the page before.")]

_NUMBER = re.compile(r"[0-9]{1,18}")

Item = TypeVar("Item", bound=BaseModel)
Row = TypeVar("Row")


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next_page_token: str | None = Field(None, description="Nothing on the last page.")


@dataclass(frozen=True)
class Filters:
    """Which items of a list to keep, by what jobs and data sets have in common."""

    name: Annotated[
        str | None,
        Query(max_length=200, description="Only those whose name has this in it; case does not matter."),
    ] = None
    created_after: Annotated[
        datetime | None,
        Query(description="Only those made at this time or later (UTC unless it says otherwise)."),
    ] = None
    created_before: Annotated[datetime | None, Query(description="Only those made before this time.")] = None

    def conditions(self, table: Any) -> list[ColumnElement[bool]]:
        """Return what holds of the rows of a table that are kept."""
        found = []
        if self.name is not None:
            found.append(func.lower(table.name).contains(self.name.lower(), autoescape=True))
        if self.created_after is not None:
            found.append(table.created_at >= _aware(self.created_after))
        if self.created_before is not None:
            found.append(table.created_at < _aware(self.created_before))
        return found


FiltersDependency = Annotated[Filters, Depends()]


def _id_of(prefix: str, what: str) -> Any:
    """Return the type of a query parameter that keeps the items of one resource; of one that does not exist there are none."""
    example = f"{prefix}_0192f3c4a5b6aabbccddeeff"

    def check(given: str) -> str:
        if not given.startswith(f"{prefix}_") or identifiers.PATTERN.fullmatch(given) is None:
            came = repr(given if len(given) <= 60 else given[:60] + "…")
            raise ValueError(f"expected the id of a {what}, such as {example}; got {came}")
        return given

    extra = {"pattern": f"^{prefix}_[0-9a-f]{{24}}$"}
    described = Query(description=f"Only those of this {what}.", examples=[example], json_schema_extra=extra)
    return Annotated[Annotated[str, AfterValidator(check)] | None, described]


DatasetIdFilter = _id_of("dat", "data set")
ModelIdFilter = _id_of("mod", "model")


def _aware(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def encode_token(key: str) -> str:
    """Make a page token of a key."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_id(token: str | None) -> str | None:
    """Read the page token of a list that is ordered by id; None without one.

    Raises
    ------
    Invalid
        If it is none of such a list.
    """
    return _decode(token, identifiers.PATTERN)


def decode_number(token: str | None) -> int | None:
    """Read the page token of a list that is ordered by number; None without one.

    Raises
    ------
    Invalid
        If it is none of such a list.
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
        message = "expected the next_page_token of an earlier answer of this list"
        raise Invalid(
            f"page_token: {message}",
            hint="leave it out to begin with the first page",
            errors=[FieldProblem(pointer="page_token", code="page_token", message=message)],
        )
    return key


def cut_page(rows: Sequence[Row], page_size: int, keys: Sequence[str]) -> tuple[Sequence[Row], str | None]:
    """Cut a list that was read one row too long; the surplus tells that there is a next page."""
    if len(rows) <= page_size:
        return rows, None
    return rows[:page_size], encode_token(keys[page_size - 1])
