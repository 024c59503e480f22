"""Data sets: spike counts of trials × bins × neurons, with metadata and a report."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from latentry.asynchronous.array_resources import AsyncArrayOwner
from latentry.asynchronous.arrays import AsyncArray
from latentry.asynchronous.resources import AsyncLabelled, AsyncPages
from latentry.documents import Answered, DatasetState, Document, Field, TimeField
from latentry.errors import NotFound
from latentry.notebook.pages import dataset_html, shown
from latentry.query_params import Where, where_texts

if TYPE_CHECKING:
    from latentry.asynchronous.jobs import AsyncJob
    from latentry.asynchronous.models import AsyncInference


class AsyncDataset(AsyncLabelled, AsyncArrayOwner):
    """A data set."""

    _collection = "datasets"

    name = Field[str]("The given name, or the name of the file.")
    state = Field[DatasetState]("State: whether it is ready.")
    trials = Field[int | None]("Number of trials; None before it is ready.")
    bins = Field[int | None]("Number of bins of the longest trial; None before it is ready.")
    neurons = Field[int | None]("Number of neurons; None before it is ready.")
    bin_width_s = Field[float | None]("Width of a bin, in seconds; None before it is ready.")
    source = Field[Document]("The upload (file name, bytes, SHA-256) or the synthetic system.")
    options = Field[Document | None]("Options for reading the file that differ from their defaults.")
    derived_from = Field[str | None]("Id of the data set whose file was read again with other options.")
    original_removed_at = TimeField("When its file was removed because of its age (UTC); None: it is kept.")
    digest = Field[str | None]("SHA-256 of its source and its options.")
    stored_bytes = Field[int]("Size of its file and arrays, in bytes.")
    report = Field[Document | None]("Report of what was found in the file.")

    @property
    def warnings(self) -> list[Document]:
        """Return the warnings of its report, each with ``code``, ``message`` and ``hint``."""
        return list((self.report or {}).get("warnings", []))

    @property
    def problems(self) -> list[Document]:
        """Return why it was rejected or failed, each reason with ``message`` and ``hint``."""
        return list(self.get("problems") or [])

    @property
    def spikes(self) -> AsyncArray:
        """Return the spike counts: trials × bins × neurons."""
        return self.arrays["spikes"]

    @property
    def jobs(self) -> AsyncPages[AsyncJob]:
        """List its jobs, newest first."""
        return self._client.jobs(dataset_id=self.id)

    @property
    def inferences(self) -> AsyncPages[AsyncInference]:
        """List the inferences of models on it, newest first."""
        return self._client.inferences(dataset_id=self.id)

    @property
    def derived(self) -> AsyncPages[AsyncDataset]:
        """List the data sets that were read from its file with other options."""
        return self._client.datasets(derived_from=self.id)

    @property
    def combined(self) -> AsyncPages[AsyncDataset]:
        """List the combined data sets of which it is a session."""
        return self._client.datasets(session_id=self.id)

    async def wait(self) -> Self:
        """Wait until it is ready.

        Raises
        ------
        DatasetRejected
            If the service rejects it; the message has the reasons.
        """
        self._renew(await self._client.wait_for_dataset(self.id))
        return self

    def list_trials(self, where: Where = None) -> AsyncPages[Answered]:
        """List trials in your order with their metadata; `where` has conditions on the metadata."""
        asked = {"where": where_texts(where) or None}
        return AsyncPages(self._client, f"{self.path}/trials", Answered, **asked)

    async def retry(self) -> Self:
        """Read the file of this failed data set again, after the service was repaired, and wait until it is ready."""
        self._renew(await self._client.retry_dataset(self.id))
        return self

    async def derive(self, options: Document, name: str = "") -> AsyncDataset:
        """Read its file again with other options, and wait until the new data set is ready.

        Options that are not in `options` keep their values; None resets an option to its default.
        """
        return await self._client.derive_dataset(self.id, options, name)

    async def submit(self, **specification: Any) -> AsyncJob:
        """Begin a search over models of it, see `Client.submit`."""
        return await self._client.submit(self, **specification)

    async def delete(self, *, cascade: bool = False, dry_run: bool = False) -> Document:
        """Delete it, and return what goes with it. The service deletes in the background; then it is not found.

        Parameters
        ----------
        cascade
            Also delete the jobs, inferences and combined data sets that use it; else the service refuses if there are any.
        dry_run
            Delete nothing.
        """
        return await self._client.delete(self.path, cascade=cascade, dry_run=dry_run)

    async def preview(self) -> Document:
        """Return the numbers of its preview: rates, rasters and histograms."""
        return await self._client.get(f"{self.path}/preview")

    async def preview_picture(self, format: str = "png") -> bytes:
        """Return a picture of it, as ``png`` or ``svg``."""
        return (await self._client.request("GET", f"{self.path}/preview.{format}")).content

    def _repr_html_(self) -> str:
        return shown(self.html, otherwise=lambda: dataset_html(self, ""))

    async def html(self) -> str:
        """Return what a notebook shows of it."""
        picture = ""
        if self.state == "ready":
            with suppress(NotFound):  # combined data sets have no preview
                encoded = base64.b64encode(await self.preview_picture("svg")).decode()
                picture = f"data:image/svg+xml;base64,{encoded}"
        return dataset_html(self, picture)
