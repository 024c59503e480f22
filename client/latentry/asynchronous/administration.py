"""Keys, shares and webhooks of a lab, and the operation of a service."""

from __future__ import annotations

from typing import Self
from urllib.parse import quote

from latentry.asynchronous.requests import AsyncRequests
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


class AsyncOperation(AsyncRequests):
    """Use and retention of tenants, and what the operator of a service steers: quotas, pauses, workers."""

    async def usage(self, tenant: str | None = None) -> Document:
        """Return what your tenant uses of its quotas, and what is left; the operator may name another tenant."""
        return await self.get("/v1/usage", {"tenant": tenant} if tenant else None)

    async def change_quotas(self, tenant: str, **amounts: float | None) -> Document:
        """Set quotas of a tenant, for the operator; 0: no limit, None: the amount of the settings. Return its usage."""
        usage: Document = (await self.request("PATCH", f"/v1/usage/tenants/{tenant}", json=amounts)).json()
        return usage

    async def retention(self, tenant: str | None = None) -> Document:
        """Return for how long old data is kept, and what the next sweep removes; the operator may name a tenant."""
        return await self.get("/v1/retention", {"tenant": tenant} if tenant else None)

    async def set_retention(self, tenant: str, **days: float | str) -> Document:
        """Replace the days (or ``forever``) of a tenant, for the operator. Kinds that you omit are those of the settings."""
        report: Document = (await self.request("PUT", f"/v1/retention/{tenant}", json=days)).json()
        return report

    async def workers(self) -> Document:
        """Return the training processes with what they do, and what waits; for the operator of the service."""
        return await self.get("/v1/workers")

    async def drain_worker(self, name: str) -> Document:
        """Let a worker finish what it does, begin nothing more, and end when it is idle; for the operator of the service."""
        return await self.act(f"/v1/workers/{quote(name, safe='')}:drain")

    async def pause_tenant(self, tenant: str, reason: str = "") -> Document:
        """Let no job, inference or ingest of a tenant begin; for the operator. Its members read the reason. Return its usage."""
        answer = await self.request("POST", f"/v1/usage/tenants/{tenant}:pause", json={"reason": reason})
        usage: Document = answer.json()
        return usage

    async def resume_tenant(self, tenant: str) -> Document:
        """Resume a paused tenant, for the operator. Return its usage."""
        return await self.act(f"/v1/usage/tenants/{tenant}:resume")
