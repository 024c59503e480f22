"""The base of all resources, and lists that are read page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from latentry.documents import Answered, Document, Field, TimeField
from latentry.errors import NotDone

if TYPE_CHECKING:
    from latentry.asynchronous.client import AsyncClient

Item = TypeVar("Item")
CREATED_BY = "Who made it: ``key_id`` and ``name`` of the key; None if the service requires no key."


class AsyncResource(Answered):
    """A resource of the service: the document as it was last read, and its methods.

    Parameters
    ----------
    client
        Client of the service.
    document
        Document of the resource.
    """

    _collection = ""

    def __init__(self, client: AsyncClient, document: Document) -> None:
        super().__init__(document)
        self._client = client

    id = Field[str]("Its id.")

    @property
    def path(self) -> str:
        """Return its path on the service."""
        return f"/v1/{self._collection}/{self.id}"

    created_at = TimeField("When it was created (UTC).")

    async def refresh(self) -> Self:
        """Read it again."""
        self._renew(await self._client.get(self.path))
        return self

    def __repr__(self) -> str:
        words = [type(self).__name__, self.id, str(self.get("state", "")), repr(self.get("name") or "")]
        return f"<{' '.join(word for word in words if word not in ('', repr('')))}>"


class AsyncLabelled(AsyncResource):
    """A resource that people name, annotate and tag: a data set or a job."""

    notes = Field[str]("Notes.")
    tags = Field[list[str]]("Tags.")
    created_by = Field[Document | None](CREATED_BY)

    async def change(self, **changes: Any) -> Self:
        """Change its ``name``, ``notes`` or ``tags``, and of a job its ``priority`` (-10 … 10); None resets a field."""
        answer = await self._client.request("PATCH", self.path, json=changes, is_repeatable=True)
        self._renew(answer.json())
        return self


class AsyncTask(AsyncResource):
    """A resource that the service works on until it is done: a job or an inference."""

    _kind = ""

    error = Field[Document | None]("Why it failed, or why its last attempt failed.")
    started_at = TimeField("When it began (UTC).")
    ended_at = TimeField("When it ended (UTC); None before.")
    links = Field[dict[str, str]]("Paths of related resources.")

    @property
    def is_final(self) -> bool:
        """Return whether it has ended."""
        return self["state"] in ("done", "failed", "cancelled", "deleting")

    async def cancel(self) -> Self:
        """Cancel it now."""
        return await self._act("cancel")

    async def delete(self, *, dry_run: bool = False) -> Document:
        """Delete it with all that it contains, and return what that is; with `dry_run`, delete nothing.

        A job must have ended. The service deletes in the background; then it is not found.
        """
        return await self._client.delete(self.path, dry_run=dry_run)

    async def _act(self, verb: str) -> Self:
        self._renew(await self._client.act(f"{self.path}:{verb}"))
        return self

    async def _wait_until_done(self, timeout_s: float | None) -> Self:
        """Wait for the end by long polling; raise `TimeoutError`, or `NotDone` if it failed or was cancelled."""
        started = monotonic()
        while not self.is_final:
            left_s = 30.0 if timeout_s is None else started + timeout_s - monotonic()
            if left_s <= 0:
                state = self["state"]
                raise TimeoutError(
                    f"the {self._kind} {self.id} is {state} after {timeout_s:g} s; it continues"
                )
            wait = {"Prefer": f"wait={max(1, round(min(left_s, 30.0)))}"}
            self._renew(await self._client.get(self.path, headers=wait))
        if self["state"] != "done":
            message = f"the {self._kind} {self.id} is {self['state']}"
            raise NotDone(message, (self.error or {}).get("message", ""))
        return self


class AsyncPages(Generic[Item]):
    """A list of the service, read page by page during iteration; each iteration starts at the beginning.

    Parameters
    ----------
    client
        Client of the service.
    path
        Path of the list.
    make
        Makes an item from its document.
    parameters
        Parameters of the request.
    """

    def __init__(
        self, client: AsyncClient, path: str, make: Callable[[Document], Item], **parameters: Any
    ) -> None:
        self._client, self._path, self._make, self._parameters = client, path, make, parameters

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Yield the items."""
        token = self._parameters.get("page_token")
        while True:
            page = await self._client.get(self._path, params={**self._parameters, "page_token": token})
            for document in page["items"]:
                yield self._make(document)
            token = page["next_page_token"]
            if not token:
                return

    async def all(self) -> list[Item]:
        """Return all items."""
        items = []
        async for item in self:
            items.append(item)
        return items

    def __repr__(self) -> str:
        return f"<list at {self._path}, read during iteration>"
