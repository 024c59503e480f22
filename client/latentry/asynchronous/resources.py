"""What all resources have in common, and lists of them that are read page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from latentry.documents import Answered, Document, Field, TimeField

if TYPE_CHECKING:
    from latentry.asynchronous.client import AsyncClient

Item = TypeVar("Item")


class AsyncResource(Answered):
    """Something that the service keeps: the document as it was last read, and what can be done with it.

    Parameters
    ----------
    client
        Of the service that keeps it.
    document
        As it was answered.
    """

    _collection = ""

    def __init__(self, client: AsyncClient, document: Document) -> None:
        super().__init__(document)
        self._client = client

    id = Field[str]("Its id.")

    @property
    def path(self) -> str:
        """Where it is, below the URL of the service."""
        return f"/v1/{self._collection}/{self.id}"

    created_at = TimeField("When it was made (UTC).")

    async def refresh(self) -> Self:
        """Read it again."""
        self._renew(await self._client.get(self.path))
        return self

    def __repr__(self) -> str:
        words = [type(self).__name__, self.id, str(self.get("state", "")), repr(self.get("name") or "")]
        return f"<{' '.join(word for word in words if word not in ('', repr('')))}>"


class AsyncPages(Generic[Item]):
    """A list that the service keeps, read page by page as it is gone through; each time from its beginning.

    Parameters
    ----------
    client
        Of the service.
    path
        Of the list.
    make
        Makes an item of its document.
    parameters
        Further ones of the request.
    """

    def __init__(
        self, client: AsyncClient, path: str, make: Callable[[Document], Item], **parameters: Any
    ) -> None:
        self._client, self._path, self._make, self._parameters = client, path, make, parameters

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Go through the items."""
        token = self._parameters.get("page_token")
        while True:
            page = await self._client.get(self._path, params={**self._parameters, "page_token": token})
            for document in page["items"]:
                yield self._make(document)
            token = page["next_page_token"]
            if not token:
                return

    async def all(self) -> list[Item]:
        """All of them, in a list."""
        items = []
        async for item in self:
            items.append(item)
        return items

    def __repr__(self) -> str:
        return f"<list at {self._path}, read as it is gone through>"
