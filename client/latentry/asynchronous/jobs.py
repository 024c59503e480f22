"""Jobs: searches over models of a data set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self

from latentry.asynchronous.models import AsyncInference, AsyncModel
from latentry.asynchronous.resources import AsyncLabelled, AsyncPages, AsyncTask
from latentry.documents import (
    Answered,
    CurvePoint,
    Document,
    Field,
    JobProgress,
    JobState,
    selection_order,
)
from latentry.notebook.pages import MOST_CURVES, job_html, shown

if TYPE_CHECKING:
    from latentry.asynchronous.datasets import AsyncDataset


class AsyncJob(AsyncLabelled, AsyncTask):
    """A job: one search over models of a data set."""

    _collection = "jobs"
    _kind = "job"

    name = Field[str]("Its name.")
    state = Field[JobState]("State of the job.")

    dataset_id = Field[str]("Id of the data set whose models it searches.")
    dataset_name = Field[str]("Name of that data set.")
    progress = Field[JobProgress]("Its progress.")
    running_on = Field[list[Document]]("The devices that work on it now.")
    curve = Field[Document | None](
        "In lists with ``include=curve``: a small learning curve of the best model."
    )
    specification = Field[Document]("Its specification with all defaults.")
    warnings = Field[list[str]]("Settings of the request that are allowed and probably not intended.")
    scored_on = Field[str](
        "Fingerprint of the samples that it is scored on: SV losses of two jobs can be compared only if it is the same."
    )
    precision = Field[str | None]("In which its models train: float32 or bfloat16.")
    trained_with = Field[list[dict[str, str]]]("Versions of Latentry and torch that trained it.")
    diagnostics = Field[Document | None](
        "Whether ordinary validation would have misled; None before it is done."
    )
    stored_bytes = Field[int]("Size of the weights and latents that it keeps, in bytes.")
    selected_model_id = Field[str | None](
        "Id of the model with the lowest smoothed SV loss; None before the selection."
    )
    final_model_id = Field[str | None](
        "Id of the refit, trained on training and validation trials; None unless `refit` was requested."
    )

    @property
    async def dataset(self) -> AsyncDataset:
        """Return the data set whose models it searches."""
        return await self._client.get_dataset(self.dataset_id)

    @property
    def models(self) -> AsyncPages[AsyncModel]:
        """List its models by number."""
        return AsyncPages(self._client, f"{self.path}/models", self._client.model_of)

    @property
    def inferences(self) -> AsyncPages[AsyncInference]:
        """List the inferences of its models, newest first."""
        return self._client.inferences(job_id=self.id)

    @property
    async def selected_model(self) -> AsyncModel | None:
        """Return the model with the lowest smoothed SV loss; None before the selection."""
        return await self._client.get_model(self.selected_model_id) if self.selected_model_id else None

    @property
    async def final_model(self) -> AsyncModel | None:
        """Return the refit, trained on training and validation trials; None unless `refit` was requested."""
        return await self._client.get_model(self.final_model_id) if self.final_model_id else None

    async def wait(self, *, timeout_s: float | None = None, display: bool = True) -> Self:
        """Wait until it is done, also while it is paused.

        Parameters
        ----------
        timeout_s
            Longest time to wait, in seconds; None: no limit.
        display
            Whether to show the progress, if there is a terminal or a notebook.

        Raises
        ------
        NotDone
            If it failed or was cancelled.
        TimeoutError
            If it is not done in time; the job continues.
        """
        from latentry.display import live_display

        shown = live_display(self) if display and not self.is_final else None
        if shown is not None:
            with shown:
                async for event in self.events(timeout_s=timeout_s):
                    shown.take(event)
                    if shown.is_due:
                        shown.renew(await self.refresh())
            await self.refresh()
        return await self._wait_until_done(timeout_s)

    def events(self, *, timeout_s: float | None = None) -> AsyncIterator[Document]:
        """Yield its events from the beginning to the end; after a lost connection, continue with the next event.

        Raises
        ------
        TimeoutError
            If it has not ended after `timeout_s` seconds.
        """
        return self._client.events(self.id, timeout_s=timeout_s)

    async def pause(self) -> Self:
        """Pause it. Models in training finish their epoch, and their weights are kept."""
        return await self._act("pause")

    async def resume(self) -> Self:
        """Resume it where it was."""
        return await self._act("resume")

    async def stop(self) -> Self:
        """End the training: the service selects the best model so far and computes its latents."""
        return await self._act("stop")

    async def retry(self) -> Self:
        """Continue after a failure or a cancellation, from the last weights of its models."""
        return await self._act("retry")

    async def extend(self, **more: float) -> Self:
        """Add to its budget: ``models``, ``epochs``, ``wall_seconds``, ``device_seconds``; see `Client.extend_job`."""
        self._renew(await self._client.extend_job(self.id, **more))  # type: ignore[arg-type]  # models and epochs are integers
        return self

    @property
    def history(self) -> AsyncPages[Answered]:
        """List its events so far, in order; `events` also waits for later ones."""
        return AsyncPages(self._client, f"{self.path}/events", Answered)

    @property
    def decisions(self) -> AsyncPages[Answered]:
        """List the decisions of the strategy about its models, in order, with reasons."""
        return AsyncPages(self._client, f"{self.path}/decisions", Answered)

    async def importance(self) -> Document:
        """Return which searched hyperparameters matter, and the losses of models along each of them."""
        return await self._client.importance(self.id)

    async def lineage(self, model: int | None = None) -> Document:
        """Return from which models the weights of a model come. Default: the selected model, else the best so far."""
        return await self._client.lineage(self.id, model)

    async def lineage_picture(self, model: int | None = None) -> str:
        """Return a drawing of the whole search as SVG, with the lineage of one model highlighted."""
        return await self._client.lineage_picture(self.id, model)

    def _repr_html_(self) -> str:
        return shown(self.html, otherwise=lambda: job_html(self, [], {}))

    async def html(self) -> str:
        """Return what a notebook shows of it: progress, the best models, their learning curves."""
        models: list[Any] = await self.models.all()
        models.sort(key=selection_order)
        curves: dict[int, list[CurvePoint]] = {}
        for model in models[:MOST_CURVES]:
            curves[model["number"]] = (await model.learning_curve).points
        return job_html(self, models, curves)
