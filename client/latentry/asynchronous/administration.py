"""What belongs to a lab and not to an analysis: keys and webhooks."""

from __future__ import annotations

from typing import Self

from latentry.asynchronous.resources import AsyncPages, AsyncResource
from latentry.documents import Answered, Field, TimeField


class AsyncKey(AsyncResource):
    """A key: a secret by which people and pipelines are known."""

    _collection = "keys"

    name = Field[str]("Whose it is, or what for.")
    scopes = Field[list[str]]("What may be done with it: ``read``, ``write``, ``admin``.")
    secret = Field[str | None]("What to give to `Client` as `key`: known only to who made it, at once.")
    tenant = Field[str]("Whose data sets and jobs it is for.")
    beginning = Field[str]("How the secret begins, to tell keys apart.")
    last_used_at = TimeField("When it was last used, to the minute (UTC); None for never.")
    expires_at = TimeField("Until when it is good (UTC); None for ever.")
    revoked_at = TimeField("When it was revoked (UTC).")

    async def revoke(self) -> Self:
        """Make it good for nothing, from the next request on."""
        self._renew((await self._client.request("DELETE", self.path)).json())
        return self


class AsyncWebhook(AsyncResource):
    """A URL that is told when jobs end."""

    _collection = "webhooks"

    url = Field[str]("What is told.")
    states = Field[list[str]]("Of jobs, that are told: ``done``, ``failed``, ``cancelled``.")
    links = Field[dict[str, str]]("Paths of what belongs to it.")
    secret = Field[str | None]("By which to check who sent: known only to who made it, at once.")

    @property
    def deliveries(self) -> AsyncPages[Answered]:
        """What was sent to it, newest first, and how it was answered."""
        return AsyncPages(self._client, f"{self.path}/deliveries", Answered)

    async def test(self) -> Answered:
        """Send it a message of no job, and return its delivery; `deliveries` tells later how it was answered."""
        return Answered(await self._client.act(f"{self.path}:test"))

    async def delete(self) -> None:
        """Tell it nothing more."""
        await self._client.request("DELETE", self.path)
