"""Keyset pagination: an opaque token carries the last key of a page."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from api.errors import FieldProblem, Invalid

PageSize = Annotated[int, Query(ge=1, le=500, description="Most items of a page.")]
PageToken = Annotated[
    str | None, Query(max_length=200, description="`next_page_token` of the page before.")
]


Item = TypeVar("Item", bound=BaseModel)
Row = TypeVar("Row")


class Page(BaseModel, Generic[Item]):
    """A page of a list."""

    items: list[Item]
    next_page_token: str | None = Field(None, description="Nothing on the last page.")


def encode_token(key: str) -> str:
    """Make a page token of a key."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_token(token: str | None) -> str | None:
    """Read a page token.

    Raises
    ------
    Invalid
        If it is none of ours.
    """
    if token is None:
        return None
    try:
        key = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (binascii.Error, ValueError) as error:
        raise _not_ours() from error
    if "\x00" in key:
        raise _not_ours()
    return key


def _not_ours() -> Invalid:
    message = "not a page token: expected the next_page_token of an earlier answer"
    return Invalid(
        message, errors=[FieldProblem(pointer="page_token", code="page_token", message=message)]
    )


def cut_page(rows: Sequence[Row], page_size: int, keys: Sequence[str]) -> tuple[Sequence[Row], str | None]:
    """Cut a list that was read one row too long; the surplus tells that there is a next page."""
    if len(rows) <= page_size:
        return rows, None
    return rows[:page_size], encode_token(keys[page_size - 1])
