"""Keys and webhooks of a lab."""

from __future__ import annotations

from typing import Self

from latentry.asynchronous.resources import CREATED_BY, AsyncPages, AsyncResource
from latentry.documents import Answered, Document, Field, TimeField


class AsyncKey(AsyncResource):
    """A key: a secret that identifies a person or a program."""

    _collection = "keys"

    created_by = Field[Document | None](CREATED_BY)
    name = Field[str]("Owner or purpose of the key.")
    scopes = Field[list[str]]("What the key permits: ``read``, ``write``, ``admin``.")
    secret = Field[str | None]("The `key` for `Client`; only the answer that creates the key has it.")
    tenant = Field[str]("Tenant whose data sets and jobs the key gives access to.")
    beginning = Field[str]("The first characters of the secret, to tell keys apart.")
    last_used_at = TimeField("When it was last used, to the minute (UTC); None: never.")
    expires_at = TimeField("When it expires (UTC); None: never.")
    revoked_at = TimeField("When it was revoked (UTC).")

    async def revoke(self) -> Self:
        """Revoke it: the service refuses it from now on."""
        self._renew((await self._client.request("DELETE", self.path)).json())
        return self


class AsyncShare(AsyncResource):
    """A link that shows one data set, job or model to whoever has its token."""

    _collection = "shares"

    created_by = Field[Document | None](CREATED_BY)
    kind = Field[str]("``dataset``, ``job`` or ``model``.")
    target_id = Field[str]("Id of what it shows.")
    label = Field[str]("For whom or what it is.")
    state = Field[str]("``active``, ``expired`` or ``revoked``.")
    token = Field[str | None]("The `key` for `Client`; only the answer that creates the share has it.")
    last_used_at = TimeField("When it was last used, to the minute (UTC); None: never.")
    expires_at = TimeField("When it expires (UTC).")
    revoked_at = TimeField("When it was revoked (UTC).")

    async def revoke(self) -> Self:
        """Revoke it: the service refuses its token from now on."""
        self._renew((await self._client.request("DELETE", self.path)).json())
        return self


class AsyncWebhook(AsyncResource):
    """A URL that the service notifies when jobs end."""

    _collection = "webhooks"

    created_by = Field[Document | None](CREATED_BY)
    url = Field[str]("URL that receives the messages.")
    states = Field[list[str]]("States of jobs that are reported: ``done``, ``failed``, ``cancelled``.")
    links = Field[dict[str, str]]("Paths of related resources.")
    secret = Field[str | None](
        "The secret that verifies messages; only the answer that creates the webhook has it."
    )

    @property
    def deliveries(self) -> AsyncPages[Answered]:
        """List the messages to it, newest first, with the responses."""
        return AsyncPages(self._client, f"{self.path}/deliveries", Answered)

    async def test(self) -> Answered:
        """Send it a test message, and return the delivery; `deliveries` later has the response."""
        return Answered(await self._client.act(f"{self.path}:test"))

    async def delete(self) -> None:
        """Delete it: the service sends it no more messages."""
        await self._client.request("DELETE", self.path)

    async def delete_deliveries(self, *, dry_run: bool = False) -> Document:
        """Delete the messages to it that were delivered or given up, and return how many; with `dry_run`, delete nothing."""
        return await self._client.delete(f"{self.path}/deliveries", dry_run=dry_run)
